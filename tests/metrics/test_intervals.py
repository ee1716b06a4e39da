"""Intervals of means against Wilson's table and the bootstrap over items."""

import numpy as np
import pytest

from grnet_jax.metrics import clustered_intervals


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
