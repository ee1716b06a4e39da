import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grnet_jax import models
from grnet_jax.backbones import BACKBONES
from tests.small import random_images, random_variables, small_matcher


@pytest.mark.parametrize(
    "system",
    [
        *("grnet", "global_baseline", "color_histogram", "embedding", "kpm", "local_matching"),
        *("wtbi", "vam"),
    ],
)
def test_every_matcher_embeds_image_by_image_and_scores_all_pairs(system):
    matcher = small_matcher(system)
    variables = random_variables(matcher)
    images = random_images(5)
    embed = jax.jit(lambda pixels: models.embed(matcher, variables, pixels))
    features = embed(images)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(features)} == {5}
    np.testing.assert_allclose(jnp.linalg.norm(features.embedding, axis=1), 1, rtol=1e-4)
    beside_others = embed(images[[3, 3, 0, 2, 0]])
    np.testing.assert_allclose(beside_others.embedding[0], features.embedding[3], atol=1e-5)
    gallery = jax.tree.map(lambda leaf: leaf[:3], features)
    scores = models.score(matcher, variables, features, gallery)
    assert scores.shape == (5, 3)
    assert scores.dtype == jnp.float32


@pytest.mark.parametrize("dim", [0, 6])
def test_grnets_embedding_is_the_direction_of_a_projection_or_of_the_whole_images_region(dim):
    matcher = small_matcher(embedding_dim=dim)
    variables = random_variables(matcher)
    feature_map = np.random.default_rng(0).normal(size=(3, 4, 4, 128)).astype(np.float32)
    features = matcher.apply(variables, feature_map, method="pool")
    regions = np.float64(features.regions)
    assert ("projection" in variables["params"]) == bool(dim)
    if dim:
        expected = regions.reshape(3, -1) @ variables["params"]["projection"]["kernel"]
    else:
        expected = regions[:, 0]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(features.embedding, expected, atol=1e-5)


def test_the_global_baseline_has_no_reasoning_parameters():
    variables = random_variables(small_matcher("global_baseline"))
    assert set(variables["params"]["graph"]) == {"projection", "score_weight", "score_bias"}


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_batch_norm_keeps_its_statistics(frozen):
    matcher = small_matcher(**{"backbone.frozen_batch_norm": frozen})
    variables = random_variables(matcher)
    embed = jax.jit(
        lambda v, p: matcher.apply(v, p, train=True, method="embed", mutable=["batch_stats"])
    )
    _, updated = embed(variables, random_images(4))
    before, after = (jax.tree.leaves(v["batch_stats"]) for v in (variables, updated))
    assert all(np.array_equal(x, y) for x, y in zip(before, after, strict=True)) == frozen


def test_bfloat16_computes_in_it_with_float32_parameters():
    matcher, exact = small_matcher(dtype="bfloat16"), small_matcher()
    variables = random_variables(matcher)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    features, expected = (
        jax.jit(lambda v, p, m=one: models.embed(m, v, p))(variables, random_images(2))
        for one in (matcher, exact)
    )
    assert features.regions.dtype == jnp.bfloat16
    assert features.embedding.dtype == jnp.float32
    np.testing.assert_allclose(features.embedding, expected.embedding, atol=3e-2)


def test_color_histogram_equals_numpy():
    image = random_images(1, size=16)
    embeddings = models.embed(small_matcher("color_histogram", bins=4, middle=0.5), {}, image)
    counts, _ = np.histogramdd(image[0, 4:12, 4:12].reshape(-1, 3), bins=4, range=[(0, 256)] * 3)
    np.testing.assert_allclose(embeddings.embedding[0], np.sqrt(counts.ravel() / 64), rtol=1e-6)


@pytest.mark.parametrize("name", BACKBONES)
def test_any_backbone_stands_under_grnet(name):
    matcher = small_matcher(**{"backbone.name": name})
    images = jax.ShapeDtypeStruct((2, 96, 96, 3), jnp.uint8)
    scores, variables = jax.eval_shape(matcher.init_with_output, jax.random.key(0), images)
    assert (scores.shape, scores.dtype) == ((2, 2), jnp.float32)
    assert set(variables["params"]) == {"backbone", "graph"}
