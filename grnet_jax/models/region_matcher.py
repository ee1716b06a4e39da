"""What matchers on a backbone's feature map share: from images to the map, regions and fields."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from grnet_jax.backbones import build_backbone
from grnet_jax.backbones.blocks import Reduction
from grnet_jax.backbones.color import append_colors
from grnet_jax.backbones.preprocessing import choose_preprocessing, normalize
from grnet_jax.errors import InputError
from grnet_jax.graph import choose_tile, in_tiles
from grnet_jax.models.config import NetworkConfig
from grnet_jax.models.matcher import Features, ImagesAsMaps, Matcher, unit_vectors


class RegionMatcher(Matcher):
    """Embeds images by their feature maps and scores pairs of images by their regions.

    Subclasses have `pool` and `score_regions`, and `pair_numbers` or another `score_fused`.

    Attributes:
      backbone: images to feature maps; the map of the largest stride is used.
      preprocessing: name of the image normalization.
      frozen_batch_norm: BatchNorm keeps its statistics while training.
      cell_color_weight: of `append_colors` to the map; 0 for none.
      reduction: module on the map, such as `Reduction`, or None.
    """

    backbone: nn.Module
    preprocessing: str = "imagenet"
    frozen_batch_norm: bool = False
    cell_color_weight: float = 0.0
    reduction: nn.Module | None = None

    def embed(self, images: jax.Array, train: bool = False) -> Features:
        """Returns features of images uint8 [n, h, w, 3]: regions [n, r, c], embeddings [n, d]."""
        return self.pool(self.feature_map(images, train))

    def feature_map(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns the map [n, h', w', c] of images uint8 [n, h, w, 3] that regions are cut from."""
        return final_feature_map(self, images, train)

    def pool(self, feature_map: jax.Array) -> Features:
        """Returns features of feature maps [n, h', w', c]."""
        raise NotImplementedError

    def score(self, query: Features, gallery: Features) -> jax.Array:
        """Returns same-item logits float32 [q, g]."""
        return self.score_regions(regions_of(query), regions_of(gallery))

    def score_regions(self, query: jax.Array, gallery: jax.Array) -> jax.Array:
        """Returns same-item logits float32 [q, g] of regions [q, r, c] and [g, r, c]."""
        raise NotImplementedError

    def pair_numbers(self, regions: int, channels: int) -> int:
        """Returns how many numbers comparing two images of so many regions makes at once."""
        raise NotImplementedError

    def fuse(self, variables: Any, dtype: str) -> Any:
        """Returns the score's parameters, and the dtype that regions are compared in."""
        params = {name: part for name, part in variables["params"].items() if name != "backbone"}
        return {"params": params, "dtype": np.zeros((), dtype or self.backbone.dtype)}

    def score_fused(self, fused: Any, query: Features, gallery: Features) -> jax.Array:
        """Returns what `score` does, computed by one query and a tile of gallery images at a time.

        Memory does not grow with the queries, and with the gallery only where tiles are as large.
        """
        x, y = (regions_of(one).astype(fused["dtype"].dtype) for one in (query, gallery))

        def score(x: jax.Array, y: jax.Array) -> jax.Array:
            logits: Any = self.apply({"params": fused["params"]}, x, y, method="score_regions")
            return logits

        return in_tiles(score, x, y, choose_tile(self.pair_numbers(*x.shape[1:])))


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


def global_embedding(whole: jax.Array) -> jax.Array:
    """Returns unit vectors float32 [n, c] of vectors [n, c] of whole images."""
    return unit_vectors(whole.astype(jnp.float32))


def regions_of(features: Features) -> jax.Array:
    """Returns the features' regions [n, r, c].

    Raises:
      InputError: they hold none.
    """
    if features.regions is None:
        raise InputError("this matcher scores regions, and these features hold none")
    return features.regions


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
