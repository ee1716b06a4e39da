"""Damaged annotations of every data set end in a message, or in rows that are right."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from input_pipeline import InputError, table
from input_pipeline.datasets import find_dataset
from input_pipeline.vocabulary import BOX, DOMAINS, SPLITS, TRUNCATED
from tests.input_pipeline import coco_trees, conftest, street2shop_trees
from tests.input_pipeline import deepfashion2_trees as df2_trees
from tests.input_pipeline import deepfashion_trees as df_trees

HEADER = "image,item_id,domain,split,x_1,y_1,x_2,y_2,view,occluded,cropped,category"
CELLS = ["c.jpg,7,customer,train,1,2,30,20,front,0,1,hat", "s.jpg,7,shop,train,,,,,,,,"]
TREES = {  # of each data set what writes a source, and which columns depend on other rows
    "deepfashion_c2s": (df_trees.write_c2s, ()),
    "deepfashion_inshop": (df_trees.write_inshop, ("domain",)),
    "deepfashion_attributes": (df_trees.write_attributes, ()),
    "deepfashion_fine": (df_trees.write_fine, ()),
    "deepfashion2": (df2_trees.write_deepfashion2, ()),
    "street2shop": (street2shop_trees.write_street2shop, ("split",)),
    "manifest": (lambda root: conftest.write_manifest(root, CELLS, HEADER), ()),
    "findfashion": (lambda root: conftest.write_manifest(root, CELLS, HEADER), ()),
    "coco": (coco_trees.write_coco, ()),
}
OPTIONS = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
WORDS = [
    *(b"", b"-1", b"0", b"1", b"2", b"007", b"25", b"2147483648", b"9" * 4400, b"1e3", b"1e999"),
    *(b"nan", b"inf", b"null", b"true", b"[]", b"{}", b'"', b"1_0", b"0x7", b"x" * 5000, b"\0"),
    *(b"\xff\xfe", b"\r", b"\n", b"\x1c24", b"\xc2\xa0", b"\xef\xbc\x91", b"[" * 3000, b"sep=;\n"),
    *(b"train", b"query", b"shop", b"img/", b"img/../x.jpg", b"/etc/hosts", b".."),
]
VALUES = [
    *(None, True, -1, 0, 1, 2, 3, 24, 35.5, 864, 2**31, 10**400, 1e300, "", "1", "bag", "shop"),
    *("../x.jpg", "\x00", "\ud800", [], {}, [1], [[1]], [0, 0, 24, 36], [[1, 1, 9, 9, 1, 9]]),
    *([[0, 0, 1e9, 0, 5, 5]], {"size": [24, 36], "counts": [864]}, {"size": [24], "counts": "0"}),
]


def change_word(data: bytes, rng: random.Random) -> bytes:
    """A word, or nothing, becomes another word or bytes; what follows may be cut off."""
    start, end = rng.choice(list(re.finditer(rb'[^\s,;:"\[\]{}]+|', data))).span()
    end = rng.choice([end, end, end, len(data)])
    return data[:start] + rng.choice([*WORDS, rng.randbytes(5)]) + data[end:]


def move_line(data: bytes, rng: random.Random) -> bytes:
    """A line is dropped, moved or repeated; a count before the lines may follow."""
    lines = data.split(b"\n")
    line, count, what = rng.choice(lines), len(lines), rng.choice(["drop", "move", "repeat"])
    if what != "repeat":
        lines.remove(line)
    if what != "drop":
        lines.insert(rng.randint(0, len(lines)), line)
    if lines and lines[0].isdigit() and rng.random() < 0.5:
        lines[0] = b"%d" % (int(lines[0]) + len(lines) - count)
    return b"\n".join(lines)


def change_value(data: bytes, rng: random.Random) -> bytes:
    """Something anywhere in a JSON file is replaced, removed or repeated."""
    inside, last = [json.loads(data)], 0
    whole = inside
    while isinstance(inside[last], dict | list) and inside[last] and rng.random() < 0.8:
        inside = inside[last]
        last = rng.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
    if isinstance(inside, list) and rng.random() < 0.3:
        inside.append(rng.choice(inside))
    elif inside is not whole and rng.random() < 0.3:
        del inside[last]
    else:
        inside[last] = rng.choice(VALUES)
    return json.dumps(whole[0], indent=rng.choice([None, 1])).encode()


def text_at(files: dict[str, bytes], source: str) -> tuple[str, bytes]:
    """Returns the file of FILE:LINE, and the line (of a CSV with the header) or, of JSON, all."""
    path, line = re.fullmatch(r"(.+\.(?:txt|csv|json))(?::(.+))?", source).groups()
    lines = files[path].split(b"\n")
    if path.endswith(".json"):
        return path, files[path]
    return path, (lines[0] if path.endswith(".csv") else b"") + lines[int(line) - 1]


def read(name: str, source: Path, files: dict[str, bytes], rest: set[str]) -> tuple:
    """Returns the rows by their names, texts, and the files where no row stands; the problems."""
    for path, content in files.items():
        Path(path).write_bytes(content)
    rows = table.complete(find_dataset(name).to_table(str(source)))
    places = rows.filter(regex="source$").apply(lambda row: list(row.dropna()), axis=1)
    checked = table.check_table(rows.assign(places=places, at=rows["box_source"]), 10**6)
    found, others = {}, [files[path] for path in sorted(rest)]
    for row in checked.table.to_dict("records"):
        row["texts"] = [text_at(files, place) for place in row["places"]]
        found[row["image"], row["item_id"], *row["texts"], *others] = row
    return found, checked.problems


def check_row(row: dict, text: bytes) -> None:
    """Checks a row by itself; `text` is the line where its box stands."""
    assert row["split"] in SPLITS
    assert row["domain"] in DOMAINS
    assert Path(row["path"]).is_file()
    box, width, height = [row[name] for name in BOX], row["width"], row["height"]
    if not np.isnan(box).all():
        assert 0 <= box[0] < box[2] <= width
        assert 0 <= box[1] < box[3] <= height
    if not (np.isnan(box).all() or b"{" in text):  # in JSON, sides may stand for corners
        numbers = [float(number) for number in re.findall(rb"-?[0-9]+(?:\.[0-9]+)?", text)]
        assert all(min(abs(np.subtract(numbers, edge))) <= 1 for edge in box)
    for visibility, x, y in [] if row["landmarks"] is None else row["landmarks"].tolist():
        inside = visibility in (-1, 0, 1) and 0 <= x < width and 0 <= y < height
        assert inside or visibility == TRUNCATED


@pytest.fixture(scope="module")
def check_damaged(tmp_path_factory, request):
    """Damages one or two of a data set's annotation files, and checks what is read."""
    name, root = request.param, tmp_path_factory.mktemp("fuzz") / "tree"
    write, dependent = TREES[name]
    source = write(root)
    paths = [path for path in sorted(root.rglob("*")) if path.suffix in (".txt", ".csv", ".json")]
    files = {str(path): path.read_bytes() for path in paths}
    originals, problems = read(name, source, files, set())
    assert problems == []
    rest = files.keys() - {path for row in originals.values() for path, _ in row["texts"]}
    originals, _ = read(name, source, files, rest)

    def check(rng: random.Random) -> None:
        damaged = dict(files)
        for path in rng.sample(list(files), rng.choice([1, 1, min(2, len(files))])):
            other = change_value if path.endswith("json") else move_line
            damaged[path] = rng.choice([change_word, other])(files[path], rng)
        try:
            rows, problems = read(name, source, damaged, rest)
        except InputError as error:
            assert str(source) in str(error)  # noqa: PT017
            return
        for problem in problems:
            text_at(damaged, problem.source)  # it is there
        for key, row in rows.items():
            check_row(row, text_at(damaged, row["at"])[1])
            for column in originals.get(key, ()):  # of lines that nobody touched
                if not column.endswith("source") and column not in ("places", "at", *dependent):
                    np.testing.assert_array_equal(row[column], originals[key][column], column)
        kept = {key[:2] for key in rows}
        for key, row in originals.items():  # none is lost without a word
            path, text = row["texts"][0]
            assert problems or key[:2] in kept or text not in damaged[path].split(b"\n")

    return check


@pytest.mark.parametrize("check_damaged", TREES, indirect=True)
@pytest.mark.parametrize("count", [12, pytest.param(60, marks=pytest.mark.slow)])
def test_damaged_annotations(check_damaged, count):
    @settings(max_examples=count, derandomize=True, **OPTIONS)
    @given(st.randoms(use_true_random=True))
    def run(rng):
        check_damaged(rng)

    run()
