"""The gradient of a large batch chunk by chunk is that of the whole batch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grnet_jax.training.two_stage import embed_in_chunks

from grnet_jax import sharding as meshes
from grnet_jax.errors import InputError
from grnet_jax.losses import comparison_masks, triplet_loss

_N, _SIDE = 32, 6


class _Net(nn.Module):
    """A convolution, BatchNorm and a mean."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3), use_bias=False, param_dtype=x.dtype)(x)  # its gradient would be 0
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, param_dtype=x.dtype)(x)
        return nn.relu(x).mean(axis=(1, 2))


def _inputs(dtype):
    rng = np.random.default_rng(0)
    photos = rng.standard_normal((_N, _SIDE, _SIDE, 3)).astype(dtype)
    return photos, rng.integers(0, 6, _N), np.arange(_N) % 2


def _gradient(dtype, chunk, *, devices=1, train=False, reference=False, group=1):
    """(loss, (gradients, statistics)) of a triplet loss over the whole batch."""
    with jax.enable_x64(dtype == "float64"):
        photos, item, domain = _inputs(dtype)
        variables = _Net().init(jax.random.key(0), jnp.asarray(photos[:2]), False)
        mesh = meshes.make_mesh(jax.devices()[:devices])

        def embed(params, stats, photos):
            found, updated = _Net().apply(
                {"params": params, "batch_stats": stats}, photos, train, mutable=["batch_stats"]
            )
            return found, updated["batch_stats"]

        def loss(params, photos, item, domain):
            # In float64 Flax starts them as float32, and a loop carries one dtype.
            stats = jax.tree.map(lambda leaf: leaf.astype(dtype), variables["batch_stats"])
            if reference:  # the same chunks in a plain loop
                x = jnp.zeros((_N, 4), dtype)
                for k in range(_N // chunk):
                    rows = np.arange(_N).reshape(-1, group)[k :: _N // chunk].ravel()
                    found, stats = embed(params, stats, photos[rows])
                    x = x.at[rows].set(found)
            else:
                x, stats = embed_in_chunks(
                    lambda stats, photos, _: embed(params, stats, photos),
                    stats, photos, chunk, group,
                )  # fmt: skip
            whole = jax.lax.with_sharding_constraint((x, item, domain), meshes.replicated(mesh))
            masks = comparison_masks(item, whole[1], domain, whole[2])
            return triplet_loss(x, whole[0], *masks, margin=0.5).loss, stats

        placed = meshes.place_batch((photos, item, domain), mesh)
        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"], *placed)


def _assert_close(found, wanted, dtype):
    tolerance = {"float64": 1e-9, "float32": 1e-5}[dtype]
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted[1]))
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_equals_the_gradient_at_once_where_photos_are_independent(dtype):
    wanted = _gradient(dtype, 0)
    assert float(wanted[0][0]) > 0
    _assert_close(_gradient(dtype, 8), wanted, dtype)
    _assert_close(_gradient(dtype, 8, devices=8), wanted, dtype)


@pytest.mark.parametrize(("dtype", "group"), [("float64", 1), ("float64", 2), ("float32", 1)])
def test_batch_norm_takes_each_chunks_statistics(dtype, group):
    wanted = _gradient(dtype, 8, train=True, reference=True, group=group)
    _assert_close(_gradient(dtype, 8, train=True, group=group), wanted, dtype)
    _assert_close(_gradient(dtype, 8, train=True, devices=8, group=group), wanted, dtype)
    whole = _gradient(dtype, 0, train=True)
    assert abs(float(whole[0][0]) - float(wanted[0][0])) > 1e-4  # which is another network


def test_an_items_photos_stay_together():
    seen = []
    photos = jnp.arange(_N, dtype=jnp.float32)[:, None]

    def embed(carried, photos, _):
        jax.debug.callback(lambda rows: seen.append(rows[:, 0].astype(int).tolist()), photos)
        return photos, carried

    found, _ = embed_in_chunks(embed, (), photos, 8, group=2)
    jax.effects_barrier()
    np.testing.assert_array_equal(found, photos)
    assert sorted(seen) == [[8 * i + 2 * k + j for i in range(4) for j in (0, 1)] for k in range(4)]
    with pytest.raises(InputError, match=r"4 photos are no whole items, of 8 photos each"):
        embed_in_chunks(embed, (), photos, 4, group=8)


def test_memory_is_that_of_a_chunk():
    def need(chunk):
        def loss(weights, photos):
            def embed(carried, photos, _):
                for weight in weights:
                    photos = jnp.tanh(photos @ weight)
                return photos, carried

            x, _ = embed_in_chunks(embed, (), photos, chunk)
            return jnp.mean(jnp.square(x @ x.T))

        weights = [jax.ShapeDtypeStruct((64, 64), jnp.float32)] * 8
        photos = jax.ShapeDtypeStruct((1024, 16, 64), jnp.float32)
        both = jax.jit(jax.grad(lambda w, p: loss(w, p.reshape(-1, 64)[:4096])))
        return both.lower(weights, photos).compile().memory_analysis().temp_size_in_bytes

    scores = 2 * 4096**2 * 4
    assert need(256) < need(0) - 4 * 4096 * 64 * 4
    assert need(256) < scores + 8 * 4096 * 64 * 4


@pytest.mark.parametrize("chunk", [-1, 5, 64])
def test_a_chunk_that_does_not_divide_the_batch_is_named(chunk):
    with pytest.raises(InputError, match=rf"train\.embed_chunk: {chunk} does not divide .* 32"):
        embed_in_chunks(lambda s, x, _: (x, s), (), jnp.zeros((32, 2)), chunk)
