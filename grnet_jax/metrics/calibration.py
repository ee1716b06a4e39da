"""Calibration: whether of the pairs with the probability 0.8 of "same item" 80% show the same item.

Scores are logits; their sigmoid is the probability. All pairs of queries and gallery images do not
fit into memory, so that sums in narrow bins of scores are kept: `calibration_sums` of a block of
pairs, `add_sums` of two blocks, and bins of equal width or equal mass merged from them at the end.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from grnet_jax.errors import InputError

# Range and width of the narrow bins of `fine_edges`, as logits.
_FINE_LIMIT, _FINE_STEP = 16, 0.0625


class CalibrationSums(NamedTuple):
    """Sums over the pairs of each bin; every field float64 [b].

    Attributes:
      counts: pairs.
      hits: pairs that show the same item.
      confidence: probabilities.
      squared_error: squares of probability minus label.
      log_loss: -log of the probability of the true label, in nats.
    """

    counts: np.ndarray
    hits: np.ndarray
    confidence: np.ndarray
    squared_error: np.ndarray
    log_loss: np.ndarray


def expected_calibration_error(sums: CalibrationSums) -> float:
    """Returns the ECE (Naeini et al., 2015): mean |confidence - accuracy| of the pairs' bins.

    It grows with the number of bins and shrinks with the number of pairs: name both beside it.
    """
    return float(np.abs(sums.confidence - sums.hits).sum() / sums.counts.sum())


def calibration_sums(
    scores: ArrayLike, labels: ArrayLike, edges: ArrayLike, mask: ArrayLike | None = None
) -> CalibrationSums:
    """Sums one block of pairs in bins of their scores.

    Args:
      scores: logits, [n] or [q, g].
      labels: bool, the same shape; whether the pair shows the same item.
      edges: inner edges of the bins, as logits, ascending [b - 1]; a score that equals an edge is
        in the bin below it.
      mask: bool, the same shape; pairs that count. None for all.

    Raises:
      InputError: shapes that do not fit.
    """
    scores, labels = np.asarray(scores, np.float32), np.asarray(labels, bool)
    mask = np.ones(scores.shape, bool) if mask is None else np.asarray(mask, bool)
    if scores.ndim not in (1, 2) or not scores.shape == labels.shape == mask.shape:
        raise InputError(
            "calibration_sums: expected scores, labels and mask of one shape [n] or [q, g], got "
            f"{scores.shape}, {labels.shape} and {mask.shape}"
        )
    edges = np.asarray(edges, np.float32)
    sums = np.zeros((len(CalibrationSums._fields), len(edges) + 1))
    # Row by row: what is computed on the way would fill several times the block's memory.
    for row, same, counted in zip(*map(np.atleast_2d, (scores, labels, mask)), strict=True):
        for label in (False, True):
            sums += _sums_of_label(row[counted & (same == label)], label, edges)
    return CalibrationSums(*sums)


def _sums_of_label(logits: np.ndarray, label: bool, edges: np.ndarray) -> list[np.ndarray]:
    """Returns the fields of `CalibrationSums` for pairs [n] that all have this label."""
    # Finding the edges among sorted scores takes a quarter of the time of the reverse.
    logits = np.sort(logits)
    ends = np.searchsorted(logits, edges, side="right")
    counts = np.diff(ends, prepend=0, append=len(logits))
    bins = np.repeat(np.arange(len(counts)), counts)
    p = expit(logits)
    wrong = -logits if label else logits
    losses = np.maximum(wrong, 0) + np.log1p(np.exp(-np.abs(logits)))
    sums = (np.bincount(bins, values, len(counts)) for values in (p, (p - label) ** 2, losses))
    return [counts, label * counts, *sums]


def add_sums(first: CalibrationSums, second: CalibrationSums) -> CalibrationSums:
    """Returns the sums of two blocks together; their bins have to be the same."""
    return CalibrationSums(*np.add(first, second))


def equal_width_edges(bins: int) -> np.ndarray:
    """Returns the inner edges, as logits, of equally wide bins of probability: float32 [b - 1]."""
    p = np.arange(1, bins) / bins
    return (np.log(p) - np.log1p(-p)).astype(np.float32)


def equal_mass_edges(scores: np.ndarray, bins: int) -> np.ndarray:
    """Returns inner edges [b - 1] of bins that hold equally many of scores [n], up to ties."""
    return np.sort(scores)[(len(scores) - 1) * np.arange(1, bins) // bins]


def fine_edges(bins: int) -> np.ndarray:
    """Returns the inner edges, float32, of narrow bins for `merge_equal_width` and `_mass`."""
    steps = np.arange(-_FINE_LIMIT, _FINE_LIMIT + _FINE_STEP, _FINE_STEP, dtype=np.float32)
    return np.union1d(steps, equal_width_edges(bins))


def merge_equal_width(sums: CalibrationSums, bins: int) -> CalibrationSums:
    """Merges the bins of `fine_edges(bins)` into bins of equally wide probabilities."""
    upper = np.searchsorted(equal_width_edges(bins), fine_edges(bins), side="right")
    return _merge(sums, np.append(0, upper), bins)


def merge_equal_mass(sums: CalibrationSums, bins: int) -> CalibrationSums:
    """Merges bins into runs of about equally many pairs.

    A run stays empty where a single bin holds more than a run's share.
    """
    middle = np.cumsum(sums.counts) - sums.counts / 2
    run = (middle / sums.counts.sum() * bins).astype(int)
    return _merge(sums, np.minimum(run, bins - 1), bins)


def _merge(sums: CalibrationSums, target: np.ndarray, bins: int) -> CalibrationSums:
    """Puts bin i into bin target[i] of `bins`."""
    return CalibrationSums(*(np.bincount(target, field, bins) for field in sums))
