"""Losses of landmarks and attributes, and their gradients, are what loops over photos find."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from grnet_jax import losses, sharding
from input_pipeline import VISIBILITIES


def _landmarks(n=6, seed=0):
    rng = np.random.default_rng(seed)
    visibility = rng.integers(-1, 3, (n, 8)).astype(np.int32)
    visibility[2] = -1  # a photo without annotation
    return rng.normal(size=(n, 8, 2)), rng.uniform(size=(n, 8, 2)), visibility


def naive_regression(points, target, counts):
    sums = []
    for i in range(len(points)):
        if counts[i].any():
            sums.append(sum(
                (points[i, j, axis] - target[i, j, axis]) ** 2
                for j in range(8) if counts[i, j] for axis in (0, 1)
            ))  # fmt: skip
    return sum(sums) / len(sums) if sums else 0.0


def test_landmark_regression_equals_loops():
    points, target, visibility = _landmarks()
    counts = visibility == 0
    wanted = naive_regression(points, target, counts)
    target[~counts] = np.nan  # what does not count is not looked at
    loss = functools.partial(losses.landmark_regression, target=target, counts=counts)
    with jax.enable_x64(True):
        found, gradient = jax.value_and_grad(loss)(jnp.asarray(points))
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
        np.testing.assert_allclose(jax.jit(loss)(points), wanted, rtol=1e-12)
        photos = counts.any(axis=1).sum()
        slope = np.where(counts[..., None], 2 * (points - target) / photos, 0)
        np.testing.assert_allclose(gradient, slope, atol=1e-12)
        assert float(jax.jit(loss)(points, counts=np.zeros((6, 8), bool))) == 0


def test_visibility_cross_entropy_equals_scikit_learn():
    _, _, visibility = _landmarks()
    logits = np.random.default_rng(1).normal(size=(6, 8, 4))
    with jax.enable_x64(True):
        shares = np.asarray(jax.nn.softmax(logits)).reshape(-1, 4)
        classes = np.where(visibility < 0, 3, visibility)
        classes[2] = -1
        np.testing.assert_array_equal(losses.visibility_classes(visibility), classes)
        known = classes.ravel() >= 0
        wanted = log_loss(classes.ravel()[known], shares[known], labels=range(4))
        found = losses.visibility_cross_entropy(logits, visibility)
        np.testing.assert_allclose(found, wanted, rtol=1e-9)
    assert float(losses.visibility_cross_entropy(jnp.asarray(logits)[2:3], visibility[2:3])) == 0
    assert VISIBILITIES[3] == "absent"


def naive_attributes(logits, label, positive, negative):
    total, known = 0.0, 0
    for i, a in np.ndindex(*label.shape):
        if label[i, a] < 0 or 0 in (positive[a], negative[a]):
            continue
        p = 1 / (1 + math.exp(-logits[i, a]))
        total -= positive[a] * math.log(p) if label[i, a] else negative[a] * math.log(1 - p)
        known += 1
    return total / known if known else 0.0


def _attributes(n=7, a=9, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(-1, 2, (n, a)).astype(np.int8)
    return rng.normal(size=(n, a)), label, *rng.uniform(0.1, 1, (2, a))


def test_attribute_cross_entropy_equals_loops():
    logits, label, positive, negative = _attributes()
    positive[4] = negative[4] = positive[6] = 0
    with jax.enable_x64(True):
        loss = functools.partial(
            losses.attribute_cross_entropy,
            label=label,
            positive_weight=positive,
            negative_weight=negative,
        )
        found, gradient = jax.value_and_grad(loss)(jnp.asarray(logits))
        wanted = naive_attributes(logits, label, positive, negative)
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
        assert found > 0  # the minus sign that the paper's equation lacks
        for place in [(0, 0), (3, 5), (6, 8), (2, 4)]:
            moved = logits.copy()
            moved[place] += 1e-6
            high = naive_attributes(moved, label, positive, negative)
            np.testing.assert_allclose(gradient[place], (high - wanted) / 1e-6, atol=1e-6)
        assert not np.any(np.asarray(gradient)[label < 0])


def test_unknown_attributes_do_not_count():
    logits, label, positive, negative = _attributes()
    with jax.enable_x64(True):
        found = losses.attribute_cross_entropy(logits, label, positive, negative)
        other = np.where(label < 0, 1e3, logits)
        again = losses.attribute_cross_entropy(other, label, positive, negative)
        np.testing.assert_allclose(again, found, rtol=1e-12)
        nothing = losses.attribute_cross_entropy(
            logits, np.full_like(label, -1), positive, negative
        )
    assert float(nothing) == 0


def test_attribute_weights_are_the_balanced_ones_but_for_a_factor():
    label = np.random.default_rng(0).random((50, 6)) < [0.1, 0.5, 0.9, 0.3, 0.0, 1.0]
    has = label.sum(axis=0)
    positive, negative = losses.attribute_weights(has, 50 - has)
    np.testing.assert_allclose(positive * has, negative * (50 - has), rtol=1e-5)
    for a in range(4):
        low, high = compute_class_weight("balanced", classes=np.array([0, 1]), y=label[:, a] * 1)
        np.testing.assert_allclose(positive[a] / negative[a], high / low, rtol=1e-5)
    assert negative[4] == 0  # nobody has it, everybody has it: both learn nothing
    assert positive[5] == 0


def test_the_most_frequent_attributes_alone():
    positive, negative = losses.attribute_weights([3, 9, 9, 1], [7, 1, 1, 9], most_frequent=2)
    np.testing.assert_array_equal(positive > 0, [False, True, True, False])
    np.testing.assert_array_equal(negative > 0, [False, True, True, False])
    for wrong in (-1, 5):
        with pytest.raises(ValueError, match="most_frequent: expected 0 to 4"):
            losses.attribute_weights([3, 9, 9, 1], [7, 1, 1, 9], most_frequent=wrong)


def test_eight_devices_and_any_order_give_the_same():
    points, target, visibility = _landmarks(8)
    logits, label, positive, negative = _attributes(8)

    def all_losses(points, target, visibility, logits, label):
        return (
            losses.landmark_regression(points, target, visibility == 0),
            losses.visibility_cross_entropy(points.repeat(2, axis=-1), visibility),
            losses.attribute_cross_entropy(logits, label, positive, negative),
        )

    batch = tuple(map(jnp.asarray, (points, target, visibility, logits, label)))
    wanted = all_losses(*batch)
    placed = sharding.place_batch(batch, sharding.make_mesh(jax.devices()[:8]))
    np.testing.assert_allclose(jax.jit(all_losses)(*placed), wanted, rtol=1e-5)
    order = np.random.default_rng(5).permutation(8)
    np.testing.assert_allclose(all_losses(*(part[order] for part in batch)), wanted, rtol=1e-5)
