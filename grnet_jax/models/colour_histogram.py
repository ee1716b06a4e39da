"""The floor: nearest neighbour by a colour histogram, nothing learned."""

from typing import Any

import jax
import jax.numpy as jnp

from grnet_jax.errors import InputError
from grnet_jax.models.matcher import Features, InnerProduct


class ColourHistogram(InnerProduct):
    """A matcher without parameters: joint RGB histogram of the photo's middle.

    The descriptor holds the roots of the shares of pixels, so that the inner product is the
    Bhattacharyya coefficient.

    Attributes:
      bins: a channel; the descriptor has their cube.
      middle: share of each side that is looked at, around the centre.
    """

    bins: int = 8
    middle: float = 0.6

    def embed(self, photos: jax.Array, train: bool = False) -> Features:
        """Features of photos uint8 [n, h, w, 3]: descriptor [n, bins ** 3]."""
        del train
        n, height, width, _ = photos.shape
        top, left = (int(size * (1 - self.middle) / 2) for size in (height, width))
        middle = photos[:, top : height - top, left : width - left]
        levels = (middle.astype(jnp.int32) * self.bins) // 256
        red, green, blue = levels[..., 0], levels[..., 1], levels[..., 2]
        colour = ((red * self.bins + green) * self.bins + blue).reshape(n, -1)
        counts = jax.vmap(lambda row: jnp.bincount(row, length=self.bins**3))(colour)
        return Features(descriptor=jnp.sqrt(counts / colour.shape[1]))


def build(model: Any) -> ColourHistogram:
    """The matcher that `config.model` describes.

    Raises:
      InputError: naming the field that cannot be.
    """
    if model.bins < 1 or not 0 < model.middle <= 1:
        raise InputError(
            f"model.bins must be positive and model.middle in (0, 1]; got {model.bins} and "
            f"{model.middle}"
        )
    return ColourHistogram(bins=model.bins, middle=model.middle)
