"""Colors of an image's parts, as channels beside a feature map's."""

import jax
import jax.numpy as jnp

_LEVELS = 4  # of a channel; a histogram has their cube


def append_colors(feature_map: jax.Array, images: jax.Array, weight: float) -> jax.Array:
    """Returns a feature map with each cell's color histogram as 64 more channels.

    The square roots of the shares of joint RGB levels, which a pixel's value is shared between
    linearly: the inner product of two such histograms is their Bhattacharyya coefficient.

    Args:
      feature_map: [n, h', w', c].
      images: uint8 [n, h, w, 3], which the map covers evenly.
      weight: length of each cell's histogram, where that of its other channels is 1.
    """
    n, rows, columns, _ = feature_map.shape
    height, width = -(-images.shape[1] // rows), -(-images.shape[2] // columns)
    below, right = rows * height - images.shape[1], columns * width - images.shape[2]
    padded = jnp.pad(images, ((0, 0), (0, below), (0, right), (0, 0)), mode="edge")
    pixels = padded.reshape(n, rows, height, columns, width, 3).swapaxes(2, 3)
    position = pixels.reshape(n, rows, columns, height * width, 3).astype(jnp.float32) / 255
    distance = jnp.abs(position[..., None] * (_LEVELS - 1) - jnp.arange(_LEVELS))
    red, green, blue = jnp.moveaxis(jnp.maximum(1 - distance, 0), -2, 0)  # [n, r, c, p, level]
    shares = jnp.einsum("nrcpi,nrcpj,nrcpk->nrcijk", red, green, blue) / (height * width)
    histograms = jnp.sqrt(shares.reshape(n, rows, columns, -1))
    length = jnp.linalg.norm(feature_map.astype(jnp.float32), axis=-1, keepdims=True)
    colors = (weight * jax.lax.stop_gradient(length) * histograms).astype(feature_map.dtype)
    return jnp.concatenate([feature_map, colors], axis=-1)
