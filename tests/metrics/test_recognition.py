"""Metrics of recognition against scikit-learn, loops and cases counted by hand."""

import functools

import jax
import numpy as np
import pytest
from sklearn.metrics import recall_score, top_k_accuracy_score

from grnet_jax import metrics


@pytest.mark.parametrize("k", [1, 3, 5])
def test_category_accuracy_equals_scikit_learn(k):
    rng = np.random.default_rng(k)
    scores, label = rng.normal(size=(60, 9)), rng.integers(0, 9, 60)
    found = jax.jit(functools.partial(metrics.category_hits, k=k))(scores, label)
    wanted = top_k_accuracy_score(label, scores, k=k, labels=range(9))
    np.testing.assert_allclose(np.mean(found), wanted, rtol=1e-6)


def test_categories_that_are_unknown_tied_or_no_number():
    scores = np.array([[1, 1, 1], [3, 2, 2], [0, 0, 0], [np.nan, 1, 2], [1, np.nan, 0.0]])
    label = np.array([0, 1, -1, 0, 0])
    found = [metrics.category_hits(scores, label, k).tolist() for k in (1, 2, 3)]
    assert found[0] == [False, False, False, False, False]
    assert found[1] == [False, False, False, False, True]
    assert found[2] == [True, True, False, True, True]


def naive_hits(scores, label, k, types=None):
    hits = np.zeros(label.shape, bool)
    for i in range(len(label)):
        for kind in {0} if types is None else set(types.tolist()) - {-1}:
            taking = [
                a for a in range(label.shape[1])
                if label[i, a] >= 0 and (types is None or types[a] == kind)
            ]  # fmt: skip
            best = sorted(taking, key=lambda a, i=i: (-scores[i, a], label[i, a], a))[:k]
            for a in best:
                hits[i, a] = label[i, a] == 1
    return hits


@pytest.mark.parametrize("typed", [False, True])
def test_attribute_hits_equal_loops(typed):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (20, 12)).astype(float)  # many ties
    label = rng.integers(-1, 2, (20, 12))
    types = rng.integers(-1, 3, 12) if typed else None
    for k in (1, 3, 5):
        found = jax.jit(functools.partial(metrics.attribute_hits, k=k, types=types))(scores, label)
        np.testing.assert_array_equal(found, naive_hits(scores, label, k, types))


def test_attribute_recall_equals_scikit_learn():
    rng = np.random.default_rng(1)
    scores, label = rng.normal(size=(40, 7)), (rng.random((40, 7)) < 0.3).astype(int)
    label[:, 5] = 0
    hits = np.asarray(metrics.attribute_hits(scores, label, 3))
    chosen = np.argsort(-scores, axis=1).argsort(axis=1) < 3  # what is predicted
    types = np.array([0, 0, 1, 1, 2, 2, -1])
    found = metrics.attribute_recall(hits.sum(axis=0), label.sum(axis=0), types, 4)
    np.testing.assert_allclose(found.overall, recall_score(label, chosen, average="micro"))
    each = recall_score(label, chosen, average=None, zero_division=np.nan)
    np.testing.assert_allclose(found.attribute, each)
    np.testing.assert_allclose(found.mean, np.nanmean(each))
    for kind in range(3):
        of_kind = types == kind
        wanted = recall_score(label[:, of_kind], chosen[:, of_kind], average="micro")
        np.testing.assert_allclose(found.type[kind], wanted)
    assert np.isnan(found.type[3])


def test_recall_counted_by_hand():
    scores = np.array([[9.0, 8, 7, 6], [6, 7, 8, 9]])
    label = np.array([[1, -1, 1, 1], [1, 0, 0, 0]])
    hits = metrics.attribute_hits(scores, label, 2)  # attribute 1 of the first takes no place
    assert hits.tolist() == [[True, False, True, False], [False] * 4]
    found = metrics.attribute_recall([1, 0, 1, 0], [2, 0, 1, 1], np.array([0, 0, 1, 1]), 2)
    assert found.overall == 0.5
    np.testing.assert_allclose(found.type, [0.5, 0.5])
    np.testing.assert_allclose(found.mean, (0.5 + 1 + 0) / 3)


def test_landmark_metrics_equal_loops():
    rng = np.random.default_rng(2)
    points, target = rng.uniform(size=(2, 10, 8, 2))
    counts = rng.random((10, 8)) < 0.6
    target[~counts] = np.nan
    apart = [np.hypot(*(points[i, j] - target[i, j])) for i, j in np.argwhere(counts)]
    thresholds = [0.05, 0.1, 0.5]

    @jax.jit
    def landmark_metrics(points, target, counts):
        distances = metrics.normalized_distances(points, target)
        rates = metrics.detection_rate(distances, counts, np.array(thresholds))
        return rates, metrics.normalized_error(distances, counts)

    rates, error = landmark_metrics(points, target, counts)
    wanted = [np.mean(np.array(apart) <= t) for t in thresholds]
    np.testing.assert_allclose(rates, wanted, rtol=1e-6)
    np.testing.assert_allclose(error, np.mean(apart), rtol=1e-5)
    rates, error = landmark_metrics(points, target, np.zeros((10, 8), bool))
    assert np.isnan([*rates, error]).all()


def test_a_landmark_at_the_threshold_is_detected_and_no_number_is_not():
    points = np.array([[[0.5, 0.5], [np.nan, 0.0], [0.0, 0.0]]])
    target = np.array([[[0.5, 0.25], [0.0, 0.0], [0.0, 0.0]]])
    distances = metrics.normalized_distances(points, target)
    rate = metrics.detection_rate(distances, np.ones((1, 3), bool), np.array([0.0, 0.25]))
    np.testing.assert_allclose(rate, [1 / 3, 2 / 3], rtol=1e-6)
