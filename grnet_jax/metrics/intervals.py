"""95% intervals of figures over queries that come in clusters.

Queries of one item share their gallery photos, so they are not independent: the variance of a
figure is taken between items (the cluster-robust estimate), never below that of independent
queries. Wilson's interval is then that of a share which has this variance: it stays within
0..1, and does not collapse where all values are equal.
"""

import math

import numpy as np

_Z = 1.959963984540054  # the normal distribution's 97.5% point
_NOTHING = 1e-24  # a variance of rounding errors alone


def clustered_interval(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """95% interval of a mean of values in 0..1, such as hits or average precisions.

    Args:
      values: [q], bool or float.
      clusters: int [q], the item of each query.

    Returns:
      Lower and upper bound; (nan, nan) without queries.
    """
    values = np.asarray(values)
    low, high = clustered_intervals(values[:, None], clusters, np.ones((1, len(values)), bool))[
        0, 0
    ]
    return float(low), float(high)


def clustered_intervals(
    values: np.ndarray, clusters: np.ndarray, members: np.ndarray
) -> np.ndarray:
    """`clustered_interval` of several figures over several groups of queries.

    Args:
      values: [q, m], bool or float, a column a figure.
      clusters: int [q], the item of each query.
      members: bool [g, q], the queries of each group; groups may overlap.

    Returns:
      float64 [g, m, 2]: lower and upper bounds; NaN for a group without queries.
    """
    order = np.argsort(clusters, kind="stable")
    values, clusters = np.asarray(values, np.float64)[order], np.asarray(clusters)[order]
    chosen = np.asarray(members, bool)[:, order]
    return np.stack([_intervals(values[one], clusters[one]) for one in chosen])


def auroc_interval(
    placements: np.ndarray, present: np.ndarray, clusters: np.ndarray
) -> tuple[float, float]:
    """95% interval of the area under the ROC curve, clustered (Obuchowski, 1997).

    Args:
      placements: [q], of `open_set.placements`, without masked queries.
      present: bool [q], whether the query's item is in the gallery; both kinds must be there.
      clusters: int [q], the item of each query.

    Returns:
      Lower and upper bound.
    """
    placements, present = np.asarray(placements, np.float64), np.asarray(present, bool)
    area = placements[present].mean()
    # How far each query moves the area: the variance is that of the sum of these.
    influence = np.empty(len(placements))
    independent, fewest = 0.0, math.inf
    for kind in (present, ~present):
        own = placements[kind]
        influence[kind] = (own - area) / len(own)
        independent += own.var(ddof=1) / len(own) if len(own) > 1 else 0.0
        fewest = min(fewest, len(np.unique(clusters[kind])))
    sums = np.bincount(np.unique(clusters, return_inverse=True)[1], influence)
    between = np.sum(sums**2) * len(sums) / max(len(sums) - 1, 1)
    variance = max(between, independent)
    size = fewest if variance < _NOTHING else area * (1 - area) / variance
    low, high = _wilson(np.array([area]), np.array([size]))[0]
    return float(low), float(high)


def _intervals(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Bounds [m, 2] of the means of values [n, m]; equal clusters stand side by side."""
    if not len(values):
        return np.full((values.shape[1], 2), math.nan)
    return _wilson(values.mean(axis=0), _effective_sizes(values, clusters))


def _effective_sizes(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """How many independent hits or misses would give means as certain as these, [m]."""
    n = len(values)
    starts = np.flatnonzero(np.concatenate([[True], clusters[1:] != clusters[:-1]]))
    count = len(starts)
    if count < 2:  # nothing to see the variance by: the clusters are all we have
        return np.full(values.shape[1], float(count))
    mean = values.mean(axis=0)
    sums = np.add.reduceat(values - mean, starts, axis=0)
    between = np.sum(sums**2, axis=0) / n**2 * count / (count - 1)
    variance = np.maximum(between, values.var(axis=0, ddof=1) / n)
    equal = between < _NOTHING
    # With one query an item this is n for hits and misses: Wilson's interval itself.
    sizes = mean * (1 - mean) / np.where(equal, 1, variance) * n / (n - 1)
    return np.where(equal, count, sizes)


def _wilson(mean: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Wilson's interval of shares [m] seen in so many independent trials; bounds [m, 2]."""
    mean = np.clip(mean, 0, 1)
    centre = (mean + _Z**2 / (2 * size)) / (1 + _Z**2 / size)
    spread = np.sqrt(mean * (1 - mean) / size + _Z**2 / (4 * size**2))
    half = _Z * spread / (1 + _Z**2 / size)
    return np.stack([np.maximum(centre - half, 0), np.minimum(centre + half, 1)], axis=-1)
