import jax
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from grnet_jax.metrics import average_precision, positive_ranks, top_k_hits
from grnet_jax.metrics.intervals import clustered_interval
from grnet_jax.retrieval.tasks import positive_rows


def _naive_ranks(scores, query_items, gallery_items):
    """Sorted list per query, ties broken against the positives."""
    found = []
    for row, item in zip(scores, query_items, strict=True):
        order = sorted(range(len(row)), key=lambda j: (-row[j], gallery_items[j] == item))
        found.append([n + 1 for n, j in enumerate(order) if gallery_items[j] == item])
    return found


def _random_case(seed, ties):
    rng = np.random.default_rng(seed)
    queries, gallery = 40, 60
    scores = rng.standard_normal((queries, gallery)).astype(np.float32)
    if ties:
        scores = np.round(scores)
    # Items 0..24; queries may show items without gallery photos, or with several.
    return scores, rng.integers(0, 25, queries), rng.integers(0, 20, gallery)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_ranks_equal_a_sorted_list(seed, ties):
    scores, query_items, gallery_items = _random_case(seed, ties)
    positives = positive_rows(query_items, gallery_items)
    ranks = np.asarray(jax.jit(positive_ranks)(scores, positives))
    wanted = _naive_ranks(scores, query_items, gallery_items)
    assert any(not one for one in wanted)
    assert any(len(one) > 1 for one in wanted)
    for found, expected in zip(ranks, wanted, strict=True):
        np.testing.assert_array_equal(found[found > 0], expected)
        assert not np.any(found[len(expected) :])


def test_average_precision_equals_scikit_learn():
    scores, query_items, gallery_items = _random_case(0, ties=False)
    ranks = positive_ranks(scores, positive_rows(query_items, gallery_items))
    found = np.asarray(average_precision(ranks))
    for value, row, item in zip(found, scores, query_items, strict=True):
        relevant = gallery_items == item
        wanted = average_precision_score(relevant, row) if relevant.any() else 0.0
        np.testing.assert_allclose(value, wanted, rtol=1e-5)


def test_top_k_hits_count_the_best_positive():
    ranks = np.array([[1, 7], [3, 0], [0, 0]])
    np.testing.assert_array_equal(top_k_hits(ranks, 1), [True, False, False])
    np.testing.assert_array_equal(top_k_hits(ranks, 3), [True, True, False])


def test_a_matcher_that_scores_all_alike_finds_nothing():
    positives = positive_rows(np.arange(5), np.arange(50))
    ranks = positive_ranks(np.zeros((5, 50)), positives)
    np.testing.assert_array_equal(ranks, np.full((5, 1), 50))


def test_a_score_that_is_no_number_finds_nothing():
    scores = np.zeros((2, 4), np.float32)
    scores[0, 0] = np.nan  # the positive's own score
    scores[1, 2] = np.nan  # a negative's
    scores[:, 1:] -= [[1.0, 2.0, 3.0]]
    ranks = positive_ranks(scores, np.array([[0], [0]]))
    np.testing.assert_array_equal(ranks, [[4], [2]])


def test_permuting_or_padding_the_gallery_changes_nothing():
    scores, query_items, gallery_items = _random_case(1, ties=True)
    ranks = positive_ranks(scores, positive_rows(query_items, gallery_items))
    order = np.random.default_rng(0).permutation(len(gallery_items))
    moved = positive_ranks(scores[:, order], positive_rows(query_items, gallery_items[order]))
    np.testing.assert_array_equal(ranks, moved)
    padded = np.concatenate([scores, np.full((len(scores), 7), 100, np.float32)], axis=1)
    valid = np.arange(padded.shape[1]) < scores.shape[1]
    same = positive_ranks(padded, positive_rows(query_items, gallery_items), valid)
    np.testing.assert_array_equal(ranks, same)


def test_share_interval_is_wilsons_for_single_queries():
    hits = np.array([True] * 8 + [False] * 2)
    low, high = clustered_interval(hits, np.arange(10))
    # Wilson's interval for 8 of 10, as tabulated.
    np.testing.assert_allclose([low, high], [0.4902, 0.9433], atol=2e-3)


def test_share_interval_never_collapses_at_the_ends():
    low, high = clustered_interval(np.ones(20, bool), np.arange(20))
    assert low < 0.9
    assert high == pytest.approx(1.0)


def test_intervals_widen_with_clusters_as_the_bootstrap_does():
    rng = np.random.default_rng(0)
    chance = rng.beta(0.5, 0.5, 400)  # items differ a lot
    items = np.repeat(np.arange(400), 4)
    hits = rng.random(1600) < chance[items]
    means = []
    per_item = hits.reshape(400, 4).mean(axis=1)
    for _ in range(2000):
        means.append(per_item[rng.integers(0, 400, 400)].mean())
    wanted = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose(clustered_interval(hits, items), wanted, atol=5e-3)
    alone = clustered_interval(hits, np.arange(1600))
    assert wanted[1] - wanted[0] > 1.3 * (alone[1] - alone[0])


def test_intervals_of_average_precisions_are_the_bootstraps():
    rng = np.random.default_rng(0)
    items = np.repeat(np.arange(300), 3)
    values = np.clip(rng.beta(2, 3, 300)[items] + 0.1 * rng.standard_normal(900), 0, 1)
    per_item = values.reshape(300, 3).mean(axis=1)
    means = [per_item[rng.integers(0, 300, 300)].mean() for _ in range(2000)]
    wanted = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose(clustered_interval(values, items), wanted, atol=3e-3)


def test_one_item_or_equal_values_give_no_certainty():
    for values, items in (
        ([0.5], [0]),
        ([0.5] * 20, [0] * 20),
        ([1.0, 0.0, 1.0], [0, 0, 0]),
    ):
        low, high = clustered_interval(np.array(values), np.array(items))
        assert high - low > 0.5
    low, high = clustered_interval(np.ones(20), np.arange(20))
    assert low < 0.9


def test_no_queries_give_no_interval():
    assert np.isnan(clustered_interval(np.zeros(0, bool), np.zeros(0, int))).all()
