"""95% intervals of means over queries that come in clusters, and of differences of such means.

Queries of one item share their gallery images, so they are not independent: the variance is the
cluster-robust one between items, never below that of independent queries. The interval is Wilson's
of a share with this variance: unlike the bootstrap's it does not collapse for few queries of equal
values, as those of a small category.
"""

import numpy as np
from scipy import stats

_Z = 1.959963984540054  # the normal distribution's 97.5% point
_ROUNDING = 1e-24  # a variance of rounding errors alone
_DRAWN_AT_ONCE = 1 << 22  # clusters that the bootstrap draws, about 64 MiB


def clustered_intervals(
    values: np.ndarray, clusters: np.ndarray, members: np.ndarray
) -> np.ndarray:
    """Computes 95% intervals of means of values in 0..1, such as hits or average precisions.

    Args:
      values: [q, m], bool or float, a column per metric.
      clusters: int [q], the item of each query.
      members: bool [g, q], the queries of each group; groups may overlap.

    Returns:
      float64 [g, m, 2]: lower and upper bounds; NaN for a group without queries.
    """
    values = np.asarray(values, np.float64)
    return np.stack([_mean_intervals(values[one], clusters[one]) for one in members])


def influence_intervals(
    estimates: np.ndarray,
    influence: np.ndarray,
    independent: np.ndarray,
    clusters: np.ndarray,
    smallest_size: int,
) -> np.ndarray:
    """Computes 95% intervals, float64 [m, 2], of estimates in 0..1 by their influence functions.

    Args:
      estimates: [m].
      influence: [q, m], how far each query moves each estimate.
      independent: [m], the variances of the estimates if queries were independent.
      clusters: int [q], the item of each query.
      smallest_size: the sample size where clusters do not differ, which is no certainty.
    """
    _, cluster = np.unique(clusters, return_inverse=True)
    sums = np.stack([np.bincount(cluster, column) for column in influence.T])  # [m, clusters]
    count = sums.shape[1]
    between = np.sum(sums**2, axis=1) * count / max(count - 1, 1)
    equal = between < _ROUNDING
    variance = np.where(equal, 1.0, np.maximum(between, independent))
    size = np.where(equal, smallest_size, estimates * (1 - estimates) / variance)
    return _wilson(estimates, size)


def paired_bootstrap(
    values: np.ndarray,
    baseline: np.ndarray,
    clusters: np.ndarray,
    resamples: int = 10_000,
    seed: int = 0,
) -> np.ndarray:
    """Computes 95% intervals of mean(values - baseline), of two systems on the same queries.

    Whole clusters are drawn with replacement, with all their queries. The bounds are percentiles
    of the resamples' mean differences, a little further out than 2.5% and 97.5%: plain ones are too
    narrow for few clusters, by what Student's t is wider than the normal distribution and by
    sqrt(n / (n - 1)) (the expanded percentile interval of Hesterberg, 2015).

    Args:
      values: [q, m], a column per metric.
      baseline: [q, m], of the other system.
      clusters: [q], the item of each query.
      resamples: how many are drawn.
      seed: of the drawing.

    Returns:
      float64 [m, 2]: lower and upper bounds; NaN for fewer than two clusters.
    """
    differences = np.asarray(values, np.float64) - np.asarray(baseline, np.float64)
    names, cluster, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    n = len(names)
    if n < 2:
        return np.full((differences.shape[1], 2), np.nan)
    sums = np.stack([np.bincount(cluster, column) for column in differences.T], axis=1)
    rng = np.random.default_rng(seed)
    means, at_once = [], max(_DRAWN_AT_ONCE // n, 1)
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        drawn = rng.integers(0, n, (count, n)) + n * np.arange(count)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n)
        means.append((weights @ sums) / (weights @ sizes)[:, None])
    tail = stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf(0.025, n - 1))
    return np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0).T


def _mean_intervals(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    n = len(values)
    if not n:
        return np.full((values.shape[1], 2), np.nan)
    mean = values.mean(axis=0)
    # The factor makes it Wilson's own interval for hits and misses with one query an item.
    influence = (values - mean) / n * np.sqrt((n - 1) / n)
    count = len(np.unique(clusters))
    return influence_intervals(mean, influence, values.var(axis=0) / n, clusters, count)


def _wilson(mean: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Computes Wilson's intervals [m, 2] of shares [m] seen in so many independent trials [m]."""
    mean = np.clip(mean, 0, 1)
    center = (mean + _Z**2 / (2 * size)) / (1 + _Z**2 / size)
    spread = np.sqrt(mean * (1 - mean) / size + _Z**2 / (4 * size**2))
    half = _Z * spread / (1 + _Z**2 / size)
    return np.stack([np.maximum(center - half, 0), np.minimum(center + half, 1)], axis=-1)
