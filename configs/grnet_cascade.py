"""Embeddings for GRNet's shortlists, from a trained GRNet, which is frozen.

    python train.py --config=configs/grnet.py
    python train.py --config=configs/grnet_cascade.py
    python eval.py --workdir=runs/grnet_cascade_synthetic --config.eval.search.shortlist=400

The embedding is a projection of all regions, trained by the softmax over each customer image's
inner products with the batch's shop images. docs/performance.md has what it costs and saves.

Synthetic set: top-1 with shortlists of 400 as without, measured (benchmarks/results/cascade.json).
"""

import ml_collections

from configs import common
from grnet_jax.config import make_config


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """Returns the config for that data set, from the run that `configs/grnet.py` makes."""
    small = dataset == "synthetic"
    recipe = common.recipe(dataset)
    recipe["train"] |= {
        "batch_size": 64 if small else 32,
        "init_from": f"runs/grnet_{dataset}",
        "init_params": "matching_names",
        "eval_every": 0,  # validation measures the scores, which stay the same
    }
    # Nothing but the projection moves, BatchNorm's statistics neither; so no score is computed.
    recipe["optimizer"]["trainable"] = "projection"
    return make_config(
        name=f"grnet_cascade_{dataset}",
        dataset={"name": dataset},
        model={
            "name": "grnet",
            "backbone": {**common.backbone(dataset), "frozen_batch_norm": True},
            "embedding_dim": 256,
            "node_dim": 64 if small else 512,
            "reasoning_dim": 32 if small else 128,
            "score_bias_init": common.score_bias_init(dataset),
        },
        sampler={"name": "pairs"},
        loss={**common.pair_loss(dataset), "pair_weight": 0.0, "embedding_weight": 1.0},
        **recipe,
    )
