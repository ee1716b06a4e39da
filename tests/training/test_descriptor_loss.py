"""The descriptors' loss beside the pair loss: its value, and what it teaches."""

import jax
import numpy as np
import pytest

from tests.training.test_step import first_step, random_batch, small_config


def _config(weight, dim, leave_out=False, dtype="float32"):
    config = small_config()
    config.loss.descriptor_weight = weight
    config.loss.descriptor_temperature = 0.2
    config.loss.leave_out_identical = leave_out
    config.model.descriptor_dim = dim
    config.model.dtype = dtype
    return config


def _measure(config, devices=1, dtype="float32"):
    """Loss, metrics, gradients and descriptors [16, 2, d] of the first batch."""
    matcher, variables, loss, grads, _, metrics = first_step(config, devices, dtype)
    batch = random_batch()
    photos = np.stack([batch["customer"], batch["shop"]], axis=1).reshape(-1, 32, 32, 3)
    features, _ = matcher.apply(
        variables, photos, train=True, method="embed", mutable=["batch_stats"]
    )
    descriptors = np.asarray(features.descriptor, np.float64).reshape(16, 2, -1)
    return float(loss), metrics, jax.device_get(grads), descriptors


@pytest.mark.parametrize(
    ("dim", "leave_out"), [(0, False), pytest.param(6, True, marks=pytest.mark.slow)]
)
def test_it_is_the_softmax_over_shop_photos_of_inner_products(dim, leave_out):
    plain, *_ = _measure(_config(0.0, dim, leave_out))
    loss, metrics, _, descriptors = _measure(_config(0.5, dim, leave_out))
    batch, losses, first = random_batch(), [], []
    for i in range(16):
        positive = everything = 0.0
        best = {True: -np.inf, False: -np.inf}
        for j in range(16):
            same = batch["item"][i] == batch["item"][j]
            product = descriptors[i, 0] @ descriptors[j, 1]
            best[same] = max(best[same], product)
            if leave_out and not same and batch["content"][i] == batch["content"][j]:
                continue
            everything += np.exp(product / 0.2)
            positive += same * np.exp(product / 0.2)
        losses.append(-np.log(positive / everything))
        first.append(best[True] > best[False])
    np.testing.assert_allclose(metrics["descriptor_loss"], np.mean(losses), rtol=1e-4)
    np.testing.assert_allclose(metrics["descriptor_batch_top1"], np.mean(first))
    np.testing.assert_allclose(loss, plain + 0.5 * np.mean(losses), rtol=1e-5)


@pytest.mark.slow
def test_descriptors_learn_alone():
    both, *_ = _measure(_config(0.5, 6))
    pairs, *_ = _measure(_config(0.0, 6))
    config = _config(0.5, 6)
    config.loss.pair_weight = 0.0
    loss, metrics, grads, _ = _measure(config)
    np.testing.assert_allclose(loss, both - pairs, rtol=1e-4)
    assert "batch_top1" not in metrics
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads["graph"]))
    assert np.any(grads["projection"]["kernel"])


def test_a_projection_learns_and_leaves_the_rest_alone():
    _, _, without, _ = _measure(_config(0.0, 6))
    _, _, beside, _ = _measure(_config(0.5, 6))
    for part in ("backbone", "graph"):
        for one, two in zip(
            jax.tree.leaves(without[part]), jax.tree.leaves(beside[part]), strict=True
        ):
            scale = max(np.abs(one).max(), 1e-6)
            np.testing.assert_allclose(one, two, atol=1e-5 * scale)
    assert not np.any(without["projection"]["kernel"])
    assert np.any(beside["projection"]["kernel"])


@pytest.mark.slow
def test_without_a_projection_the_backbone_learns():
    _, _, without, _ = _measure(_config(0.0, 0))
    _, _, beside, _ = _measure(_config(0.5, 0))
    change = jax.tree.map(lambda x, y: np.abs(x - y).max() > 1e-3, without, beside)
    assert any(jax.tree.leaves(change["backbone"]))
    assert not any(jax.tree.leaves(change["graph"]))


@pytest.mark.slow
@pytest.mark.parametrize("dim", [0, 6])
def test_eight_devices_equal_one(dim):
    with jax.enable_x64(True):
        config = _config(0.5, dim, dtype="float64")
        one, _, grads, _ = _measure(config, 1, "float64")
        eight, _, grads_8, _ = _measure(config, 8, "float64")
    np.testing.assert_allclose(one, eight, rtol=1e-6)  # descriptors are float32
    for x, y in zip(
        jax.tree.leaves(grads["graph"]), jax.tree.leaves(grads_8["graph"]), strict=True
    ):
        np.testing.assert_allclose(x, y, atol=1e-9 * max(np.abs(x).max(), 1e-6))
    for x, y in zip(jax.tree.leaves(grads), jax.tree.leaves(grads_8), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 * max(np.abs(x).max(), 1e-6))
