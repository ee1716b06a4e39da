"""Kronecker-product matching (Shen et al., CVPR 2018), cell by cell.

    python train.py --config=configs/kpm.py

All else, backbone, loss, optimizer and steps, is GRNet's on the same data set.
grnet_jax/models/kpm.py says what is our reading of the paper. Measured on the synthetic set:
docs/reproduce.md.
"""

import ml_collections

from configs import common
from grnet_jax.config import make_config


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """Returns the config of Kronecker-product matching for that data set."""
    # Not the paper's: with few steps matches must be sharp from the start.
    sharp = dataset in common.OURS
    return make_config(
        name=f"kpm_{dataset}",
        dataset={"name": dataset},
        model={
            "name": "kpm",
            "backbone": common.backbone(dataset),
            "match_scale": 10.0 if sharp else 1.0,
            "square_first": sharp,
            "score_bias_init": common.score_bias_init(dataset),
        },
        sampler={"name": "pairs"},
        loss=common.pair_loss(dataset),
        **common.recipe(dataset),
    )
