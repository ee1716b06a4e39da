"""Whether a probability of "same item" of 0.8 is right eight times in ten.

Scores are logits; their sigmoid is the probability. What is kept is a sum in each bin of scores,
so that blocks of pairs are measured one by one and added: `calibration_sums` of a block on the
device, `add_sums` on the host. Everything after that takes sums, of NumPy or of JAX.

All pairs of queries and gallery photos are mostly easy negatives with probabilities near zero;
bins of equal width put them into one bin, bins of equal mass (`equal_mass_edges`, or
`equal_mass_owners` where the pairs do not fit into memory) look at them more closely.
"""

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from grnet_jax.errors import InputError, check_at_least

_Array: TypeAlias = "np.ndarray | jax.Array"

# Scores between which `fine_edges` tells pairs apart, and how finely.
_FINE_FROM, _FINE_STEP = 16, 0.0625


class CalibrationSums(NamedTuple):
    """Sums over the pairs of each bin; every field [b].

    Attributes:
      counts: pairs.
      hits: those that show the same item.
      confidence: probabilities.
      squared_error: squares of probability less label.
      log_loss: -log of the probability of what is the case, in nats.
    """

    counts: _Array
    hits: _Array
    confidence: _Array
    squared_error: _Array
    log_loss: _Array


def equal_width_edges(bins: int) -> np.ndarray:
    """Inner edges, as scores, of bins of probabilities equally wide; float32 [bins - 1]."""
    check_at_least("bins", bins, 1)
    p = np.arange(1, bins) / bins
    return (np.log(p) - np.log1p(-p)).astype(np.float32)


def equal_mass_edges(scores: ArrayLike, bins: int, mask: ArrayLike | None = None) -> jax.Array:
    """Inner edges of bins that hold equally many of these scores, as far as ties allow.

    Args:
      scores: [n], n times bins below 2 ** 31.
      bins: how many.
      mask: bool [n]; scores that count. None for all.

    Returns:
      float32 [bins - 1], scores among those given; infinite where none counts.
    """
    check_at_least("bins", bins, 1)
    scores = jnp.asarray(scores, jnp.float32)
    mask = jnp.ones(scores.shape, bool) if mask is None else jnp.asarray(mask)
    ordered = jnp.sort(jnp.where(mask, scores, jnp.inf))
    last = jnp.maximum(jnp.sum(mask) - 1, 0)
    return ordered[last * jnp.arange(1, bins) // bins]


def fine_edges(bins: int) -> np.ndarray:
    """Edges of narrow bins that merge into `bins` equally wide ones and, nearly, equally full ones.

    Returns:
      float32: every 1/16 from -16 to 16, and `equal_width_edges(bins)`.
    """
    steps = np.arange(-_FINE_FROM, _FINE_FROM + _FINE_STEP, _FINE_STEP, dtype=np.float32)
    return np.union1d(steps, equal_width_edges(bins))


def calibration_sums(
    scores: ArrayLike, labels: ArrayLike, edges: ArrayLike, mask: ArrayLike | None = None
) -> CalibrationSums:
    """The sums of one block of pairs, in float32, counts and hits in int32.

    Args:
      scores: logits, [n] or [q, g].
      labels: bool, as scores; whether the pair shows the same item.
      edges: inner edges of the bins, as scores, ascending [b - 1]; a score that equals an edge
        is in the bin below it.
      mask: bool, as scores; pairs that count. None for all.

    Raises:
      InputError: shapes that do not fit.
    """
    scores, labels = jnp.asarray(scores, jnp.float32), jnp.asarray(labels, bool)
    mask = jnp.ones(scores.shape, bool) if mask is None else jnp.asarray(mask, bool)
    if scores.ndim not in (1, 2) or not scores.shape == labels.shape == mask.shape:
        raise InputError(
            "calibration_sums: expected scores, labels and mask of one shape [n] or [q, g], got "
            f"{scores.shape}, {labels.shape} and {mask.shape}"
        )
    scores, labels, mask = (x.reshape(-1, x.shape[-1]) for x in (scores, labels, mask))
    scores = jnp.where(mask, scores, 0.0)
    edges = jnp.asarray(edges, jnp.float32)
    places = jnp.searchsorted(edges, scores, side="left")
    bins = len(edges) + 1
    # Row by row first: a float32 sum over a whole block would lose its last terms' digits.
    rows = jnp.arange(len(scores))[:, None] * bins

    def total(values: jax.Array) -> jax.Array:
        values = jnp.where(mask, values, 0)
        summed = jax.ops.segment_sum(
            values.reshape(-1), (rows + places).reshape(-1), len(scores) * bins
        )
        return summed.reshape(-1, bins).sum(axis=0)

    p = jax.nn.sigmoid(scores)
    return CalibrationSums(
        counts=total(mask.astype(jnp.int32)),
        hits=total(labels.astype(jnp.int32)),
        confidence=total(p),
        squared_error=total((p - labels) ** 2),
        log_loss=total(jax.nn.softplus(jnp.where(labels, -scores, scores))),
    )


def add_sums(first: CalibrationSums, second: CalibrationSums) -> CalibrationSums:
    """The sums of two blocks of the same bins together, on the host in float64."""
    pairs = zip(first, second, strict=True)
    return CalibrationSums(*(np.asarray(a, np.float64) + np.asarray(b) for a, b in pairs))


def equal_width_owners(edges: np.ndarray, bins: int) -> np.ndarray:
    """For each bin of `fine_edges(bins)` the one of `bins` equally wide ones that it lies in."""
    inner = np.searchsorted(equal_width_edges(bins), edges, side="right")
    return np.concatenate([np.zeros(1, inner.dtype), inner])


def equal_mass_owners(counts: np.ndarray, bins: int) -> np.ndarray:
    """For each bin one of `bins` runs of bins that hold about equally many pairs.

    Args:
      counts: [b], pairs of each bin, at least one in all.
      bins: number of runs; one may stay empty where a single bin holds more than its share.
    """
    check_at_least("bins", bins, 1)
    counts = np.asarray(counts, np.float64)
    middle = np.cumsum(counts) - counts / 2
    return np.minimum((middle / counts.sum() * bins).astype(int), bins - 1)


def merge_bins(sums: CalibrationSums, owners: np.ndarray, bins: int) -> CalibrationSums:
    """Bins put together, int [b] saying into which of `bins` each goes; float64."""
    return CalibrationSums(*(np.bincount(owners, field, minlength=bins) for field in sums))


def expected_calibration_error(sums: CalibrationSums) -> _Array:
    """ECE (Naeini et al., 2015): mean over pairs of their bin's |mean probability - share right|.

    Grows with the number of bins and shrinks with the number of pairs: name both beside it.
    """
    gaps: Any = abs(sums.confidence - sums.hits)
    return gaps.sum() / sums.counts.sum()


def brier_score(sums: CalibrationSums) -> _Array:
    """Mean squared difference of probability and label."""
    return sums.squared_error.sum() / sums.counts.sum()


def mean_log_loss(sums: CalibrationSums) -> _Array:
    """Mean of -log of the probability of what is the case, in nats: cross-entropy."""
    return sums.log_loss.sum() / sums.counts.sum()
