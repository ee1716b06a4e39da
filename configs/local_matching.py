"""Greedy matching of local features: GRNet's Eq. 2 and 3, its regions without a graph.

    python train.py --config=configs/local_matching.py

All else, backbone, loss, optimiser and steps, is GRNet's on the same data set.
grnet_jax/models/local_matching.py says what is our reading of the paper.
"""

import ml_collections

from configs import grnet


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """Greedy local matching on that data set."""
    config = grnet.get_config(dataset)
    config.name = f"local_matching_{config.data.name}"
    of_grnet = config.model
    config.model = ml_collections.ConfigDict()
    config.model.name = "local_matching"
    # As GRNet's: see configs/grnet.py.
    for field in ("dtype", "backbone", "scales", "gallery_chunk"):
        config.model[field] = of_grnet[field]
    # Whether a gallery region is matched with one query region at most; else each query region
    # takes its best.
    config.model.one_to_one = False
    # The score is bias + factor * (similarity - 1), similarity in -1..1; where both start.
    config.model.score_factor_init = 10.0
    config.model.score_bias_init = 0.0
    return config
