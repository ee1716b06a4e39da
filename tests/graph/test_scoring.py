"""Scoring with fused parameters gives the equations' numbers, whatever the tiles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grnet_jax.graph import SimilarityGraph, modules, node_count, scoring
from grnet_jax.graph.pyramid import region_counts
from grnet_jax.graph.reasoning import edge_bias
from tests.graph import naive

# Whether `fuse` gives a `FusedScorer`, or the general path's parameters.
_FUSED = {
    "paper": ({}, True),
    "table5-row2": ({"scales": ((1, 1), (1, 2), (2, 1), (2, 2))}, True),
    "table5-row4": ({"intra_scale": False, "inter_scale": False}, True),
    "table5-row5": ({"intra_scale": False}, True),
    "table5-row6": ({"inter_scale": False}, True),
    "two-layers": ({"layers": 2}, True),
    "four-layers": ({"layers": 4}, True),
    "edge-scale": ({"edge_scale_init": 5.0}, True),
    "global-baseline": ({"layers": 0, "scales": ((1, 1),)}, False),
    "no-layers": ({"layers": 0}, False),
    "one-layer": ({"layers": 1}, False),
    "recomputed": ({"recompute_edges": True}, False),
    "positions": ({"node_positions": True}, False),
    "raw-nodes": ({"raw_scale": 0.25}, False),
}
_KINDS = ("different", "1e-3", "1e-6", "one-region", "identical")


def _images(kind, graph, channels, queries=2, gallery=3):
    """Regions of queries and gallery images that differ by that share, or where it says."""
    rng = np.random.default_rng(0)
    regions = sum(region_counts(graph.scales))
    query = rng.gamma(1.0, 1.0, (queries, regions, channels))
    shop = rng.gamma(1.0, 1.0, (gallery, regions, channels))
    twins = query[np.arange(gallery) % queries]
    if kind in ("1e-3", "1e-6"):
        shop = twins * (1 + float(kind) * rng.standard_normal(twins.shape))
    elif kind == "one-region":
        shop = twins.copy()
        shop[:, -1] *= 1.001
    elif kind == "identical":
        shop = twins
    # Both sides must start from the same float32 numbers.
    return query.astype(np.float32), shop.astype(np.float32)


@functools.cache
def _jitted(graph):
    return jax.jit(graph.score_fused, static_argnums=3)


def _score(graph, params, query, gallery, tile=0, dtype="float32"):
    return np.asarray(_jitted(graph)(graph.fuse(params, dtype), query, gallery, tile))


def _params(graph, query):
    return graph.init(jax.random.key(1), query[:1], query[:1])["params"]


def _check_fused(graph, channels, queries=2, gallery=3):
    images = [_images(kind, graph, channels, queries, gallery) for kind in _KINDS]
    query, params = images[0][0], _params(graph, images[0][0])
    shop = np.concatenate([one for _, one in images])
    assert all(np.array_equal(query, one) for one, _ in images)
    scores = _score(graph, params, query, shop, tile=2)
    expected = naive.logits(graph, params, query, shop)
    for number in range(len(_KINDS)):
        kind = slice(number * gallery, (number + 1) * gallery)
        scale = max(np.abs(expected[:, kind]).max(), 1e-3)
        np.testing.assert_allclose(
            scores[:, kind], expected[:, kind], rtol=1e-5, atol=1e-5 * scale, err_msg=_KINDS[number]
        )


@pytest.mark.parametrize("name", [name for name, (_, fused) in _FUSED.items() if fused])
def test_fused_scores_equal_the_equations(name):
    graph = SimilarityGraph(**({"node_dim": 32, "reasoning_dim": 16} | _FUSED[name][0]))
    _check_fused(graph, 48)


@pytest.mark.parametrize("name", _FUSED)
def test_what_is_fused_and_what_takes_the_general_path(name):
    fields, fused = _FUSED[name]
    graph = SimilarityGraph(**({"node_dim": 16, "reasoning_dim": 8} | fields))
    query, gallery = _images("different", graph, 12)
    params = _params(graph, query)
    assert isinstance(graph.fuse(params, "float32"), scoring.FusedScorer) == fused
    expected = graph.apply({"params": params}, query, gallery)
    scores = _score(graph, params, query, gallery, tile=2)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


def test_a_fused_scorer_that_would_score_otherwise_is_not_taken(monkeypatch, caplog):
    graph = SimilarityGraph(node_dim=16, reasoning_dim=8)
    query, _ = _images("different", graph, 12)
    params = _params(graph, query)
    assert not isinstance(graph.fuse(params | {"bonus": 1.0}, "float32"), scoring.FusedScorer)
    assert "for the fast one lacks ['bonus']" in caplog.text
    exact = scoring.score_pairs
    monkeypatch.setattr(scoring, "score_pairs", lambda *pairs: exact(*pairs) + 0.024)
    # The check compiled by another test for the same graph would not see the change.
    monkeypatch.setattr(modules, "_both_ways", modules._both_ways.__wrapped__)
    assert not isinstance(graph.fuse(params, "float32"), scoring.FusedScorer)
    assert "the fast one differs by 0.024" in caplog.text


@pytest.mark.slow
def test_fused_scores_equal_the_equations_at_the_papers_sizes():
    _check_fused(SimilarityGraph(), 1024, queries=1, gallery=2)


def test_tiles_and_their_padding_change_nothing():
    graph = SimilarityGraph(node_dim=16, reasoning_dim=8)
    query, gallery = _images("different", graph, 12, gallery=7)
    params = _params(graph, query)
    whole = _score(graph, params, query, gallery, tile=7)
    assert whole.shape == (2, 7)
    for tile in (1, 2, 3, 5, 100):
        np.testing.assert_allclose(
            _score(graph, params, query, gallery, tile), whole, rtol=1e-5, atol=1e-6
        )


def test_the_tile_holds_so_many_bytes_on_a_cpu():
    assert scoring.choose_tile(124 * 1024) == 4
    assert scoring.choose_tile(124 * 10**6) == 1


def _fused(edge_blocks, dtype="float64", bias=None):
    graph = SimilarityGraph(node_dim=24, reasoning_dim=8)
    query, gallery = _images("different", graph, 12)
    params = _params(graph, query)
    fused = scoring.fuse(
        params["projection"],
        params["edge_out1"],
        params["edge_in1"],
        [params[f"layer{number}"] for number in (1, 2, 3)],
        params["score_weight"],
        params["score_bias"],
        edge_bias=bias,
        scales=graph.scales,
        dtype=dtype,
        edge_blocks=edge_blocks,
    )
    return fused, query, gallery


@pytest.mark.parametrize("edge_blocks", [1, 2, 3, 4, 24, 100])
def test_the_schur_form_equals_the_plain_product(edge_blocks):
    with jax.enable_x64(True):
        plain, query, gallery = _fused(0)
        turned, _, _ = _fused(edge_blocks)
        assert len(plain.edges) == 1
        np.testing.assert_allclose(
            scoring.score_pairs(turned, query, gallery),
            scoring.score_pairs(plain, query, gallery),
            rtol=1e-12,
        )


@pytest.mark.parametrize("edge_blocks", [1, 2, 3, 4, 24, 100])
def test_the_blocks_leave_out_nothing_but_zeros(edge_blocks):
    with jax.enable_x64(True):
        fused, _, _ = _fused(edge_blocks)
        k = fused.layers[0].shape[0]
        blocks = [*fused.edges[:-1], fused.edges[-1][:, :-k]]
        whole = np.concatenate([np.pad(b, ((0, 24 - len(b)), (0, 0))) for b in blocks], axis=1)
        assert whole.shape == (24, 24)
        # With Q from P: T_out^T T_in = Q U Q^T.
        graph = SimilarityGraph(node_dim=24, reasoning_dim=8)
        params = _params(graph, _images("different", graph, 12)[0])
        expected = np.asarray(params["edge_out1"], np.float64).T @ np.asarray(
            params["edge_in1"], np.float64
        )
        projected = np.asarray(fused.projection)  # [12, 24]: P Q
        plain = np.asarray(params["projection"], np.float64)
        np.testing.assert_allclose(
            projected @ whole @ projected.T, plain @ expected @ plain.T, rtol=1e-9, atol=1e-9
        )


def test_permuting_the_gallery_permutes_the_scores():
    graph = SimilarityGraph(node_dim=16, reasoning_dim=8)
    query, gallery = _images("different", graph, 12, gallery=5)
    params = _params(graph, query)
    order = np.array([4, 2, 0, 3, 1])
    np.testing.assert_allclose(
        _score(graph, params, query, gallery[order], 2),
        _score(graph, params, query, gallery, 2)[:, order],
        rtol=1e-5,
        atol=1e-6,
    )


def test_jitted_scores_equal_eager_ones():
    fused, query, gallery = _fused(4, "float32")
    np.testing.assert_allclose(
        jax.jit(scoring.score_pairs)(fused, query, gallery),
        scoring.score_pairs(fused, query, gallery),
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_bias_that_keeps_all_edges_changes_nothing():
    plain, query, gallery = _fused(4, "float32")
    bias = edge_bias(plain.scales, intra_scale=False, inter_scale=False)
    masked, _, _ = _fused(4, "float32", bias)
    whole, _, _ = _fused(4, "float32", np.zeros((node_count(plain.scales),) * 2))
    expected = scoring.score_pairs(plain, query, gallery)
    np.testing.assert_array_equal(scoring.score_pairs(whole, query, gallery), expected)
    assert np.abs(scoring.score_pairs(masked, query, gallery) - expected).max() > 1e-4


@pytest.mark.parametrize("kind", _KINDS)
def test_bfloat16_products_stay_in_their_band(kind):
    graph = SimilarityGraph(node_dim=64, reasoning_dim=32)
    query, gallery = _images(kind, graph, 128)
    params = _params(graph, query)
    exact = _score(graph, params, query, gallery)
    coarse = _score(graph, params, query, gallery, dtype="bfloat16")
    assert coarse.dtype == np.float32
    assert not np.array_equal(coarse, exact) or kind == "identical"
    np.testing.assert_allclose(coarse, exact, atol=2e-2 * np.abs(exact).max())


def test_gallery_regions_kept_in_bfloat16_are_compared_in_float32():
    graph = SimilarityGraph(node_dim=16, reasoning_dim=8)
    query, gallery = _images("different", graph, 12)
    params = _params(graph, query)
    kept = jnp.bfloat16(gallery)
    np.testing.assert_allclose(
        _score(graph, params, query, kept),
        _score(graph, params, query, kept.astype(np.float32)),
        rtol=1e-6,
    )
