"""Damaged annotations of every data set end in a message, or in rows that are right."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from input_pipeline import InputError, table
from input_pipeline.datasets import find_dataset
from input_pipeline.vocabulary import DOMAINS, SPLITS, TRUNCATED
from tests.input_pipeline import (
    coco_trees,
    deepfashion2_trees,
    deepfashion_trees,
    street2shop_trees,
)
from tests.input_pipeline.conftest import write_manifest

HEADER = "image,item_id,domain,split,x_1,y_1,x_2,y_2,view,occluded,cropped,category"
CELLS = [
    "c.jpg,7,customer,train,1,2,30,20,front,0,1,hat",
    "s.jpg,7,shop,train,,,,,,,,",
    "t.jpg,8,shop,test,,,,,back,,0,",
]
TREES = {
    "deepfashion_c2s": deepfashion_trees.write_c2s,
    "deepfashion_inshop": deepfashion_trees.write_inshop,
    "deepfashion_attributes": deepfashion_trees.write_attributes,
    "deepfashion_fine": deepfashion_trees.write_fine,
    "deepfashion2": deepfashion2_trees.write_deepfashion2,
    "street2shop": street2shop_trees.write_street2shop,
    "manifest": lambda root: write_manifest(root, CELLS, HEADER),
    "findfashion": lambda root: write_manifest(root, CELLS, HEADER),
    "coco": coco_trees.write_coco,
}
FROM_OTHER_ROWS = {"deepfashion_inshop": ["domain"], "street2shop": ["split"]}
COLUMNS = [
    *("path", "split", "domain", "category", "attributes", "unknown_attributes", "view"),
    *("occluded", "cropped", "crowd", "mask", "clothes_type", "landmarks", *table.BOX),
]
WORDS = [
    *(b"", b"-1", b"0", b"1", b"2", b"007", b"25", b"2147483648", b"9" * 4400, b"1e3", b"1e999"),
    *(b"nan", b"NaN", b"inf", b"null", b"true", b"[]", b"{}", b'"', b"1_0", b"0x7", b"x" * 5000),
    *(b"\xff\xfe", b"\x00", b"\r", b"\n", b"\x1c24", b"\xc2\xa0", b"\xef\xbc\x91", b"[" * 3000),
    *(b"train", b"query", b"shop", b"img/", b"img/../x.jpg", b"/etc/hosts", b"..", b"sep=;\n"),
]
VALUES = [
    *(None, True, -1, 0, 1, 2, 3, 24, 35.5, 864, 2**31, 10**400, 1e300, "", "1", "bag", "shop"),
    *("../x.jpg", "\x00", "\ud800", [], {}, [1], [[1]], [0, 0, 24, 36], [[1, 1, 9, 9, 1, 9]]),
    *([[0, 0, 1e9, 0, 5, 5]], {"size": [24, 36], "counts": [864]}, {"size": [24], "counts": "0"}),
]


def cut(data: bytes, rng: random.Random) -> bytes:
    """Puts bytes in the place of none, some or all that follow."""
    start = rng.randint(0, len(data))
    stop = rng.choice([start, start + 1, start + 9, len(data)])
    return data[:start] + rng.randbytes(rng.choice([0, 1, 5])) + data[stop:]


def change_word(data: bytes, rng: random.Random) -> bytes:
    words = list(re.finditer(rb'[^\s,;:"\[\]{}]+|$', data))
    word = rng.choice(words)
    return data[: word.start()] + rng.choice(WORDS) + data[word.end() :]


def swap_columns(data: bytes, rng: random.Random) -> bytes:
    """Two columns change places, in one line or in all from there on."""
    lines = [re.split(rb"([ ,]+)", line) for line in data.split(b"\n")]
    first, second, start = rng.randint(0, 8), rng.randint(0, 8), rng.randrange(len(lines))
    for line in lines[start : rng.choice([start + 1, len(lines)])]:
        if 2 * max(first, second) < len(line):
            line[2 * first], line[2 * second] = line[2 * second], line[2 * first]
    return b"\n".join(map(b"".join, lines))


def move_line(data: bytes, rng: random.Random) -> bytes:
    """A line is dropped, moved or repeated; a count before the lines may follow."""
    lines = data.split(b"\n")
    line = rng.choice(lines)
    changed = list(lines)
    if (what := rng.choice(["drop", "move", "repeat"])) != "repeat":
        changed.remove(line)
    if what != "drop":
        changed.insert(rng.randint(0, len(changed)), line)
    if changed and changed[0].isdigit() and rng.random() < 0.5:
        changed[0] = b"%d" % (int(changed[0]) + len(changed) - len(lines))
    return b"\n".join(changed)


def change_value(data: bytes, rng: random.Random) -> bytes:
    """Something anywhere in a JSON file is replaced, removed or repeated."""
    content = {"": json.loads(data)}
    inside: dict | list = content
    last: str | int = ""
    while isinstance(inside[last], dict | list) and inside[last] and rng.random() < 0.8:
        inside = inside[last]
        last = rng.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
    if isinstance(inside, list) and rng.random() < 0.3:
        inside.append(rng.choice(inside))
    elif inside is not content and rng.random() < 0.3:
        del inside[last]
    else:
        inside[last] = rng.choice(VALUES)
    return json.dumps(content[""], indent=rng.choice([None, 1])).encode()


def read(name: str, source: Path, files: dict[Path, bytes]) -> table.Checked:
    for path, content in files.items():
        path.write_bytes(content)
    rows = table.complete(find_dataset(name).to_table(str(source)))
    places = rows.filter(regex="source$").itertuples(index=False, name=None)
    return table.check_table(rows.assign(places=list(places), box_place=rows["box_source"]), 10**6)


def locate(source: str) -> tuple[Path, str]:
    """Returns the file and the line or entry of FILE:LINE."""
    path, place = re.fullmatch(r"(.+\.(?:txt|csv|json))(?::(.+))?", source).groups()
    return Path(path), place or ""


def text_at(files: dict[Path, bytes], source: str) -> bytes:
    """Returns the line where a row stands; of a CSV with its header, of JSON the whole file."""
    path, place = locate(source)
    if path.suffix == ".json":
        return files[path]
    lines = files[path].split(b"\n")
    return (lines[0] if path.suffix == ".csv" else b"") + lines[int(place) - 1]


def by_text(rows: pd.DataFrame, files: dict[Path, bytes], rest: list[Path]) -> dict[tuple, dict]:
    """Returns each row by its names and texts, and by the files where no row stands."""
    found = {}
    for row in rows.to_dict("records"):
        texts = [text_at(files, place) for place in row["places"] if isinstance(place, str)]
        found[row["image"], row["item_id"], *texts, *(files[path] for path in rest)] = row
    return found


def assert_possible(row: dict, text: bytes) -> None:
    """Checks a row by itself; `text` is the line where its box stands."""
    assert row["split"] in SPLITS
    assert row["domain"] in DOMAINS
    assert Path(row["path"]).is_file()
    box, width, height = [row[name] for name in table.BOX], row["width"], row["height"]
    if not np.isnan(box).all():
        assert 0 <= box[0] < box[2] <= width
        assert 0 <= box[1] < box[3] <= height
        numbers = [float(number) for number in re.findall(rb"-?[0-9]+(?:\.[0-9]+)?", text)]
        # A pixel outside the image is cut off. In JSON, sides may stand for corners.
        assert b"{" in text or all(min(abs(np.subtract(numbers, edge))) <= 1 for edge in box)
    for visibility, x, y in [] if row["landmarks"] is None else row["landmarks"].tolist():
        assert visibility in (-1, 0, 1, TRUNCATED)
        assert (0 <= x < width and 0 <= y < height) or visibility == TRUNCATED


def damage(files: dict[Path, bytes], rng: random.Random) -> dict[Path, bytes]:
    """Changes one or two of the files."""
    changed = {}
    for path in rng.sample(list(files), rng.choice([1, 1, min(2, len(files))])):
        if path.suffix == ".json":
            mutations = [cut, change_word, change_value, change_value]
        else:
            mutations = [cut, change_word, swap_columns, move_line]
        changed[path] = rng.choice(mutations)(files[path], rng)
    return {**files, **changed}


def assert_places(checked: table.Checked, files: dict[Path, bytes]) -> None:
    """Every problem stands at a line or entry of a file."""
    for problem in checked.problems:
        path, place = locate(problem.source)
        assert path in files
        assert not place.isdecimal() or 1 <= int(place) <= files[path].count(b"\n") + 1
        assert problem.kind in table.KINDS


def assert_unchanged(name: str, rows: dict[tuple, dict], originals: dict[tuple, dict]) -> None:
    """A row of texts that nobody touched is the row that it was."""
    for key in rows.keys() & originals.keys():
        for column in set(COLUMNS) - set(FROM_OTHER_ROWS.get(name, ())):
            np.testing.assert_array_equal(rows[key][column], originals[key][column], column)


def assert_none_lost(
    rows: dict[tuple, dict], originals: dict[tuple, dict], files: dict, damaged: dict
) -> None:
    """No row whose text is still there is lost without a problem."""
    left = {(row["image"], row["item_id"]) for row in rows.values()}
    for row in originals.values():
        path, _ = locate(row["places"][0])
        if text_at(files, row["places"][0]) in damaged[path].split(b"\n"):
            assert (row["image"], row["item_id"]) in left


@pytest.fixture(scope="module")
def check_damaged(tmp_path_factory, request):
    """Damages some of a data set's annotations, and checks what is read."""
    name, root = request.param, tmp_path_factory.mktemp("fuzz") / "tree"
    source = TREES[name](root)
    files = {
        path: path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.suffix in (".txt", ".csv", ".json")
    }
    whole = read(name, source, files)
    assert whole.problems == []
    told = {locate(place)[0] for place in whole.table["places"].explode().dropna()}
    rest = [path for path in files if path not in told]
    originals = by_text(whole.table, files, rest)

    def check(rng: random.Random) -> None:
        damaged = damage(files, rng)
        try:
            checked = read(name, source, damaged)
        except InputError as error:
            assert str(source) in str(error)  # noqa: PT017
            return
        assert_places(checked, damaged)
        rows = by_text(checked.table, damaged, rest)
        for row in rows.values():
            assert_possible(row, text_at(damaged, row["box_place"]))
        assert_unchanged(name, rows, originals)
        if not checked.problems:
            assert_none_lost(rows, originals, files, damaged)

    return check


def examples(count: int):
    """Returns what draws as many examples, the same in each run."""
    checks = list(HealthCheck)
    options = {"deadline": None, "database": None, "suppress_health_check": checks}
    return settings(max_examples=count, derandomize=True, **options)


@pytest.mark.parametrize("check_damaged", TREES, indirect=True)
@examples(15)
@given(rng=st.randoms(use_true_random=True))
def test_damaged_annotations(check_damaged, rng):
    check_damaged(rng)


@pytest.mark.slow
@pytest.mark.parametrize("check_damaged", TREES, indirect=True)
@examples(150)
@given(rng=st.randoms(use_true_random=True))
def test_many_damaged_annotations(check_damaged, rng):
    check_damaged(rng)
