"""Grad-CAM: where in two images their score comes from (Selvaraju et al., ICCV 2017)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax import models


def grad_cam(feature_map: jax.Array, gradient: jax.Array) -> jax.Array:
    """Returns the ReLU of the map's channels, weighted by their mean gradients (Eq. 1 and 2).

    Args:
      feature_map: [n, h, w, c].
      gradient: of the score with respect to it, [n, h, w, c].

    Returns:
      float32 [n, h, w]; zero where the image lowers the score.
    """
    dtype = jnp.promote_types(feature_map.dtype, jnp.float32)
    weights = gradient.astype(dtype).mean(axis=(1, 2))  # [n, c]
    return jax.nn.relu(jnp.einsum("nhwc,nc->nhw", feature_map.astype(dtype), weights))


def pair_grad_cam(
    matcher: nn.Module, variables: Any, query: jax.Array, gallery: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes Grad-CAM of one pair's score on both images.

    The gradient flows from the score through the graph and the regions' maxima to the final feature
    map of each image: a position that is no region's maximum has none.

    Args:
      matcher: one with a feature map.
      variables: the matcher's.
      query: uint8 [h, w, 3], the matcher's input.
      gallery: likewise.

    Returns:
      The score, a scalar; float32 [h', w'] of the query and of the gallery image.
    """
    maps = [models.feature_map(matcher, variables, image[None]) for image in (query, gallery)]

    def score(query_map: jax.Array, gallery_map: jax.Array) -> jax.Array:
        return models.score_maps(matcher, variables, query_map, gallery_map)[0, 0]

    value, gradients = jax.value_and_grad(score, argnums=(0, 1))(*maps)
    heats = [grad_cam(*both)[0] for both in zip(maps, gradients, strict=True)]
    return value, heats[0], heats[1]
