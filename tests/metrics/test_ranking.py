"""Ranks and ranking metrics against float64 NumPy from their definitions and scikit-learn."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec
from sklearn.metrics import auc, average_precision_score

from grnet_jax import metrics
from grnet_jax.sharding import make_mesh


def _case(seed, *, ties=False, queries=48, gallery=60, most=9):
    """Scores, and positives of 0 to `most` rows a query, padded."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((queries, gallery)).astype(np.float32)
    if ties:
        scores = np.round(scores)
    positives = np.full((queries, most), -1, np.int32)
    counts = rng.integers(0, most + 1, queries)
    counts[:2] = 0, most
    for row, count in zip(positives, counts, strict=True):
        row[:count] = rng.choice(gallery, count, replace=False)
    return scores, positives


def _sorted_labels(scores, positives):
    """For each query its gallery in order, True where positive; ties against the system."""
    for row, rows in zip(scores, positives, strict=True):
        right = np.isin(np.arange(len(row)), rows[rows >= 0])
        yield right[np.lexsort((right, -row.astype(np.float64)))]


def _top_k(labels, k):
    return float(labels[:k].any())


def _recall(labels, k):
    return labels[:k].sum() / labels.sum()


def _reciprocal(labels):
    return 1 / (1 + np.argmax(labels))


def _finite_sum(labels):
    return np.mean([labels[: n + 1].mean() for n in np.flatnonzero(labels)])


def _revisitop(labels):
    """The whole precision-recall curve, from precision 1 at recall 0, by trapezoids."""
    found = np.cumsum(labels)
    precision = np.concatenate([[1.0], found / np.arange(1, len(labels) + 1)])
    return auc(np.concatenate([[0.0], found / labels.sum()]), precision)


def _at_r(labels):
    r = int(labels.sum())
    return sum(labels[: i + 1].mean() * labels[i] for i in range(r)) / r


_METRICS = {
    "top1": (lambda ranks: metrics.top_k_hits(ranks, 1), lambda labels: _top_k(labels, 1)),
    "top7": (lambda ranks: metrics.top_k_hits(ranks, 7), lambda labels: _top_k(labels, 7)),
    "recall1": (lambda ranks: metrics.recall_at_k(ranks, 1), lambda labels: _recall(labels, 1)),
    "recall7": (lambda ranks: metrics.recall_at_k(ranks, 7), lambda labels: _recall(labels, 7)),
    "recall all": (lambda ranks: metrics.recall_at_k(ranks, 60), lambda _: 1.0),
    "mrr": (metrics.reciprocal_rank, _reciprocal),
    "map": (metrics.average_precision, _finite_sum),
    "map revisitop": (metrics.average_precision_revisitop, _revisitop),
    "map at r": (metrics.average_precision_at_r, _at_r),
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("most", [1, 9, 60])
@pytest.mark.parametrize("name", _METRICS)
def test_metrics_are_their_definitions(name, most, ties):
    metric, definition = _METRICS[name]
    scores, positives = _case(most, ties=ties, most=most)
    ranks = metrics.positive_ranks(scores, positives)
    found = np.asarray(metric(ranks))
    assert found.shape == (48,)
    expected = [
        definition(labels) if labels.any() else 0.0 for labels in _sorted_labels(scores, positives)
    ]
    np.testing.assert_allclose(found, expected, rtol=2e-6)


@pytest.mark.parametrize("name", _METRICS)
def test_metrics_are_alike_jitted_padded_and_on_eight_devices(name):
    metric, _ = _METRICS[name]
    scores, positives = _case(0)
    ranks = np.asarray(metrics.positive_ranks(scores, positives))
    found = np.asarray(metric(ranks))
    np.testing.assert_allclose(jax.jit(metric)(ranks), found, rtol=1e-6)
    padded = np.pad(ranks, ((0, 3), (0, 5)))
    np.testing.assert_allclose(metric(padded)[:48], found, rtol=1e-6)
    assert not np.any(np.asarray(metric(padded)[48:]))
    spread = NamedSharding(make_mesh(), PartitionSpec("data"))
    assert spread.mesh.size == 8
    np.testing.assert_allclose(jax.jit(metric)(jax.device_put(ranks, spread)), found, rtol=1e-6)


def test_one_score_for_everything_finds_nothing():
    ranks = metrics.positive_ranks(np.zeros((5, 50)), np.arange(5)[:, None])
    np.testing.assert_array_equal(ranks, np.full((5, 1), 50))


def test_nan_ranks_a_positive_last_and_a_negative_first():
    scores = np.zeros((2, 4), np.float32)
    scores[0, 0] = np.nan  # the positive's own score
    scores[1, 2] = np.nan  # a negative's
    scores[:, 1:] -= [[1.0, 2.0, 3.0]]
    ranks = metrics.positive_ranks(scores, np.array([[0], [0]]))
    np.testing.assert_array_equal(ranks, [[4], [2]])


def test_permuting_or_padding_the_gallery_changes_nothing():
    scores, positives = _case(1, ties=True)
    ranks = metrics.positive_ranks(scores, positives)
    order = np.random.default_rng(0).permutation(60)
    moved = np.where(positives < 0, -1, np.argsort(order)[positives])
    np.testing.assert_array_equal(ranks, metrics.positive_ranks(scores[:, order], moved))
    padded = np.pad(scores, ((0, 0), (0, 7)), constant_values=100)
    same = metrics.positive_ranks(padded, positives, np.arange(67) < 60)
    np.testing.assert_array_equal(ranks, same)


def test_group_means_are_those_of_each_group():
    rng = np.random.default_rng(0)
    members = rng.random((5, 64)) < [[0.5], [0.9], [0.1], [0.7], [0.0]]
    members[:, 7] = False
    values = rng.random((64, 3)).astype(np.float32)
    values[7] = np.nan  # of no group
    mesh = make_mesh()
    spread = (
        jax.device_put(values, NamedSharding(mesh, PartitionSpec("data"))),
        jax.device_put(members, NamedSharding(mesh, PartitionSpec(None, "data"))),
    )
    for means in (metrics.group_means(values, members), jax.jit(metrics.group_means)(*spread)):
        for group, mean in zip(members[:4], means, strict=False):
            np.testing.assert_allclose(mean, values[group].mean(axis=0, dtype=float), rtol=1e-6)
        assert np.isnan(means[4]).all()


def test_ranks_are_alike_on_eight_devices():
    scores, positives = _case(1, ties=True)
    spread = NamedSharding(make_mesh(), PartitionSpec("data"))
    found = jax.jit(metrics.positive_ranks)(*jax.device_put((scores, positives), spread))
    np.testing.assert_array_equal(found, metrics.positive_ranks(scores, positives))


def test_the_gallery_rows_that_count_may_differ_by_query():
    """As Oxford's and Paris' junk, which is neither right nor wrong: as if it were not there."""
    scores, positives = _case(2, ties=True)
    junk = np.random.default_rng(0).random(scores.shape) < 0.3
    ranks = np.asarray(metrics.positive_ranks(scores, positives, ~junk))
    for row, rows, left_out, found in zip(scores, positives, junk, ranks, strict=True):
        right = np.isin(np.arange(len(row)), rows[rows >= 0])
        kept = right | ~left_out
        labels = next(_sorted_labels(row[None, kept], np.flatnonzero(right[kept])[None]))
        np.testing.assert_array_equal(found[found > 0], 1 + np.flatnonzero(labels))


def test_positive_masks_say_which_rows_are_right():
    _, positives = _case(3)
    mask = np.asarray(metrics.positive_mask(positives, 60))
    for row, rows in zip(mask, positives, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(row), np.sort(rows[rows >= 0]))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 2), min_size=5, max_size=5),
    st.lists(st.booleans(), min_size=5, max_size=5).filter(any),
)
def test_ties_give_the_least_of_all_orders(levels, right):
    """And never more than scikit-learn, to whom equal scores are one threshold."""
    scores, labels = np.array(levels, np.float32), np.array(right)
    rows = np.full(5, -1)
    rows[: labels.sum()] = np.flatnonzero(labels)
    ranks = metrics.positive_ranks(scores[None], rows[None])
    orders = {
        tuple(labels[list(order)])
        for order in itertools.permutations(range(5))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    }
    for name in ("top1", "recall1", "mrr", "map", "map revisitop", "map at r"):
        metric, definition = _METRICS[name]
        least = min(definition(np.array(order)) for order in orders)
        np.testing.assert_allclose(float(metric(ranks)[0]), least, rtol=1e-6)
    ours = float(metrics.average_precision(ranks)[0])
    assert ours <= average_precision_score(labels, scores) + 1e-6


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(1, 40), min_size=1, max_size=8))
def test_metrics_keep_their_order(ranks):
    ranks = np.pad(np.sort(list(ranks)), (0, 8 - len(ranks)))[None]
    finite = float(metrics.average_precision(ranks)[0])
    assert float(metrics.average_precision_revisitop(ranks)[0]) <= finite + 1e-6
    assert float(metrics.average_precision_at_r(ranks)[0]) <= finite + 1e-6
    assert float(metrics.recall_at_k(ranks, 5)[0]) <= float(metrics.top_k_hits(ranks, 5)[0])
    if np.sum(ranks > 0) == 1:
        np.testing.assert_allclose(metrics.reciprocal_rank(ranks)[0], finite, rtol=1e-6)


def test_map_at_r_by_hand():
    """R = 10 with the first and the tenth place right, (1 + 2 / 10) / 10; and all ten right."""
    first_and_tenth = np.concatenate([[1, 10], np.arange(11, 19)])[None]
    np.testing.assert_allclose(metrics.average_precision_at_r(first_and_tenth), 0.12, rtol=1e-6)
    np.testing.assert_allclose(metrics.average_precision_at_r(np.arange(1, 11)[None]), 1.0)
