"""Grad-CAM against its definition, finite differences and cases whose answer is known."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import global_baseline, grnet, kpm
from grnet_jax import models
from grnet_jax.config import parse_config
from grnet_jax.training.state import init_variables
from grnet_jax.visualization.grad_cam import grad_cam, pair_grad_cam

_explain = jax.jit(pair_grad_cam, static_argnums=0)
_map = jax.jit(models.feature_map, static_argnums=0)


def _photos(n, size=32):
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def _matcher(config, **fields):
    if config.model.name == "grnet":
        config.model.node_dim, config.model.reasoning_dim = 12, 6
    config.model.update(fields)
    matcher = models.build_matcher(parse_config(config).model)
    return matcher, init_variables(matcher, 32, seed=3)


def test_it_is_the_definition():
    rng = np.random.default_rng(0)
    feature_map, gradient = rng.standard_normal((2, 2, 3, 5, 4)).astype(np.float32)
    wanted = np.zeros((2, 3, 5))
    for n in range(2):
        for c in range(4):
            weight = sum(gradient[n, i, j, c] for i in range(3) for j in range(5)) / 15
            wanted[n] += weight * feature_map[n, :, :, c]
    assert (wanted < 0).any()
    found = grad_cam(jnp.asarray(feature_map), jnp.asarray(gradient))
    np.testing.assert_allclose(found, np.maximum(wanted, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_channel_weights_are_finite_differences():
    """A channel that rises everywhere at once changes the score by its summed gradient."""
    with jax.enable_x64(True):
        matcher, variables = _matcher(grnet.get_config(), dtype="float64")
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
        query, gallery = _photos(2)
        maps = [_map(matcher, variables, one[None]) for one in (query, gallery)]
        score = jax.jit(lambda *both: models.score_maps(matcher, variables, *both)[0, 0])
        # The score turned round, too: one of the two raises where the other lowers.
        turned = _with_turned_score(variables)
        value, *heats = _explain(matcher, variables, query, gallery)
        _, *opposite = _explain(matcher, turned, query, gallery)
        np.testing.assert_allclose(value, score(*maps), rtol=1e-9)
        h, w, channels = maps[0].shape[1:]
        for side in (0, 1):
            weights = np.zeros(channels)
            for c in range(channels):
                shift = jnp.zeros(channels).at[c].set(1e-6)
                up, down = list(maps), list(maps)
                up[side], down[side] = up[side] + shift, down[side] - shift
                weights[c] = (score(*up) - score(*down)) / 2e-6 / (h * w)
            wanted = np.asarray(maps[side][0]) @ weights
            atol = 1e-4 * np.abs(wanted).max()
            assert atol > 0
            np.testing.assert_allclose(heats[side], np.maximum(wanted, 0), atol=atol)
            np.testing.assert_allclose(opposite[side], np.maximum(-wanted, 0), atol=atol)


def _with_turned_score(variables):
    graph = variables["params"]["graph"]
    graph = graph | {"score_weight": -graph["score_weight"]}
    return variables | {"params": variables["params"] | {"graph": graph}}


class _RedLeftGreenRight(nn.Module):
    """Scores the reddest cell of the query times the greenest of the gallery photo."""

    def feature_map(self, photos, train=False):
        n, h, w, _ = photos.shape
        return photos.astype(jnp.float32).reshape(n, h // 4, 4, w // 4, 4, 3).mean(axis=(2, 4))

    def pool(self, feature_map):
        return models.Features(embedding=feature_map.max(axis=(1, 2)))

    def score(self, query, gallery):
        return jnp.einsum("q,g->qg", query.embedding[:, 0], gallery.embedding[:, 1])


def test_only_the_region_that_decides_is_hot():
    query, gallery = np.zeros((2, 16, 16, 3), np.uint8)
    query[4:8, 8:12, 0] = 200  # decides
    query[12:16, 0:4, 2] = 255  # brighter, and of no matter
    gallery[8:12, 0:4, 1] = 100
    gallery[0:4, 0:4, 0] = 255
    value, query_heat, gallery_heat = pair_grad_cam(_RedLeftGreenRight(), {}, query, gallery)
    assert value == 200 * 100
    for heat, cell in ((query_heat, (1, 2)), (gallery_heat, (2, 0))):
        assert set(zip(*np.nonzero(np.asarray(heat)), strict=True)) == {cell}


@pytest.mark.slow
def test_a_symmetric_matcher_explains_symmetrically():
    matcher, variables = _matcher(global_baseline.get_config())
    query, gallery = _photos(2)
    one, *heats = _explain(matcher, variables, query, gallery)
    other, *swapped = _explain(matcher, variables, gallery, query)
    np.testing.assert_allclose(one, other, rtol=1e-6)
    assert max(heat.max() for heat in heats) > 0
    assert not np.allclose(heats[0], heats[1])
    for heat, same in zip(heats, swapped[::-1], strict=True):
        np.testing.assert_allclose(heat, same, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("system", [grnet, kpm])
def test_jit_changes_nothing_and_embed_is_the_pooled_map(system):
    matcher, variables = _matcher(system.get_config())
    query, gallery = _photos(2)
    eager = pair_grad_cam(matcher, variables, query, gallery)
    jitted = jax.jit(lambda *photos: pair_grad_cam(matcher, variables, *photos))(query, gallery)
    for found, wanted in zip(jitted, eager, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)
    whole = models.embed(matcher, variables, _photos(2))
    pooled = matcher.apply(
        variables, models.feature_map(matcher, variables, _photos(2)), method="pool"
    )
    for field in dataclasses.fields(whole):
        np.testing.assert_array_equal(getattr(whole, field.name), getattr(pooled, field.name))
