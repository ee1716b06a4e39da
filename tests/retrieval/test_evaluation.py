"""Figures per protocol, tables and result files, from ranks that are known."""

import dataclasses
import json

import numpy as np
import pytest
from etils import epath

from grnet_jax.retrieval.evaluation import Evaluation, mean_of_categories, measure
from grnet_jax.retrieval.protocols import Protocol, make_protocols, query_choices
from grnet_jax.retrieval.ranking import Ranking
from grnet_jax.retrieval.report import format_table, results_dict, write_results
from grnet_jax.retrieval.tasks import Group, Task

_RANKS = np.array([[1, 4], [2, 0], [0, 0], [60, 0]], np.int32)
_ITEMS = np.array([0, 1, 2, 3])
_FLAGS = np.array([0, 1, 0, 0]), np.array([0, 0, 0, 1]), np.array([0, 0, 1, -1])


def _evaluation():
    protocols = make_protocols("synthetic", 70, query_choices(*_FLAGS))
    figures = {p.name: measure(p, _RANKS, _ITEMS) for p in protocols}
    ranking = Ranking(_RANKS, np.zeros((4, 1), int), np.zeros((4, 1)))
    task = Task(
        dataset="synthetic",
        split="test",
        gallery_splits=("test", "val"),
        photos=None,
        query_rows=np.arange(4),
        gallery_rows=np.arange(70),
        positives=np.array([[0, 1], [2, -1], [-1, -1], [3, -1]]),
        groups=(Group("", np.arange(4), np.arange(70)),),
        sampled="4 of 9, drawn with seed 1",
    )
    return Evaluation(task, figures, protocols, ranking)


def test_figures_are_over_the_queries_with_a_match():
    figures = _evaluation().figures["all"]
    assert (figures.queries, figures.without_match, figures.gallery) == (3, 1, 70)
    np.testing.assert_allclose(
        [figures.values[k] for k in ("top1", "top5", "top50", "map")],
        [1 / 3, 2 / 3, 2 / 3, np.mean([(1 + 2 / 4) / 2, 1 / 2, 1 / 60])],
    )
    for name, value in figures.values.items():
        low, high = figures.intervals[name]
        assert 0 <= low <= value <= high <= 1


def test_protocols_choose_queries_by_their_flags():
    protocols = {p.name: p for p in _evaluation().protocols}
    np.testing.assert_array_equal(protocols["easy"].queries, [1, 0, 0, 0])
    np.testing.assert_array_equal(protocols["hard_view"].queries, [0, 1, 0, 0])
    np.testing.assert_array_equal(protocols["hard_cropping"].queries, [0, 0, 1, 0])
    np.testing.assert_array_equal(protocols["hard_occlusion"].queries, [0, 0, 0, 1])
    assert all("(synthetic)" in p.title for p in protocols.values())


def test_unannotated_queries_have_one_protocol():
    unknown = np.full(3, -1)
    protocols = make_protocols("manifest", 5, query_choices(unknown, unknown, unknown))
    assert [p.name for p in protocols] == ["all"]


def test_categories_are_protocols_with_galleries_of_their_own():
    bags = np.array([True, False, False, True])
    protocols = make_protocols("made up", 70, query_choices(*_FLAGS), [("bags", bags, 12)])
    assert [p.name for p in protocols][-1] == "category:bags"
    figures = measure(protocols[-1], _RANKS, _ITEMS)
    assert (figures.title, figures.gallery, figures.queries) == ("bags (made up)", 12, 2)


def test_the_mean_over_categories_is_unweighted():
    parts = [
        measure(Protocol(name, name, np.array(queries, bool), 10), _RANKS, _ITEMS)
        for name, queries in (("a", [1, 1, 0, 0]), ("b", [0, 0, 0, 1]), ("c", [0, 0, 1, 0]))
    ]
    mean = mean_of_categories(parts, "made up")
    assert mean.title == "Mean over 2 categories (made up)"  # c has no measured query
    assert mean.values["top1"] == pytest.approx((1 / 2 + 0) / 2)
    assert mean.values["top5"] == pytest.approx((1 + 0) / 2)
    assert (mean.queries, mean.without_match, mean.gallery) == (3, 1, None)
    low, high = mean.intervals["top1"]
    widths = [part.intervals["top1"][1] - part.intervals["top1"][0] for part in parts[:2]]
    assert high - mean.values["top1"] == pytest.approx(np.hypot(*widths) / 4)
    assert low == 0


def test_result_file_has_every_figure(tmp_path):
    evaluation = _evaluation()
    path = write_results(epath.Path(tmp_path), evaluation, "grnet", 800)
    found = json.loads(epath.Path(path).read_text())
    assert found == results_dict(evaluation, "grnet", 800)
    assert (found["dataset"], found["model"], found["step"]) == ("synthetic", "grnet", 800)
    wanted = {"top1", "top5", "top10", "top20", "top30", "top40", "top50", "map"}
    for protocol in found["protocols"].values():
        assert wanted | {"queries", "gallery", "queries_without_match"} <= protocol.keys()
        assert protocol["intervals_95"].keys() == wanted
    # The only query of this protocol has no match: no figure, rather than a zero.
    assert found["protocols"]["hard_cropping"]["top1"] is None
    assert found["protocols"]["hard_cropping"]["queries_without_match"] == 1


def test_reports_name_the_protocol():
    said = (
        "Queries: 4 customer photos of test (4 of 9, drawn with seed 1). Gallery: 70 shop photos "
        "of test + val; 1 queries have no match in it."
    )
    assert format_table(_evaluation()).startswith(said)
    found = results_dict(_evaluation(), "grnet", 1)
    assert found["gallery_splits"] == ["test", "val"]
    rows = _evaluation()
    pooled = dataclasses.replace(rows.figures["all"], gallery=None)
    assert "by category" in format_table(dataclasses.replace(rows, figures={"all": pooled}))
    assert (found["same_category"], found["sampled"]) == (False, "4 of 9, drawn with seed 1")


def test_table_names_queries_without_a_match():
    table = format_table(_evaluation())
    assert "33.3 [" in table
    assert "All queries (synthetic): 1 more queries show an item without a gallery photo" in table


def test_measuring_no_query_gives_no_number():
    nothing = Protocol("easy", "Easy", np.zeros(4, bool), 70)
    assert np.isnan(measure(nothing, _RANKS, _ITEMS).values["top1"])
