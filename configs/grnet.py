"""GRNet (Kuang et al., ICCV 2019).

python train.py --config=configs/grnet.py                  the synthetic set
python train.py --config=configs/grnet.py:manifest --config.dataset.source=photos.csv
python train.py --config=configs/grnet.py:deepfashion_c2s --config.dataset.source=DOWNLOADED

The last, and :deepfashion_inshop, :deepfashion2, :street2shop and :findfashion, take the paper's
recipe.

Synthetic set: 9 minutes on two CPU cores; top-1 37.2% of 2,000 queries, the mean of three seeds,
measured (benchmarks/results/grnet_vs_baseline.json). DeepFashion consumer-to-shop: the paper's
top-1/20/50 are 25.7/64.4/75.0; not measured here.
"""

import ml_collections

from configs import common
from grnet_jax.config import make_config


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """Returns GRNet's config for that data set: the paper's, or the synthetic set's size of it."""
    config = make_config(
        name=f"grnet_{dataset}",
        dataset={"name": dataset},
        model={
            "name": "grnet",
            "backbone": common.backbone(dataset),
            "node_dim": 512,
            "reasoning_dim": 128,
            "layers": 3,
            "score_bias_init": common.score_bias_init(dataset),
        },
        sampler={"name": "pairs"},
        loss=common.pair_loss(dataset),
        **common.recipe(dataset),
    )
    if dataset == "synthetic":
        set_small_size(config)
    return config


def set_small_size(config: ml_collections.ConfigDict) -> None:
    """Makes D and C' those that two CPU cores train in minutes."""
    config.model.node_dim, config.model.reasoning_dim = 64, 32
