"""Printed tables: means, intervals and spreads, and which rows are told apart."""

import numpy as np
import pytest

from grnet_jax.errors import InputError
from grnet_jax.reproduce.papers import find_paper
from grnet_jax.reproduce.printing import format_table, separate_rows, top_k_curves
from grnet_jax.reproduce.tables import CATEGORIES, Row, Table

_PAPER = find_paper("grnet")
_NAMES = ("top1", "top5", "top10", "top20", "top30", "top40", "top50", "map")


def make_result(names, value, width=0.02):
    """A result whose figures all are `value`, with intervals of that half width."""
    figures = dict.fromkeys(_NAMES, value)
    bounds = {name: [value - width, value + width] for name in _NAMES}
    described = {"queries": 2000, "queries_without_match": 0, "gallery": 500}
    return {
        "protocols": {
            name: {"title": f"{name} (synthetic)", **described, **figures, "intervals_95": bounds}
            for name in names
        }
    }


def _names(table):
    return (
        ("category:coat", "category:dress", "category_mean") if _is_by(table) else (table.protocols)
    )


def _is_by(table):
    return table.protocols == CATEGORIES


@pytest.mark.parametrize("table", _PAPER.tables, ids=lambda table: table.name)
@pytest.mark.parametrize("run", [False, True], ids=["nothing run", "all run"])
def test_every_table_prints_every_row(table, run):
    found = {}
    if run:
        found = {row.number: [make_result(_names(table), 0.25)] for row in table.choose(())}
    for dataset in table.datasets:
        text = format_table(table, dataset, found)
        lines = [line for line in text.splitlines() if line.startswith("|")]
        protocols = len(_names(table)) if run or not _is_by(table) else 1
        assert len(lines) == 2 + protocols * len(table.rows)
        assert len({line.count("|") for line in lines}) == 1
        assert ("the synthetic set" in text.splitlines()[0]) == (dataset == "synthetic")
        assert table.datasets[0] in text.splitlines()[0]
        assert text.count("not built here") == protocols * sum(
            row.fields is None for row in table.rows
        )
        assert ("25.0 [23.0, 27.0]" in text) == run


def test_quoted_figures_stand_as_the_paper_has_them():
    text = format_table(_PAPER.table("table3"), "deepfashion_c2s", {})
    assert "| 8 | GRNet | 0 | – | – | – | 25.7 | 64.4 | 75.0 |" in text
    assert "| 3 | FashionNet | needs weights | – | – | – | – | 18.8 | – |" in text
    assert "| 1 | WTBI | needs weights | – | – | – | – | 6.3 | – |" in text
    assert "| 5 | KPM | 0 | – | – | – | – | – | – |" in text
    assert "| 10 | DINOv2, global similarity | needs weights | – | – | – | – | – | – |" in text
    text = format_table(_PAPER.table("table6"), "deepfashion_c2s", {})
    assert "| 7 | D = 512, C' = 512 | 0 | – | – | – | 25.92 | 64.75 | 75.54 |" in text


def test_a_cell_is_mean_interval_and_half_range_of_the_seeds():
    table = _PAPER.table("layers")
    values = np.array([0.30, 0.33, 0.36])
    seeds = [make_result(("all",), value, 0.01) for value in values]
    text = format_table(table, "synthetic", {2: seeds, 3: seeds[:1]})
    assert "| 2 | T = 2 | 3 | 33.0 [32.0, 34.0] ± 3.0 |" in text
    assert "| 3 | T = 3 | 1 | 30.0 [29.0, 31.0] |" in text
    assert "| 4 | T = 4 | 0 | – |" in text


def test_rows_are_told_apart_only_where_intervals_separate():
    table = _PAPER.table("table5")
    rng = np.random.default_rng(0)
    found = {n: [make_result(("all",), v, 0.05)] for n, v in enumerate(rng.random(7), start=1)}
    said = separate_rows(table, "all", found)
    for high in found:
        for low in found:
            above = (
                found[high][0]["protocols"]["all"]["top1"] - 0.05
                > found[low][0]["protocols"]["all"]["top1"] + 0.05
            )
            (part,) = [p for p in f"{said};".split(";") if f"#{high} above" in p] or [""]
            named = [word.strip() for word in part.partition("above")[2].split(",")]
            assert (f"#{low}" in named) == above
    assert separate_rows(table, "all", {1: found[1], 2: found[1]}) == "no two intervals separate"
    assert separate_rows(table, "all", {1: found[1]}) == ""


def test_curves_are_the_tables_figures_and_the_papers_on_its_own_set_alone():
    table = _PAPER.table("figure2")
    found = {1: [make_result(("all",), 0.2), make_result(("all",), 0.4)]}
    (ours,) = top_k_curves(table, "synthetic", found)
    assert ours.label == "global baseline"
    np.testing.assert_array_equal(ours.x, [1, 5, 10, 20, 30, 40, 50])
    np.testing.assert_allclose(ours.y, 0.3)
    np.testing.assert_allclose(ours.intervals, [[0.28, 0.32]] * 7)
    _, papers = top_k_curves(table, "deepfashion_c2s", found)
    assert papers.label == "GRNet, paper"
    np.testing.assert_array_equal(papers.x, [1, 20, 50])
    np.testing.assert_allclose(papers.y, [0.257, 0.644, 0.75])


def test_a_row_that_is_only_quoted_is_not_run():
    rows = (Row(1, "theirs", None, {"all": {"top1": 5.0}}), Row(2, "ours", {}))
    table = Table("table9", "A table", ("deepfashion_c2s",), ("all",), ("top1",), rows)
    assert [row.number for row in table.choose(())] == [2]
    assert "| 1 | theirs | not built here | – | 5.0 |" in format_table(table, "deepfashion_c2s", {})
    with pytest.raises(InputError, match=r"row 1 of table9 \(theirs\) is quoted from the paper"):
        table.choose((1,))
