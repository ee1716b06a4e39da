"""Kronecker-product matching as a pairwise matcher on GRNet's feature maps.

Shen et al., "End-to-End Deep Kronecker-Product Matching for Person Re-identification", CVPR 2018.
Every cell of the query's map is matched softly with all cells of the gallery image's map; the
gallery map, warped by these matches, is subtracted, and one linear unit scores the difference.

Our reading, where it is not the paper's letter:

- Cells are matched by the cosine of their features, as in the authors' released code.
- The differences are averaged over the query's cells and then squared, as in that code;
  `square_first` changes the order, so that differences of opposite sign do not cancel.
- BatchNorm before the linear unit is left out: after training it is an affine map of each channel,
  which the linear unit contains.
- Several scales (the paper: maps of an hourglass network) are GRNet's pyramid: each scale's regions
  are matched among themselves, and the linear unit reads all scales.
- Self-residual attention: a map is warped onto itself. What a cell differs by from that is what no
  other cell of its image shows. A logistic unit on its square weighs the cell.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax.graph import in_chunks, pool_regions, region_counts
from grnet_jax.graph.reasoning import accumulation_dtype, match_logit, product
from grnet_jax.models.config import NetworkConfig, ScalesOrNone
from grnet_jax.models.feature_maps import map_fields
from grnet_jax.models.matcher import Features, unit_vectors
from grnet_jax.models.region_matcher import RegionMatcher, global_embedding
from input_pipeline import field

_he = nn.initializers.he_normal()


class KPM(RegionMatcher, kw_only=True):
    """Compares the query's regions with the gallery image's, warped onto them.

    Attributes:
      scales: the pyramid's (rows, columns), each scale matched within itself; () for the cells of
        the map.
      match_scale: factor on the cosines in the softmax; the larger, the harder the matches.
      self_attention: whether the query's cells are weighed by self-residual attention.
      square_first: whether differences are squared before they are averaged over the cells.
      score_bias_init: where the score's bias starts.
      gallery_chunk: gallery images compared at once, where memory is short; 0 for all.
    """

    scales: tuple[tuple[int, int], ...] = ()
    match_scale: float = 1.0
    self_attention: bool = True
    square_first: bool = False
    score_bias_init: float = 0.0
    gallery_chunk: int = 0

    def pool(self, feature_map: jax.Array) -> Features:
        """Returns features of feature maps [n, h', w', c]."""
        if self.scales:
            regions = pool_regions(feature_map, self.scales)
            return Features(embedding=global_embedding(regions[:, 0]), regions=regions)
        n, height, width, c = feature_map.shape
        cells = feature_map.reshape(n, height * width, c)
        return Features(embedding=global_embedding(cells.max(axis=1)), regions=cells)

    def pair_numbers(self, regions: int, channels: int) -> int:
        """Counts the matches of all cells, and with `square_first` the warped map."""
        warped = channels if self.square_first else 0
        return sum(count * (count + warped) + channels for count in self._counts(regions))

    def score_regions(self, query: jax.Array, gallery: jax.Array) -> jax.Array:
        """Returns same-item logits float32 [q, g] of regions [q, r, c] and [g, r, c]."""
        x, (_, r, c) = query, query.shape
        counts = self._counts(r)
        weight, bias, attention = self._parameters(c, len(counts))

        def score(y: jax.Array) -> jax.Array:
            differences, start = [], 0
            for count in counts:
                scale = slice(start, start + count)
                cell_weights = jnp.ones((x.shape[0], count), accumulation_dtype(x))
                if attention is not None:
                    cell_weights = self_attention(x[:, scale], *attention, self.match_scale)
                difference = warped_difference(
                    x[:, scale], y[:, scale], cell_weights, self.match_scale,
                    square_first=self.square_first,
                )  # fmt: skip
                differences.append(difference)
                start += count
            difference = jnp.concatenate(differences, axis=-1)
            logits = match_logit(difference.reshape(-1, difference.shape[-1]), weight, bias)
            return logits.reshape(difference.shape[:2])

        return in_chunks(score, gallery, self.gallery_chunk)

    def _counts(self, regions: int) -> tuple[int, ...]:
        """Returns how many regions each scale has."""
        return region_counts(self.scales) if self.scales else (regions,)

    @nn.compact
    def _parameters(
        self, channels: int, blocks: int
    ) -> tuple[jax.Array, jax.Array, tuple[jax.Array, jax.Array] | None]:
        """Returns the score's weight and bias, and the attention's or None."""
        weight = self.param("score_weight", _he, (blocks * channels, 1))[:, 0]
        bias = self.param("score_bias", nn.initializers.constant(self.score_bias_init), ())
        if not self.self_attention:
            return weight, bias, None
        attention = self.param("attention_weight", _he, (channels, 1))[:, 0]
        return weight, bias, (attention, self.param("attention_bias", nn.initializers.zeros, ()))


def match_weights(query: jax.Array, gallery: jax.Array, match_scale: float) -> jax.Array:
    """Returns the softmax over j of match_scale * cos(x_i, y_j).

    Args:
      query: cells x [q, r, c].
      gallery: cells y [g, s, c].
      match_scale: factor on the cosines.

    Returns:
      float32 at least, [q, g, r, s], each row summing to one.
    """
    x, y = (unit_vectors(cells) for cells in (query, gallery))
    return jax.nn.softmax(match_scale * product("qic,gjc->qgij", x, y), axis=-1)


def warped_difference(
    query: jax.Array,
    gallery: jax.Array,
    cell_weights: jax.Array,
    match_scale: float,
    *,
    square_first: bool,
) -> jax.Array:
    """Returns the squared difference of a query's cells from the warped gallery image's.

    With w of `match_weights`, d_i = x_i - sum_j w_ij y_j and a_i the cell's weight, it is
    (mean_i a_i d_i)^2, or mean_i a_i d_i^2 with `square_first`. The former never forms the warped
    map: its weights are summed over the query's cells first.

    Args:
      query: cells x [q, r, c].
      gallery: cells y [g, s, c].
      cell_weights: a, [q, r].
      match_scale: of `match_weights`.
      square_first: whether d is squared before the mean.

    Returns:
      float32 at least, [q, g, c].
    """
    weights = match_weights(query, gallery, match_scale)  # [q, g, r, s]
    x, y = (cells.astype(weights.dtype) for cells in (query, gallery))
    share = cell_weights / query.shape[1]  # [q, r]
    if square_first:
        warped = jnp.einsum("qgij,gjc->qgic", weights, y)
        return jnp.einsum("qi,qgic->qgc", share, jnp.square(x[:, None] - warped))
    mean = jnp.einsum("qi,qic->qc", share, x)
    pooled = jnp.einsum("qi,qgij->qgj", share, weights)
    return jnp.square(mean[:, None] - jnp.einsum("qgj,gjc->qgc", pooled, y))


def self_attention(
    cells: jax.Array, weight: jax.Array, bias: jax.Array, match_scale: float
) -> jax.Array:
    """Returns sigmoid(v . (x_i - sum_j w_ij x_j)^2 + b), w matching an image with itself.

    Args:
      cells: x [n, r, c].
      weight: v, [c].
      bias: b, a number.
      match_scale: of `match_weights`.

    Returns:
      float32 at least, [n, r], in (0, 1).
    """
    unit = unit_vectors(cells)
    weights = jax.nn.softmax(match_scale * product("nic,njc->nij", unit, unit), axis=-1)
    x = cells.astype(weights.dtype)
    residual = x - jnp.einsum("nij,njc->nic", weights, x)
    return jax.nn.sigmoid(jnp.einsum("nic,c->ni", jnp.square(residual), weight) + bias)


class Config(NetworkConfig):
    """Kronecker-product matching."""

    name: Literal["kpm"] = "kpm"
    scales: ScalesOrNone = field(
        (),
        "of the pyramid, (rows, columns), (1, 1) first, each matched within itself; (): every cell "
        "of the map with every cell",
        "parameters",
        "features",
        "scores",
    )
    match_scale: float = field(
        1.0,
        "factor on the cosines in the softmax over a gallery image's cells; the authors' code: 1, "
        "with which all cells weigh nearly the same where features are positive",
        "parameters",
        "scores",
        gt=0,
    )
    self_attention: bool = field(
        True,
        "cells of the query count by how far they differ from the rest of their image",
        "parameters",
        "scores",
    )
    square_first: bool = field(
        False,
        "square differences before averaging them over the cells, not after as the authors do",
        "parameters",
        "scores",
    )
    score_bias_init: float = field(0.0, "start of the score's bias", "parameters")
    gallery_chunk: int = field(
        0, "shop images compared at once in training; 0: all", "parameters", ge=0
    )


def build(config: Config) -> KPM:
    """Builds the matcher of this section."""
    return KPM(
        **map_fields(config),
        scales=config.scales,
        match_scale=config.match_scale,
        self_attention=config.self_attention,
        square_first=config.square_first,
        score_bias_init=config.score_bias_init,
        gallery_chunk=config.gallery_chunk,
    )
