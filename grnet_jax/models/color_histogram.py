"""The floor: nearest neighbor by a color histogram, nothing learned."""

from typing import Literal

import jax
import jax.numpy as jnp

from grnet_jax.models.config import ModelConfig
from grnet_jax.models.matcher import EmbeddingModel, Features
from input_pipeline import field


class ColorHistogram(EmbeddingModel):
    """Compares joint RGB histograms of the images' middles; has no parameters.

    An embedding holds the square roots of each color's share of pixels, so that the inner product
    is the Bhattacharyya coefficient.

    Attributes:
      bins: levels of a channel; the embedding has their cube.
      middle: share of each side that is looked at, around the center.
    """

    bins: int = 8
    middle: float = 0.6

    def embed(self, images: jax.Array, train: bool = False) -> Features:
        """Returns features of images uint8 [n, h, w, 3]: embeddings [n, bins ** 3]."""
        del train
        n, height, width, _ = images.shape
        top, left = (int(size * (1 - self.middle) / 2) for size in (height, width))
        middle = images[:, top : height - top, left : width - left]
        levels = (middle.astype(jnp.int32) * self.bins) // 256
        red, green, blue = levels[..., 0], levels[..., 1], levels[..., 2]
        color = ((red * self.bins + green) * self.bins + blue).reshape(n, -1)
        counts = jax.vmap(lambda row: jnp.bincount(row, length=self.bins**3))(color)
        return Features(embedding=jnp.sqrt(counts / color.shape[1]))


class Config(ModelConfig):
    """Nearest neighbor by color; nothing learns."""

    name: Literal["color_histogram"] = "color_histogram"
    bins: int = field(
        8, "levels a channel; the histogram has their cube", "features", "scores", ge=1, le=256
    )
    middle: float = field(
        0.6, "share of each side that is looked at, around the center", "features", gt=0, le=1
    )


def build(config: Config) -> ColorHistogram:
    """Builds the matcher of this section."""
    return ColorHistogram(bins=config.bins, middle=config.middle)
