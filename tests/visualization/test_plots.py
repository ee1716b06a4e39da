"""Plots show the measured numbers, and every group with queries has its curve."""

import json
import re
import xml.etree.ElementTree

import numpy as np
import pytest
from etils import epath
from PIL import Image

from grnet_jax.errors import InputError
from grnet_jax.evaluation.protocols import QuerySubset
from grnet_jax.evaluation.retrieval_metrics import TOP_K, compute_metrics
from grnet_jax.metrics import BINS, list_probabilities
from grnet_jax.visualization import plots
from grnet_jax.visualization.__main__ import main
from grnet_jax.visualization.plots import Curve, plot_curves


def test_curves_and_their_intervals_are_the_values():
    intervals = np.array([[0.1, 0.5], [0.2, 0.6], [0.3, 0.95]])
    first = Curve("GRNet", np.array([1, 10, 50]), np.array([0.2, 0.4, 0.9]), intervals)
    second = Curve("baseline", np.array([1, 10]), np.array([0.1, 0.3]))
    figure = plot_curves({"top-k accuracy": [first, second], "time": [second]}, "Top-k", "k")
    left, right = figure.axes
    data, other = (line.get_xydata() for line in left.lines)
    np.testing.assert_allclose(data[:, 1], first.y)
    np.testing.assert_allclose(data[:, 0], first.x, atol=0.2)  # beside the other's intervals
    np.testing.assert_array_equal(other, np.stack([second.x, second.y], axis=1))
    (bars,) = left.collections
    segments = np.array(bars.get_segments())  # [n, 2 ends, 2]
    np.testing.assert_allclose(segments[:, :, 1], intervals)
    assert len(right.lines) == 1
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["GRNet", "baseline"]


def test_thirteen_curves_differ_without_their_colors():
    interval = np.array([[0.1, 0.2], [0.1, 0.3]])
    curves = [
        Curve(str(n), np.array([1, 50]), np.array([0.1, n / 13]), interval) for n in range(13)
    ]
    (axes,) = plots.plot_top_k(curves, "Top-k").axes
    assert len({line.get_marker() for line in axes.lines}) == 13
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 13
    assert len({line.get_color() for line in axes.lines}) == 7
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [str(n) for n in reversed(range(13))]  # as the curves end
    np.testing.assert_allclose([line.get_xdata() for line in axes.lines], [[1, 50]] * 13, rtol=0.1)
    assert axes.get_xlabel()
    assert axes.get_ylabel()


def test_matches_are_drawn_beside_their_query_in_a_format_that_is_known(tmp_path):
    picture = np.zeros((4, 3, 3), np.uint8)
    rows = [[(picture, "query", False), (picture, "1 ✓", True), (picture, "2", False)]] * 2
    figure = plots.plot_matches(rows, "Made up")
    assert [axes.get_xlabel() for axes in figure.axes] == ["query", "1 ✓", "2"] * 2
    widths = [axes.spines["top"].get_linewidth() for axes in figure.axes]
    assert widths == [1, 3, 1] * 2
    with Image.open(plots.write_figure(figure, epath.Path(tmp_path / "matches.jpg"))) as drawn:
        assert (drawn.format, drawn.width) == ("JPEG", 1280)
    with pytest.raises(InputError, match=r"matches\.doc: expected a name that ends in \.png"):
        plots.write_figure(figure, epath.Path(tmp_path / "matches.doc"))


@pytest.mark.parametrize("curves", [[], [Curve("A", np.zeros(0, int), np.zeros(0))]])
def test_nothing_to_plot_is_named(curves):
    with pytest.raises(InputError, match="Top-k: expected curves of one point or more"):
        plot_curves({"accuracy": curves}, "Top-k", "k")


def _group(queries, value):
    values = {f"top{k}": value for k in TOP_K}
    return {"queries": queries, **values, "intervals_95": {name: [0.1, 0.9] for name in values}}


def test_groups_without_queries_have_no_curve():
    groups = {"front": _group(7, 0.5), "back": _group(0, None)}
    (curve,) = plots.breakdown_curves(groups)
    assert curve.label == "front (7 queries)"
    np.testing.assert_allclose(curve.y, 0.5)
    assert curve.intervals.shape == (len(TOP_K), 2)


def test_attributes_are_sorted_by_recall_and_rare_ones_left_out():
    attributes = {str(n): {"photos": n, "recall5": (n % 10) / 10} for n in range(80)}
    names, values = plots.attribute_recalls(attributes)
    assert sorted(map(int, names)) == list(range(10, 80))
    assert values == sorted(values, reverse=True)
    assert values == [attributes[name]["recall5"] for name in names]
    systems = {"WTBI": values[::-1], "FashionNet": values}
    axes = plots.plot_bars(names, systems, "Recall", "recall").axes[0]
    widths = [bar.get_width() for bar in axes.patches]
    np.testing.assert_allclose(widths, [*values[::-1], *values])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(systems)


def test_the_command_plots_what_there_is(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([f"--workdir={tmp_path}", "--plots"])
    breakdowns = {"view": {"front": _group(7, 0.5)}, "scale": {"0% to 20%": _group(0, None)}}
    (tmp_path / "results.json").write_text(json.dumps({"breakdowns": breakdowns}))
    attributes = {"plain": {"photos": 3.0, "recall3": 0.1, "recall5": 0.2}}
    (tmp_path / "recognition.json").write_text(json.dumps({"attributes": attributes}))
    assert main([f"--workdir={tmp_path}", "--plots", f"--output={tmp_path / 'out'}"]) == 0
    paths = sorted(path.name for path in epath.Path(tmp_path / "out").iterdir())
    assert paths == ["attribute_recall.png", "breakdown_view.png"]
    said = capsys.readouterr().out
    for path in paths:
        assert path in said
        with Image.open(tmp_path / "out" / path) as picture:
            assert picture.width == 2560


@pytest.mark.parametrize("name", ["results.json", "recognition.json"])
@pytest.mark.parametrize("text", ["[]", '{"a', "\\xff", '{"breakdowns": [], "attributes": 3}'])
def test_damaged_results_are_named(tmp_path, capsys, name, text):
    (tmp_path / name).write_bytes(text.encode().decode("unicode_escape").encode("latin1"))
    with pytest.raises(SystemExit):
        main([f"--workdir={tmp_path}", "--plots"])
    assert re.match(rf"\nerror: {tmp_path}/{name}:.* what eval\.py wrote", capsys.readouterr().err)


def test_calibration_is_plotted_where_bins_are_full_enough():
    rng = np.random.default_rng(0)
    ranks = rng.integers(0, 3, (10 * BINS, 1)).astype(np.int32)
    best, items = rng.normal(size=10 * BINS).astype(np.float32), np.arange(10 * BINS)
    found = list_probabilities(best[:, None], np.where(ranks == 1, items[:, None], -1), items)

    def svg(queries):
        chosen = np.arange(10 * BINS) < queries
        everything = [QuerySubset("all", "", chosen, 9)]
        metrics = compute_metrics(everything, ranks, items, best, found)
        return plots.plot_scores(metrics["all"])

    few, enough = svg(10 * BINS - 1), svg(10 * BINS)
    for text, calibrated in ((few, False), (enough, True)):
        assert xml.etree.ElementTree.fromstring(text).tag.endswith("svg")
        assert "ROC curve" in text
        assert ("Calibration of best matches" in text) == calibrated
    assert enough == svg(10 * BINS)  # nothing of the moment stands in it
    assert svg(0) == ""
