"""GRNet with aligned cells and an embedding beside its graph: a variant of our own.

    python train.py --config=configs/grnet_aligned.py

Regions have unit length; nodes are their squared differences as they are, with a learned vector for
each pair of regions; edges come from nodes of unit length, with a learned temperature. To the
graph's score are added the mean cosine of the two maps' cells that are most alike, and the cosine
of an embedding of a grid of cells. All are trained together: the embedding by the softmax over the
batch's shop images, the score, without it, on the 4 of them that it finds most alike.
On own photos there is no graph, and all pairs of a batch are scored. docs/matchers.md has the
fields.

On the synthetic set and on own photos it learns on frozen ImageNet features, beside their colors,
and needs the extra pretrained; on the papers' sets the recipe is GRNet's. Synthetic set: 11 minutes
on two slow CPU cores; top-1 59.6% of 2,000 queries, three seeds, measured
(benchmarks/results/frozen_features.json).
"""

import ml_collections

from configs import common, grnet
from grnet_jax.config import make_config


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """Returns the variant's config for that data set."""
    config = make_config(
        name=f"grnet_aligned_{dataset}",
        dataset={"name": dataset},
        model={
            "name": "grnet_aligned",
            "backbone": common.frozen_backbone(dataset),
            "region_channels": 128,
            "unit_regions": True,
            "raw_scale": 0.25,
            "node_positions": True,
            "edge_scale_init": 16.0,
            "direct_scale_init": 20.0,
            "grid_cells": common.grid_cells(dataset),
            "embedding_dim": 256,
            "embedding_score": 10.0,
            # Makes up for the cells' cosine, times 20, of a pair that is half alike.
            "score_bias_init": -10.0,
        },
        sampler={"name": "pairs"},
        loss={
            "name": "pairs",
            "query_softmax_weight": 1.0,
            "shortlist": 4,
            "score_alone": True,
            "embedding_weight": 1.0,
            "embedding_temperature": 0.1,
        },
        **common.frozen_recipe(dataset),
    )
    if dataset == "synthetic":
        grnet.set_small_size(config)
    if dataset in common.OWN_PHOTOS:
        # Few pairs do not teach a graph, nor nodes that keep how large a difference is; an item's
        # other photos in a batch would fill the shortlist. Plain backgrounds are alike.
        config.model.update(layers=0, scales=((1, 1),), raw_scale=0.0, direct_by_row=True)
        config.loss.shortlist = 0
    return config
