"""The table of all data sets: its schema, how rows fit their images, and how rows contradict."""

import numpy as np
import pandas as pd
import pytest

from input_pipeline import DatasetError
from input_pipeline.errors import AnnotationError
from input_pipeline.masks import draw
from input_pipeline.table import KINDS, check_table, complete, parse_on_error
from input_pipeline.vocabulary import BOX
from tests.input_pipeline.conftest import photo_bytes
from tests.input_pipeline.test_deepfashion import BAD_ROWS as BAD_ROWS_OF_LISTS

USUAL = {
    **{"image": "a.jpg", "item_id": "x", "split": "train", "domain": "shop", "category": ""},
    **{"view": "", "source": "list:3", "image_source": "i:4", "box_source": "b:5"},
    "landmarks_source": "l:6",
}
SQUARE = [[2, 2, 6, 2, 6, 6, 2, 6]]  # pixels 2 to 5 of both axes


def box(*corners):
    return dict(zip(BOX, corners, strict=True))


BAD_ROWS = [
    (
        {"image": "a\x00.jpg"},
        "value",
        "list:3",
        "field 'image': expected printable characters, got",
    ),
    ({"item_id": "x\n"}, "value", "list:3", "field 'item_id': expected printable characters, got"),
    ({"domain": "street"}, "value", "list:3", "field 'domain': expected customer or shop, got 's"),
    ({"split": ""}, "value", "list:3", "field 'split': expected train, val or test, got ''"),
    ({"view": "top"}, "value", "list:3", "field 'view': expected front, side, back, zoom_out, "),
    ({"occluded": "yes"}, "value", "list:3", "field 'occluded': expected 0 or 1, got 'yes'"),
    ({"cropped": 2}, "value", "list:3", "field 'cropped': expected 0 or 1, got 2"),
    ({"height": "tall"}, "value", "i:4", "field 'height': expected a number of pixels, got 'tall'"),
    ({"width": -1e10}, "value", "i:4", "field 'width': expected a number of pixels, got -1"),
    (box("1", "2", "x", "20"), "box", "b:5", "field 'x_2': expected a number of pixels, got 'x'"),
    (box(1, 2, 9, np.inf), "box", "b:5", "field 'y_2': expected a number of pixels, got inf"),
    (box(1, 2, 9, None), "box", "b:5", "the box lacks a number"),
    (box(9, 2, 9, 20), "box", "b:5", "field 'x_2': the box has no size: 9 is not above x_1=9"),
    (box(1, 0.2, 9, 0.8), "box", "b:5", "the box 1, 0.2, 9, 0.8 is smaller than a pixel"),
    (box(-2, 0, 9, 9), "box", "b:5", "field 'x_1': -2 is outside the image of 24x36 pixels"),
    (box(24, 2, 25, 9), "box", "b:5", "nothing of the box lies in the image of 24x36 pixels"),
    (
        {"landmarks": np.array([[1, 26, 3]])},
        "landmarks",
        "l:6",
        "landmark (26, 3) is outsi",
    ),
    ({"segmentation": SQUARE, **box(12, 12, 20, 20)}, "mask", "list:3", "field 'segmentation': al"),
    ({"image": "gone.jpg"}, "missing_image", "i:4", "gone.jpg: no such file"),
    ({"image": "cut.jpg"}, "unreadable_image", "i:4", "cut.jpg: "),
    ({"height": 24, "width": 25}, "unreadable_image", "i:4", "fields 'height' and 'width': 25x24,"),
]


@pytest.fixture
def check(tmp_path):
    """Checks rows of these fields beside the usual ones; images are 24 x 36 (width x height)."""
    data = photo_bytes(1, size=(36, 24))
    for name, content in {"a.jpg": data, "b.jpg": data, "cut.jpg": data[:300]}.items():
        (tmp_path / name).write_bytes(content)

    def check_rows(*changes):
        rows = pd.DataFrame([{**USUAL, **change} for change in changes])
        return check_table(rows.assign(path=f"{tmp_path}/" + rows["image"]), max_pixels=1000)

    return check_rows


def test_all_bad_rows_are_told_at_once(check):
    rows = [{"item_id": f"{n}", **changes} for n, (changes, *_) in enumerate(BAD_ROWS)]
    checked = check(*rows, {"item_id": "right"})
    assert checked.table["item_id"].tolist() == ["right"]
    assert len(checked.problems) == sum(checked.kinds().values()) == len(BAD_ROWS)
    for _, *place, text in BAD_ROWS:
        told = [each.text for each in checked.problems if each[:2] == tuple(place)]
        assert sum(each.startswith(text) for each in told) == 1, (told, text)
    kinds = {kind for _, kind, *_ in BAD_ROWS} | {row[5] for row in BAD_ROWS_OF_LISTS if row[5]}
    assert kinds == KINDS.keys()
    assert len(KINDS) <= 10


def test_rows_that_contradict_others(check):
    checked = check(
        {"source": "list:1"},
        {"source": "list:2", "image": "b.jpg", "split": "test"},
        {"source": "list:3", "domain": "customer"},
        {"image_source": "list:10"},
        {"source": "list:4", **box(1, 2, 9, 20)},  # another garment of the image
        {"source": "list:5", "item_id": ""},  # of no item: as often as it likes
        {"source": "list:6", "item_id": "", "split": "test"},
    )
    assert [f"{problem.kind} {problem}" for problem in checked.problems] == [
        "contradiction list:2: item 'x' is in split 'train' at list:1, here in 'test'",
        "contradiction list:3: 'a.jpg' is in domain 'shop' at list:1, here in 'customer'",
        "duplicate list:10: 'a.jpg' of item 'x' is listed at list:1 already",
    ]
    assert (checked.bad_rows(), len(checked.table)) == (3, 4)


def test_right_rows_are_typed_and_fitted(check):
    first = {**box("-1", "2", "25", "36.5"), "view": "back", "occluded": "1", "height": 36}
    points = np.array([[0, 24, -1], [1, 3, 4], [2, 900, 900], [-1, 0, 0]], np.int32)
    first |= {"width": "24", "landmarks": points}
    second = {"segmentation": SQUARE, "image": "./b.jpg", **box(0, 0, 9, 9), "cropped": 0}
    table, problems, notes = check(first, second, {"item_id": "whole"})
    assert problems == []
    assert notes == {"box moved to the image's edge": 1, "landmark moved to the image's edge": 1}
    assert table[BOX].to_numpy()[:2].tolist() == [[0, 2, 24, 36], [0, 0, 9, 9]]
    assert table[BOX].iloc[2].isna().all()
    assert table["landmarks"][0].tolist() == [[0, 23, 0], [1, 3, 4], [2, 900, 900], [-1, 0, 0]]
    small = table[["view", "occluded", "cropped"]].to_numpy().tolist()
    assert small == [[2, 1, -1], [-1, -1, 0], [-1, -1, -1]]
    assert table["image"].tolist() == ["a.jpg", "b.jpg", "a.jpg"]
    assert table[["width", "height"]].to_numpy().tolist() == [[24, 36]] * 3
    expected = np.pad(np.ones((4, 4), np.uint8), ((2, 30), (2, 18)))
    np.testing.assert_array_equal(draw(table["mask"][1], 36, 24), expected)


def test_complete_adds_the_columns_that_a_converter_does_not_know():
    table = complete(pd.DataFrame({"source": ["l:1", "l:2"], "box_source": ["b:1", None]}))
    assert table["box_source"].tolist() == ["b:1", "l:2"]
    assert table["image_source"].tolist() == table["landmarks_source"].tolist() == ["l:1", "l:2"]
    assert table[["item_id", "category", "view", "domain"]].iloc[0].tolist() == ["", "", "", "shop"]
    assert table[[*BOX, "occluded", "cropped", "height", "width"]].isna().all(axis=None)
    assert not table[["attributes", "unknown_attributes", "problems"]].map(len).any(axis=None)


def test_kinds_that_are_left_out():
    policies = {"": {"mask"}, "error": set(), "skip": set(KINDS), "box, value": {"box", "value"}}
    for on_error, kinds in policies.items():
        assert parse_on_error(on_error, ["mask"]) == kinds
    with pytest.raises(DatasetError, match=r"--on_error='box,hat': 'hat' is neither.*kinds are "):
        parse_on_error("box,hat", [])


def test_many_problems_are_shown_in_part():
    text = str(AnnotationError([f"list:{line}: wrong" for line in range(123)]))
    assert text.startswith("123 problems:\nlist:0: wrong\n")
    assert "\n... and 23 more; python -m input_pipeline.prepare --check lists all\n" in text
