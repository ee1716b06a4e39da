"""A learned metric on a pre-trained network's features: whether both images show one item.

"Where to buy it" (Kiapour et al., ICCV 2015) concatenates the features of a street image and a shop
image, which a network trained for something else gives, and trains a small network of dense layers
on them. As in the DeepFashion paper (Liu et al., 2016) there is one network for all categories.
Ours are the layers' widths, and features that are the channels' means of the last map.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import pydantic

from grnet_jax.models.config import NetworkConfig
from grnet_jax.models.feature_maps import map_fields
from grnet_jax.models.matcher import Features
from grnet_jax.models.region_matcher import RegionMatcher, global_embedding
from input_pipeline import field


class Metric(nn.Module):
    """Applies dense layers to pairs of vectors side by side.

    Attributes:
      hidden: widths, at least one, each layer with a ReLU; a last one gives the logit.
      bias_init: where the logit's bias starts.
      dtype: of the computation.
    """

    hidden: tuple[int, ...]
    bias_init: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, query: jax.Array, gallery: jax.Array) -> jax.Array:
        """Returns logits float32 [q, g] of vectors [q, c] and [g, c]."""
        # A dense layer on both side by side is the sum of a layer on each: q + g products, not q g.
        of_query = nn.Dense(self.hidden[0], dtype=self.dtype, name="query")(query)
        of_gallery = nn.Dense(self.hidden[0], use_bias=False, dtype=self.dtype, name="gallery")(
            gallery
        )
        x = nn.relu(of_query[:, None] + of_gallery[None, :])  # [q, g, hidden]
        for number, width in enumerate(self.hidden[1:], start=2):
            x = nn.relu(nn.Dense(width, dtype=self.dtype, name=f"dense{number}")(x))
        bias = nn.initializers.constant(self.bias_init)
        logits = nn.Dense(1, bias_init=bias, dtype=self.dtype, name="logit")(x)
        return logits[..., 0].astype(jnp.promote_types(x.dtype, jnp.float32))


class PairMetric(RegionMatcher):
    """Compares the means of the last map by a learned metric.

    Attributes:
      hidden: widths of the metric's layers.
      score_bias_init: where the score's bias starts.
      dtype: of the metric's computation.
    """

    hidden: tuple[int, ...] = (512, 512)
    score_bias_init: float = 0.0
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Makes the metric."""
        self.metric = Metric(self.hidden, self.score_bias_init, self.dtype)

    def pool(self, feature_map: jax.Array) -> Features:
        """Returns features of maps [n, h', w', c]: regions [n, 1, c], the channels' means."""
        whole = jnp.mean(feature_map.astype(jnp.float32), axis=(1, 2))
        return Features(embedding=global_embedding(whole), regions=whole[:, None])

    def score_regions(self, query: jax.Array, gallery: jax.Array) -> jax.Array:
        """Returns same-item logits float32 [q, g] of regions [q, 1, c] and [g, 1, c]."""
        return self.metric(query[:, 0], gallery[:, 0])

    def pair_numbers(self, regions: int, channels: int) -> int:
        """Returns how many numbers comparing two images makes at once."""
        return 2 * max(self.hidden)


class Config(NetworkConfig):
    """A learned metric on two images' features."""

    name: Literal["pair_metric"] = "pair_metric"
    hidden: tuple[pydantic.PositiveInt, ...] = field(
        (512, 512),
        "widths of the metric's dense layers before the logit",
        "parameters",
        "scores",
        min_length=1,
    )
    score_bias_init: float = field(0.0, "start of the score's bias", "parameters")


def build(config: Config) -> PairMetric:
    """Builds the matcher of this section."""
    return PairMetric(
        **map_fields(config),
        hidden=config.hidden,
        score_bias_init=config.score_bias_init,
        dtype=jnp.dtype(config.dtype),
    )
