"""Networks from a photo to feature maps, under one interface.

A backbone is a Linen module: `backbone(photos, train)` takes normalised photos [n, h, w, 3]
and returns its feature maps by stride, {stride: [n, h / stride, w / stride, c]}. With
`train` BatchNorm normalises by the batch and updates its statistics (collection
"batch_stats"); otherwise it uses them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from grnet_jax.backbones.googlenet import GoogLeNet
from grnet_jax.backbones.small import SmallNet
from grnet_jax.errors import InputError

BACKBONES: Mapping[str, Callable[..., nn.Module]] = {
    "googlenet": GoogLeNet,
    "small": SmallNet,
}

# Mean and standard deviation per channel of photos scaled to 0..1, by the name that
# `model.backbone.preprocessing` gives.
PREPROCESSING: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def build_backbone(name: str, dtype: Any = jnp.float32) -> nn.Module:
    """The backbone of that name, computing in `dtype`.

    Raises:
      InputError: naming the backbones there are.
    """
    if name not in BACKBONES:
        raise InputError(f"model.backbone.name: {name!r} is none of {sorted(BACKBONES)}")
    return BACKBONES[name](dtype=dtype)


def normalise(photos: jax.Array, preprocessing: str) -> jax.Array:
    """Photos [n, h, w, 3] of 0..255 to what a backbone expects, float32.

    Raises:
      InputError: naming the preprocessings there are.
    """
    if preprocessing not in PREPROCESSING:
        raise InputError(
            f"model.backbone.preprocessing: {preprocessing!r} is none of {sorted(PREPROCESSING)}"
        )
    mean, deviation = (np.asarray(v, np.float32) for v in PREPROCESSING[preprocessing])
    return (photos.astype(jnp.float32) / 255.0 - mean) / deviation
