"""Which queries are asked, and which gallery they are asked of."""

import types

import numpy as np
import pytest

from grnet_jax.errors import InputError
from grnet_jax.metrics import calibration_sums, positive_ranks
from grnet_jax.retrieval.evaluation import _within
from grnet_jax.retrieval.ranking import Ranking, merge_rankings
from grnet_jax.retrieval.tasks import EvaluationError, identical_rows, make_task, positive_rows


class FakeDataset:
    """Splits of photos (photo_id, item, domain, category); a photo may have a box of its own."""

    title = "made up"

    def __init__(self, **splits):
        self._photos = splits
        self.splits = tuple(splits)

    def split(self, name):
        if name not in self._photos:
            raise InputError(f"no split {name!r}")
        return self.joined([name])

    def joined(self, names):
        photos = [photo for name in names for photo in self._photos[name]]
        columns = list(zip(*[photo[:4] for photo in photos], strict=True))
        index = types.SimpleNamespace(
            photo_id=np.array(columns[0]),
            item=np.array(columns[1]),
            domain=np.array(columns[2]),
            category=np.array(columns[3]),
            box=np.array([photo[4] if len(photo) > 4 else (0, 0, 1, 1) for photo in photos]),
            categories=np.array(["bags", "hats"]),
        )
        return FakeSplit("+".join(names), index)


class FakeSplit:
    def __init__(self, name, index):
        self.name, self.index = name, index

    def __len__(self):
        return len(self.index.item)

    def query_rows(self):
        return np.flatnonzero(self.index.domain == 0)

    def gallery_rows(self):
        return np.flatnonzero(self.index.domain == 1)

    def cuts(self, data):
        """The boxes, or the same whole photo of all."""
        return self.index.box if data is None else np.zeros((len(self), 4))


DATASET = FakeDataset(
    train=[("t1", 9, 1, 0), ("t2", 9, 0, 0)],
    val=[("v1", 5, 1, 1), ("v2", 5, 0, 1)],
    test=[
        ("s1", 0, 1, 0),
        ("q1", 0, 0, 0),
        ("s2", 1, 1, 1),
        ("s1", 1, 1, 1),  # one photo, listed for two items
        ("q2", 1, 0, 1),
        ("q3", 7, 0, 0),  # its item has no shop photo
        ("s3", 0, 1, 0, (0, 0, 9, 9)),
        ("s3", 0, 1, 0, (1, 1, 5, 5)),  # one photo with two boxes
    ],
)


def names(task, rows):
    return task.photos.index.photo_id[rows].tolist()


def found(task, query):
    rows = task.positives[query]
    return names(task, task.gallery_rows[rows[rows >= 0]])


def test_a_photo_of_two_items_is_in_the_gallery_once():
    task = make_task(DATASET, "test", None)
    assert names(task, task.query_rows) == ["q1", "q2", "q3"]
    assert names(task, task.gallery_rows) == ["s1", "s2", "s3", "s3"]
    assert [sorted(found(task, q)) for q in range(3)] == [["s1", "s3", "s3"], ["s1", "s2"], []]
    assert "3 customer photos of test. Gallery: 4 shop photos of test; 1 queries" in task.describe()


def test_boxes_that_are_not_cut_out_do_not_tell_photos_apart():
    task = make_task(DATASET, "test", "whole photos")
    assert names(task, task.gallery_rows) == ["s1", "s2", "s3"]
    assert [sorted(found(task, q)) for q in range(3)] == [["s1", "s3"], ["s1", "s2"], []]


def test_matches_of_another_category_are_none_in_galleries_of_categories():
    photos = [
        ("q0", 0, 0, 0), ("s0", 0, 1, 1),  # the item's shop photo is called a hat
        ("q1", 1, 0, 0), ("s1", 1, 1, 0),
    ]  # fmt: skip
    mixed = FakeDataset(test=photos)
    task = make_task(mixed, "test", None, same_category=True)
    assert [found(task, q) for q in range(2)] == [[], ["s1"]]
    assert "1 queries have no match" in task.describe()
    for seed in range(5):  # only the query with a match can be drawn
        drawn = make_task(mixed, "test", None, same_category=True, queries=1, query_seed=seed)
        assert names(drawn, drawn.query_rows) == ["q1"]
    assert make_task(mixed, "test", None).positives.min() >= 0
    with pytest.raises(EvaluationError, match="none of its 1 queries"):
        make_task(FakeDataset(test=photos[:2]), "test", None, same_category=True)


@pytest.mark.parametrize(
    ("gallery", "splits", "photos"),
    [
        ("val+test", ("test", "val"), ["s1", "s2", "s3", "s3", "v1"]),
        ("all", ("test", "train", "val"), ["s1", "s2", "s3", "s3", "t1", "v1"]),
    ],
)
def test_galleries_of_several_splits(gallery, splits, photos):
    task = make_task(DATASET, "test", None, gallery=gallery)
    assert task.gallery_splits == splits
    assert names(task, task.query_rows) == ["q1", "q2", "q3"]  # of test alone
    assert names(task, task.gallery_rows) == photos
    assert [sorted(found(task, q)) for q in range(3)] == [["s1", "s3", "s3"], ["s1", "s2"], []]
    assert f"of {' + '.join(splits)}" in task.describe()


def test_galleries_of_each_category():
    task = make_task(DATASET, "test", None, same_category=True)
    # s1 stands in both categories' galleries.
    assert names(task, task.gallery_rows) == ["s1", "s2", "s1", "s3", "s3"]
    groups = {
        group.category: (names(task, task.query_rows[group.queries]),
                         names(task, task.gallery_rows[group.gallery]))
        for group in task.groups
    }  # fmt: skip
    assert groups == {
        "bags": (["q1", "q3"], ["s1", "s3", "s3"]),
        "hats": (["q2"], ["s2", "s1"]),
    }
    assert "ranked within the query's category" in task.describe()


def test_drawn_queries():
    many = FakeDataset(
        test=[(f"s{n}", n, 1, 0) for n in range(40)] + [(f"q{n}", n, 0, 0) for n in range(50)]
    )
    task = make_task(many, "test", None, queries=12, query_seed=3)
    assert len(task.query_rows) == 12
    assert (task.positives[:, 0] >= 0).all()  # the ten without a match are not drawn
    assert "(12 of 50, drawn with seed 3)" in task.describe()
    again = make_task(many, "test", None, queries=12, query_seed=3)
    np.testing.assert_array_equal(task.query_rows, again.query_rows)
    other = make_task(many, "test", None, queries=12, query_seed=4)
    assert (task.query_rows != other.query_rows).any()
    with pytest.raises(EvaluationError, match=r"eval\.queries=41: only 40 queries"):
        make_task(many, "test", None, queries=41)


@pytest.mark.parametrize(
    ("photos", "message"),
    [
        ([("a", 0, 1, 0), ("b", 1, 1, 0)], "'test' has an empty query set"),
        ([("a", 0, 0, 0), ("b", 1, 0, 0)], "'test' has an empty gallery set"),
        ([("a", 0, 0, 0), ("b", 1, 1, 0)], "none of its 1 queries shows an item"),
    ],
)
def test_a_split_that_cannot_be_measured_is_named(photos, message):
    with pytest.raises(EvaluationError, match=message):
        make_task(FakeDataset(test=photos), "test", None)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"gallery": "train"}, r"eval\.gallery='train' does not hold eval\.split='test'"),
        ({"gallery": "test+dev"}, "no split 'dev'"),
        ({"queries": -1}, r"eval\.queries"),
    ],
)
def test_choices_that_cannot_be(choices, message):
    with pytest.raises(InputError, match=message):
        make_task(DATASET, "test", None, **choices)


def test_categories_have_to_be_known():
    photos = [("a", 0, 1, 0), ("b", 0, 0, -1)]
    with pytest.raises(EvaluationError, match="query 'b' has no category"):
        make_task(FakeDataset(test=photos), "test", None, same_category=True)


def test_identical_files_count_as_matches():
    content = np.array([4, 7, 4, 7, 9, 4])
    positives = np.array([[0, -1], [1, 4], [-1, -1]])
    rows = identical_rows(positives, content)
    assert [set(row[row >= 0].tolist()) for row in rows] == [{0, 2, 5}, {1, 3, 4}, set()]


def test_rankings_of_parts_are_those_of_masked_scores():
    """Against ranking everything at once, with other groups' photos out of the competition."""
    rng = np.random.default_rng(0)
    queries, gallery = rng.integers(0, 3, 20), rng.integers(0, 3, 50)
    items, shop_items = rng.integers(0, 8, 20), rng.integers(0, 8, 50)
    same = (items[:, None] == shop_items) & (queries[:, None] == gallery)
    positives = np.array([np.pad(np.flatnonzero(row), (0, 50))[:50] for row in same])
    positives[np.arange(50)[None] >= same.sum(axis=1)[:, None]] = -1
    scores = rng.normal(size=(20, 50)).astype(np.float32)
    masked = np.where(queries[:, None] == gallery, scores, -np.inf)
    parts = []
    for group in range(3):
        q, g = np.flatnonzero(queries == group), np.flatnonzero(gallery == group)
        own = scores[np.ix_(q, g)]
        best = np.argsort(-own, axis=1)[:, :9]
        ranks = np.asarray(positive_ranks(own, _within(positives[q], g)))
        sums = calibration_sums(own, same[np.ix_(q, g)], np.array([0.0]))
        found = Ranking(ranks, best, np.take_along_axis(own, best, 1), calibration=sums)
        parts.append((found, q, g))
    merged = merge_rankings(parts, 20)
    np.testing.assert_array_equal(merged.ranks, positive_ranks(masked, positives))
    together = calibration_sums(scores, same, np.array([0.0]), masked > -np.inf)
    for one, other in zip(merged.calibration, together, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    for query in range(20):
        order = np.argsort(-masked[query])[:9]
        np.testing.assert_array_equal(merged.top_rows[query, :9], order)


def test_positive_rows_lists_each_items_gallery_rows():
    rows = positive_rows(np.array([3, 8, 1]), np.array([1, 3, 1, 3, 3]))
    assert [set(row[row >= 0].tolist()) for row in rows] == [{1, 3, 4}, set(), {0, 2}]
    assert rows.shape == (3, 3)
