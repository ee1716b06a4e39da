"""What the page of results shows of a ranking that is known."""

import types

import numpy as np
import pytest
from etils import epath

from grnet_jax.evaluation.protocols import Group, Protocol, QuerySubset
from grnet_jax.evaluation.retrieval import RetrievalResult
from grnet_jax.evaluation.retrieval_metrics import compute_metrics
from grnet_jax.metrics import list_probabilities, measure_calibration
from grnet_jax.search.ranking import RankingResult
from grnet_jax.visualization.explanation_page import write_explanations
from grnet_jax.visualization.result_page import shows_probabilities, write_result_page
from tests.pages import Page

_QUERIES, _GALLERY = 4, 12
# Query i shows item i and its match, gallery image i, has this rank.
_RANKS = (3, 1, 11, 1)


class _Split:
    """Queries, then the gallery; the first two queries have a box, item 2 no category."""

    index = types.SimpleNamespace(
        photo_id=np.array([f"photo {n}" for n in range(16)]),
        item=np.array([*range(_QUERIES), *range(_GALLERY)]),
        items=np.array([f"<item {n}>" for n in range(_GALLERY)]),
        category=np.array([0, 0, -1, 1, 0, 0, -1, *[1] * 9]),
        categories=np.array(["Skirt", "Tee"]),
        view=np.array([0, 1, -1, 2, *[-1] * _GALLERY]),
        occluded=np.array([0, 1, 0, 0, *[0] * _GALLERY]),
        cropped=np.zeros(16, int),
        box=np.array([[5, 5, 20, 30]] * 2 + [[0, 0, 30, 40]] * 14, float),
    )

    def picture(self, row):
        """An image of one gray."""
        return np.full((40, 30, 3), 10 * row, np.uint8)


def _result(probable=True):
    indices = np.array(
        [np.roll(np.arange(_GALLERY), rank - 1 - q) for q, rank in enumerate(_RANKS)]
    )
    scores = np.tile(3 - np.arange(_GALLERY, dtype=np.float32), (_QUERIES, 1))
    ranks = np.array(_RANKS, np.int32)[:, None]
    everything = np.arange(_QUERIES), np.arange(_GALLERY)
    protocol = Protocol(
        dataset="made up",
        split="test",
        gallery_splits=("test",),
        images=_Split(),
        query_rows=np.arange(_QUERIES),
        gallery_rows=_QUERIES + np.arange(_GALLERY),
        positives=np.arange(_QUERIES)[:, None],
        groups=(Group("", *everything),),
    )
    subsets = [QuerySubset("all", "All queries", np.ones(_QUERIES, bool), _GALLERY)]
    found = list_probabilities(scores, indices, np.arange(_QUERIES)) if probable else None
    metrics = compute_metrics(subsets, ranks, np.arange(_QUERIES), scores[:, 0], found)
    return RetrievalResult(protocol, metrics, subsets, RankingResult(indices, scores, ranks), found)


def test_each_picture_says_what_it_is(tmp_path):
    text = epath.Path(write_result_page(epath.Path(tmp_path), _result(), "grnet", 5)).read_text()
    page = Page(text)
    alts = page.values("img", "alt")
    # Drawn at random, the best and the worst: each query once among the first, once in the others.
    assert len(alts) == 2 * (_QUERIES * (1 + 8) + 1)
    assert alts[0] in (
        "customer photo of item <item 1>, Skirt, side, occluded",
        "customer photo of item <item 3>, Tee, back",
    )
    assert "shop photo of item <item 1>, Skirt, rank 1, the same item" in alts
    assert "shop photo of item <item 0>, Skirt, rank 3, the same item" in alts
    assert "shop photo of item <item 2>, rank 11, the same item" in alts  # beyond those listed
    others = [alt for alt in alts if alt.endswith("not the same item")]
    assert len(others) == 2 * (_QUERIES * 8 - 3)
    classes = page.values("figure", "class")
    assert [classes.count(name) for name in ("asked", "same", "missed", "other")] == [8, 6, 2, 58]
    assert text.count("✓ found first") == 4
    assert text.index("✓ found first") < text.index("found at rank 3")
    assert "&lt;item 1&gt;" in text
    assert set(page.values("img", "loading")) == {"lazy"}


@pytest.mark.parametrize("there", [False, True])
def test_explanations_are_linked_where_they_are(tmp_path, there):
    directory = epath.Path(tmp_path)
    if there:
        (directory / "explanations.html").write_text("<p>Checkpoint: grnet, step 5.")
    path = write_result_page(directory, _result(False), "grnet", 5, explain="python -m command")
    text = epath.Path(path).read_text()
    assert Page(text).values("a", "href") == ["explanations.html"] * there
    assert ("python -m command" in text) == (not there)


@pytest.mark.parametrize(("step", "linked"), [(5, True), (6, False)])
def test_explanations_of_the_checkpoint_add_the_link_later(tmp_path, step, linked):
    directory = epath.Path(tmp_path)
    path = write_result_page(directory, _result(False), "grnet", 5, explain="python -m command")
    before = epath.Path(path).read_text()
    write_explanations(directory, [], model="grnet", step=step, source="Made up.")
    text = epath.Path(path).read_text()
    assert Page(text).values("a", "href") == ["explanations.html"] * linked
    again = write_result_page(directory, _result(False), "grnet", 5, explain="python -m command")
    assert epath.Path(again).read_text() == text  # as if it had been there before
    assert (text == before) == (not linked)


def test_probabilities_are_shown_where_they_are_calibrated(monkeypatch, tmp_path):
    def measured(said, count=1000):
        number = np.arange(count)
        return measure_calibration(np.full(count, said), number % 5 < 4, number)  # 80% are right

    assert shows_probabilities(measured(0.89))[0]
    shown, why = shows_probabilities(measured(0.91))
    assert (shown, "11.0 points" in why) == (False, True)
    assert not shows_probabilities(measured(0.8, 149))[0]
    assert shows_probabilities(None) == (False, "")
    name = "grnet_jax.visualization.result_page.shows_probabilities"
    monkeypatch.setattr(name, lambda best: (True, ""))
    result = _result()
    text = epath.Path(write_result_page(epath.Path(tmp_path), result, "grnet", 5)).read_text()
    assert f"{result.probabilities.p[2, 7]:.0%} the same" in text
    assert text.count("% the same") == 2 * _QUERIES * 8  # each query is shown twice
