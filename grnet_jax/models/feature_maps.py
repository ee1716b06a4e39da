"""What matchers on a backbone share: from images to the feature map, and its attributes."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from grnet_jax.backbones import build_backbone
from grnet_jax.backbones.blocks import Reduction
from grnet_jax.backbones.color import append_colors
from grnet_jax.backbones.preprocessing import choose_preprocessing, normalize
from grnet_jax.errors import InputError
from grnet_jax.models.config import NetworkConfig
from grnet_jax.models.matcher import ImagesAsMaps


def final_feature_map(matcher: Any, images: Any, train: bool) -> jax.Array:
    """Returns the map [n, h', w', c] that a matcher with `map_fields` sees: `backbone_map` reduced.

    Args: `backbone_map`'s.
    """
    found = backbone_map(matcher, images, train)
    return found if matcher.reduction is None else matcher.reduction(found)


def backbone_map(matcher: Any, images: Any, train: bool = False) -> jax.Array:
    """Returns the map of the largest stride, [n, h', w', c], and colors where they are appended.

    Args:
      matcher: bound.
      images: uint8 [n, h, w, 3], or `ImagesAsMaps`.
      train: whether BatchNorm that is not frozen takes the batch's statistics.
    """
    moving = train and not matcher.frozen_batch_norm
    if isinstance(images, ImagesAsMaps):
        maps = images.maps.astype(matcher.backbone.dtype)
        if not images.stride:
            return maps
        found = matcher.backbone(maps, moving, images.stride)
    else:
        found = matcher.backbone(normalize(images, matcher.preprocessing), moving)
    last = found[max(found)]
    return (
        append_colors(last, images, matcher.cell_color_weight)
        if matcher.cell_color_weight
        else last
    )


def map_fields(config: NetworkConfig) -> Mapping[str, Any]:
    """Returns a matcher's attributes from images to the feature map, by name."""
    backbone, dtype = config.backbone, jnp.dtype(config.dtype)
    channels = backbone.reduction_channels
    return {
        **_network_fields(config),
        "cell_color_weight": backbone.cell_color_weight,
        "reduction": Reduction(channels, dtype) if channels else None,
    }


def backbone_fields(config: NetworkConfig) -> dict[str, Any]:
    """Returns those of a matcher that sees other maps than `final_feature_map`'s.

    Raises:
      InputError: there are colors to append to that one, or it is to be reduced.
    """
    for name in ("cell_color_weight", "reduction_channels"):
        if getattr(config.backbone, name):
            raise InputError(f"model.backbone.{name}: not for model.name={config.name}")
    return _network_fields(config)


def _network_fields(config: NetworkConfig) -> dict[str, Any]:
    backbone = config.backbone
    return {
        "backbone": build_backbone(backbone.name, jnp.dtype(config.dtype), backbone.stride),
        "preprocessing": choose_preprocessing(backbone.preprocessing, backbone.name),
        "frozen_batch_norm": backbone.frozen_batch_norm,
    }
