"""Plots of eval.py's files: every group with queries has a curve, every attribute its bar."""

import json

import numpy as np
import pytest
from etils import epath
from PIL import Image

from grnet_jax.retrieval.measures import TOP_K
from grnet_jax.visualization.__main__ import main
from grnet_jax.visualization.measured_plots import attribute_recalls, breakdown_curves, draw_bars
from grnet_jax.visualization.style import COLOURS


def _group(queries, value):
    values = {f"top{k}": value for k in TOP_K}
    return {"queries": queries, **values, "intervals_95": {name: [0.1, 0.9] for name in values}}


def test_groups_without_queries_have_no_curve():
    groups = {"front": _group(7, 0.5), "back": _group(0, None)}
    (curve,) = breakdown_curves(groups)
    assert curve.label == "front (7 queries)"
    np.testing.assert_allclose(curve.values, 0.5)
    assert curve.intervals.shape == (len(TOP_K), 2)


def test_attributes_stand_by_falling_recall_and_the_rare_ones_not():
    found = {str(n): {"photos": n, "recall5": (n % 10) / 10} for n in range(60)}
    names, values = attribute_recalls(found)
    assert sorted(map(int, names)) == list(range(10, 60))
    assert values == sorted(values, reverse=True)
    assert values == [found[name]["recall5"] for name in names]


def test_bars_are_as_long_as_their_shares():
    picture = np.asarray(draw_bars(["a", "b", "c"], [1.0, 0.25, 0.0], "x"), int)
    coloured = np.abs(picture - np.array(COLOURS[0])).sum(axis=2) < 30
    lengths = [coloured[44 + 18 * number + 3].sum() for number in range(3)]
    assert lengths == pytest.approx([400, 100, 0], abs=3)


def test_the_command_draws_what_there_is(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([f"--workdir={tmp_path}", "--plots"])
    breakdowns = {"view": {"front": _group(7, 0.5)}, "scale": {"0% to 20%": _group(0, None)}}
    (tmp_path / "results.json").write_text(json.dumps({"breakdowns": breakdowns}))
    attributes = {"plain": {"photos": 3.0, "recall3": 0.1, "recall5": 0.2}}
    (tmp_path / "recognition.json").write_text(json.dumps({"attributes": attributes}))
    assert main([f"--workdir={tmp_path}", "--plots", f"--output={tmp_path / 'out'}"]) == 0
    found = sorted(path.name for path in epath.Path(tmp_path / "out").iterdir())
    assert found == ["attribute_recall.png", "breakdown_view.png"]
    with Image.open(tmp_path / "out" / found[0]) as picture:
        assert picture.size == (684, 80)
    assert "breakdown_view.png" in capsys.readouterr().out
