"""95% intervals of figures over queries that come in clusters.

Queries of one item share their gallery photos, so they are not independent. The variance is
taken between items (the cluster-robust estimate), never below that of independent queries.
"""

import math

import numpy as np

_Z = 1.959963984540054  # the normal distribution's 97.5% point


def clustered_share_interval(hits: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """Wilson's 95% interval of a share, with the queries' number cut by the design effect.

    Args:
      hits: bool [q].
      clusters: int [q], the item of each query.

    Returns:
      Lower and upper bound; (nan, nan) without queries.
    """
    n = len(hits)
    if n == 0:
        return math.nan, math.nan
    share = float(np.mean(hits))
    effective = n / _design_effect(np.asarray(hits, np.float64), clusters)
    centre = (share + _Z**2 / (2 * effective)) / (1 + _Z**2 / effective)
    spread = math.sqrt(share * (1 - share) / effective + _Z**2 / (4 * effective**2))
    half = _Z * spread / (1 + _Z**2 / effective)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def clustered_mean_interval(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """Normal 95% interval of a mean of values in 0..1, from the variance between clusters.

    Args:
      values: float [q].
      clusters: int [q], the item of each query.

    Returns:
      Lower and upper bound; (nan, nan) without queries.
    """
    n = len(values)
    if n == 0:
        return math.nan, math.nan
    values = np.asarray(values, np.float64)
    independent = values.var(ddof=1) / n if n > 1 else 0.0
    half = _Z * math.sqrt(independent * _design_effect(values, clusters))
    mean = float(values.mean())
    return max(mean - half, 0.0), min(mean + half, 1.0)


def _design_effect(values: np.ndarray, clusters: np.ndarray) -> float:
    """Variance of the mean between clusters over that of independent values; at least 1."""
    n = len(values)
    if n < 2:
        return 1.0
    independent = values.var(ddof=1) / n
    _, position = np.unique(clusters, return_inverse=True)
    count = position.max() + 1
    if independent == 0.0 or count < 2:
        return 1.0
    sums = np.bincount(position, weights=values - values.mean(), minlength=count)
    between = float(np.sum(sums**2)) / n**2 * count / (count - 1)
    return max(between / independent, 1.0)
