"""Which queries are shown, and the page of them."""

import numpy as np
import pytest
from etils import epath

from grnet_jax.errors import InputError
from grnet_jax.evaluation.protocols import Group, Protocol
from grnet_jax.evaluation.retrieval import RetrievalResult
from grnet_jax.search.ranking import RankingResult
from grnet_jax.visualization.chosen_pairs import (
    ChosenPair,
    best_matches,
    choose_queries,
    named_pair,
    pairs_of_query,
)
from grnet_jax.visualization.explanation_page import (
    ExplainedPair,
    Section,
    has_explanations,
    write_explanations,
)
from grnet_jax.visualization.explanations import CroppedImage, Explanation
from grnet_jax.visualization.strongest_nodes import StrongNode
from tests.pages import Page


def test_half_of_the_queries_are_rightly_answered():
    ranks = np.array([[1, 0]] * 10 + [[3, 1]] * 10 + [[2, 7]] * 20 + [[0, 0]] * 20)
    chosen = choose_queries(ranks, 8, seed=0)
    assert len(set(chosen)) == 8
    assert (chosen[:4] < 20).all()
    assert ((chosen[4:] >= 20) & (chosen[4:] < 40)).all()
    np.testing.assert_array_equal(chosen, choose_queries(ranks, 8, seed=0))
    assert set(chosen) != set(choose_queries(ranks, 8, seed=1))


@pytest.mark.parametrize(
    ("right", "wrong", "count", "rightly"),
    [(1, 20, 8, 1), (20, 1, 8, 7), (2, 1, 8, 2), (0, 3, 2, 0), (3, 3, 5, 3)],
)
def test_where_one_kind_is_rare_more_of_the_other_are_shown(right, wrong, count, rightly):
    chosen = choose_queries(np.array([[1]] * right + [[2]] * wrong), count, seed=0)
    assert len(chosen) == min(count, right + wrong)
    assert (chosen < right).sum() == rightly


def _result(ranks, indices, positives):
    protocol = Protocol(
        dataset="made up",
        split="test",
        gallery_splits=("test",),
        images=None,
        query_rows=np.array([100]),
        gallery_rows=np.arange(200, 210),
        positives=np.array([positives]),
        groups=(Group("", np.arange(1), np.arange(10)),),
    )
    ranking = RankingResult(np.array([indices]), np.zeros((1, len(indices))), np.array([ranks]))
    return RetrievalResult(protocol, {}, [], ranking)


def test_a_query_is_shown_with_what_was_found_and_with_what_was_right():
    right = _result([4, 1], [7, 3, 2, 5], [5, 7])
    assert pairs_of_query(right, 0) == [ChosenPair(100, 207, "Found first, the item", True)]
    wrong = _result([4, 2, 0], [3, 7, 2, 5], [5, 7, -1])
    assert pairs_of_query(wrong, 0) == [
        ChosenPair(100, 203, "Found first, another item", False),
        ChosenPair(100, 207, "The item, found at rank 2", True),
    ]
    tied = _result([2], [7, 3, -1], [7])  # the tie counts against us
    assert [pair.gallery for pair in pairs_of_query(tied, 0)] == [203, 207]
    assert best_matches(tied, 0, 8) == [(207, 0.0, True), (203, 0.0, False)]
    assert best_matches(wrong, 0, 2) == [(203, 0.0, False), (207, 0.0, True)]


class _Index:
    photo_id = np.array(["q1", "q2", "s1", "both", "both"])
    domain = np.array([0, 0, 1, 1, 0])
    item = np.array([4, 5, 5, 4, 5])


def test_photos_are_found_by_their_names():
    assert named_pair(_Index, "q2", "s1") == ChosenPair(1, 2, "The item", True)
    assert named_pair(_Index, "both", "both") == ChosenPair(4, 3, "Another item", False)
    with pytest.raises(InputError, match="--gallery=q1: the split has no shop photo"):
        named_pair(_Index, "q1", "q1")


def test_the_page_has_a_row_of_two_crops_for_each_region_pair(tmp_path):
    photo = CroppedImage("<street>.jpg", np.full((40, 30, 3), 90, np.uint8), (5, 5, 25, 35), None)
    heat = np.ones((4, 4), np.float32)
    node = StrongNode(0.0213, (3, 3), (0, 0, 0.4, 0.4), (0.3, 0.3, 0.7, 0.7))
    full = Explanation(-1.234, heat, heat, [node], [node, node], 1 / 124)
    attention = 0.25 * heat, np.linspace(0.5, 0.75, 16, dtype=np.float32).reshape(4, 4)
    bare = Explanation(2.0, heat, 0 * heat, [], [], 0.0, attention)
    sections = [
        Section("one", [ExplainedPair("found", False, photo, photo, full)] * 2),
        Section("two", [ExplainedPair("this", None, photo, photo, bare)]),
    ]
    directory = epath.Path(tmp_path)
    path = write_explanations(directory, sections, model="grnet", step=5, source="Made up.")
    assert [str(file) for file in directory.iterdir()] == [path]
    text = epath.Path(path).read_text()
    alts = Page(text).values("img", "alt")
    assert len(alts) == 3 * 4 + 2 + 2 * 3 * 2
    assert alts[-1] == "attention over the gallery photo <street>.jpg"
    assert "0.50 to 0.75, 0.62 on average" in text
    assert alts[:3] == ["query photo <street>.jpg", "gallery photo <street>.jpg",
                        "Grad-CAM over the query photo <street>.jpg"]  # fmt: skip
    assert alts.count("region pair 1: gallery region at scale 3 × 3") == 4
    assert "score -1.23" in text
    assert "2.13%" in text
    assert text.count("Nothing raises the score.") == 1
    assert text.count("✗") == 2
    assert "✓" not in text
    checkpoints = [("grnet", 5), ("grnet", 50), ("other", 5)]
    assert [has_explanations(directory, *one) for one in checkpoints] == [True, False, False]
    assert not has_explanations(directory / "elsewhere", "grnet", 5)
