"""An embedding of a grid of cells, trained by a softmax over the batch.

    python train.py --config=configs/contrastive.py

The map's averages over 4 x 4 cells side by side, mapped linearly to unit length. Each customer
image has to choose its shop image among the batch's, by cosines times 10. Data, backbone, optimizer
and steps are GRNet's on the same data set. Not measured on the embedded set yet.
"""

import ml_collections

from configs import common
from grnet_jax.config import make_config


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """Returns the config of the contrastive embedding for that data set."""
    return make_config(
        name=f"contrastive_{dataset}",
        dataset={"name": dataset},
        model={
            "name": "embedding",
            "backbone": common.backbone(dataset),
            "pooling": "grid",
            "grid_cells": 4,
            "embedding_dim": 256,
        },
        sampler={"name": "pairs"},
        loss={
            "name": "pairs",
            "pair_weight": 0.0,
            "embedding_weight": 1.0,
            "embedding_temperature": 0.1,
        },
        **common.large_batches(dataset),
    )
