"""Metrics of recognition against scikit-learn and cases counted by hand."""

import functools

import jax
import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

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
