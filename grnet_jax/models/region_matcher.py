"""What matchers share that compare images by regions of their feature maps."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from grnet_jax.errors import InputError
from grnet_jax.graph import choose_tile, in_tiles
from grnet_jax.models.feature_maps import final_feature_map
from grnet_jax.models.matcher import Features, Matcher, unit_vectors


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
