"""The global baseline of GRNet's Table 5, row 1: no pyramid, no graph, one similarity.

    python train.py --config=configs/global_baseline.py

All else, backbone, loss, optimiser and steps, is GRNet's on the same data set.
"""

import ml_collections

from configs import grnet


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """The global baseline on that data set."""
    config = grnet.get_config(dataset)
    config.name = f"global_baseline_{config.data.name}"
    config.model.scales = ((1, 1),)
    config.model.layers = 0
    return config
