"""Damaged annotation files of DeepFashion2 end in a message, or in records that are right."""

import io
import json
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from input_pipeline.datasets.on_error import KINDS
from tests.input_pipeline import deepfashion2_trees as trees
from tests.input_pipeline.conftest import check, describe

ROOT_FIELDS = {"item1", "item2", "item3", "source", "pair_id"}
FIELDS = sorted(trees.garment(1, 1))
VALUES = [
    *(None, True, False, 0, 1, 2, 3, 4, -1, 13, 14, 1.0, 1.5, 1e400, -1e99, 10**30, 2**31),
    *("", "1", "user", "shop", "skirt", "trousers", "item1", "\ud800", "\x00", "x" * 5000),
    *([], {}, [[]], [1, 2], [0, 0, 24, 36], [2, 2, 1, 1], [0, 0, 25, 37], [0, 0, 24, 99]),
    *(
        [[1, 1, 9, 9, 1, 9]],
        [[1, 1, 9]],
        [[1, 1, 9, 9]],
        [[-5, -5, 50, -5, 50, 50]],
        [{}],
        {"a": 1},
    ),
    *([0, 0, 0] * 8, [1, 1, 2] * 25, [99, 1, 1] * 25, [1, 1, 3] * 14, [5, 5, 0] * 14),
]
WORDS = [
    *(
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"9" * 4400,
        b"1E1",
        b"01",
        b"\xff",
        b"\x00",
        b"\xef\xbb\xbf",
    ),
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r", b"\xc2\xa0", b"//", b"null"),
    *(b'"style": 1,', b'"item1": {},', b'"source": "shop",', b'"\\u0069tem2": {},', b"[" * 3000),
]


def change_field(content, draw):
    target = draw(st.sampled_from([content, *(v for v in content.values() if isinstance(v, dict))]))
    names = sorted({*target, *FIELDS, *ROOT_FIELDS, "item", "item01", "extra"})
    name = draw(st.sampled_from(names))
    action = draw(st.sampled_from(["set", "set", "drop", "rename"]))
    if action == "set":
        target[name] = draw(st.sampled_from(VALUES))
    elif name in target:
        value = target.pop(name)
        if action == "rename":
            target[draw(st.sampled_from(names))] = value


def change_number(content, draw):
    """One number of a box, of landmarks or of a polygon."""
    garments = [value for value in content.values() if isinstance(value, dict)]
    name = draw(st.sampled_from(["bounding_box", "landmarks", "segmentation"]))
    lists = [garment[name] for garment in garments if isinstance(garment.get(name), list)]
    if not lists:
        return
    numbers = draw(st.sampled_from(lists))
    if numbers and isinstance(numbers[0], list):
        numbers = numbers[0]
    place = draw(st.integers(0, len(numbers)))
    value = draw(st.sampled_from([*VALUES[:20], *range(-2, 40)]))
    numbers[place : place + draw(st.integers(0, 2))] = [value]


def change_bytes(data, draw):
    place = draw(st.integers(0, len(data)))
    kind = draw(st.sampled_from(["cut", "insert", "replace", "repeat"]))
    if kind == "cut":
        return data[:place]
    if kind == "repeat":
        return data[:place] + data[draw(st.integers(0, len(data))) :]
    word = draw(st.one_of(st.sampled_from(WORDS), st.binary(min_size=1, max_size=4)))
    return data[:place] + word + data[place + (len(word) if kind == "replace" else 0) :]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A download whose annotation files the test puts back itself."""
    return trees.write_deepfashion2(tmp_path_factory.mktemp("fuzz") / "tree")


def assert_is_what_the_file_says(root, row, header):
    """Reads the file with Python's own reader, and compares each field with the documented form."""
    content = json.loads(row.location.path.read_bytes())
    folder, _, number = row.image.removesuffix(".jpg").split("/")
    assert row.location.path == root / folder / f"annos/{number}.json"
    garment = content[row.location.part]
    assert row.split == {"train": "train", "validation": "test"}[folder]
    assert row.domain == {"user": "customer", "shop": "shop"}[content["source"]]
    parts = [folder, content["pair_id"], garment["style"]]
    if garment["style"] == 0:
        parts += [number, row.location.part]
    assert row.item_id == "/".join(map(str, parts))
    category_id = garment["category_id"]
    assert row.category == garment["category_name"] == trees.NAMES[category_id - 1]
    assert np.abs(np.subtract(row.box, garment["bounding_box"])).max() <= 1  # moved to the edge
    x_1, y_1, x_2, y_2 = row.box
    assert 0 <= x_1 < x_2 <= header.width
    assert 0 <= y_1 < y_2 <= header.height
    assert len(row.landmarks) == trees.landmark_count(category_id)
    for slot, (x, y, visibility) in zip(
        row.landmarks.tolist(), np.reshape(garment["landmarks"], (-1, 3)).tolist(), strict=True
    ):
        assert slot[0] == {2: 0, 1: 1, 0: -1}[visibility]
        if visibility:
            assert max(abs(slot[1] - x), abs(slot[2] - y)) <= 1
            assert 0 <= slot[1] < header.width
            assert 0 <= slot[2] < header.height
    assert row.view == {1: 0, 2: 0, 3: 1}[garment["viewpoint"]]
    assert row.occluded == {1: 0, 2: 1, 3: 1}[garment["occlusion"]]
    assert row.cropped == {1: 0, 2: 1, 3: 1}[garment["zoom_in"]]


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_mutated_annotation_files(root, data):
    files = sorted(root.rglob("*.json"))
    damaged = data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=2, unique=True))
    originals = {path: path.read_bytes() for path in damaged}
    try:
        for path, original in originals.items():
            content = json.loads(original)
            for change in data.draw(
                st.lists(st.sampled_from([change_field, change_number]), max_size=2)
            ):
                change(content, data.draw)
            mutated = json.dumps(content, indent=data.draw(st.sampled_from([None, 1]))).encode()
            if data.draw(st.booleans()):
                mutated = change_bytes(mutated, data.draw)
            path.write_bytes(mutated)
        report = check("deepfashion2", root, on_error="skip").report
        assert_right(root, report, damaged)
    finally:
        for path, original in originals.items():
            path.write_bytes(original)


def assert_right(root, report, damaged):
    config = describe("deepfashion2", root)
    for row, header in report.rows:
        assert_is_what_the_file_says(root, row, header)
        if row.location.path in damaged:
            mask = np.asarray(Image.open(io.BytesIO(config.mask(row, header.height, header.width))))
            assert mask.shape == (header.height, header.width)
            assert set(np.unique(mask)) <= {0, 255}
    for problem in report.problems:
        assert problem.location.path in damaged
        lines = problem.location.path.read_bytes().count(b"\n") + 1
        assert 1 <= problem.location.line <= lines
        assert problem.kind in KINDS
        assert len(str(problem)) < 400
        assert re.match(rf"{re.escape(str(root))}/\w+/annos/\d+\.json:\d+: .", str(problem))
    # Only garments of damaged files may be lost.
    untouched = sum(
        key.startswith("item")
        for path in root.rglob("*.json")
        if path not in damaged
        for key in json.loads(path.read_bytes())
    )
    assert sum(row.location.path not in damaged for row, _ in report.rows) == untouched


def test_the_tree_is_whole(root):
    """What the test above starts from has no problem at all."""
    report, fatal, summary = check("deepfashion2", root)
    assert fatal == []
    assert (report.problems, summary["tolerated"]) == ([], {})
    assert len(report.rows) == 12
