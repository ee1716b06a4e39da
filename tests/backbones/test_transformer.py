"""What a transformer does beside its blocks: tokens, positions, whole patches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grnet_jax.backbones.transformer import Attention, ViT, resize_positions


def _cubic(x):
    """Keys' cubic kernel with a = -1/2."""
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def _resampling(size, new):
    """[new, size]: the kernel at each new cell's centre, wider where cells are merged."""
    step = size / new
    wide = max(step, 1.0)
    weights = np.array(
        [[_cubic(((i + 0.5) * step - 0.5 - j) / wide) for j in range(size)] for i in range(new)]
    )
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("shape", [(3, 4), (9, 5), (6, 6)])
def test_positions_are_resized_as_by_hand(shape):
    positions = np.random.default_rng(0).standard_normal((1, 36, 2))
    rows, columns = (_resampling(6, size) for size in shape)
    grid = np.einsum("ih,jw,hwc->ijc", rows, columns, positions[0].reshape(6, 6, 2))
    found = resize_positions(jnp.asarray(positions, jnp.float32), *shape)
    np.testing.assert_allclose(found[0], grid.reshape(-1, 2), atol=1e-5)


@functools.cache
def _jitted(module):
    return jax.jit(module.apply)


def _tiny(**fields):
    module = ViT(patch=4, width=8, depth=1, heads=2, grid=3, **fields)
    photos = np.random.default_rng(0).standard_normal((2, 12, 12, 3)).astype(np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), photos)
    rng = np.random.default_rng(1)
    draw = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(leaf.dtype), shapes)
    return _jitted(module), draw, photos


def test_pixels_beyond_the_last_whole_patch_are_not_seen():
    run, variables, photos = _tiny()
    wider = np.pad(photos, ((0, 0), (0, 3), (0, 2), (0, 0)), constant_values=9.0)
    np.testing.assert_array_equal(run(variables, wider)[4], run(variables, photos)[4])


def test_without_positions_the_map_moves_with_its_patches():
    run, variables, photos = _tiny(registers=2)
    variables["params"]["pos_embed"] = np.zeros_like(variables["params"]["pos_embed"])
    turned = np.concatenate([photos[:, 4:], photos[:, :4]], axis=1)
    found, plain = run(variables, turned)[4], run(variables, photos)[4]
    np.testing.assert_allclose(found, jnp.roll(plain, -1, axis=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["cls_token", "reg_token", "pos_embed"])
def test_every_token_is_read(name):
    run, variables, photos = _tiny(registers=2)
    plain = run(variables, photos)[4]
    variables["params"][name] = variables["params"][name] + np.linspace(0, 3, 8, dtype=np.float32)
    assert np.abs(run(variables, photos)[4] - plain).max() > 1e-3


def test_attention_by_hand():
    module = Attention(heads=2)
    x = np.random.default_rng(0).standard_normal((1, 5, 6)).astype(np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    qkv = x[0] @ params["qkv"]["kernel"] + params["qkv"]["bias"]
    q, k, v = np.split(qkv, 3, axis=1)
    heads = []
    for part in (slice(0, 3), slice(3, 6)):
        weights = np.exp(q[:, part] @ k[:, part].T / np.sqrt(3))
        heads.append(weights / weights.sum(axis=1, keepdims=True) @ v[:, part])
    wanted = np.concatenate(heads, axis=1) @ params["proj"]["kernel"] + params["proj"]["bias"]
    np.testing.assert_allclose(_jitted(module)(variables, x)[0], wanted, rtol=1e-4, atol=1e-5)
