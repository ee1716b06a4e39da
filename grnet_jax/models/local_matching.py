"""Greedy matching of local features, the approach that GRNet's Section 3 starts from (Eq. 2, 3).

Kuang et al., "Fashion Retrieval via Graph Reasoning Networks on a Similarity Pyramid", ICCV 2019.
Our reading: on the regions that GRNet compares, each query region takes the gallery region of its
scale that is most like it (cosine), and these similarities are averaged: over a scale's
regions, then over the scales. With `one_to_one` no gallery region is taken twice: the most similar
pair of a scale is taken first, then the most similar of those left.

The score is bias + factor * (average - 1), a logit with two learned numbers, so that the pair loss
trains the features. Identical images score the bias, and no pair scores more.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax.graph import PAPER_SCALES, in_chunks, node_count, pool_regions, region_counts
from grnet_jax.graph.reasoning import product
from grnet_jax.models.config import NetworkConfig, Scales
from grnet_jax.models.feature_maps import map_fields
from grnet_jax.models.matcher import Features, unit_vectors
from grnet_jax.models.region_matcher import RegionMatcher, global_embedding
from input_pipeline import field


class LocalMatching(RegionMatcher, kw_only=True):
    """Averages the similarities of greedily matched regions.

    Attributes:
      scales: the pyramid's (rows, columns), (1, 1) first.
      one_to_one: whether a gallery region is matched with one query region at most.
      score_factor_init: where the factor on the similarity starts; positive.
      score_bias_init: where the score's bias starts.
      gallery_chunk: gallery images compared at once, where memory is short; 0 for all.
    """

    scales: tuple[tuple[int, int], ...]
    one_to_one: bool = False
    score_factor_init: float = 10.0
    score_bias_init: float = 0.0
    gallery_chunk: int = 0

    def pool(self, feature_map: jax.Array) -> Features:
        """Returns features of feature maps [n, h', w', c]."""
        regions = pool_regions(feature_map, self.scales)
        return Features(embedding=global_embedding(regions[:, 0]), regions=regions)

    def pair_numbers(self, regions: int, channels: int) -> int:
        """Counts the region pairs within the scales."""
        del regions, channels
        return node_count(self.scales)

    def score_regions(self, query: jax.Array, gallery: jax.Array) -> jax.Array:
        """Returns same-item logits float32 [q, g] of regions [q, r, c] and [g, r, c]."""
        x = unit_vectors(query)
        log_factor, bias = self._parameters()
        matched = matched_one_to_one if self.one_to_one else matched_best

        def score(y: jax.Array) -> jax.Array:
            similarities, start = [], 0
            for count in region_counts(self.scales):
                part = slice(start, start + count)
                similarities.append(matched(product("qic,gjc->qgij", x[:, part], y[:, part])))
                start += count
            average = jnp.mean(jnp.stack(similarities), axis=0)
            return bias + jnp.exp(log_factor) * (average - 1)

        return in_chunks(score, unit_vectors(gallery), self.gallery_chunk)

    @nn.compact
    def _parameters(self) -> tuple[jax.Array, jax.Array]:
        """Returns the factor's logarithm and the bias."""
        start = nn.initializers.constant(jnp.log(self.score_factor_init))
        log_factor = self.param("score_log_factor", start, ())
        bias = self.param("score_bias", nn.initializers.constant(self.score_bias_init), ())
        return log_factor, bias


def matched_best(similarities: jax.Array) -> jax.Array:
    """Returns the mean over query regions of each one's highest similarity.

    Args:
      similarities: [..., r, s], query regions in rows.

    Returns:
      [...].
    """
    return jnp.mean(jnp.max(similarities, axis=-1), axis=-1)


def matched_one_to_one(similarities: jax.Array) -> jax.Array:
    """Returns the mean over the pairs that greedy matching takes, the most similar first.

    Each row and each column is in one pair. Of equal similarities the first row, then the first
    column, is taken.

    Args:
      similarities: [..., r, r], query regions in rows.

    Returns:
      [...].
    """
    r = similarities.shape[-1]
    flat = similarities.reshape(*similarities.shape[:-2], r * r)
    rows, columns = jnp.divmod(jnp.arange(r * r), r)
    free = jnp.ones(flat.shape, bool)
    total = jnp.zeros(flat.shape[:-1], flat.dtype)
    for _ in range(r):
        pair = jnp.argmax(jnp.where(free, flat, -jnp.inf), axis=-1, keepdims=True)
        total += jnp.take_along_axis(flat, pair, axis=-1)[..., 0]
        row, column = jnp.divmod(pair, r)
        free &= (rows != row) & (columns != column)
    return total / r


class Config(NetworkConfig):
    """Greedy matching of regions."""

    name: Literal["local_matching"] = "local_matching"
    scales: Scales = field(
        PAPER_SCALES,
        "the pyramid, (rows, columns); (1, 1) first",
        "parameters",
        "features",
        "scores",
    )
    one_to_one: bool = field(
        False,
        "match a gallery region with one query region at most; false: each query region takes its "
        "best",
        "parameters",
        "scores",
    )
    score_factor_init: float = field(
        10.0,
        "the score is bias + factor * (similarity - 1), similarity in -1..1; start of the factor",
        "parameters",
        gt=0,
    )
    score_bias_init: float = field(0.0, "start of the bias", "parameters")
    gallery_chunk: int = field(
        0, "shop images compared at once in training; 0: all", "parameters", ge=0
    )


def build(config: Config) -> LocalMatching:
    """Builds the matcher of this section."""
    return LocalMatching(
        **map_fields(config),
        scales=config.scales,
        one_to_one=config.one_to_one,
        score_factor_init=config.score_factor_init,
        score_bias_init=config.score_bias_init,
        gallery_chunk=config.gallery_chunk,
    )
