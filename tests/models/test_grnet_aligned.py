"""The variant of GRNet that keeps the size of differences, against loops in float64."""

import jax
import numpy as np
import pydantic
import pytest

from grnet_jax import models
from grnet_jax.models.grnet import Config
from tests.graph import naive
from tests.small import random_variables, small_matcher

_SCALES = ((1, 1), (1, 2), (2, 2))


def _maps(n, seed=0):
    return np.random.default_rng(seed).gamma(1.0, size=(n, 5, 5, 128)).astype(np.float32)


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


@pytest.mark.parametrize("fields", [{}, {"raw_scale": 0.0, "edge_scale_init": 0.0}], ids=str)
def test_the_score_is_the_graphs_with_both_cosines(fields):
    matcher = small_matcher("grnet_aligned", scales=_SCALES, grid_cells=3, **fields)
    variables = random_variables(matcher)
    params, maps = variables["params"], [_maps(2), _maps(3, seed=1)]
    query, gallery = (matcher.apply(variables, x, method="pool") for x in maps)
    wide = [np.float64(x) for x in maps]
    regions = [
        np.array([[naive.unit(r) for r in naive.regions(one, _SCALES)] for one in x]) for x in wide
    ]
    np.testing.assert_allclose(query.regions, regions[0], atol=1e-6)
    kernel = params["projection"]["kernel"]
    cells = [np.array([_grid_embedding(one, kernel, 3) for one in x]) for x in wide]
    expected = naive.logits(matcher.graph, params["graph"], *regions) + 20 * cells[0] @ cells[1].T
    scores = models.score(matcher, variables, query, gallery)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    fused = models.fuse(matcher, variables)
    again = models.score_fused(matcher, fused, query, gallery)
    np.testing.assert_allclose(again, expected, rtol=1e-4, atol=1e-4)


def test_unit_regions_alone_are_fused_as_the_papers():
    matcher = small_matcher("grnet", unit_regions=True, scales=_SCALES)
    variables = random_variables(matcher)
    features = matcher.apply(variables, _maps(3), method="pool")
    fused = models.fuse(matcher, variables)
    assert not isinstance(fused, dict)
    scores = models.score(matcher, variables, features, features)
    again = models.score_fused(matcher, fused, features, features)
    np.testing.assert_allclose(again, scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor", [0.0, 20.0])
@pytest.mark.parametrize("cells", [0, 2])
def test_the_map_learns_from_embeddings_that_count_in_the_score(factor, cells):
    fields = {"embedding_score": factor, "grid_cells": cells, "embedding_dim": 4}
    matcher = small_matcher("grnet", scales=_SCALES, **fields)
    variables = random_variables(matcher)

    def product(x):
        return matcher.apply(variables, x, method="pool").embedding[0].sum()

    assert np.any(jax.grad(product)(_maps(1))) == bool(factor)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"direct_scale_init": 1.0}, "direct_scale_init: needs unit_regions"),
        ({"grid_cells": 4}, "grid_cells: needs embedding_dim"),
        ({"raw_scale": 1.0, "norm_feature": True}, "raw_scale, norm_feature"),
    ],
)
def test_fields_that_do_not_fit_each_other_are_named(fields, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        Config.model_validate(fields)
