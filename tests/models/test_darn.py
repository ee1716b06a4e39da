"""Each photo's outputs are those of its own stream, as a naive version in float64 has them."""

import jax
import numpy as np
import pytest

from configs import darn
from configs.common import DATASETS
from grnet_jax import models
from grnet_jax.backbones.preprocessing import normalize
from grnet_jax.errors import InputError
from grnet_jax.models import DomainPhotos
from grnet_jax.training.state import init_variables


def small_model(**fields):
    model = darn.get_config().model
    model.backbone.name = "small"
    model.hidden = 16
    model.update(fields)
    return model


@pytest.fixture(scope="module")
def built():
    matcher = models.build_matcher(small_model())
    shapes = jax.eval_shape(lambda: init_variables(matcher, 32, seed=0))
    rng = np.random.default_rng(0)
    return matcher, jax.tree.map(
        lambda x: rng.uniform(0.05, 1, x.shape).astype(np.float32) - 0.3 * (x.ndim > 1), shapes
    )


def _photos():
    rng = np.random.default_rng(1)
    photos = rng.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    return DomainPhotos(photos, np.array([0, 1, 1, 0, 1], np.int32))


def _predict(matcher, variables, photos):
    return jax.jit(lambda v, p: matcher.apply(v, p, method="predict"))(variables, photos)


def _unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def naive_stream(params, name, feature_map):
    """Descriptor, categories' and attributes' logits of one stream, from its map, in float64."""

    def dense(layer, x):
        weights = params[f"{layer}_{name}"]
        return x @ np.float64(weights["kernel"]) + np.float64(weights["bias"])

    local = np.float64(feature_map).mean(axis=(1, 2))
    first = np.maximum(dense("fc1", local), 0)
    second = np.maximum(dense("fc2", first), 0)
    descriptor = _unit(np.concatenate([_unit(part) for part in (local, first, second)], axis=1))
    return descriptor, dense("category", second), dense("attribute", second)


def test_outputs_are_those_of_each_photos_own_stream(built):
    matcher, variables = built
    photos = _photos()
    features, found = _predict(matcher, variables, photos)
    wanted = []
    for name in ("customer", "shop"):
        own = {kind: part[name] for kind, part in variables.items()}
        maps = jax.jit(getattr(matcher, name).apply)(
            own, normalize(photos.photos, matcher.preprocessing)
        )
        wanted.append(naive_stream(variables["params"], name, maps[max(maps)]))
    ours = features.descriptor, found.category, found.attributes
    for one, streams in zip(ours, zip(*wanted, strict=True), strict=True):
        picked = np.where(photos.domain[:, None] == 0, *streams)
        np.testing.assert_allclose(one, picked, atol=1e-4 * np.abs(picked).max())
        assert not np.allclose(*streams)
    order = np.array([3, 0, 4, 1, 2])
    again = DomainPhotos(photos.photos[order], photos.domain[order])
    permuted = _predict(matcher, variables, again)[0].descriptor
    np.testing.assert_allclose(permuted, features.descriptor[order], atol=1e-5)


def test_photos_without_a_domain_and_bad_fields_are_named(built):
    matcher, variables = built
    with pytest.raises(InputError, match="expected DomainPhotos"):
        models.embed(matcher, variables, _photos().photos)
    with pytest.raises(InputError, match="stream for each domain"):
        models.embed_views(matcher, variables, _photos(), models.Views(flip_average=True))
    for field, value in (("hidden", 0), ("categories", 0), ("attributes", -1), ("dropout", 1.0)):
        with pytest.raises(InputError, match=rf"model\.{field}"):
            models.build_matcher(small_model(**{field: value}))


def test_both_streams_start_from_one_backbone(built):
    matcher, _ = built
    assert matcher.take_backbone({"down1": 3}) == {"customer": {"down1": 3}, "shop": {"down1": 3}}
    assert matcher.take_backbone({}) == {}


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_config_has_no_landmarks(dataset):
    config = darn.get_config(dataset)
    assert config.loss.phases == ("all",)
    assert config.loss.all.landmarks == config.loss.all.visibility == 0
    assert (config.loss.all.triplets > 0) == (config.data.sampler == "items")
    assert models.takes_domain(models.build_matcher(config.model))
