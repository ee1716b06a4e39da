"""The variant of GRNet that keeps the size of differences, against loops in float64."""

import jax
import numpy as np
import pydantic
import pytest

from grnet_jax import models
from grnet_jax.graph.scoring import FusedScorer
from grnet_jax.models.grnet_aligned import Config
from tests.graph import naive
from tests.small import random_variables, small_matcher

_SCALES = ((1, 1), (1, 2), (2, 2))
# What is left of the variant is GRNet.
_OFF = {
    "scales": _SCALES,
    **dict.fromkeys(("unit_regions", "node_positions"), False),
    **dict.fromkeys(("raw_scale", "edge_scale_init", "direct_scale_init", "embedding_score"), 0.0),
    **dict.fromkeys(("grid_cells", "embedding_dim", "region_channels"), 0),
}


def _maps(n):
    return np.random.default_rng(0).gamma(1.0, size=(n, 5, 5, 128)).astype(np.float32)


def _grid_embedding(feature_map, kernel, cells):
    """Averages over cells with bounds floor(i H / n), ceil((i + 1) H / n), of unit length."""
    side, found = len(feature_map), []
    for i in range(cells):
        for j in range(cells):
            (top, bottom), (left, right) = (
                (k * side // cells, int(np.ceil((k + 1) * side / cells))) for k in (i, j)
            )
            window = feature_map[top:bottom, left:right].reshape(-1, feature_map.shape[-1])
            found.append(naive.unit(window.mean(axis=0)))
    return naive.unit(np.concatenate(found) @ np.float64(kernel))


def _aligned(query, gallery, params, by_row):
    """Scale times the mean cosine of pairs of cells, weighted by exp(b + t cos)."""
    cosines, weights = np.zeros((2, len(query), len(gallery)))
    for i, j in np.ndindex(cosines.shape):
        cosines[i, j] = query[i] @ gallery[j]
        weights[i, j] = np.exp(params["bias"][i, j] + params["sharpness"] * cosines[i, j])
    if by_row:
        means = [row @ weight / weight.sum() for row, weight in zip(cosines, weights, strict=True)]
        return params["scale"] * np.mean(means)
    return params["scale"] * np.sum(weights * cosines) / np.sum(weights)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"raw_scale": 0.0, "edge_scale_init": 0.0, "region_channels": 0},
        {"node_positions": False, "direct_by_row": True},
    ],
    ids=str,
)
def test_the_score_is_the_graphs_with_both_cosines(fields):
    matcher = small_matcher("grnet_aligned", scales=_SCALES, grid_cells=3, **fields)
    variables = random_variables(matcher, size=5 * 8)
    params, maps, fused = variables["params"], _maps(4), models.fuse(matcher, variables)

    @jax.jit
    def scored(maps):
        features = matcher.apply(variables, maps, method="pool")
        query, gallery = (jax.tree.map(lambda leaf, k=k: leaf[k::2], features) for k in (0, 1))
        plain = models.score(matcher, variables, query, gallery)
        return features, plain, models.score_fused(matcher, fused, query, gallery)

    features, *both = scored(maps)
    kernel = params["region_projection"]["kernel"] if "region_projection" in params else np.eye(128)
    seen = np.float64(maps) @ np.float64(kernel)
    regions = np.array([naive.regions(one, _SCALES) for one in seen])
    regions, cells = (
        x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (regions, seen.reshape(4, 25, -1))
    )
    np.testing.assert_allclose(features.regions, np.hstack([regions, cells]), atol=1e-6)
    grids = [_grid_embedding(one, params["projection"]["kernel"], 3) for one in np.float64(maps)]
    np.testing.assert_allclose(features.embedding, grids, atol=1e-5)
    expected = naive.logits(matcher.graph, params["graph"], regions[::2], regions[1::2])
    expected += 10 * (np.array(grids[::2]) @ np.array(grids[1::2]).T - 0.5)
    alignment = {name: np.float64(value) for name, value in params["alignment"].items()}
    for i, j in np.ndindex(expected.shape):
        expected[i, j] += _aligned(
            cells[2 * i], cells[2 * j + 1], alignment, matcher.alignment.by_row
        )
    for scores in both:
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


def test_unit_regions_alone_are_fused_as_the_papers():
    matcher = small_matcher("grnet_aligned", **_OFF | {"unit_regions": True})
    variables = random_variables(matcher)
    # What is fused has been compared with the module.
    assert isinstance(models.fuse(matcher, variables)["graph"], FusedScorer)


@pytest.mark.parametrize("factor", [0.0, 20.0])
@pytest.mark.parametrize("cells", [0, 2])
def test_the_map_learns_from_embeddings_that_count_in_the_score(factor, cells):
    fields = {"embedding_score": factor, "grid_cells": cells, "embedding_dim": 4}
    matcher = small_matcher("grnet_aligned", **_OFF | fields)
    variables = random_variables(matcher)

    def product(x):
        return matcher.apply(variables, x, method="pool").embedding[0].sum()

    assert np.any(jax.jit(jax.grad(product))(_maps(1))) == bool(factor)


def test_a_grid_needs_an_embedding():
    with pytest.raises(pydantic.ValidationError, match="grid_cells: needs embedding_dim"):
        Config.model_validate({"grid_cells": 4})
