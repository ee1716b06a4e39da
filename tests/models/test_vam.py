"""The attention map against loops in float64, and how it reaches the features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grnet_jax import models
from grnet_jax.backbones.preprocessing import normalize
from grnet_jax.errors import InputError
from grnet_jax.models.vam import AttentionNetwork, drawn
from tests.small import random_images, random_variables, small_config, small_matcher
from tests.training.steps import first_step


def _convolve(x, layer):
    """Of a map [h, w, c], zero outside, by a kernel of odd sides."""
    kernel, (h, w, _) = np.float64(layer["kernel"]), x.shape
    reach = kernel.shape[0] // 2
    padded = np.pad(x, [(reach, reach), (reach, reach), (0, 0)])
    out = np.zeros((h, w, kernel.shape[-1])) + np.float64(layer["bias"])
    for i, row in enumerate(kernel):
        for j, weights in enumerate(row):
            out += padded[i : i + h, j : j + w] @ weights
    return out


def _attention(x, params):
    inside = np.maximum(_convolve(np.float64(x), params["first"]), 0)
    return 1 / (1 + np.exp(-_convolve(inside, params["second"])[..., 0]))


@pytest.mark.parametrize(
    "fields",
    [{}, {"nonshared": True}, {"fusion": "product", "attention_stride": 4}],
    ids=str,
)
def test_the_embedding_is_that_of_the_map_times_the_attention(fields):
    matcher = small_matcher("vam", embedding_dim=6, **fields)
    variables, images = random_variables(matcher), random_images(2)
    params = variables["params"]

    def outputs(images):
        bound = matcher.bind(variables)
        pixels = normalize(images, matcher.preprocessing)
        own = bound.own_backbone(pixels, False)[8] if matcher.own_backbone else None
        embedding, attention = bound.embed(images).embedding, bound.attention_map(images)
        return bound.backbone(pixels, False), own, embedding, attention

    maps, own, embedding, attention = jax.jit(outputs)(images)
    assert ("own_backbone" in params) == ("nonshared" in fields)
    for k in range(2):
        if own is not None:
            expected = _attention(own[k], params["attention"])
        elif "attention_stride" not in fields:
            expected = _attention(maps[8][k], params["attention"])
        else:  # the map of stride 4 has two by two positions for one of stride 8
            fine = _attention(maps[4][k], params["attention"])
            expected = sum(fine[i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
        np.testing.assert_allclose(attention[k], expected, atol=1e-5)
        pooled = (np.float64(maps[8][k]) * expected[..., None]).mean(axis=(0, 1))
        linear = pooled / np.linalg.norm(pooled) @ np.float64(params["linear"]["kernel"])
        linear += params["linear"]["bias"]
        np.testing.assert_allclose(embedding[k], linear / np.linalg.norm(linear), atol=1e-5)


def test_impdrop_keeps_whole_positions_and_on_average_the_product():
    matcher, images = small_matcher("vam"), random_images(2)
    variables = random_variables(matcher)
    frozen = matcher.clone(frozen_batch_norm=True)

    @jax.jit
    def outputs(images):
        product = models.feature_map(matcher.clone(fusion="product"), variables, images)
        tested = models.feature_map(matcher, variables, images)
        attention = matcher.apply(variables, images, method="attention_map")
        draws = jax.vmap(lambda key: drawn(key, attention))(
            jax.random.split(jax.random.key(0), 4000)
        )
        rngs = {"dropout": jax.random.key(1)}
        trained = frozen.apply(variables, images, True, method="feature_map", rngs=rngs)
        return product, tested, attention, draws, trained

    product, tested, attention, draws, trained = map(np.asarray, outputs(images))
    np.testing.assert_array_equal(tested, product)
    np.testing.assert_allclose(np.minimum(abs(draws), abs(draws - 1)), 0, atol=1e-6)
    np.testing.assert_allclose(draws.mean(axis=0), attention, atol=4.5 / 2 / np.sqrt(4000))
    whole = product / attention[..., None]
    kept = np.abs(trained) > 1e-4
    np.testing.assert_allclose(trained[kept], whole[kept], rtol=1e-4)
    assert 0 < kept.mean() < (np.abs(whole) > 1e-4).mean()
    assert set(np.unique(kept.any(axis=-1))) == {False, True}


def test_the_attention_has_a_gradient_in_training():
    matcher, images = small_matcher("vam", **{"backbone.frozen_batch_norm": True}), random_images(2)
    variables = random_variables(matcher)

    @jax.jit
    @jax.grad
    def slopes(attention):
        parts = {**variables, "params": {**variables["params"], "attention": attention}}
        rngs = {"dropout": jax.random.key(1)}
        return matcher.apply(parts, images, True, method="feature_map", rngs=rngs).sum()

    assert all(np.any(leaf) for leaf in jax.tree.leaves(slopes(variables["params"]["attention"])))


def test_what_is_drawn_has_the_gradient_of_its_expectation():
    weight = jnp.arange(6.0).reshape(1, 2, 3)
    slope = jax.grad(lambda a: jnp.sum(weight * drawn(jax.random.key(0), a)))(0.3 + 0 * weight)
    np.testing.assert_allclose(slope, weight)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["product", "impdrop"])
def test_the_triplets_train_the_attention(fusion):
    grads = first_step(small_config("vam", **{"model.fusion": fusion})).grads["attention"]
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads))


def test_attention_is_float32_in_half_precision():
    x = jnp.ones((1, 3, 3, 4), jnp.bfloat16)
    network = AttentionNetwork(4, jnp.bfloat16)
    assert network.apply(network.init(jax.random.key(0), x), x).dtype == jnp.float32


def test_a_stride_that_the_backbone_lacks_is_named():
    matcher = small_matcher("vam", attention_stride=16)
    with pytest.raises(InputError, match=r"attention_stride=16: .* strides 2, 4, 8"):
        jax.eval_shape(lambda: random_variables(matcher))


def test_a_backbones_weights_are_those_of_both():
    for nonshared, names in ((False, {"backbone"}), (True, {"backbone", "own_backbone"})):
        matcher = small_matcher("vam", nonshared=nonshared)
        assert set(matcher.take_backbone({"conv": 1})) == names
        assert matcher.take_backbone({}) == {}
