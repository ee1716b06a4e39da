"""Each image's outputs are those of its own stream, as a naive version in float64 has them."""

import jax
import numpy as np
import pytest

from grnet_jax import models
from grnet_jax.backbones.preprocessing import normalize
from grnet_jax.errors import InputError
from grnet_jax.models import ImagesWithDomain
from tests.small import random_images, random_variables, small_matcher


def _unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def naive_stream(params, name, feature_map):
    """Embeddings, categories' and attributes' logits of one stream, from its map, in float64."""

    def dense(layer, x):
        weights = params[f"{layer}_{name}"]
        return x @ np.float64(weights["kernel"]) + np.float64(weights["bias"])

    mean = np.float64(feature_map).mean(axis=(1, 2))
    first = np.maximum(dense("fc1", mean), 0)
    second = np.maximum(dense("fc2", first), 0)
    embeddings = _unit(np.concatenate([_unit(part) for part in (mean, first, second)], axis=1))
    return embeddings, dense("category", second), dense("attribute", second)


@pytest.fixture(scope="module")
def matcher():
    return small_matcher("darn", **{"backbone.name": "small"})


def test_outputs_are_those_of_each_images_own_stream(matcher):
    variables = random_variables(matcher)
    images = ImagesWithDomain(random_images(5), np.array([0, 1, 1, 0, 1], np.int32))
    predict = jax.jit(lambda v, p: matcher.apply(v, p, method="predict"))
    features, predictions = predict(variables, images)
    streams = []
    for name in ("customer", "shop"):
        backbone = {kind: part[name] for kind, part in variables.items()}
        pixels = normalize(images.images, matcher.preprocessing)
        maps = jax.jit(getattr(matcher, name).apply)(backbone, pixels)
        streams.append(naive_stream(variables["params"], name, maps[max(maps)]))
    outputs = features.embedding, predictions.category, predictions.attributes
    for output, customer, shop in zip(outputs, *streams, strict=True):
        expected = np.where(images.domain[:, None] == 0, customer, shop)
        np.testing.assert_allclose(output, expected, atol=1e-4 * np.abs(expected).max())
        assert not np.allclose(customer, shop)
    order = np.array([3, 0, 4, 1, 2])
    turned = ImagesWithDomain(images.images[order], images.domain[order])
    permuted = predict(variables, turned)[0].embedding
    np.testing.assert_allclose(permuted, features.embedding[order], atol=1e-5)


def test_images_without_a_domain_are_named(matcher):
    variables = jax.eval_shape(lambda: random_variables(matcher))
    with pytest.raises(InputError, match="expected ImagesWithDomain"):
        jax.eval_shape(lambda v: models.embed(matcher, v, random_images(2)), variables)


def test_both_streams_start_from_one_backbone(matcher):
    assert matcher.take_backbone({"down1": 3}) == {"customer": {"down1": 3}, "shop": {"down1": 3}}
    assert matcher.take_backbone({}) == {}
