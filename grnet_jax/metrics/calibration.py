"""Calibration: whether of the results with the probability 0.8 of "same item" 80% show the item."""

from typing import NamedTuple

import numpy as np

from grnet_jax.metrics.intervals import clustered_intervals

BINS = 15  # as Guo et al. (2017) measure it
MIN_RESULTS = 10 * BINS  # accuracies of fewer than ten are noise


class Calibration(NamedTuple):
    """How far probabilities are from what is so.

    Attributes:
      results: how many were measured.
      equal_width: float64 [b, 3], of each of `BINS` equally wide bins of probability that hold any:
        results, mean probability, fraction of them that is right.
      equal_mass: likewise, of bins that hold equally many results, up to ties.
      brier: mean square of probability minus truth.
      log_loss: mean -log of the probability of what is so, in nats.
      brier_interval: 95% interval of `brier`, clustered by item.
    """

    results: int
    equal_width: np.ndarray
    equal_mass: np.ndarray
    brier: float
    log_loss: float
    brier_interval: tuple[float, float]

    @property
    def values(self) -> dict[str, float]:
        """Returns both expected calibration errors (Naeini et al., 2015), Brier score and log loss.

        The errors grow with the number of bins and shrink with the number of results.
        """
        return {
            "ece": _error(self.equal_width),
            "ece_equal_mass": _error(self.equal_mass),
            "brier": self.brier,
            "log_loss": self.log_loss,
        }


def measure_calibration(p: np.ndarray, right: np.ndarray, clusters: np.ndarray) -> Calibration:
    """Measures the calibration of results.

    Args:
      p: [n > 0], probabilities that they show the item.
      right: bool [n], whether they do.
      clusters: int [n], the item of each one's query.
    """
    p, right = np.asarray(p, np.float64), np.asarray(right, bool)
    widths = np.arange(1, BINS) / BINS
    masses = np.sort(p)[(len(p) - 1) * np.arange(1, BINS) // BINS]
    squares = np.square(p - right)
    everything = np.ones((1, len(p)), bool)
    ((low, high),) = clustered_intervals(squares[:, None], clusters, everything)[0]
    told = np.clip(np.where(right, p, 1 - p), np.finfo(float).eps, 1)
    return Calibration(
        len(p), _bins(p, right, widths), _bins(p, right, masses), float(squares.mean()),
        float(-np.log(told).mean()), (float(low), float(high)),
    )  # fmt: skip


def _bins(p: np.ndarray, right: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """What bins hold; a probability that equals an inner edge is in the bin below it."""
    bins = np.searchsorted(edges, p)
    sums = [np.bincount(bins, weights, BINS) for weights in (np.ones(len(p)), p, right)]
    filled = sums[0] > 0
    counts, said, hits = (column[filled] for column in sums)
    return np.stack([counts, said / counts, hits / counts], axis=1)


def _error(bins: np.ndarray) -> float:
    counts, said, right = bins.T
    return float(np.average(np.abs(said - right), weights=counts))
