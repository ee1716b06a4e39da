"""Greedy matching of local features (GRNet's Eq. 2 and 3), no graph.

    python train.py --config=configs/local_matching.py

All else, backbone, loss, optimizer and steps, is GRNet's on the same data set.
grnet_jax/models/local_matching.py says what is our reading of the paper. Measured on the
synthetic set: docs/reproduce.md.
"""

import ml_collections

from configs import common
from grnet_jax.config import make_config


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """Returns the config of greedy local matching for that data set."""
    return make_config(
        name=f"local_matching_{dataset}",
        dataset={"name": dataset},
        model={"name": "local_matching", "backbone": common.backbone(dataset)},
        sampler={"name": "pairs"},
        loss=common.pair_loss(dataset),
        **common.recipe(dataset),
    )
