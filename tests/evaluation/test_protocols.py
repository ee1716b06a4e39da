"""Which queries are asked, and which gallery they are asked of."""

import types

import numpy as np
import pytest

from grnet_jax.config import ProtocolConfig
from grnet_jax.errors import InputError
from grnet_jax.evaluation.protocols import (
    EvaluationError,
    build_protocol,
    identical_rows,
    positive_rows,
    sample_protocol,
)


class FakeDataset:
    """Splits of photos (photo_id, item, domain, category); a photo may have a box of its own."""

    title = "made up"

    def __init__(self, **splits):
        self._photos = splits
        self.splits = tuple(splits)
        self._contents = sorted({photo[0] for photos in splits.values() for photo in photos})

    def has_split(self, name):
        return name in self._photos

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
            items=np.arange(1000).astype(str),
            content=np.array([self._contents.index(photo[0]) for photo in photos]),
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

    def crop_boxes(self, image):
        """The boxes, or the same whole image of all."""
        return self.index.box if image is None else np.zeros((len(self), 4))


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


def build(dataset=DATASET, image=None, **options):
    return build_protocol(dataset, image, ProtocolConfig(**options))


def names(protocol, rows):
    return protocol.images.index.photo_id[rows].tolist()


def found(protocol, query):
    rows = protocol.positives[query]
    return names(protocol, protocol.gallery_rows[rows[rows >= 0]])


def test_a_photo_of_two_items_is_in_the_gallery_once():
    protocol = build()
    assert names(protocol, protocol.query_rows) == ["q1", "q2", "q3"]
    assert names(protocol, protocol.gallery_rows) == ["s1", "s2", "s3", "s3"]
    assert [sorted(found(protocol, q)) for q in range(3)] == [["s1", "s3", "s3"], ["s1", "s2"], []]
    assert (
        "3 customer photos of test. Gallery: 4 shop photos of test; 1 queries"
        in protocol.describe()
    )


def test_boxes_that_are_not_cut_out_do_not_tell_photos_apart():
    protocol = build(image="whole images")
    assert names(protocol, protocol.gallery_rows) == ["s1", "s2", "s3"]
    assert [sorted(found(protocol, q)) for q in range(3)] == [["s1", "s3"], ["s1", "s2"], []]


def test_matches_of_another_category_are_none_in_galleries_of_categories():
    photos = [
        ("q0", 0, 0, 0), ("s0", 0, 1, 1),  # the item's shop photo is called a hat
        ("q1", 1, 0, 0), ("s1", 1, 1, 0),
    ]  # fmt: skip
    mixed = FakeDataset(test=photos)
    protocol = build(mixed, same_category=True)
    assert [found(protocol, q) for q in range(2)] == [[], ["s1"]]
    assert "1 queries have no match" in protocol.describe()
    for seed in range(5):  # only the query with a match can be drawn
        drawn = build(mixed, same_category=True, queries=f"1,{seed}")
        assert names(drawn, drawn.query_rows) == ["q1"]
    assert build(mixed).positives.min() >= 0
    with pytest.raises(EvaluationError, match="none of its 1 queries"):
        build(FakeDataset(test=photos[:2]), same_category=True)


@pytest.mark.parametrize(
    ("gallery", "splits", "photos"),
    [
        ("val+test", ("test", "val"), ["s1", "s2", "s3", "s3", "v1"]),
        ("all", ("test", "train", "val"), ["s1", "s2", "s3", "s3", "t1", "v1"]),
    ],
)
def test_galleries_of_several_splits(gallery, splits, photos):
    protocol = build(gallery=gallery)
    assert protocol.gallery_splits == splits
    assert names(protocol, protocol.query_rows) == ["q1", "q2", "q3"]  # of test alone
    assert names(protocol, protocol.gallery_rows) == photos
    assert [sorted(found(protocol, q)) for q in range(3)] == [["s1", "s3", "s3"], ["s1", "s2"], []]
    assert f"of {' + '.join(splits)}" in protocol.describe()


def test_galleries_of_each_category():
    protocol = build(same_category=True)
    # s1 stands in both categories' galleries.
    assert names(protocol, protocol.gallery_rows) == ["s1", "s2", "s1", "s3", "s3"]
    groups = {
        group.category: (names(protocol, protocol.query_rows[group.queries]),
                         names(protocol, protocol.gallery_rows[group.gallery]))
        for group in protocol.groups
    }  # fmt: skip
    assert groups == {
        "bags": (["q1", "q3"], ["s1", "s3", "s3"]),
        "hats": (["q2"], ["s2", "s1"]),
    }
    assert "ranked within the query's category" in protocol.describe()


def test_photos_that_stand_in_two_places_are_counted():
    test = [("q", 1, 0, 0), ("own", 2, 0, 0), ("own", 2, 1, 0), ("s", 1, 1, 0), ("seen", 3, 1, 0)]
    train = [("seen", 9, 1, 0), ("q", 9, 0, 0), ("x", 9, 0, 0)]
    protocol = build(FakeDataset(train=train, test=test))
    assert protocol.overlaps == {
        "queries are in the gallery themselves": 1,
        "queries are training photos": 1,
        "gallery photos are training photos": 1,
    }
    assert protocol.describe().endswith(" 1 gallery photos are training photos.")
    assert "1 queries are in the gallery themselves." in protocol.describe()
    assert not build(FakeDataset(train=train[2:], test=test[:1] + test[3:4])).overlaps


def test_drawn_queries():
    many = FakeDataset(
        test=[(f"s{n}", n, 1, 0) for n in range(40)] + [(f"q{n}", n, 0, 0) for n in range(50)]
    )
    protocol = build(many, queries="12,3")
    assert len(protocol.query_rows) == 12
    assert (protocol.positives[:, 0] >= 0).all()  # the ten without a match are not drawn
    assert "(12 of 50, drawn with seed 3)" in protocol.describe()
    again = build(many, queries="12,3")
    np.testing.assert_array_equal(protocol.query_rows, again.query_rows)
    other = build(many, queries="12,4")
    assert (protocol.query_rows != other.query_rows).any()
    with pytest.raises(EvaluationError, match=r"eval\.protocol\.queries=41: only 40 queries"):
        build(many, queries=41)


def test_queries_that_a_file_names(tmp_path):
    path = tmp_path / "reduced.txt"
    path.write_text("\ufeffq2\n\nq3,7\nq2\n")
    photos = [("s1", 0, 1, 0), ("q1", 0, 0, 0), ("q2", 1, 0, 1), ("q2", 0, 0, 1), ("q3", 7, 0, 0)]
    photos += [("q3", 1, 0, 0)]
    dataset = FakeDataset(test=photos)
    protocol = build(dataset, queries=str(path))
    assert names(protocol, protocol.query_rows) == ["q2", "q2", "q3"]
    assert protocol.images.index.item[protocol.query_rows].tolist() == [1, 0, 7]
    assert "3 customer photos of test (3 of 5, listed in reduced.txt)" in protocol.describe()
    for content, message in (
        ("q2\nq9\n", r"reduced.txt:2: 'q9': the split has no such query; expected IMAGE or"),
        ("q2,7\n", r"reduced.txt:1: 'q2,7'"),
        ("\n", r"eval\.protocol\.queries=.*reduced.txt: the file names no query"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            build(dataset, queries=str(path))
    with pytest.raises(InputError, match=r"^nowhere\.txt: no such file"):
        build(dataset, queries="nowhere.txt")
    for wrong in (2**31, f"5,{2**32}"):
        with pytest.raises(ValueError, match=r"expected numbers below 2\*\*31"):
            build(dataset, queries=wrong)


def test_validation_draws_queries_and_keeps_their_matches():
    shops, customers = range(400), range(0, 500, 10)  # the last ten without a match
    photos = [(f"s{n}", n, 1, n % 2) for n in shops] + [(f"q{n}", n, 0, n % 2) for n in customers]
    whole = build(FakeDataset(test=photos), same_category=True)
    drawn = sample_protocol(whole, 12)
    assert (len(drawn.query_rows), len(drawn.gallery_rows)) == (12, 12 * 11)
    for query in range(12):
        assert found(drawn, query) == [names(drawn, drawn.query_rows)[query].replace("q", "s")]
    (group,) = drawn.groups
    assert (len(group.queries), len(group.gallery)) == (12, len(set(group.gallery.tolist())))
    assert "12 customer photos of test (12 of 50, drawn with seed 0)" in drawn.describe()
    assert "132 shop photos of test (132 of 400, the matches and others)" in drawn.describe()
    again = sample_protocol(whole, 12)
    np.testing.assert_array_equal(drawn.gallery_rows, again.gallery_rows)
    # With no more than asked for, all stay, those without a match too.
    same = sample_protocol(whole, 40)
    np.testing.assert_array_equal(same.query_rows, whole.query_rows)
    np.testing.assert_array_equal(same.gallery_rows, whole.gallery_rows)
    np.testing.assert_array_equal(same.positives, whole.positives)
    assert same.describe() == whole.describe()


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
        build(FakeDataset(test=photos))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (
            {"gallery": "train"},
            r"eval\.protocol\.gallery='train' does not hold eval\.protocol\.split='test'",
        ),
        ({"gallery": "test+dev"}, "no split 'dev'"),
    ],
)
def test_choices_that_cannot_be(choices, message):
    with pytest.raises(InputError, match=message):
        build(**choices)


def test_categories_have_to_be_known():
    photos = [("a", 0, 1, 0), ("b", 0, 0, -1)]
    with pytest.raises(EvaluationError, match="query 'b' has no category"):
        build(FakeDataset(test=photos), same_category=True)


def test_identical_files_count_as_matches():
    content = np.array([4, 7, 4, 7, 9, 4])
    positives = np.array([[0, -1], [1, 4], [-1, -1]])
    rows = identical_rows(positives, content)
    assert [set(row[row >= 0].tolist()) for row in rows] == [{0, 2, 5}, {1, 3, 4}, set()]


def test_positive_rows_lists_each_items_gallery_rows():
    rows = positive_rows(np.array([3, 8, 1]), np.array([1, 3, 1, 3, 3]))
    assert [set(row[row >= 0].tolist()) for row in rows] == [{1, 3, 4}, set(), {0, 2}]
    assert rows.shape == (3, 3)
