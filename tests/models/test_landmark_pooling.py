"""Pooling around landmarks is what loops over images, points and cells find."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grnet_jax import sharding as meshes
from grnet_jax.errors import InputError
from grnet_jax.models.landmark_pooling import pool_landmarks

_POOL = jax.jit(pool_landmarks, static_argnames=("window", "bins"))


def naive_pool(feature_map, points, visible, window, bins):
    """By loops; also where each maximum stands."""
    n, height, width, channels = feature_map.shape
    pooled = np.zeros((n, points.shape[1], bins, bins, channels))
    maxima = {}
    for i, j in np.ndindex(n, points.shape[1]):
        x, y = points[i, j]
        if not visible[i, j] or not math.isfinite(x) or not math.isfinite(y):
            continue
        left, top = (
            math.floor(v * size) - window // 2
            if window % 2
            else math.floor(v * size + 0.5) - window // 2
            for v, size in ((x, width), (y, height))
        )
        for a, b in np.ndindex(bins, bins):
            cells = [
                (row, column)
                for row in range(top + a * window // bins, top + -(-(a + 1) * window // bins))
                for column in range(left + b * window // bins, left + -(-(b + 1) * window // bins))
                if 0 <= row < height and 0 <= column < width
            ]
            for c in range(channels if cells else 0):
                best = max(cells, key=lambda cell: feature_map[i, *cell, c])
                pooled[i, j, a, b, c] = feature_map[i, *best, c]
                maxima[i, j, a, b, c] = best
    return pooled, maxima


def _case(seed=0, n=3, height=9, width=11, channels=4):
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 1, (n, 8, 2))
    points[0, :5] = [(0, 0), (0.999, 0.999), (-0.1, 0.5), (1.2, 1.1), (40, -3)]
    points[1, :3] = [(np.nan, 0.5), (0.5, np.inf), (1.0, 1.0)]
    visible = rng.uniform(size=(n, 8)) < 0.8
    visible[0, :5] = visible[1, :3] = True
    visible[2, 0] = False
    return rng.normal(size=(n, height, width, channels)) - 0.5, points, visible


@pytest.mark.parametrize(("window", "bins"), [(7, 2), (4, 2), (3, 3), (1, 1), (5, 1), (13, 4)])
def test_equals_loops(window, bins):
    with jax.enable_x64(True):
        feature_map, points, visible = _case()
        expected, _ = naive_pool(feature_map, points, visible, window, bins)
        pooled = _POOL(feature_map, points, visible, window=window, bins=bins)
        np.testing.assert_array_equal(pooled, expected)


def test_gradient_goes_to_the_largest_cells_and_not_to_the_points():
    with jax.enable_x64(True):
        feature_map, points, visible = _case(1)
        weights = np.random.default_rng(2).normal(size=(3, 8, 2, 2, 4))

        @jax.jit
        def loss(feature_map, points):
            return jnp.sum(weights * pool_landmarks(feature_map, points, visible))

        gradient = jax.jit(jax.grad(loss, (0, 1)))
        pooled, of_points = gradient(jnp.asarray(feature_map), jnp.asarray(points))
        assert not np.any(of_points)
        _, maxima = naive_pool(feature_map, points, visible, 7, 2)
        expected = np.zeros_like(feature_map)
        for (i, j, a, b, c), cell in maxima.items():
            expected[i, *cell, c] += weights[i, j, a, b, c]
        np.testing.assert_allclose(pooled, expected, atol=1e-12)
        step = 1e-6  # finite differences, of 40 cells
        for index in np.random.default_rng(3).integers(0, feature_map.size, 40):
            moved = [feature_map.copy(), feature_map.copy()]
            for one, sign in zip(moved, (1, -1), strict=True):
                one.reshape(-1)[index] += sign * step
            high, low = (loss(one, points) for one in moved)
            slope = (high - low) / (2 * step)
            np.testing.assert_allclose(np.reshape(pooled, -1)[index], slope, atol=1e-7)


def test_equal_cells_share_the_gradient():
    middle, seen = jnp.full((1, 1, 2), 0.5), jnp.ones((1, 1), bool)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(pool_landmarks(x, middle, seen))))(
        jnp.zeros((1, 28, 28, 1))
    )
    np.testing.assert_allclose(jnp.sum(gradient), 4, rtol=1e-6)
    assert jnp.sum(gradient > 0) == 49


def test_a_not_visible_point_takes_nothing_and_no_gradient():
    feature_map, points, _ = _case()
    feature_map = jnp.asarray(feature_map, jnp.float32)
    none = jnp.zeros((3, 8), bool)

    @jax.jit
    def pool(x):
        pooled, pull = jax.vjp(lambda x: pool_landmarks(x, jnp.asarray(points), none), x)
        return pooled, pull(jnp.ones_like(pooled))[0]

    for part in pool(feature_map):
        assert not np.any(part)


def test_permuting_images_and_points_permutes_the_result():
    feature_map, points, visible = (jnp.asarray(part) for part in _case())
    pooled = _POOL(feature_map, points, visible)
    images, slots = jnp.array([2, 0, 1]), jnp.array([3, 1, 0, 2, 7, 6, 5, 4])
    permuted = _POOL(feature_map[images], points[images][:, slots], visible[images][:, slots])
    np.testing.assert_array_equal(permuted, pooled[images][:, slots])


def test_eight_devices_equal_one():
    feature_map, points, visible = _case(n=8)
    expected = _POOL(jnp.asarray(feature_map), jnp.asarray(points), jnp.asarray(visible))
    mesh = meshes.make_mesh(jax.devices()[:8])
    placed = meshes.place_batch((feature_map, points, visible), mesh)
    np.testing.assert_array_equal(_POOL(*placed), expected)


@pytest.mark.parametrize(("window", "bins"), [(3, 4), (3, 0), (0, 0)])
def test_impossible_sizes_are_refused(window, bins):
    with pytest.raises(InputError, match=r"landmark_bins: expected 1 to"):
        pool_landmarks(jnp.zeros((1, 4, 4, 1)), jnp.zeros((1, 1, 2)), jnp.ones((1, 1), bool),
                       window=window, bins=bins)  # fmt: skip
