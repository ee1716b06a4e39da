"""95% intervals of figures over queries that come in clusters."""

import math

import numpy as np

_Z = 1.959963984540054  # the normal distribution's 97.5% point


def clustered_interval(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """95% interval of a mean of values in 0..1, such as hits or average precisions.

    Queries of one item share their gallery photos, so they are not independent: the variance of
    the mean is taken between items (the cluster-robust estimate), never below that of
    independent queries. Wilson's interval is then that of a share which has this variance: it
    stays within 0..1, and does not collapse where all values are equal.

    Args:
      values: [q], bool or float.
      clusters: int [q], the item of each query.

    Returns:
      Lower and upper bound; (nan, nan) without queries.
    """
    values = np.asarray(values, np.float64)
    if not len(values):
        return math.nan, math.nan
    mean = float(values.mean())
    size = _effective_size(values, clusters)
    centre = (mean + _Z**2 / (2 * size)) / (1 + _Z**2 / size)
    spread = math.sqrt(mean * (1 - mean) / size + _Z**2 / (4 * size**2))
    half = _Z * spread / (1 + _Z**2 / size)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def _effective_size(values: np.ndarray, clusters: np.ndarray) -> float:
    """How many independent hits or misses would give a mean as certain as this one."""
    n = len(values)
    _, position = np.unique(clusters, return_inverse=True)
    count = int(position.max()) + 1
    sums = np.bincount(position, weights=values - values.mean(), minlength=count)
    if count < 2 or not np.any(sums):
        return float(count)  # nothing to see the variance by: the clusters are all we have
    between = float(np.sum(sums**2)) / n**2 * count / (count - 1)
    variance = max(between, float(values.var(ddof=1)) / n)
    mean = float(values.mean())
    # With one query an item this is n for hits and misses: Wilson's interval itself.
    return mean * (1 - mean) / variance * n / (n - 1)
