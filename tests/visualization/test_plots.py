"""What the result page plots, from scores that are known."""

import types

import numpy as np

from grnet_jax.retrieval.measures import BINS, measure
from grnet_jax.retrieval.protocols import Protocol
from grnet_jax.visualization.plots import Plot, score_plots


def _evaluation(queries):
    rng = np.random.default_rng(0)
    ranks = rng.integers(0, 3, (queries, 1)).astype(np.int32)
    best = rng.normal(size=queries).astype(np.float32)
    everything = Protocol("all", "All", np.ones(queries, bool), 9)
    figures = measure([everything], ranks, np.arange(queries), best, logits=True)
    return types.SimpleNamespace(figures=figures)


def test_the_picture_has_its_origin_at_the_left_lower_corner():
    plot = Plot("", "", "", np.array([[0, 0], [0.25, 0.5], [1, 1]]), dotted=True)
    assert plot.points == "0.0,100.0 25.0,50.0 100.0,0.0"
    assert plot.dots == [(0, 100), (25, 50), (100, 0)]


def test_long_curves_keep_their_ends_and_their_shape():
    line = np.linspace(0, 1, 5001)[:, None] ** [1, 2]
    places = np.array([pair.split(",") for pair in Plot("", "", "", line).points.split()], float)
    assert len(places) == 200
    np.testing.assert_array_equal(places[[0, -1]], [[0, 100], [100, 0]])
    np.testing.assert_allclose(1 - places[:, 1] / 100, (places[:, 0] / 100) ** 2, atol=0.002)


def test_reliability_is_plotted_where_bins_are_full_enough():
    few, many = score_plots(_evaluation(10 * BINS - 1)), score_plots(_evaluation(10 * BINS))
    assert [len(plot.dots) for plot in few] == [0]  # the ROC alone
    assert [len(plot.dots) for plot in many] == [BINS, 0]
    for plot in many:
        assert ((plot.line >= 0) & (plot.line <= 1)).all()
