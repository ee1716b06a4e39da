import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import grnet
from grnet_jax import models
from grnet_jax.backbones import BACKBONES, build_backbone
from grnet_jax.errors import InputError
from grnet_jax.training.state import init_variables


def _matcher(name, **fields):
    config = importlib.import_module(f"configs.{name}").get_config()
    config.model.update(fields)
    matcher = models.build_matcher(config.model)
    return matcher, init_variables(matcher, 32, seed=0)


def _photos(n, size=32):
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "name",
    ["grnet", "global_baseline", "colour_histogram", "embedding", "kpm", "local_matching"],
)
def test_every_matcher_embeds_photo_by_photo_and_scores_all_pairs(name):
    matcher, variables = _matcher(name)
    photos = _photos(5)
    features = jax.jit(lambda p: models.embed(matcher, variables, p))(photos)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(features)} == {5}
    np.testing.assert_allclose(jnp.linalg.norm(features.descriptor, axis=1), 1, rtol=1e-4)
    alone = models.embed(matcher, variables, photos[3:4])
    np.testing.assert_allclose(alone.descriptor[0], features.descriptor[3], atol=1e-5)
    gallery = jax.tree.map(lambda leaf: leaf[:3], features)
    scores = models.score(matcher, variables, features, gallery)
    assert scores.shape == (5, 3)
    assert scores.dtype == jnp.float32


@pytest.mark.slow
def test_a_descriptor_is_the_direction_of_a_projection_of_all_regions():
    matcher, variables = _matcher("grnet", descriptor_dim=6)
    features = models.embed(matcher, variables, _photos(3))
    weights = np.float64(variables["params"]["projection"]["kernel"])
    wanted = np.float64(features.regions).reshape(3, -1) @ weights
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(features.descriptor, wanted, atol=1e-5)
    plain, others = _matcher("grnet")
    assert "projection" not in others["params"]
    whole = np.float64(models.embed(plain, others, _photos(3)).regions[:, 0])
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    found = models.embed(plain, others, _photos(3)).descriptor
    np.testing.assert_allclose(found, whole, atol=1e-5)


def test_the_global_baseline_has_no_reasoning_parameters():
    _, variables = _matcher("global_baseline")
    assert set(variables["params"]["graph"]) == {"projection", "score_weight", "score_bias"}


def test_frozen_batch_norm_keeps_its_statistics():
    photos = _photos(4)
    for frozen in (True, False):
        matcher, variables = _matcher("grnet")
        matcher = matcher.clone(frozen_batch_norm=frozen)
        _, updated = matcher.apply(
            variables, photos, train=True, method="embed", mutable=["batch_stats"]
        )
        before, after = (jax.tree.leaves(v["batch_stats"]) for v in (variables, updated))
        same = all(np.array_equal(x, y) for x, y in zip(before, after, strict=True))
        assert same == frozen


def test_bfloat16_computes_in_it_with_float32_parameters():
    matcher, variables = _matcher("grnet", dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    features = models.embed(matcher, variables, _photos(2))
    assert features.regions.dtype == jnp.bfloat16
    assert features.descriptor.dtype == jnp.float32
    exact, _ = _matcher("grnet")
    wanted = models.embed(exact, variables, _photos(2))
    np.testing.assert_allclose(features.descriptor, wanted.descriptor, atol=3e-2)


def test_colour_histogram_equals_numpy():
    matcher, variables = _matcher("colour_histogram", bins=4, middle=0.5)
    photo = _photos(1, size=16)
    found = models.embed(matcher, variables, photo).descriptor[0]
    wanted, _ = np.histogramdd(photo[0, 4:12, 4:12].reshape(-1, 3), bins=4, range=[(0, 256)] * 3)
    np.testing.assert_allclose(found, np.sqrt(wanted.ravel() / 64), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("grnet", "name", "gronet", "model.name: 'gronet' is none of"),
        ("grnet", "layers", -1, "model.layers"),
        ("grnet", "descriptor_dim", -1, "model.descriptor_dim"),
        ("grnet", "backbone.name", "resnet9000", "model.backbone.name"),
        ("grnet", "backbone.preprocessing", "nothing", "model.backbone.preprocessing"),
        ("colour_histogram", "bins", 0, "model.bins"),
    ],
)
def test_bad_fields_are_named(name, field, value, message):
    config = importlib.import_module(f"configs.{name}").get_config()
    config.model.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=message):
        init_variables(models.build_matcher(config.model), 32, seed=0)


@pytest.mark.parametrize("name", BACKBONES)
def test_any_backbone_stands_under_grnet(name):
    config = grnet.get_config()
    config.model.backbone.name = name
    matcher = models.build_matcher(config.model)
    photos = jax.ShapeDtypeStruct((2, 96, 96, 3), jnp.uint8)
    scores, variables = jax.eval_shape(matcher.init_with_output, jax.random.key(0), photos)
    assert (scores.shape, scores.dtype) == ((2, 2), jnp.float32)
    alone = jax.eval_shape(build_backbone(name).init, jax.random.key(0), photos)
    assert jax.tree.structure(variables["params"]["backbone"]) == jax.tree.structure(
        alone["params"]
    )
