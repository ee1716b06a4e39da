import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grnet_jax import models
from grnet_jax.backbones.color import append_colors
from grnet_jax.models.color_histogram import ColorHistogram
from grnet_jax.models.embedding import FeatureRelaxation, Pooling
from tests.small import random_images, random_variables, small_matcher


def _maps(n=2, side=3, channels=4):
    return np.random.default_rng(0).standard_normal((n, side, side, channels))


@pytest.mark.parametrize("power", [1.0, 3.0, 6.5])
def test_gem_equals_numpy(power):
    x = _maps()
    with jax.enable_x64(True):
        pooled = Pooling().apply({"params": {"power": jnp.asarray(power)}}, x)
    expected = (np.maximum(x, 1e-6) ** power).mean(axis=(1, 2)) ** (1 / power)
    np.testing.assert_allclose(pooled, expected, rtol=1e-9)


def test_gems_gradients_equal_differences():
    x = np.abs(_maps()) + 0.1
    weight = np.random.default_rng(1).standard_normal((2, 4))

    def wanted(x, p):
        return ((x**p).mean(axis=(1, 2)) ** (1 / p) * weight).sum()

    def loss(x, p):
        return jnp.sum(Pooling().apply({"params": {"power": p}}, x) * weight)

    with jax.enable_x64(True):
        by_x, by_p = jax.jit(jax.grad(loss, argnums=(0, 1)))(x, jnp.asarray(2.5))
    step = 1e-6
    difference = (wanted(x, 2.5 + step) - wanted(x, 2.5 - step)) / (2 * step)
    np.testing.assert_allclose(by_p, difference, rtol=1e-6)
    for index in [(0, 0, 0, 0), (1, 2, 1, 3)]:
        moved = np.zeros_like(x)
        moved[index] = step
        difference = (wanted(x + moved, 2.5) - wanted(x - moved, 2.5)) / (2 * step)
        np.testing.assert_allclose(by_x[index], difference, rtol=1e-6)


def test_gem_goes_from_the_average_to_the_maximum_within_float32():
    x = np.abs(_maps()).astype(np.float32) * 1e3
    for power, kind in ((1.0, "average"), (400.0, "max")):
        pooled = Pooling().apply({"params": {"power": power}}, x)
        np.testing.assert_allclose(pooled, Pooling(kind).apply({}, x), rtol=1e-2)
    np.testing.assert_allclose(Pooling("average").apply({}, x), x.mean(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(Pooling("max").apply({}, x), x.max(axis=(1, 2)))


@pytest.mark.parametrize(("side", "cells"), [(4, 2), (5, 2), (3, 4)])
def test_a_grids_cells_are_unit_means_side_by_side(side, cells):
    x = _maps(side=side)
    parts = []
    for i in range(cells):
        for j in range(cells):
            rows, columns = (slice(k * side // cells, -(-(k + 1) * side // cells)) for k in (i, j))
            mean = x[:, rows, columns].mean(axis=(1, 2))
            parts.append(mean / np.linalg.norm(mean, axis=1, keepdims=True))
    pooled = Pooling("grid", cells).apply({}, x)
    np.testing.assert_allclose(pooled, np.concatenate(parts, axis=1), rtol=1e-4, atol=1e-6)


def test_a_color_histogram_stands_beside_the_embedding():
    images = random_images(2)
    plain, colored = (
        small_matcher("embedding", embedding_dim=6, color_weight=weight) for weight in (0.0, 0.5)
    )
    variables = random_variables(plain)
    x, y = (
        np.asarray(models.embed(matcher, variables, images).embedding)
        for matcher in (plain, colored)
    )
    color = np.asarray(ColorHistogram().embed(images).embedding)
    expected = (x @ x.T + 0.25 * color @ color.T) / 1.25
    np.testing.assert_allclose(y @ y.T, expected, atol=1e-5)


def test_cells_have_their_colors_beside_their_channels():
    images = random_images(2, 10)  # 3 x 2 cells of 4 x 5 pixels, the last row's repeated
    maps = np.random.default_rng(1).normal(size=(2, 3, 2, 5)).astype(np.float32)
    found = np.asarray(append_colors(maps, images, 0.5))
    np.testing.assert_array_equal(found[..., :5], maps)
    padded = np.pad(images, ((0, 0), (0, 2), (0, 0), (0, 0)), mode="edge") / 85.0  # 0 to 3
    for n, i, j in np.ndindex(2, 3, 2):
        shares = np.zeros((4, 4, 4))
        for pixel in padded[n, 4 * i : 4 * i + 4, 5 * j : 5 * j + 5].reshape(-1, 3):
            for levels in np.ndindex(4, 4, 4):
                shares[levels] += np.prod(np.maximum(0, 1 - np.abs(pixel - levels))) / 20
        length = 0.5 * np.linalg.norm(maps[n, i, j])
        np.testing.assert_allclose(found[n, i, j, 5:], length * np.sqrt(shares).ravel(), atol=1e-3)
        np.testing.assert_allclose(np.linalg.norm(found[n, i, j, 5:]), length, rtol=1e-4)


def test_relaxation_equals_numpy_and_drops_in_training_alone():
    x = _maps().astype(np.float32)
    module = FeatureRelaxation(channels=5, dropout=0.5)
    variables = module.init(jax.random.key(0), x)
    first, second = (
        jax.tree.map(np.asarray, variables["params"][name]) for name in ("first", "second")
    )
    inside = np.maximum(x @ first["kernel"][0, 0] + first["bias"], 0)
    expected = inside @ second["kernel"][0, 0] + second["bias"]
    np.testing.assert_allclose(module.apply(variables, x), expected, rtol=1e-4, atol=1e-5)
    rngs = {"dropout": jax.random.key(1)}
    dropped = module.apply(variables, x, train=True, rngs=rngs)
    assert not np.allclose(dropped, expected, atol=1e-3)
    again = module.apply(variables, x, train=True, rngs=rngs)
    np.testing.assert_array_equal(dropped, again)


def test_embedding_is_the_linear_map_of_the_unit_pooled_vector():
    matcher = small_matcher("embedding", embedding_dim=6, num_classes=3)
    variables = random_variables(matcher)
    images = random_images(2)
    x = jax.jit(lambda pixels: models.feature_map(matcher, variables, pixels))(images)
    params = variables["params"]
    pooled = np.asarray(Pooling().apply({"params": params["pooled"]}, x))
    unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    expected = unit @ params["linear"]["kernel"] + params["linear"]["bias"]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    features, logits = jax.jit(lambda p: matcher.apply(variables, p, method="classify"))(images)
    np.testing.assert_allclose(features.embedding, expected, rtol=1e-4, atol=1e-6)
    expected = pooled @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    scores = models.score(matcher, variables, features, features)
    expected = features.embedding @ features.embedding.T
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert models.has_feature_map(matcher)


def _heads(x, **fields):
    """The matcher's variables for maps [n, h, w, c] alone, and what it makes of them."""
    matcher = small_matcher("embedding", **fields)
    variables = matcher.init(jax.random.key(0), x, False, method="_heads")
    return variables["params"], *matcher.apply(variables, x, False, method="_heads")


def test_proxies_logits_are_squared_distances_and_replace_the_linear_head():
    x = _maps().astype(np.float32)
    params, features, logits = _heads(x, embedding_dim=6, num_classes=3, proxies=True)
    assert "head" not in params
    proxies = np.float64(params["proxy"])
    proxies /= np.linalg.norm(proxies, axis=1, keepdims=True)
    apart = np.float64(features.embedding)[:, None] - proxies[None]
    np.testing.assert_allclose(logits, -(apart**2).sum(axis=2), atol=1e-5)


def test_relaxation_before_the_classes_alone_leaves_the_embedding():
    fields = {"embedding_dim": 0, "pooling": "average", "num_classes": 3, "relaxation.channels": 5}
    x = _maps().astype(np.float32)
    params, features, logits = _heads(x, **fields, **{"relaxation.path": "classes"})
    expected = np.float64(x).mean(axis=(1, 2))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(features.embedding, expected, atol=1e-5)
    params = jax.tree.map(np.float64, params)
    first, second = params["relaxation"]["first"], params["relaxation"]["second"]
    inside = np.maximum(x @ first["kernel"][0, 0] + first["bias"], 0)
    relaxed = (inside @ second["kernel"][0, 0] + second["bias"]).mean(axis=(1, 2))
    expected = relaxed @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"embedding_dim": 0, "pooling": "max"}, {"backbone"}),
        (
            {"relaxation.channels": 7, "num_classes": 3},
            {"backbone", "relaxation", "pooled", "linear", "head"},
        ),
    ],
)
def test_parts_that_are_left_out_have_no_parameters(fields, parts):
    matcher = small_matcher("embedding", **fields)
    assert set(jax.eval_shape(lambda: random_variables(matcher))["params"]) == parts
    assert models.has_predictions(matcher) == ("head" in parts)
