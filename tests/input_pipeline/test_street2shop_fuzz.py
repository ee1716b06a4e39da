"""Damaged lists of Exact Street2Shop end in a message, or in records that the lists have."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from input_pipeline import InputError
from input_pipeline.datasets.on_error import KINDS
from tests.input_pipeline import street2shop_trees as trees
from tests.input_pipeline.conftest import check

VALUES = [
    *(-1, 0, 1, 7, 101, 901, 20.0, 2.5, 10**9, -(10**12), 10**400, 1e308, -1e-300, True, False),
    *(None, "1", "", "\ud800", [], [1], {}, {"photo": 1}, float("nan"), float("-inf"), "x" * 200),
]
PHOTOS = (1, 3, 4, 101, 104, 901, 903)
PRODUCTS = (10, 11, 20, 30, 31)
KEYS = ("photo", "product", "bbox", "left", "top", "width", "height")
NOISE = [
    *(b"\xff\xfe", b"\x00", b"\xef\xbb\xbf", b"\r", b"\n", b",", b"]", b"[", b"}", b"{", b'"'),
    *(b"-", b"9" * 5000, b"1e3", b"NaN", b"null", b"[" * 3000, b'"photo":3,', b"\xc2\xa0"),
]


def truncate(data: bytes, draw) -> bytes:
    return data[: -draw(st.integers(1, len(data)))]


def put_noise(data: bytes, draw) -> bytes:
    place = draw(st.sampled_from(range(len(data) + 1)))
    return data[:place] + draw(st.sampled_from(NOISE)) + data[place:]


def cut_out(data: bytes, draw) -> bytes:
    start = draw(st.sampled_from(range(len(data))))
    return data[:start] + data[start + draw(st.integers(1, 9)) :]


def change_elements(data: bytes, draw) -> bytes:
    """Values, keys and whole elements change, in JSON that stays JSON, on one line or many."""
    try:
        elements = json.loads(data)
    except ValueError:
        return put_noise(data, draw)  # photos.txt
    for _ in range(draw(st.integers(1, 3))):
        number = draw(st.sampled_from(range(len(elements))))
        element = elements[number]
        bbox = element.get("bbox")
        target = draw(st.sampled_from([element, bbox if isinstance(bbox, dict) else element]))
        key = draw(st.sampled_from(KEYS))
        what = draw(
            st.sampled_from(["value", "other", "delete", "swap", "whole", "repeat", "move"])
        )
        if what == "value":
            target[key] = draw(st.sampled_from(VALUES))
        elif what == "other":
            element["photo"] = draw(st.sampled_from([element.get("photo"), *PHOTOS]))
            element["product"] = draw(st.sampled_from(PRODUCTS))
        elif what == "delete":
            target.pop(key, None)
        elif what == "swap":
            other = draw(st.sampled_from(KEYS))
            target[key], target[other] = target.get(other), target.get(key)
        elif what == "whole":
            elements.append(draw(st.sampled_from(VALUES)))
            break
        elif what == "repeat":
            elements.append(element)
            break
        else:
            elements.insert(0, elements.pop(number))
    return json.dumps(elements, indent=draw(st.sampled_from([None, 1]))).encode()


def swap_lines(data: bytes, draw) -> bytes:
    lines = data.split(b"\n")
    first, second = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    lines[first], lines[second] = lines[second], lines[first]
    return b"\n".join(lines)


MUTATIONS = [truncate, put_noise, cut_out, change_elements, change_elements, swap_lines]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A download, whose lists the test puts back itself."""
    return trees.write_street2shop(tmp_path_factory.mktemp("fuzz") / "tree")


def assert_right(report, lists: dict[str, bytes]) -> None:
    """Each row is what its element says, and each element is a row or a problem."""
    elements = {
        # By itself Python refuses to read thousands of digits.
        path: json.loads(content.decode("utf-8-sig"), parse_int=lambda text: int(text[:4000]))
        for path, content in lists.items()
    }
    rest = {(path, number + 1) for path, found in elements.items() for number in range(len(found))}
    for problem in report.problems:
        assert problem.kind in KINDS
        if not str(problem.location.path).endswith("photos.txt"):
            path, line, part = problem.location
            assert line <= 1 + lists[str(path)].count(b"\n")
            rest.discard((str(path), int(part.removeprefix("element "))))
    for row, header in report.rows:
        path, _, part = row.location
        number = int(part.removeprefix("element "))
        rest.remove((str(path), number))
        element = elements[str(path)][number - 1]
        stem = Path(path).stem
        kind, category = stem.split("_")[0], stem.split("_")[-1]
        assert row.image == f"{element['photo']:09d}.jpg"
        assert row.item_id == f"{category}/{element['product']}"
        assert row.category == category
        assert row.domain == ("shop" if kind == "retrieval" else "customer")
        if kind == "retrieval":
            assert row.box is None
            continue
        assert row.split == kind
        bbox = element["bbox"]
        box = (bbox["left"], bbox["top"])
        box += (box[0] + bbox["width"], box[1] + bbox["height"])
        assert row.box == pytest.approx(box, abs=1)  # a pixel over the edge is cut
        assert 0 <= row.box[0] < row.box[2] <= header.width
        assert 0 <= row.box[1] < row.box[3] <= header.height
    assert not rest
    homes: dict[str, str] = {}
    for row, _ in report.rows:
        assert homes.setdefault(row.item_id, row.split) == row.split


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_mutated_lists(tree, data):
    paths = sorted([*tree.glob("meta/json/*.json"), tree / trees.PHOTO_LIST])
    damaged = data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=2, unique=True))
    policy = data.draw(st.sampled_from(["error", "skip"]))
    originals = {path: path.read_bytes() for path in damaged}
    message, report = "", None
    try:
        for path, content in originals.items():
            mutate = data.draw(st.sampled_from(MUTATIONS))
            path.write_bytes(mutate(content, data.draw))
        lists = {str(path): path.read_bytes() for path in paths if path.suffix == ".json"}
        report = check("street2shop", tree, on_error=policy).report
    except InputError as error:
        message = str(error)
    finally:
        for path, content in originals.items():
            path.write_bytes(content)
    if report is None:
        lines = [line for line in message.splitlines() if line.startswith(str(tree))]
        assert len(lines) == 1
        assert lines[0].partition(".json:")[2].partition(":")[0].isdigit()
    else:
        assert_right(report, lists)


def test_mended_tree_is_whole(tmp_path):
    """What the test above starts from has no problem at all."""
    root = trees.write_street2shop(tmp_path / "tree")
    report, fatal, _ = check("street2shop", root)
    assert (fatal, report.problems) == ([], [])
    assert len(report.rows) == 16
    lists = {str(path): path.read_bytes() for path in root.glob("meta/json/*.json")}
    assert_right(report, lists)
