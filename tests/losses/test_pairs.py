import jax
import numpy as np
from sklearn.metrics import log_loss

from grnet_jax.losses import pair_cross_entropy, pair_labels, query_softmax_cross_entropy


def test_equals_scikit_learn_log_loss():
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((5, 7)).astype(np.float32)
    same = rng.random((5, 7)) < 0.3
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    wanted = log_loss(same.ravel(), probability.ravel())
    np.testing.assert_allclose(pair_cross_entropy(logits, same), wanted, rtol=1e-6)
    mask = rng.random((5, 7)) < 0.5
    wanted = log_loss(same[mask], probability[mask])
    np.testing.assert_allclose(pair_cross_entropy(logits, same, mask), wanted, rtol=1e-6)


def test_equals_the_papers_two_class_softmax():
    rng = np.random.default_rng(0)
    two = rng.standard_normal((4, 4, 2))
    same = np.eye(4, dtype=bool)
    probability = np.exp(two) / np.exp(two).sum(axis=-1, keepdims=True)
    wanted = -np.log(np.where(same, probability[..., 1], probability[..., 0])).mean()
    found = pair_cross_entropy(two[..., 1] - two[..., 0], same)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_gradient_is_probability_minus_label():
    logits = np.array([[2.0, -1.0], [0.5, 80.0]], np.float32)
    same = np.array([[True, False], [False, True]])
    found = jax.grad(pair_cross_entropy)(logits, same)
    wanted = (1 / (1 + np.exp(-logits.astype(np.float64))) - same) / 4
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-8)


def test_labels_follow_items_not_positions():
    found = pair_labels(np.array([3, 5, 3]), np.array([3, 5, 3]))
    np.testing.assert_array_equal(found, [[1, 0, 1], [0, 1, 0], [1, 0, 1]])


def test_query_softmax_is_the_share_of_the_positives():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((3, 5)).astype(np.float32)
    same = np.array([[1, 0, 0, 0, 0], [0, 1, 0, 1, 0], [0, 0, 0, 0, 1]], bool)
    share = np.exp(logits.astype(np.float64))
    wanted = -np.log((share * same).sum(axis=1) / share.sum(axis=1)).mean()
    np.testing.assert_allclose(query_softmax_cross_entropy(logits, same), wanted, rtol=1e-6)
    mask = same | (rng.random((3, 5)) < 0.5)
    wanted = -np.log((share * same).sum(axis=1) / (share * mask).sum(axis=1)).mean()
    np.testing.assert_allclose(query_softmax_cross_entropy(logits, same, mask), wanted, rtol=1e-6)
