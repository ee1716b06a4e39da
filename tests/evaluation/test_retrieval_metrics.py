"""Figures per protocol, tables and result files, from ranks that are known."""

import dataclasses
import json
import types

import numpy as np
import pandas as pd
import pytest
from etils import epath

from grnet_jax.evaluation.breakdowns import box_area_fraction, break_down
from grnet_jax.evaluation.protocols import Group, Protocol, QuerySubset, list_subsets
from grnet_jax.evaluation.reports import (
    format_breakdowns,
    format_table,
    pad_ranks,
    query_table,
    results_dict,
    write_results,
)
from grnet_jax.evaluation.retrieval import RetrievalResult
from grnet_jax.evaluation.retrieval_metrics import (
    METRIC_NAMES,
    compute_metrics,
    macro_average,
    query_metrics,
)
from grnet_jax.metrics import ListProbabilities, Listwise
from grnet_jax.search.ranking import RankingResult
from input_pipeline import query_subsets

_RANKS = np.array([[1, 4], [2, 0], [0, 0], [60, 0]], np.int32)
_ITEMS = np.array([0, 1, 2, 3])
_BEST = np.array([3.0, 1.0, 2.0, -1.0], np.float32)
# Of the queries' best images, of which the first alone shows its query's item.
_PROBABILITIES = ListProbabilities(
    Listwise(1.0, 0.0),
    *(np.array([[0.9, 0.05], [0.5, 0.3], [0.7, 0.1], [0.2, 0.2]]), np.array([0.05, 0.2, 0.2, 0.6])),
    np.ones((4, 2), bool),
    np.array([[True, False], [False, True], [False] * 2, [False] * 2]),
    _ITEMS,
)
# Of the last query nothing is known.
_FLAGS = np.array([0, 1, 0, 0]), np.array([0, 0, 0, 1]), np.array([0, 0, 1, -1])
_INDEX = types.SimpleNamespace(
    photo_id=np.array([f"photo {row}" for row in range(70)]),
    content=np.arange(70),
    items=np.array([f"item {row}" for row in range(70)]),
    item=np.r_[_ITEMS, 0:66],
    view=np.array([0, 1, 0, -1]),
    occluded=_FLAGS[1],
    cropped=_FLAGS[2],
    category=np.array([2, 2, 0, -1]),
    categories=np.array(["dress", "coat", "top"]),
    box=np.array([[0, 0, 10, 4], [0, 0, 10, 19], [2, 3, 7, 9], [0, 0, 10, 20]], np.float32),
    size=np.array([[20, 10], [20, 10], [20, 10], [20, 10]]),
)


def _evaluation():
    protocols = list_subsets("synthetic", 70, query_subsets(*_FLAGS))
    figures = compute_metrics(protocols, _RANKS, _ITEMS, _BEST, _PROBABILITIES)
    ranking = RankingResult(np.array([[0], [5], [5], [5]]), _BEST[:, None], _RANKS)
    protocol = Protocol(
        dataset="synthetic",
        split="test",
        gallery_splits=("test", "val"),
        images=types.SimpleNamespace(index=_INDEX),
        query_rows=np.arange(4),
        gallery_rows=np.arange(70),
        positives=np.array([[0, 1], [2, -1], [-1, -1], [3, -1]]),
        groups=(Group("", np.arange(4), np.arange(70)),),
        sampled="4 of 9, drawn with seed 1",
    )
    return RetrievalResult(protocol, figures, protocols, ranking, _PROBABILITIES)


def test_breakdowns_are_over_the_queries_of_a_group():
    found = break_down(_evaluation())
    assert {kind: list(groups) for kind, groups in found.items()} == {
        "view": ["front", "side"],
        "scale": ["0% to 20%", "20% to 40%", "80% to 100%"],
        "category": ["dress", "top"],
    }
    top, dress = found["category"]["top"], found["category"]["dress"]
    assert (top.queries, top.without_match, dress.queries, dress.without_match) == (2, 0, 0, 1)
    np.testing.assert_allclose([top.values["top1"], top.values["top5"]], [1 / 2, 1])
    np.testing.assert_allclose(top.values["map"], ((1 + 2 / 4) / 2 + 1 / 2) / 2)
    np.testing.assert_allclose(
        box_area_fraction(_INDEX.box, _INDEX.size), [0.2, 0.95, 0.15, np.nan]
    )
    assert found["scale"]["80% to 100%"].values["top1"] == 0
    results = results_dict(_evaluation(), "x", 1)
    assert results["breakdowns"]["view"]["side"]["queries"] == 1
    text = format_breakdowns(_evaluation())
    assert "By scale of the query: queries, top-1, top-20" in text
    (line,) = [line for line in text.splitlines() if line.startswith("  dress")]
    assert line.split() == ["dress", "0", "-"]


def test_figures_are_over_the_queries_with_a_match():
    figures = _evaluation().metrics["all"]
    assert (figures.queries, figures.without_match, figures.gallery) == (3, 1, 70)
    np.testing.assert_allclose(
        [figures.values[k] for k in ("top1", "top5", "top50", "map")],
        [1 / 3, 2 / 3, 2 / 3, np.mean([(1 + 2 / 4) / 2, 1 / 2, 1 / 60])],
    )
    for name, value in figures.values.items():
        low, high = figures.intervals[name]
        assert 0 <= low <= value <= high <= 1


def test_protocols_choose_queries_by_their_flags():
    protocols = {p.name: p for p in _evaluation().subsets}
    np.testing.assert_array_equal(protocols["easy"].queries, [1, 0, 0, 0])
    np.testing.assert_array_equal(protocols["hard_view"].queries, [0, 1, 0, 0])
    np.testing.assert_array_equal(protocols["hard_cropping"].queries, [0, 0, 1, 0])
    np.testing.assert_array_equal(protocols["hard_occlusion"].queries, [0, 0, 0, 1])
    assert all("(synthetic)" in p.title for p in protocols.values())


def test_unannotated_queries_have_one_protocol():
    unknown = np.full(3, -1)
    protocols = list_subsets("manifest", 5, query_subsets(unknown, unknown, unknown))
    assert [p.name for p in protocols] == ["all"]


def test_categories_are_protocols_with_galleries_of_their_own():
    bags = np.array([True, False, False, True])
    protocols = list_subsets("made up", 70, query_subsets(*_FLAGS), [("bags", bags, 12)])
    assert [p.name for p in protocols][-1] == "category:bags"
    figures = compute_metrics(protocols, _RANKS, _ITEMS)["category:bags"]
    assert (figures.title, figures.gallery, figures.queries) == ("bags (made up)", 12, 2)


def test_the_mean_over_categories_is_unweighted():
    protocols = [
        QuerySubset(name, name, np.array(queries, bool), 10)
        for name, queries in (("a", [1, 1, 0, 0]), ("b", [0, 0, 0, 1]), ("c", [0, 0, 1, 0]))
    ]
    parts = list(compute_metrics(protocols, _RANKS, _ITEMS).values())
    mean = macro_average(parts, "made up")
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
    path = write_results(epath.Path(tmp_path), results_dict(evaluation, "grnet", 800))
    found = json.loads(epath.Path(path).read_text())
    assert found == results_dict(evaluation, "grnet", 800)
    assert (found["dataset"], found["model"], found["step"]) == ("synthetic", "grnet", 800)
    wanted = {f"{name}{k}" for name in ("top", "recall") for k in (1, 5, 10, 20, 30, 40, 50)}
    wanted |= {"mrr", "map", "map_revisitop", "map_at_r"}
    for protocol in found["protocols"].values():
        assert wanted | {"queries", "gallery", "queries_without_match"} <= protocol.keys()
        assert protocol["intervals_95"].keys() == wanted
    # The only query of this protocol has no match: no figure, rather than a zero.
    assert found["protocols"]["hard_cropping"]["top1"] is None
    assert found["protocols"]["hard_cropping"]["queries_without_match"] == 1


def test_means_over_the_file_of_ranks_are_the_result_files(tmp_path):
    evaluation = _evaluation()
    other = np.array([[1, 2, 4], [2, 3, 0], [0, 0, 0], [9, 0, 0]], np.int32)
    everyone = dataclasses.replace(evaluation.subsets[0], name="all_identical")
    evaluation = dataclasses.replace(
        evaluation,
        metrics=evaluation.metrics | compute_metrics([everyone], other, _ITEMS),
        ranking=dataclasses.replace(evaluation.ranking, other_ranks=other),
    )
    _, path = evaluation.write(epath.Path(tmp_path), "grnet", 800, {"seed": 1})
    table = pd.read_parquet(path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["provenance"] == {"seed": 1}
    values = {name: query_metrics(pad_ranks(table[name])) for name in ("ranks", "identical_ranks")}
    for name, figures in results["protocols"].items():
        column = "identical_ranks" if name == "all_identical" else "ranks"
        chosen = (table["rank"] > 0) & table.get(name, True)
        assert chosen.sum() == figures["queries"]
        for metric, found in zip(METRIC_NAMES, values[column][chosen].T, strict=True):
            expected = pytest.approx(found.mean(), abs=1e-6) if chosen.any() else None
            assert figures[metric] == expected
    assert table.drop(columns=["ranks", "identical_ranks"]).iloc[1].to_dict() == {
        "photo_id": "photo 1",
        "item_id": "item 1",
        "category": "top",
        **dict.fromkeys(("easy", "hard_occlusion", "hard_cropping"), False),
        "hard_view": True,
        "rank": 2,
        "score": pytest.approx(np.nan, nan_ok=True),  # not among the listed
        "top_photo_id": "photo 5",
        "top_score": 1.0,
    }
    assert table["score"][0] == table["top_score"][0] == 3
    assert table["category"].tolist() == ["top", "top", "dress", ""]


def test_a_query_without_a_gallery_has_no_top_photo():
    evaluation = _evaluation()
    nothing = RankingResult(np.full((4, 1), -1), np.full((4, 1), -np.inf), np.zeros_like(_RANKS))
    table = query_table(dataclasses.replace(evaluation, ranking=nothing))
    assert table["top_photo_id"].tolist() == [""] * 4
    assert table[["score", "top_score"]].isna().all(axis=None)
    assert [len(ranks) for ranks in table["ranks"]] == [0] * 4


def test_the_gallerys_fingerprint_is_of_its_images_and_items():
    protocol = _evaluation().protocol

    def found(rows=protocol.gallery_rows, **columns):
        index = types.SimpleNamespace(**vars(_INDEX) | columns)
        images = types.SimpleNamespace(index=index)
        changed = dataclasses.replace(protocol, images=images, gallery_rows=rows)
        result = dataclasses.replace(_evaluation(), protocol=changed)
        return results_dict(result, "x", 1)["gallery_fingerprint"]

    content = _INDEX.content
    assert found() == found(np.arange(70)[::-1]) == found(content=7 * content + 3)
    others = (
        found(np.arange(69)),
        found(content=content[::-1]),
        found(photo_id=np.array([f"other {row}" for row in range(70)])),
        found(item=_INDEX.item[::-1]),
    )
    assert len({found(), *others}) == 5


def test_reports_name_the_protocol():
    said = (
        "Queries: 4 customer photos of test (4 of 9, drawn with seed 1). Gallery: 70 shop photos "
        "of test + val; 1 queries have no match in it."
    )
    assert format_table(_evaluation()).startswith(said)
    found = results_dict(_evaluation(), "grnet", 1)
    assert found["gallery_splits"] == ["test", "val"]
    rows = _evaluation()
    pooled = dataclasses.replace(rows.metrics["all"], gallery=None)
    assert "by category" in format_table(dataclasses.replace(rows, metrics={"all": pooled}))
    assert (found["same_category"], found["sampled"]) == (False, "4 of 9, drawn with seed 1")


def test_table_names_queries_without_a_match():
    table = format_table(_evaluation())
    assert "33.3 [" in table
    assert "All queries (synthetic): 1 more queries show an item without a gallery photo" in table


def test_measuring_no_query_gives_no_number():
    nothing = QuerySubset("easy", "Easy", np.zeros(4, bool), 70)
    figures = compute_metrics([nothing], _RANKS, _ITEMS, _BEST, _PROBABILITIES)["easy"]
    assert all(np.isnan(value) for value in figures.values.values())
    assert np.isnan(list(figures.intervals.values())).all()
    assert (figures.open_set, figures.best_match) == (None, None)


def test_protocols_measured_together_are_those_measured_alone():
    rng = np.random.default_rng(0)
    ranks = np.sort(rng.integers(1, 80, (60, 3)), axis=1).astype(np.int32)
    ranks[rng.random(60) < 0.3] = 0
    ranks[:, 2] = np.where(rng.random(60) < 0.5, 0, ranks[:, 2])
    items, best = rng.integers(0, 20, 60), rng.normal(size=60).astype(np.float32)
    protocols = [QuerySubset(str(g), str(g), rng.random(60) < 0.5, 70) for g in range(3)]
    p, right = rng.random((60, 1)), rng.random((60, 1)) < 0.5
    known = ListProbabilities(
        Listwise(1.0, 0.0), p, 1 - p[:, 0], np.ones((60, 1), bool), right, items
    )
    together = compute_metrics(protocols, ranks, items, best, known)
    for protocol in protocols:
        q = protocol.queries
        whole = QuerySubset("only", "only", np.ones(q.sum(), bool), 70)
        part = known._replace(**{name: getattr(known, name)[q] for name in known._fields[1:]})
        alone = compute_metrics([whole], ranks[q], items[q], best[q], part)["only"]
        found = together[protocol.name]
        for one, other in (
            (found.values, alone.values),
            (found.intervals, alone.intervals),
            (found.best_match.values, alone.best_match.values),
        ):
            assert one.keys() == other.keys()
            np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-5)
        np.testing.assert_allclose(found.open_set.auroc, alone.open_set.auroc, rtol=1e-5)
        np.testing.assert_allclose(found.open_set.interval, alone.open_set.interval, rtol=1e-5)
        np.testing.assert_allclose(found.open_set.curve, alone.open_set.curve, rtol=1e-6)


def test_open_set_figures_need_queries_with_and_without_a_match():
    figures = _evaluation().metrics
    # Of 3, 1 and -1 two are below 2, which no item in the gallery earned.
    assert figures["all"].open_set.auroc == pytest.approx(1 / 3)
    assert figures["all"].open_set.fpr_at_95_tpr == 1
    assert figures["all"].open_set.curve.tolist()[0] == [0, 0]
    assert figures["all"].open_set.curve.tolist()[-1] == [1, 1]
    assert figures["easy"].open_set is None  # its query has a match
    assert figures["hard_cropping"].open_set is None  # its query has none


def test_calibration_of_best_matches_counts_queries_without_a_match_as_misses():
    p, right = _PROBABILITIES.p[:, 0], np.array([1, 0, 0, 0])
    found = _evaluation().metrics["all"].best_match
    assert found.results == 4
    assert found.brier == pytest.approx(np.mean((p - right) ** 2))
    # Every one is in a bin of its own.
    assert found.values["ece"] == pytest.approx(np.mean(np.abs(p - right)))
    assert compute_metrics(_evaluation().subsets, _RANKS, _ITEMS, _BEST)["all"].best_match is None


def test_a_query_without_a_gallery_has_no_best_match():
    best = np.array([3.0, 1.0, -np.inf, -1.0], np.float32)
    known = _PROBABILITIES._replace(there=np.isfinite(best)[:, None] & _PROBABILITIES.there)
    figures = compute_metrics(_evaluation().subsets, _RANKS, _ITEMS, best, known)
    assert figures["all"].best_match.results == 3
    assert figures["all"].open_set.auroc == 1
    assert figures["hard_cropping"].best_match is None


def test_result_file_has_calibration_and_open_set():
    found = results_dict(_evaluation(), "grnet", 1)
    json.dumps(found, allow_nan=False)
    assert (found["calibration"]["scale"], found["calibration"]["listed"]) == (1, 2)
    for name, count in (("shown", 8), ("best_match", 4)):
        for bins in ("equal_width", "equal_mass"):
            rows = found["calibration"][name][bins]
            assert sum(row[0] for row in rows) == count
            ece = sum(n * abs(said - right) for n, said, right in rows) / count
            key = "ece" if bins == "equal_width" else "ece_equal_mass"
            assert found["calibration"][name][key] == pytest.approx(ece, rel=1e-4)
    everything = found["protocols"]["all"]
    assert everything["open_set"]["auroc"] == pytest.approx(1 / 3, abs=1e-6)
    low, high = everything["open_set"]["intervals_95"]["auroc"]
    assert low < 1 / 3 < high
    assert everything["best_match"]["brier"] == found["calibration"]["best_match"]["brier"]
    assert "open_set" not in found["protocols"]["easy"]


def test_the_table_says_how_far_scores_can_be_trusted():
    table = format_table(_evaluation())
    assert "tells 3 queries with a match from 1 without: area under the ROC curve 33.3 [" in table
    assert "a mean probability of 57.5 and are right in 25.0;" in table
