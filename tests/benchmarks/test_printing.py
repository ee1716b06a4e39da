"""Printed tables: means, intervals and spreads, and which rows are told apart."""

import numpy as np
import pytest

from benchmarks.reproduce.papers import CATEGORIES, NAMES, find_paper
from benchmarks.reproduce.printing import (
    attribute_bars,
    format_table,
    landmark_curves,
    separate_rows,
    top_k_curves,
)
from benchmarks.reproduce.runner import select_groups, select_recognition
from grnet_jax.errors import InputError

_GRNET, _FASHIONNET = find_paper("grnet"), find_paper("fashionnet")
_LINE = "*not in the paper:*"
_METRICS = ("top1", "top5", "top10", "top20", "top30", "top40", "top50", "map")


def make_result(names, value, width=0.02):
    """A result whose metrics all are `value`, with intervals of that half width."""
    metrics = {"queries": 2000, "queries_without_match": 0, "gallery": 500}
    metrics |= dict.fromkeys(_METRICS, value)
    metrics["intervals_95"] = {name: [value - width, value + width] for name in _METRICS}
    return {"protocols": {name: {"title": f"{name} (synthetic)", **metrics} for name in names}}


def _rows(text):
    return [line for line in text.splitlines() if line.startswith("|")][2:]


@pytest.mark.parametrize("paper", NAMES)
def test_every_table_prints_every_row(paper):
    for table in find_paper(paper).tables.values():
        for dataset in table.datasets:
            shown = table.on(dataset)
            text = format_table(shown, dataset, {})
            rows = _rows(text)
            ours = [row.ours for row in shown.rows.values()]
            blocks = sum(f"| {label} |" in row for row in rows for label in [shown.rows[1].label])
            assert len(rows) == blocks * (len(ours) + any(ours))
            assert text.count(_LINE) == blocks * any(ours)
            assert len({line.count("|") for line in rows}) == 1
            assert all(f"| {n} | {row.label} |" in text for n, row in shown.rows.items())
            measured = "the synthetic set" if dataset == "synthetic" else dataset
            assert measured in text.splitlines()[0]
            assert table.datasets[0] in text.splitlines()[0]


def test_categories_are_those_that_were_measured_and_their_mean():
    table = _GRNET.table("table4")
    assert table.protocols == (CATEGORIES,)
    names = ("all", "category:dress", "category:coat", "category_mean")
    rows = _rows(format_table(table, "synthetic", {6: [make_result(names, 0.25)]}))
    titles = [row.split(" | ")[0] for row in rows[::7]]
    among = "(synthetic), 2,000 queries among 500 photos"
    assert titles == [f"| {n} {among}" for n in (names[2], names[1], names[3])]
    assert all("25.0 [23.0, 27.0]" in row for row in rows[6::7])
    # On the paper's own set its categories come first, in its order.
    rows = _rows(format_table(table, "street2shop", {6: [make_result(names, 0.25)]}))
    titles = [row.split(" | ")[0].removeprefix("| ") for row in rows[::7]]
    assert titles[:5] == ["tops", "dresses", "skirts", "pants", "outerwear"]
    assert len(titles) == 8


def test_quoted_figures_are_beside_ours_and_ours_below_a_line():
    text = format_table(_GRNET.table("table3"), "deepfashion_c2s", {})
    assert "| 8 | GRNet | 0 | – | – | – | 25.7 | 64.4 | 75.0 |" in text
    assert "| 1 | FashionNet | needs weights | – | – | – | 7.0 | 18.8 | 22.8 |" in text
    assert "| 5 | VAM+ImgDrop | 0 | – | – | – | 13.7 | 43.9 | 56.9 |" in text
    quoted = format_table(_GRNET.table("table4"), "street2shop", {})
    assert "| 4 | Trip.+Partial | quoted | – | – | – | 47.0 |" in quoted
    below = text.partition(_LINE)[2]
    assert "| 11 | DINOv2, global similarity | needs weights | – | – | – | – | – | – |" in below
    assert "GRNet | 0" not in below
    assert "| 25.73 | 64.38 | 75.00 |" in format_table(_GRNET.table("table5"), "synthetic", {})
    with pytest.raises(InputError, match=r"row 4 of table4 \(Trip.\+Partial\) is only quoted"):
        _GRNET.table("table4").choose((4,))


def test_a_cell_is_mean_interval_and_half_range_of_the_seeds():
    seeds = [make_result(("all",), value, 0.01) for value in (0.30, 0.33, 0.36)]
    text = format_table(_GRNET.table("layers"), "synthetic", {2: seeds, 3: seeds[:1]})
    assert "| 2 | T = 2 | 3 | 33.0 [32.0, 34.0] ± 3.0 |" in text
    assert "| 3 | T = 3 | 1 | 30.0 [29.0, 31.0] |" in text
    assert "| 4 | T = 4 | 0 | – |" in text
    count = {**seeds[0], "parameters_m": 27.4}
    shown = format_table(
        find_paper("fir").table("table2"), "synthetic", {14: [_with_labels(count)]}
    )
    assert "| 14 | OC+OS | 1 | 27.4 | 50.0 |" in shown


def test_rows_are_told_apart_only_where_intervals_separate():
    values = dict(enumerate(np.random.default_rng(0).random(7), start=1))
    results = {n: [make_result(("all",), value, 0.05)] for n, value in values.items()}
    text = separate_rows("all", results)
    for high, value in values.items():
        (part,) = [p for p in f"{text};".split(";") if f"#{high} above" in p] or [""]
        named = [word.strip() for word in part.partition("above")[2].split(",")]
        lower = [f"#{low}" for low in values if value - 0.05 > values[low] + 0.05]
        assert [name for name in named if name] == lower
    assert separate_rows("all", {1: results[1], 2: results[1]}) == "no two intervals separate"
    assert separate_rows("all", {1: results[1]}) == ""


def test_curves_are_the_tables_metrics_and_the_papers_on_its_own_set_alone():
    table = _GRNET.table("figure2")
    results = {9: [make_result(("all",), 0.2), make_result(("all",), 0.4)]}
    (ours,) = top_k_curves(table, "synthetic", results)
    assert ours.label == "global baseline"
    np.testing.assert_array_equal(ours.x, [1, 5, 10, 20, 30, 40, 50])
    np.testing.assert_allclose(ours.y, 0.3)
    np.testing.assert_allclose(ours.intervals, [[0.28, 0.32]] * 7)
    *papers, _ = top_k_curves(table, "deepfashion_c2s", results)
    assert [curve.label for curve in papers[-2:]] == ["KPM, paper", "GRNet, paper"]
    np.testing.assert_array_equal(papers[-1].x, [1, 20, 50])
    np.testing.assert_allclose(papers[-1].y, [0.257, 0.644, 0.75])


def test_groups_of_queries_are_in_their_table():
    groups = {
        name: make_result((name,), value, 0.05)["protocols"][name]
        for name, value in (("front", 0.2), ("back", 0.1))
    }
    selected = select_groups({"breakdowns": {"view": groups, "scale": {}}})
    assert set(selected["breakdowns"]["view: front"]["intervals_95"]) == {"top1", "top20", "top50"}
    assert "top5" not in selected["breakdowns"]["view: front"]
    assert select_groups({"breakdowns": {}}) == select_groups({}) == {}
    table = _FASHIONNET.table("figure11")
    assert table.datasets[0] == "deepfashion_inshop"
    text = format_table(table, "synthetic", {1: [{"protocols": {}, **selected}]})
    assert [line for line in text.splitlines() if "FashionNet |" in line] == [
        f"| view: {view}, 2,000 queries | 1 | FashionNet | 1 |" + f" {cell} |" * 3
        for view, cell in (("front", "20.0 [15.0, 25.0]"), ("back", "10.0 [5.0, 15.0]"))
    ]
    assert "|  | 2 | WTBI | needs weights |" in text


def _with_labels(result):
    return result | _recognition([], category_top3=0.5, category_top5=0.75)


def _recognition(pdj, intervals=None, **values):
    images = {"split": "test", "photos": 36, "values": values, "intervals": intervals or {}}
    return {"protocols": {}, "recognition": {**images, "pdj": pdj}}


def test_what_is_recognized_is_in_its_tables():
    interval = {"category_top3": [0.4, 0.6]}
    results = {2: [_recognition([], interval, category_top3=0.5, attribute_recall3=0.25)]}
    text = format_table(_FASHIONNET.table("table2"), "synthetic", results)
    (row,) = [line for line in text.splitlines() if line.startswith("| 2 |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[3] == "50.0 [40.0, 60.0]"
    assert "25.0" in cells


def test_curves_of_landmarks_are_means_over_the_seeds():
    one, two = ([[t, scale * t] for t in (0.01, 0.02, 0.03, 0.04)] for scale in (10, 20))
    results = {2: [_recognition(one), _recognition(two)], 1: [_recognition([])]}
    (curve,) = landmark_curves(_FASHIONNET.table("figure10b"), results)
    assert curve.label == "FashionNet"
    assert curve.x.tolist() == [2, 4]
    np.testing.assert_allclose(curve.y, [0.3, 0.6])
    parts = ("collar", "sleeve", "waistline", "hem")
    for seed, points in zip(results[2], (one, two), strict=True):
        seed["recognition"]["pdj_parts"] = dict.fromkeys(parts, points)
    curves = landmark_curves(_FASHIONNET.table("figure10a"), {1: results[2]})
    assert [curve.label for curve in curves] == list(parts)
    np.testing.assert_allclose(curves[-1].y, [0.3, 0.6])


def test_bars_are_the_recall_of_attributes_by_system():
    table = _FASHIONNET.table("figure7")
    recalls = {2: [{"dots": 0.2, "plain": 0.5}], 3: [{"dots": 0.6}, {"dots": 0.8}]}
    recalls[3] = [{**of, "plain": 0.9} for of in recalls[3]]
    results = {n: [_recognition([]) for _ in seeds] for n, seeds in recalls.items()}
    for number, seeds in recalls.items():
        for result, attributes in zip(results[number], seeds, strict=True):
            result["recognition"]["attributes"] = attributes
    names, values = attribute_bars(table, results)
    assert names == ["plain", "dots"]  # by the recall of the last row
    assert values["DARN"] == [0.5, 0.2]
    np.testing.assert_allclose(values["FashionNet"], [0.9, 0.7])
    assert attribute_bars(table, {}) == ([], {})


def test_a_row_keeps_the_most_frequent_attributes():
    attributes = {str(n): {"photos": n, "recall5": n / 100} for n in range(80)}
    whole = dict.fromkeys(("split", "photos", "values", "intervals", "kinds", "pdj", "pdj_parts"))
    kept = select_recognition({**whole, "attributes": attributes}, groups=True)
    assert kept["attributes"] == {str(n): n / 100 for n in range(79, 9, -1)}
    assert "attributes" not in select_recognition({**whole, "attributes": attributes}, groups=False)
