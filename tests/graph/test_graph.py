import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grnet_jax.errors import InputError
from grnet_jax.graph import (
    PAPER_SCALES,
    SimilarityGraph,
    check_scales,
    node_count,
    node_regions,
    pool_regions,
)
from grnet_jax.graph.pyramid import region_counts, window_bounds
from grnet_jax.graph.reasoning import edge_bias, edge_weights, similarity_nodes
from tests.graph import naive

_FEW = {"scales": ((1, 1), (1, 2), (2, 2))}
_ABLATIONS = {
    "paper": {},
    "global-baseline": {"layers": 0, "scales": ((1, 1),)},
    "table5-row2": {"scales": ((1, 1), (1, 2), (2, 1), (2, 2))},
    "table5-row3": {"scales": ((1, 1), (3, 1), (1, 3), (3, 3))},
    "table5-row4": {"intra_scale": False, "inter_scale": False},
    "table5-row5": {"intra_scale": False},
    "table5-row6": {"inter_scale": False},
    "one-layer": {"layers": 1},
    "two-layers": {"layers": 2},
    "five-layers": {"layers": 5},
    "no-layers-seven-scales": {"layers": 0},
    "recomputed": {"recompute_edges": True},
    "recomputed-row4": {"recompute_edges": True, "intra_scale": False, "inter_scale": False},
    "edge-scale": {"edge_scale_init": 5.0},
    "edge-scale-recomputed": {"edge_scale_init": 5.0, "recompute_edges": True},
    "wide": {"node_dim": 40, "reasoning_dim": 24},
    "positions": {"node_positions": True, **_FEW},
    "raw-nodes": {"raw_scale": 0.002, **_FEW},
    "raw-nodes-recomputed": {"raw_scale": 0.02, "recompute_edges": True, **_FEW},
    "aligned": {"node_positions": True, "raw_scale": 0.02, "edge_scale_init": 16.0, **_FEW},
}


def _images(regions, channels):
    """Regions of two queries, and of two different, two near and two identical gallery images."""
    rng = np.random.default_rng(0)
    query = rng.gamma(1.0, 1.0, (2, regions, channels))
    different = rng.gamma(1.0, 1.0, (2, regions, channels))
    near = query + 1e-3 * rng.standard_normal(query.shape)
    # Both sides must start from the same float32 numbers.
    return query.astype(np.float32), np.concatenate([different, near, query]).astype(np.float32)


def _check_against_naive(graph, query, gallery, tolerance=1e-5):
    variables = graph.init(jax.random.key(1), query[:1], gallery[:1])
    logits = jax.jit(graph.apply)(variables, query, gallery)
    expected = naive.logits(graph, variables["params"], query, gallery)
    assert logits.shape == expected.shape
    for kind in np.split(np.arange(6), 3):  # different, near, identical
        scale = max(np.abs(expected[:, kind]).max(), 1e-3)
        np.testing.assert_allclose(
            logits[:, kind], expected[:, kind], rtol=tolerance, atol=tolerance * scale
        )


@pytest.mark.parametrize("ablation", _ABLATIONS, ids=str)
def test_score_equals_the_equations(ablation):
    graph = SimilarityGraph(**{"node_dim": 32, "reasoning_dim": 16} | _ABLATIONS[ablation])
    _check_against_naive(graph, *_images(sum(region_counts(graph.scales)), 48))


@pytest.mark.parametrize("ablation", [k for k, v in _ABLATIONS.items() if v.get("layers") != 0])
def test_global_edges_equal_the_equations(ablation):
    graph = SimilarityGraph(**{"node_dim": 32, "reasoning_dim": 16} | _ABLATIONS[ablation])
    query, gallery = _images(sum(region_counts(graph.scales)), 48)
    variables = graph.init(jax.random.key(1), query, gallery)
    edges = jax.jit(lambda *a: graph.apply(variables, *a, method="global_edges"))
    weights = np.stack(edges(query, gallery[:3]))  # [2, q, g, n]
    for i, j in np.ndindex(weights.shape[1:3]):
        expected = naive.global_edges(
            query[i].astype(np.float64), gallery[j].astype(np.float64), variables["params"], graph
        )
        np.testing.assert_allclose(weights[:, i, j], expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)


def test_a_graph_without_layers_has_no_edges():
    graph = SimilarityGraph(node_dim=8, layers=0)
    query, gallery = _images(24, 16)
    variables = graph.init(jax.random.key(1), query, gallery)
    with pytest.raises(InputError, match=r"model\.layers=0"):
        graph.apply(variables, query, gallery, method="global_edges")


def test_node_regions_are_the_naive_list():
    expected = [(i, j) for _, i, j in naive.node_list(PAPER_SCALES)]
    np.testing.assert_array_equal(node_regions(PAPER_SCALES), expected)


@pytest.mark.slow
def test_score_equals_the_equations_at_the_papers_sizes():
    query, gallery = _images(24, 1024)
    _check_against_naive(SimilarityGraph(), query[:1], gallery)


def test_the_paper_has_24_regions_and_124_nodes():
    assert sum(region_counts(PAPER_SCALES)) == 24
    assert node_count(PAPER_SCALES) == 124
    assert len(naive.node_list(PAPER_SCALES)) == 124


@pytest.mark.parametrize("shape", [(7, 7), (8, 8), (3, 3), (5, 9)])
def test_regions_equal_the_naive_windows(shape):
    feature_map = np.random.default_rng(0).standard_normal((2, *shape, 5)).astype(np.float32)
    regions = pool_regions(jnp.asarray(feature_map), PAPER_SCALES)
    expected = np.stack([naive.regions(one, PAPER_SCALES) for one in feature_map])
    np.testing.assert_array_equal(regions, expected)


def test_windows_cover_every_cell():
    for size in range(3, 15):
        covered = {c for start, stop in window_bounds(size, 3) for c in range(start, stop)}
        assert covered == set(range(size))


def test_nodes_are_unit_vectors_and_zero_for_identical_regions():
    differences = np.zeros((1, 2, 8), np.float32)
    differences[0, 1] = 1e-9  # images that differ by 3e-5
    projection = jax.random.normal(jax.random.key(0), (8, 4))
    nodes = similarity_nodes(jnp.asarray(differences), projection)
    np.testing.assert_array_equal(nodes[0, 0], 0)
    np.testing.assert_allclose(jnp.linalg.norm(nodes[0, 1]), 1, rtol=1e-5)


@pytest.mark.slow
def test_gradient_is_finite_for_identical_images():
    graph = SimilarityGraph(node_dim=8, reasoning_dim=4)
    query, _ = _images(24, 6)
    variables = graph.init(jax.random.key(0), query, query)

    def loss(variables, query, gallery):
        return graph.apply(variables, query, gallery).sum()

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(variables, query, query)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.slow
def test_gradient_equals_finite_differences():
    graph = SimilarityGraph(node_dim=6, reasoning_dim=5)
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        query, gallery = rng.gamma(1.0, 1.0, (2, 24, 4)), rng.gamma(1.0, 1.0, (2, 24, 4))
        variables = graph.init(jax.random.key(0), query, gallery)
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
        weight = rng.standard_normal((2, 2))

        @jax.jit
        def loss(variables):
            return jnp.sum(weight * graph.apply(variables, query, gallery))

        gradients = jax.jit(jax.grad(loss))(variables)["params"]
        for name in ("projection", "edge_out1", "edge_in1", "layer1", "layer3", "score_weight"):
            direction = rng.standard_normal(variables["params"][name].shape)

            def moved(step, name=name, direction=direction):
                params = dict(variables["params"])
                params[name] = params[name] + step * direction
                return loss({"params": params})

            slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
            np.testing.assert_allclose(
                np.sum(gradients[name] * direction), slope, rtol=1e-5, atol=1e-8, err_msg=name
            )


@pytest.mark.parametrize("intra_scale", [True, False])
@pytest.mark.parametrize("inter_scale", [True, False])
def test_edge_bias_keeps_global_and_self_edges(intra_scale, inter_scale):
    bias = edge_bias(PAPER_SCALES, intra_scale=intra_scale, inter_scale=inter_scale)
    nodes = naive.node_list(PAPER_SCALES)
    expected = [
        [naive.connected(a, b, nodes, intra_scale, inter_scale) for b in range(124)]
        for a in range(124)
    ]
    found = np.ones((124, 124), bool) if bias is None else np.exp(bias)  # exp(-inf) is 0
    np.testing.assert_array_equal(found, expected)


def test_masked_edges_are_zero_and_rows_sum_to_one():
    nodes = jax.random.normal(jax.random.key(0), (2, 124, 8))
    transform = jax.random.normal(jax.random.key(1), (8, 8))
    bias = edge_bias(PAPER_SCALES, intra_scale=False, inter_scale=True)
    weights = edge_weights(nodes, nodes, transform, transform, bias)
    assert not np.any(np.asarray(weights)[:, np.isinf(bias)])
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)


def test_permuting_the_gallery_permutes_the_scores():
    graph = SimilarityGraph(node_dim=16, reasoning_dim=8)
    query, gallery = _images(24, 12)
    variables = graph.init(jax.random.key(0), query, gallery)
    scores = graph.apply(variables, query, gallery)
    order = np.array([2, 0, 1, 5, 4, 3])
    np.testing.assert_allclose(
        graph.apply(variables, query, gallery[order]), scores[:, order], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("chunk", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_chunks_of_the_gallery_change_nothing(chunk):
    fields = {"node_dim": 16, "reasoning_dim": 8}
    query, _ = _images(24, 12)
    gallery = np.random.default_rng(1).gamma(1.0, 1.0, (5, 24, 12)).astype(np.float32)
    whole = SimilarityGraph(**fields)
    variables = whole.init(jax.random.key(0), query, gallery)

    def loss(graph, variables, query, gallery):
        logits = graph.apply(variables, query, gallery)
        return jnp.sum(jnp.sin(logits)), logits

    results = []
    for graph in (whole, SimilarityGraph(**fields, gallery_chunk=chunk)):
        gradient = jax.value_and_grad(functools.partial(loss, graph), (0, 1, 2), has_aux=True)
        results.append(jax.jit(gradient)(variables, query, gallery))
    for x, y in zip(*(jax.tree.leaves(one) for one in results), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_bfloat16_stays_near_float32():
    graph = SimilarityGraph(node_dim=64, reasoning_dim=32)
    query, gallery = _images(24, 128)
    variables = graph.init(jax.random.key(0), query, gallery)
    exact = graph.apply(variables, query, gallery)
    coarse = graph.apply(variables, jnp.bfloat16(query), jnp.bfloat16(gallery))
    assert coarse.dtype == jnp.float32
    np.testing.assert_allclose(coarse, exact, atol=3e-2)


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        (((1, 2),), r"expected \(1, 1\) as the first scale"),
        ((), r"expected \(1, 1\) as the first scale"),
        (((1, 1), (1, 1)), "expected each scale once"),
        (((1, 1), (0, 2)), "expected scales of positive"),
        (((1, 1), (2,)), "expected scales of positive"),
    ],
)
def test_bad_scales_are_named(scales, message):
    with pytest.raises(InputError, match=message):
        check_scales(scales)


def test_a_map_smaller_than_a_scale_is_an_error():
    with pytest.raises(InputError, match="2 cells cannot be cut into 3"):
        pool_regions(jnp.zeros((1, 2, 2, 4)), PAPER_SCALES)
