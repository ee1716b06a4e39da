"""An embedding of a grid of cells, trained by a softmax over the batch.

    python train.py --config=configs/contrastive.py

The map's averages over 4 x 4 cells side by side, mapped linearly to unit length. Each customer
image has to choose its shop image among the batch's, by cosines times 10.

On the synthetic set and on own photos it learns on frozen ImageNet features, beside their colors,
and needs the extra pretrained; on the papers' sets data, optimizer and steps are GRNet's. Synthetic
set: a minute on two CPU cores; top-1 50.9% of 2,000 queries, the mean of three seeds, measured
(benchmarks/results/frozen_features.json).
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
            "backbone": common.frozen_backbone(dataset),
            "pooling": "grid",
            "grid_cells": common.grid_cells(dataset),
            "embedding_dim": 256,
        },
        sampler={"name": "pairs"},
        loss={
            "name": "pairs",
            "pair_weight": 0.0,
            "embedding_weight": 1.0,
            "embedding_temperature": 0.1,
        },
        **common.frozen_recipe(dataset),
    )
