"""Damaged files in COCO's form end in a message, or in records that are right."""

import copy
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from input_pipeline.datasets.object_listing import turn_mask
from input_pipeline.datasets.on_error import KINDS

from input_pipeline import InputError
from input_pipeline.vocabulary import SPLITS
from tests.input_pipeline import coco_trees as trees
from tests.input_pipeline.conftest import check

VALUES = [
    *(None, True, -1, 0, 1, 2, 3, 11, 24, 35.5, 36, 864, 2**31, 2**63, 10**400, 1e300, -0.0),
    *("", "1", "bag", "train", "0001.jpg", "../0001.jpg", "\x00", "\ud800", "o" * 50, "0", "P"),
    *([], {}, [1], [[1]], [[1, 2, 3, 4, 5, 6]], [0, 0, 36, 24], [[0, 0, 1e9, 0, 5, 5]]),
    *({"size": [24, 36], "counts": [864]}, {"size": [24, 36], "counts": "0"}, {"size": [1e9, 2]}),
]


def damage_value(content, draw):
    """Replaces, removes or repeats something anywhere in the file."""
    content = copy.deepcopy(content)
    inside, last = content, draw(st.sampled_from(list(content)))
    for _ in range(draw(st.integers(0, 5))):
        value = inside[last]
        if not value or not isinstance(value, dict | list):
            break
        inside = value
        last = draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value))))
    if isinstance(inside, list) and draw(st.booleans()):
        inside.append(copy.deepcopy(draw(st.sampled_from(inside))))
    elif draw(st.booleans()):
        del inside[last]
    else:
        inside[last] = draw(st.sampled_from(VALUES))
    return content


def damage_text(data, draw):
    """Cuts bytes out, or puts some in."""
    start = draw(st.integers(0, len(data)))
    stop = min(len(data), start + draw(st.integers(0, 8)))
    inserted = draw(
        st.one_of(
            st.binary(max_size=4), st.sampled_from([b"NaN", b"1e999", b"{", b"[" * 3000, b'"'])
        )
    )
    return data[:start] + inserted + data[stop:]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The folder of `coco_trees.street`, whose annotations the test puts back itself."""
    return trees.write_coco(tmp_path_factory.mktemp("fuzz") / "coco")


def assert_right(report):
    assert len({photo.row.image for photo in report.rows}) == len(report.rows)
    for row, header, objects, turn in report.rows:
        assert row.split in SPLITS
        assert (header.height, header.width, turn) == (24, 36, 1)
        for found in objects:
            x_1, y_1, x_2, y_2 = found.box
            assert 0 <= x_1 < x_2 <= 36
            assert 0 <= y_1 < y_2 <= 24
            assert 0 <= found.category < len(report.categories)
            assert isinstance(found.crowd, bool)
            if found.mask is None:
                continue
            y, x = np.nonzero(turn_mask(found.mask.pixels(), turn))
            assert x.size
            assert x.min() < x_2 + 1
            assert y.min() < y_2 + 1


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_damaged_annotations(root, data):
    path = root / "annotations.json"
    content = trees.street()
    if data.draw(st.booleans()):
        for image in content["images"]:
            image["split"] = "val"
    for _ in range(data.draw(st.integers(1, 2))):
        content = damage_value(content, data.draw)
        if not content:
            break
    text = json.dumps(content, indent=data.draw(st.sampled_from([None, 1]))).encode()
    if data.draw(st.integers(0, 3)) == 0:
        text = damage_text(text, data.draw)
    path.write_bytes(text)
    message = ""
    try:
        report, fatal, _ = check("coco", root, on_error="skip")
    except InputError as error:
        message = str(error)
    if message:
        assert f"{path}:" in message
        return
    assert fatal == []
    assert_right(report)
    assert report.bad_rows() <= len(report.problems)
    assert bool(report.bad_rows()) == bool(report.problems)
    for problem in report.problems:
        assert problem.kind in KINDS
        assert 1 <= problem.location.line <= text.count(b"\n") + 1
        assert problem.location.part.startswith(("image", "annotation", "categor"))


def test_undamaged_annotations_are_whole(root):
    """What the test above starts from has no problem at all."""
    trees.write_json(root / "annotations.json", trees.street())
    report, fatal, _ = check("coco", root)
    assert (fatal, report.problems) == ([], [])
    assert sum(len(photo.objects) for photo in report.rows) == 6
