"""Damaged annotation files of DeepFashion end in a message, or in records that are right."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from input_pipeline.datasets.on_error import KINDS

from input_pipeline import InputError
from input_pipeline.vocabulary import DOMAINS, SPLITS, TRUNCATED
from tests.input_pipeline import deepfashion_trees as trees
from tests.input_pipeline.conftest import check

WRITERS = {
    "deepfashion_c2s": trees.write_c2s,
    "deepfashion_inshop": trees.write_inshop,
    "deepfashion_attributes": trees.write_attributes,
    "deepfashion_fine": trees.write_fine,
}
WORDS = [
    *(b"-1", b"-999", b"0", b"007", b"25", b"37", b"2147483648", b"9" * 40, b"1e3", b"nan", b"inf"),
    *(
        b"\xff\xfe",
        b"\x00",
        "\N{FULLWIDTH DIGIT ONE}".encode(),
        b"\xc2\xa0",
        b"\r",
        b"\n",
        b"\x1c24",
    ),
    *(b"train", b"query", b"img/", b"img/../x.jpg", b"/etc/hosts", b"x" * 5000),
]


def truncate(data: bytes, draw) -> bytes:
    """Mostly near the end, where the file still has its first lines."""
    return data[: -draw(st.integers(1, len(data)))]


def put_bytes(data: bytes, draw) -> bytes:
    place = draw(st.sampled_from(range(len(data) + 1)))
    return data[:place] + draw(st.binary(min_size=1, max_size=6)) + data[place:]


def change_field(data: bytes, draw) -> bytes:
    lines = data.split(b"\n")
    number = draw(st.sampled_from(range(len(lines))))
    fields = lines[number].split() or [b""]
    fields[draw(st.sampled_from(range(len(fields))))] = draw(st.sampled_from(WORDS))
    return b"\n".join([*lines[:number], b" ".join(fields), *lines[number + 1 :]])


def swap_fields(data: bytes, draw) -> bytes:
    """Two columns change places, in every row or in one."""
    lines = data.split(b"\n")
    first, second = draw(st.integers(0, 8)), draw(st.integers(0, 8))
    start = draw(st.sampled_from(range(len(lines))))
    stop = draw(st.sampled_from([start + 1, len(lines)]))
    for number in range(start, stop):
        fields = lines[number].split()
        if max(first, second) < len(fields):
            fields[first], fields[second] = fields[second], fields[first]
            lines[number] = b" ".join(fields)
    return b"\n".join(lines)


def swap_lines(data: bytes, draw) -> bytes:
    lines = data.split(b"\n")
    first, second = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    lines[first], lines[second] = lines[second], lines[first]
    return b"\n".join(lines)


def repeat_line(data: bytes, draw) -> bytes:
    lines = data.split(b"\n")
    return b"\n".join([*lines, draw(st.sampled_from(lines))])


MUTATIONS = [truncate, put_bytes, change_field, swap_fields, swap_lines, repeat_line]


@pytest.fixture(scope="module")
def tree(tmp_path_factory, request):
    """A download of a benchmark, whose annotation files the test puts back itself."""
    return request.param, WRITERS[request.param](tmp_path_factory.mktemp("fuzz") / "tree")


def assert_right(report) -> None:
    for row, header in report.rows:
        assert row.split in SPLITS
        assert row.domain in DOMAINS
        x_1, y_1, x_2, y_2 = row.box
        assert 0 <= x_1 < x_2 <= header.width
        assert 0 <= y_1 < y_2 <= header.height
        if row.landmarks is None:
            continue
        for visibility, x, y in row.landmarks.tolist():
            assert visibility in (-1, 0, 1, TRUNCATED)
            inside = 0 <= x < header.width and 0 <= y < header.height
            assert inside or visibility == TRUNCATED


@pytest.mark.parametrize("tree", list(WRITERS), indirect=True)
@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_mutated_annotation_files(tree, data):
    name, root = tree
    files = sorted(Path(root).rglob("*.txt"))
    damaged = data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=2, unique=True))
    policy = data.draw(st.sampled_from(["error", "skip"]))
    originals = {path: path.read_bytes() for path in damaged}
    message, report = "", None
    try:
        for path, content in originals.items():
            mutate = data.draw(st.sampled_from(MUTATIONS))
            path.write_bytes(mutate(content, data.draw))
        report = check(name, root, on_error=policy).report
    except InputError as error:
        message = str(error)
    finally:
        for path, content in originals.items():
            path.write_bytes(content)
    if report is None:
        assert str(root) in message
    else:
        assert_right(report)
        assert all(problem.location.line >= 1 for problem in report.problems)
        assert {problem.kind for problem in report.problems} <= KINDS.keys()


@pytest.mark.parametrize("name", WRITERS)
def test_mended_trees_are_whole(name, tmp_path):
    """What the test above starts from has no problem at all."""
    root = WRITERS[name](tmp_path / "tree")
    report, fatal, summary = check(name, root)
    assert fatal == []
    assert (report.problems, summary["tolerated"]) == ([], {})
