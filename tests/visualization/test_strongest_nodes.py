import importlib

import numpy as np
import pytest

from grnet_jax import models
from grnet_jax.config import parse_config
from grnet_jax.errors import InputError
from grnet_jax.graph import PAPER_SCALES
from grnet_jax.training.state import init_variables
from grnet_jax.visualization.explanations import Explainer, crop_image
from grnet_jax.visualization.strongest_nodes import strongest_nodes
from input_pipeline.images import ImageTransform
from tests.graph import naive


@pytest.mark.parametrize("size", [(7, 7), (8, 8), (4, 6)])
@pytest.mark.parametrize("scales", [PAPER_SCALES, ((1, 1), (2, 3))])
def test_they_are_the_naive_ones(scales, size):
    """Windows and order by plain loops over the naive list of nodes."""
    nodes = naive.node_list(scales)
    weights = np.random.default_rng(0).permutation(len(nodes)) + 1.0
    weights[0] = 1e6  # the global node
    windows = []
    for rows, columns in scales:
        for i in range(rows):
            for j in range(columns):
                left, right = np.floor(j * size[1] / columns), np.ceil((j + 1) * size[1] / columns)
                top, bottom = np.floor(i * size[0] / rows), np.ceil((i + 1) * size[0] / rows)
                windows.append((left / size[1], top / size[0], right / size[1], bottom / size[0]))
    wanted = sorted(zip(weights[1:], nodes[1:], strict=True), key=lambda pair: -pair[0])[:5]
    found = strongest_nodes(weights, scales, size, 5)
    assert [node.weight for node in found] == [weight for weight, _ in wanted]
    for node, (_, (scale, i, j)) in zip(found, wanted, strict=True):
        assert node.scale == scales[scale]
        np.testing.assert_allclose(node.query, windows[i])
        np.testing.assert_allclose(node.gallery, windows[j])


def test_there_may_be_fewer_than_asked_for():
    assert len(strongest_nodes(np.ones(5), ((1, 1), (1, 2)), (4, 4), 9)) == 4
    assert strongest_nodes(np.ones(1), ((1, 1),), (4, 4), 5) == []


def _explain(name, **fields):
    config = importlib.import_module(f"configs.{name}").get_config()
    config.model.update(fields)
    matcher = models.build_matcher(parse_config(config).model)
    variables = init_variables(matcher, 32, seed=0)
    rng = np.random.default_rng(0)
    transform = ImageTransform(32, "box", "bilinear", 1.0)
    images = [
        crop_image(n, rng.integers(0, 256, (50, 40, 3), dtype=np.uint8), (4, 5, 30, 44), transform)
        for n in "ab"
    ]
    features = [models.embed(matcher, variables, image.input[None]) for image in images]
    score = float(models.score(matcher, variables, *features)[0, 0])
    return matcher, variables, features, score, Explainer(matcher, variables).explain(*images)


@pytest.mark.parametrize("recompute", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_explanation_is_of_the_matchers_own_score_and_edges(recompute):
    matcher, variables, features, score, found = _explain(
        "grnet", node_dim=16, reasoning_dim=8, recompute_edges=recompute
    )
    assert found.score == pytest.approx(score, rel=1e-4)
    assert found.query_heat.shape == found.gallery_heat.shape == (4, 4)
    assert found.equal_weight == 1 / 124
    edges = models.global_edges(matcher, variables, *features)
    for nodes, weights in zip((found.before, found.after), edges, strict=True):
        best = np.sort(np.asarray(weights)[0, 0, 1:])[::-1][:5]
        np.testing.assert_allclose([node.weight for node in nodes], best, rtol=1e-4)


def test_pairs_of_aligned_cells_are_those_that_weigh_most():
    backbone = {"name": "small", "pretrained": "", "stride": 0, "frozen_batch_norm": False}
    small = {"backbone": backbone, "node_dim": 16, "reasoning_dim": 8, "grid_cells": 2}
    _, variables, features, score, found = _explain("grnet_aligned", **small)
    assert found.score == pytest.approx(score, rel=1e-4)
    assert found.equal_cell_weight == 1 / 16**2
    query, gallery = (np.float64(one.regions[0, 24:]) for one in features)  # 4x4 cells
    params = {k: np.float64(v) for k, v in variables["params"]["alignment"].items()}
    weights = np.exp(params["bias"] + params["sharpness"] * query @ gallery.T)
    weights /= weights.sum()
    for node in found.cells:
        (i, j) = (round(16 * window[1] + 4 * window[0]) for window in (node.query, node.gallery))
        assert node.weight == pytest.approx(weights[i, j], rel=1e-3)
    best = np.sort(weights.ravel())[::-1][:5]
    np.testing.assert_allclose([node.weight for node in found.cells], best, rtol=1e-3)
    assert found.cells[0].scale == (4, 4)


def test_a_matcher_without_edges_has_heat_alone():
    *_, found = _explain("global_baseline")
    assert (found.before, found.after, found.equal_weight) == ([], [], 0)


def test_a_matcher_without_a_feature_map_is_named():
    with pytest.raises(InputError, match="ColorHistogram has no feature map"):
        _explain("color_histogram")
