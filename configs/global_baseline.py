"""The global baseline of GRNet's Table 5, row 1: no graph, one similarity.

    python train.py --config=configs/global_baseline.py

All else, backbone, loss, optimizer and steps, is GRNet's on the same data set. Synthetic set: 7
minutes on two CPU cores; top-1 20.1%, measured (benchmarks/results/grnet_vs_baseline.json).
"""

import ml_collections

from configs import common
from grnet_jax.config import make_config


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """Returns the global baseline's config for that data set."""
    return make_config(
        name=f"global_baseline_{dataset}",
        dataset={"name": dataset},
        model={
            "name": "grnet",
            "backbone": common.backbone(dataset),
            "scales": ((1, 1),),
            "layers": 0,
            "node_dim": 64 if dataset == "synthetic" else 512,
            "reasoning_dim": 32 if dataset == "synthetic" else 128,
            "score_bias_init": common.score_bias_init(dataset),
        },
        sampler={"name": "pairs"},
        loss=common.pair_loss(dataset),
        **common.recipe(dataset),
    )
