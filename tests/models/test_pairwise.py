"""KPM and greedy local matching against their definitions, and what must not change a score."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grnet_jax import models
from grnet_jax.errors import InputError
from grnet_jax.graph import region_counts
from grnet_jax.models import region_matcher
from grnet_jax.models.kpm import match_weights
from grnet_jax.models.local_matching import matched_best, matched_one_to_one
from grnet_jax.models.matcher import Features
from tests.models import naive
from tests.small import small_matcher

_CHANNELS, _CELLS = 6, 5
_SCALES = ((1, 1), (1, 2), (2, 2))
_KPM = [
    {"scales": (), "self_attention": True, "square_first": False},
    {"scales": (), "self_attention": False, "square_first": True},
    {"scales": _SCALES, "self_attention": True, "square_first": True},
]
_LOCAL = [{"scales": _SCALES, "one_to_one": one_to_one} for one_to_one in (True, False)]


def _features(kind, regions):
    """Of two queries and three gallery images of one kind of likeness."""
    rng = np.random.default_rng(0)
    query = rng.gamma(1.0, 1.0, (2, regions, _CHANNELS))
    gallery = rng.gamma(1.0, 1.0, (3, regions, _CHANNELS))
    if kind == "near-duplicate":
        gallery = query[[0, 1, 0]] + 1e-3 * rng.standard_normal(gallery.shape)
    elif kind == "identical":
        gallery = query[[0, 1, 0]]
    return tuple(
        Features(embedding=jnp.asarray(x[:, 0]), regions=jnp.asarray(x, jnp.float32))
        for x in (query, gallery)
    )


@functools.partial(jax.jit, static_argnums=0)
def _score(matcher, variables, query, gallery):
    return models.score(matcher, variables, query, gallery)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _score_fused(matcher, fused, query, gallery, tile):
    with mock.patch.object(region_matcher, "choose_tile", return_value=tile):
        return models.score_fused(matcher, fused, query, gallery)


def _counts(matcher):
    return region_counts(matcher.scales) if matcher.scales else (_CELLS,)


def _variables(matcher, seed=0):
    """Random parameters of the score alone."""
    features, _ = _features("different", sum(_counts(matcher)))
    shapes = jax.eval_shape(
        lambda: matcher.init(jax.random.key(0), features, features, method="score")
    )
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(leaf.dtype), shapes)


def _float64(features):
    return np.asarray(features.regions, np.float64)


@pytest.mark.parametrize("kind", ["different", "near-duplicate", "identical"])
@pytest.mark.parametrize("fields", _KPM, ids=str)
def test_kpm_equals_its_definition(fields, kind):
    matcher = small_matcher("kpm", match_scale=7.0, **fields)
    query, gallery = _features(kind, sum(_counts(matcher)))
    variables = _variables(matcher)
    scores = _score(matcher, variables, query, gallery)
    logit = functools.partial(
        naive.kpm_logit, params=variables["params"], counts=_counts(matcher), match_scale=7.0,
        attention=fields["self_attention"], square_first=fields["square_first"],
    )  # fmt: skip
    expected = [[logit(x, y) for y in _float64(gallery)] for x in _float64(query)]
    assert scores.dtype == jnp.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["different", "near-duplicate", "identical"])
@pytest.mark.parametrize("fields", _LOCAL, ids=str)
def test_local_matching_equals_its_definition(fields, kind):
    matcher = small_matcher("local_matching", **fields)
    query, gallery = _features(kind, sum(_counts(matcher)))
    variables = _variables(matcher)
    scores = _score(matcher, variables, query, gallery)
    params = variables["params"]
    factor, bias = (np.float64(params[f"score_{name}"]) for name in ("log_factor", "bias"))
    similarity = functools.partial(
        naive.local_similarity, counts=_counts(matcher), one_to_one=matcher.one_to_one
    )
    expected = [
        [bias + np.exp(factor) * (similarity(x, y) - 1) for y in _float64(gallery)]
        for x in _float64(query)
    ]
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


_MATCHERS = [("kpm", fields) for fields in _KPM] + [("local_matching", fields) for fields in _LOCAL]


@pytest.mark.parametrize(("system", "fields"), _MATCHERS, ids=str)
def test_the_gallerys_order_chunks_and_tiles_change_no_score(system, fields):
    matcher = small_matcher(system, **fields)
    query, gallery = _features("different", sum(_counts(matcher)))
    variables = _variables(matcher)
    scores = _score(matcher, variables, query, gallery)
    order = np.array([2, 0, 1])
    turned = jax.tree.map(lambda leaf: leaf[order], gallery)
    np.testing.assert_allclose(
        _score(matcher, variables, query, turned), scores[:, order], rtol=1e-5, atol=1e-5
    )
    chunked = _score(matcher.clone(gallery_chunk=2), variables, query, gallery)
    np.testing.assert_allclose(chunked, scores, rtol=1e-5, atol=1e-5)
    variables["params"]["backbone"] = {}
    fused = models.fuse(matcher, variables)
    assert "backbone" not in fused["params"]
    tiled = _score_fused(matcher, fused, query, gallery, 2)
    assert tiled.dtype == jnp.float32
    np.testing.assert_allclose(tiled, scores, rtol=1e-5, atol=1e-5)


def test_a_block_takes_the_memory_of_a_tile():
    matcher, (r, c, q, g) = small_matcher("kpm", square_first=True), (16, 8, 8, 64)
    fused = models.fuse(matcher, _variables(matcher))
    fused["params"]["attention_weight"] = np.ones((c, 1), np.float32)
    fused["params"]["score_weight"] = np.ones((c, 1), np.float32)
    shapes = [Features(np.ones((n, c)), np.ones((n, r, c), np.float32)) for n in (q, g)]
    whole = q * g * matcher.pair_numbers(r, c) * 4
    for tile in (4, 0):
        compiled = _score_fused.lower(matcher, fused, *shapes, tile).compile()
        taken = compiled.memory_analysis().temp_size_in_bytes
        assert taken < (whole / 4 if tile else whole)
    assert matcher.pair_numbers(r, c) == r * r + r * c + c


@pytest.mark.parametrize("square_first", [True, False])
def test_the_order_of_the_cells_changes_no_score_of_kpm(square_first):
    matcher = small_matcher("kpm", square_first=square_first)
    query, gallery = _features("different", _CELLS)
    variables = _variables(matcher)
    scores = _score(matcher, variables, query, gallery)
    order = np.random.default_rng(1).permutation(_CELLS)
    turned = [one.replace(regions=one.regions[:, order]) for one in (query, gallery)]
    for x, y in ((query, turned[1]), (turned[0], gallery)):
        np.testing.assert_allclose(_score(matcher, variables, x, y), scores, rtol=1e-4, atol=1e-5)


def test_identical_images_have_no_difference_once_matches_are_hard():
    matcher = small_matcher("kpm", match_scale=1e4)
    query, gallery = _features("identical", _CELLS)
    variables = _variables(matcher)
    scores = _score(matcher, variables, query, gallery)
    bias = variables["params"]["score_bias"]
    np.testing.assert_allclose([scores[0, 0], scores[1, 1], scores[0, 2]], bias, atol=1e-4)
    assert abs(scores[0, 1] - bias) > 1e-2


@pytest.mark.parametrize("one_to_one", [True, False])
def test_identical_images_score_highest_in_local_matching(one_to_one):
    matcher = small_matcher("local_matching", one_to_one=one_to_one)
    variables = _variables(matcher)
    bias = variables["params"]["score_bias"]
    query, gallery = _features("identical", sum(_counts(matcher)))
    scores = _score(matcher, variables, query, gallery)
    np.testing.assert_allclose([scores[0, 0], scores[1, 1], scores[0, 2]], bias, atol=1e-5)
    assert scores[0, 1] < bias - 1e-2


def test_matches_sum_to_one_also_for_a_cell_of_zeros():
    query, gallery = _features("different", _CELLS)
    cells = query.regions.at[0, 3].set(0.0)
    weights = match_weights(cells, gallery.regions, 5.0)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(weights[0, :, 3], 1 / _CELLS, rtol=1e-5)


def test_one_to_one_takes_no_region_twice_and_ties_in_order():
    similarities = jnp.array([[0.9, 0.8], [0.9, 0.1]])
    np.testing.assert_allclose(matched_best(similarities), 0.9, rtol=1e-6)
    # The first row's tie is taken first; the second row is left with 0.1.
    np.testing.assert_allclose(matched_one_to_one(similarities), 0.5, rtol=1e-6)
    slopes = jax.grad(matched_one_to_one)(similarities)
    np.testing.assert_allclose(slopes, [[0.5, 0], [0, 0.5]])


@pytest.mark.parametrize(("system", "fields"), _MATCHERS, ids=str)
def test_gradients_are_finite_for_identical_images_and_equal_finite_differences(system, fields):
    matcher = small_matcher(system, dtype="float64", **fields)
    with jax.enable_x64(True):
        features = _features("identical", sum(_counts(matcher)))
        query, gallery = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), features)
        variables = jax.tree.map(lambda leaf: leaf.astype(np.float64), _variables(matcher))
        loss = jax.jit(lambda v, q, g: models.score(matcher, v, q, g)[0, :2].sum())
        gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
        slopes = gradient(variables, query, gallery)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
        query = query.replace(regions=query.regions[::-1] + 0.1)
        slope = gradient(variables, query, gallery)[1].regions
        way = np.random.default_rng(3).standard_normal(slope.shape)
        ends = [
            loss(variables, query.replace(regions=query.regions + step * way), gallery)
            for step in (1e-6, -1e-6)
        ]
        np.testing.assert_allclose(np.sum(slope * way), (ends[0] - ends[1]) / 2e-6, rtol=1e-5)


@pytest.mark.parametrize("system", ["kpm", "local_matching"])
def test_bfloat16_is_near(system):
    matcher = small_matcher(system)
    query, gallery = _features("different", sum(_counts(matcher)))
    variables = _variables(matcher)
    scores = _score(matcher, variables, query, gallery)
    low = [one.replace(regions=one.regions.astype(jnp.bfloat16)) for one in (query, gallery)]
    rounded = _score(matcher, variables, *low)
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, scores, atol=0.05 * np.abs(scores).max())
    # The same of features in float32 that scoring compares in bfloat16, stored ones in another.
    fused = models.fuse(matcher, variables, "bfloat16")
    stored = gallery.replace(regions=gallery.regions.astype(jnp.float16))
    again = _score_fused(matcher, fused, query, stored, 0)
    np.testing.assert_allclose(again, scores, atol=0.05 * np.abs(scores).max())
    assert np.abs(again - scores).max() > 1e-6


def test_features_without_regions_are_refused():
    matcher = small_matcher("kpm")
    query, _ = _features("different", _CELLS)
    with pytest.raises(InputError, match="these features hold none"):
        models.score(matcher, _variables(matcher), query.replace(regions=None), query)
