"""The preprocessing that ImageNet weights were trained with, by name."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from grnet_jax.errors import InputError


class Preprocessing(NamedTuple):
    """How an image's pixels become a network's input.

    Attributes:
      mean: of red, green and blue scaled to 0..1; subtracted.
      deviation: divided by.
      interpolation: of the resizing, "bilinear" or "bicubic", both antialiased.
      center_fraction: side of the central square that is seen, as a share of the photo's shorter
        side, where a whole photo is looked at: 0.875 is "shorter side to 256, then the middle
        224".
    """

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    interpolation: str
    center_fraction: float


_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# By the name that `model.backbone.preprocessing` gives.
PREPROCESSING: Mapping[str, Preprocessing] = {
    # torchvision's first weights, and Cadene's.
    "imagenet": Preprocessing(_MEAN, _DEVIATION, "bilinear", 224 / 256),
    # torchvision's second weights (IMAGENET1K_V2).
    "imagenet_v2": Preprocessing(_MEAN, _DEVIATION, "bilinear", 224 / 232),
    # timm's own SE-ResNets; other weights of timm's are "imagenet_bicubic" or "imagenet".
    "imagenet_bicubic": Preprocessing(_MEAN, _DEVIATION, "bicubic", 224 / 256),
    # timm's copies of both families' weights.
    "dinov2": Preprocessing(_MEAN, _DEVIATION, "bicubic", 1.0),
    # EfficientNet-Lite's seven eighths are lite0's; the larger ones were measured with up to 0.92.
    "efficientnet_lite": Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", 224 / 256),
    "siglip": Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", 0.9),
    # torchvision's GoogLeNet, ported from weights that expect -1..1: its `transform_input` after
    # ImageNet's normalization comes to this.
    "googlenet": Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", 224 / 256),
}

_DEFAULTS = {
    "googlenet": "googlenet",
    "seresnet50": "imagenet_bicubic",
    "seresnext50_32x4d": "imagenet_bicubic",
    "vit_small_patch14_dinov2": "dinov2",
    "vit_base_patch14_dinov2": "dinov2",
    "vit_small_patch14_reg4_dinov2": "dinov2",
    "vit_base_patch16_siglip_224": "siglip",
    "convnext_tiny": "imagenet_bicubic",
    "convnext_base": "imagenet_bicubic",
    **{f"efficientnet_lite{number}": "efficientnet_lite" for number in range(5)},
}


# Published checkpoint files, by how their names begin.
_PUBLISHED = {
    "googlenet-1378be20": "googlenet",
    "vgg16-397923af": "imagenet",
    "vgg16_bn-6c64b313": "imagenet",
    "resnet50-0676ba61": "imagenet",
    "resnet50-11ad3fa6": "imagenet_v2",
    "resnext101_32x8d-8ba56ff5": "imagenet",
    "resnext101_32x8d-110c445d": "imagenet_v2",
    "densenet121-a639ec97": "imagenet",
    "se_resnet50-ce0d4300": "imagenet",
    "se_resnext50_32x4d-": "imagenet",
    "seresnet50_ra_224-8efdb4bb": "imagenet_bicubic",
    "seresnext50_32x4d_racm-a304a460": "imagenet_bicubic",
}


def default_preprocessing(backbone: str) -> str:
    """Returns the preprocessing of the backbone's best-known ImageNet weights."""
    return _DEFAULTS.get(backbone, "imagenet")


def published_preprocessing(checkpoint: str) -> str:
    """Returns the preprocessing of a published checkpoint file, "" for any other file name."""
    for start, name in _PUBLISHED.items():
        if checkpoint.startswith(start):
            return name
    return ""


def find_preprocessing(name: str) -> Preprocessing:
    """Returns the preprocessing of that name.

    Raises:
      InputError: naming those there are.
    """
    if name not in PREPROCESSING:
        raise InputError(
            f"model.backbone.preprocessing: {name!r} is none of {sorted(PREPROCESSING)}"
        )
    return PREPROCESSING[name]


def choose_preprocessing(given: str, backbone: str) -> str:
    """Returns the name of a backbone's preprocessing: the given one, or for "" its default.

    Raises:
      InputError: naming those there are.
    """
    name = given or default_preprocessing(backbone)
    find_preprocessing(name)
    return name


def normalize(images: jax.Array, preprocessing: str) -> jax.Array:
    """Returns images [n, h, w, 3] of 0..255 as a backbone expects them, float32.

    Raises:
      InputError: naming the preprocessings there are.
    """
    chosen = find_preprocessing(preprocessing)
    mean, deviation = (np.asarray(v, np.float32) for v in (chosen.mean, chosen.deviation))
    return (images.astype(jnp.float32) / 255.0 - mean) / deviation
