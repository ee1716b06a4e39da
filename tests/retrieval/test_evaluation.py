"""Figures per protocol, tables and result files, from ranks that are known."""

import json
import types

import numpy as np
import pytest
from etils import epath

from grnet_jax.retrieval.evaluation import Evaluation, EvaluationError, check_split, measure
from grnet_jax.retrieval.protocols import Protocol, make_protocols
from grnet_jax.retrieval.ranking import Ranking
from grnet_jax.retrieval.report import format_table, results_dict, write_results

_RANKS = np.array([[1, 4], [2, 0], [0, 0], [60, 0]], np.int32)
_ITEMS = np.array([0, 1, 2, 3])


def _evaluation():
    protocols = make_protocols(
        np.array([0, 1, 0, 0]), np.array([0, 0, 0, 1]), np.array([0, 0, 1, -1]), "synthetic"
    )
    figures = {p.name: measure(p, _RANKS, _ITEMS, gallery=70) for p in protocols}
    ranking = Ranking(_RANKS, np.zeros((4, 1), int), np.zeros((4, 1)))
    rows = np.arange(4)
    return Evaluation("synthetic", "test", figures, protocols, rows, rows, ranking)


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
    protocols = make_protocols(unknown, unknown, unknown, "manifest")
    assert [p.name for p in protocols] == ["all"]


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


def test_table_names_queries_without_a_match():
    table = format_table(_evaluation())
    assert "33.3 [" in table
    assert "All queries (synthetic): 1 more queries show an item without a gallery photo" in table


@pytest.mark.parametrize(
    ("domain", "items", "message"),
    [
        ([1, 1], [0, 1], "'test' has an empty query set"),
        ([0, 0], [0, 1], "'test' has an empty gallery set"),
        ([0, 1], [0, 1], "none of its 1 queries shows an item"),
    ],
)
def test_a_split_that_cannot_be_measured_is_named(domain, items, message):
    domain = np.array(domain)
    split = types.SimpleNamespace(
        name="test",
        index=types.SimpleNamespace(item=np.array(items)),
        query_rows=lambda: np.flatnonzero(domain == 0),
        gallery_rows=lambda: np.flatnonzero(domain == 1),
    )
    with pytest.raises(EvaluationError, match=message):
        check_split(split)


def test_measuring_no_query_gives_no_number():
    nothing = Protocol("easy", "Easy", np.zeros(4, bool))
    assert np.isnan(measure(nothing, _RANKS, _ITEMS, 70).values["top1"])
