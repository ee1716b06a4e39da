"""Intervals of means against Wilson's table and the bootstrap over items; of paired differences."""

import numpy as np
import pytest
import scipy.stats

from grnet_jax.metrics import clustered_intervals, paired_bootstrap


def _interval(values, clusters):
    values = np.asarray(values)
    everyone = np.ones((1, len(values)), bool)
    return clustered_intervals(values[:, None], np.asarray(clusters), everyone)[0, 0]


def test_intervals_of_groups_are_those_of_each():
    rng = np.random.default_rng(0)
    members = rng.random((5, 64)) < [[0.5], [0.9], [0.1], [1.0], [0.0]]
    values, clusters = rng.random((64, 3)), rng.integers(0, 20, 64)
    intervals = clustered_intervals(values, clusters, members)
    assert intervals.shape == (5, 3, 2)
    for g, group in enumerate(members[:4]):
        for m in range(3):
            expected = _interval(values[group, m], clusters[group])
            np.testing.assert_allclose(intervals[g, m], expected)
    assert np.isnan(intervals[4]).all()  # without queries


def test_single_queries_have_wilsons_interval():
    """For 8 of 10, as tabulated."""
    found = _interval([True] * 8 + [False] * 2, np.arange(10))
    np.testing.assert_allclose(found, [0.4902, 0.9433], atol=2e-3)


def _bootstrap(per_item, rng):
    n = len(per_item)
    means = [per_item[rng.integers(0, n, n)].mean() for _ in range(2000)]
    return np.quantile(means, [0.025, 0.975])


def test_intervals_widen_with_clusters_as_the_bootstrap_does():
    rng = np.random.default_rng(0)
    chance = rng.beta(0.5, 0.5, 400)  # items differ a lot
    items = np.repeat(np.arange(400), 4)
    hits = rng.random(1600) < chance[items]
    low, high = _bootstrap(hits.reshape(400, 4).mean(axis=1), rng)
    np.testing.assert_allclose(_interval(hits, items), [low, high], atol=5e-3)
    alone = _interval(hits, np.arange(1600))
    assert high - low > 1.3 * (alone[1] - alone[0])


def test_intervals_of_average_precisions_are_the_bootstraps():
    rng = np.random.default_rng(0)
    items = np.repeat(np.arange(300), 3)
    values = np.clip(rng.beta(2, 3, 300)[items] + 0.1 * rng.standard_normal(900), 0, 1)
    expected = _bootstrap(values.reshape(300, 3).mean(axis=1), rng)
    np.testing.assert_allclose(_interval(values, items), expected, atol=3e-3)


@pytest.mark.parametrize(
    ("values", "items"),
    [
        ([0.5], [0]),
        ([0.5] * 20, [0] * 20),
        ([1.0, 0.0, 1.0], [0, 0, 0]),
        (np.ones(20), np.arange(20)),
        (np.full(30, np.float32(0.1)), np.arange(30)),  # whose mean differs by a rounding error
    ],
)
def test_one_item_or_equal_values_give_no_certainty(values, items):
    """Where the bootstrap's interval would have no width."""
    low, high = _interval(values, items)
    assert high - low > (0.5 if len(np.unique(items)) == 1 else 0.1)


def _pair(seed, items, per_item=3, gain=0.05):
    """Values of two systems, [q, 2] each, that items have in common, and items int [q]."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, items, per_item * items)
    hardness, taste = rng.random((items, 1)), 0.3 * rng.normal(size=(items, 1))
    noise = 0.2 * rng.normal(size=(2, len(cluster), 2))
    first = hardness[cluster] + noise[0]
    return first + taste[cluster] + gain + noise[1], first, cluster


def _tail(n):
    """What an expanded percentile interval leaves out on each side."""
    return scipy.stats.norm.cdf(scipy.stats.t.ppf(0.025, n - 1) * np.sqrt(n / (n - 1)))


def test_the_paired_bootstrap_is_that_of_a_loop_over_drawn_items():
    values, first, items = _pair(0, 40)
    queries = [np.flatnonzero(items == item) for item in np.unique(items)]
    rng, n = np.random.default_rng(1), len(queries)
    drawn = [np.concatenate([queries[i] for i in rng.integers(0, n, n)]) for _ in range(4000)]
    means = [(values[rows] - first[rows]).mean(axis=0) for rows in drawn]
    wanted = np.quantile(means, [_tail(n), 1 - _tail(n)], axis=0).T
    np.testing.assert_allclose(paired_bootstrap(values, first, items), wanted, atol=0.01)


def test_the_paired_bootstrap_is_scipys_where_each_query_is_an_item():
    values, first, _ = _pair(0, 80)
    one, other = values[:, 0], first[:, 0]
    wanted = scipy.stats.bootstrap(
        (one, other),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        paired=True,
        vectorized=True,
        confidence_level=1 - 2 * _tail(len(one)),
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    found = paired_bootstrap(values, first, np.arange(len(one)))[0]
    np.testing.assert_allclose(found, wanted, atol=0.002)  # of a width of 0.10


def test_the_paired_bootstrap_depends_on_the_differences_of_items_alone():
    values, first, items = _pair(0, 30)
    found = paired_bootstrap(values, first, items)
    order = np.random.default_rng(2).permutation(len(items))
    np.testing.assert_allclose(paired_bootstrap(values[order], first[order], items[order]), found)
    np.testing.assert_allclose(paired_bootstrap(first, values, items), -found[:, ::-1])
    names = np.array([f"item {item:03d}" for item in items])
    np.testing.assert_array_equal(paired_bootstrap(values, first, names), found)
    np.testing.assert_array_equal(paired_bootstrap(values, values, items), np.zeros((2, 2)))
    assert (paired_bootstrap(values, first, items, seed=1) != found).all()
    assert np.isnan(paired_bootstrap(values, first, np.zeros(len(items)))).all()


def test_the_paired_bootstrap_covers_the_true_difference():
    """Also with few items of unequal sizes, where plain percentiles cover 88%."""
    found = [paired_bootstrap(*_pair(seed, 12), resamples=1000)[0] for seed in range(500)]
    covered = np.mean([low <= 0.05 <= high for low, high in found])
    assert abs(covered - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 500)
