"""Own photos, listed in a CSV or in folders: what is kept, and what is said about mistakes."""

import io
import json
import os
import re
import shutil
import unicodedata

import numpy as np
import pandas as pd
import pytest
from etils import epath
from PIL import Image

from input_pipeline import AnnotationError, DatasetError, image_batches, prepare
from input_pipeline.builder import Resize
from input_pipeline.datasets import folder, manifest
from input_pipeline.images import load_image
from input_pipeline.masks import to_mask
from input_pipeline.table import KINDS, Problem, check_table, parse_on_error
from tests.input_pipeline.conftest import IMAGE, check, load, photo_bytes, write_manifest

PLAIN, BOX = "image,item_id,domain,split", "x_1,y_1,x_2,y_2"
FULL = f"{PLAIN},category,{BOX},view,occluded,cropped"
GOOD = "good.jpg,a,shop,train"
DAMAGED = {
    "cut.png": photo_bytes(kind="PNG", size=(30, 30))[:-100],
    "text.png": b"no photo",
    "empty.png": b"",
    "large.png": photo_bytes(kind="PNG", size=(40, 50)),
}


def problems_of(root, rows, header=PLAIN):
    """The problems of a CSV of these rows, each LINE: text."""
    for name, content in DAMAGED.items():
        (root / name).write_bytes(content)
    path = write_manifest(root, rows, header)
    problems = check("manifest", path, max_pixels=1_999).checked.problems
    assert {problem.kind for problem in problems} <= KINDS.keys()
    return [str(each).replace(f"{root}/", "").removeprefix("photos.csv:") for each in problems]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x.jpg,a,strore,train", "field 'domain': expected customer or shop, got 'strore'"),
        ("x.jpg,a,shop,dev", "field 'split': expected train, val or test, got 'dev'"),
        ("x.jpg,,shop,train", "field 'item_id': is empty"),
        (",a,shop,train", "field 'image': is empty"),
        ("gone.png,a,shop,train", "gone.png: no such file"),
        ("/gone.png,a,shop,train", "/gone.png: no such file"),
        ("GOOD.JPG,a,shop,train", "GOOD.JPG: no such file, but good.jpg"),
        (
            "http://x.org/a,a,shop,train",
            "field 'image': expected a file, gs:// or s3://, got 'http",
        ),
        ("s3://x/a.png,a,shop,train", "s3://x/a.png: cannot be read: "),
        ("good.jpg,a,shop,train", "'good.jpg' of item 'a' is listed at photos.csv:2 already"),
        (".//good.jpg,a,shop,train", "'good.jpg' of item 'a' is listed at photos.csv:2 already"),
        ("x.jpg,a,shop,test", "item 'a' is in split 'train' at photos.csv:2, here in 'test'"),
        ("x.jpg,a,shop", "expected 4 cells, got 3"),
        ("x.jpg,a,shop,train,1", "expected 4 cells, got 5"),
        ("x\0.png,a,shop,train", "field 'image': expected printable characters, got"),
        (
            "x.jpg,a\u200bb,shop,train",
            r"field 'item_id': expected printable characters, got 'a\u200bb'",
        ),
        ("x.jpg,NaN,shop,train", "field 'item_id': 'NaN' is what programs write for an empty cell"),
        (
            "x.jpg,4.0E+12,shop,train",
            "field 'item_id': '4.0E+12' is what programs write for a long",
        ),
        ("cut.png,a,shop,train", "cut.png: is damaged or truncated"),
        ("text.png,a,shop,train", "text.png: is not a photo that can be read"),
        ("empty.png,a,shop,train", "empty.png: is empty (0 bytes)"),
        (
            "large.png,a,shop,train",
            "large.png: a picture of 50x40 pixels = 0.002 MP; limit 0.001999 MP, --max_pixels",
        ),
    ],
)
def test_bad_row(tmp_path, row, message):
    (problem,) = problems_of(tmp_path, [GOOD, row])
    assert problem.startswith(f"3: {message}")


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("1,2,three,4,,,", "field 'x_2': expected a number of pixels, got 'three'"),
        ('1,2,"9,5",4,,,', "field 'x_2': expected a number of pixels, got '9,5'"),
        ("1,2,inf,4,,,", "field 'x_2': expected a number of pixels, got 'inf'"),
        ("1,2,nan,4,,,", "the box lacks a number"),
        ("5,2,5,4,,,", "field 'x_2': the box has no size: 5 is not above x_1=5"),
        ("5,9,9,4,,,", "field 'y_2': the box has no size: 4 is not above y_1=9"),
        ("-2,2,9,4,,,", "field 'x_1': -2 is outside the image of 36x24 pixels (upright)"),
        ("1,2,9,26,,,", "field 'y_2': 26 is outside the image of 36x24 pixels (upright)"),
        (
            ".1,.1,.9,.9,,,",
            "the box 0.1, 0.1, 0.9, 0.9 is smaller than a pixel; boxes are in pixels",
        ),
        (",,,,top,,", "field 'view': expected front, side, back, zoom_out, zoom_in or stand_alone"),
        (",,,,,yes,", "field 'occluded': expected 0 or 1, got 'yes'"),
        (",,,,,,2", "field 'cropped': expected 0 or 1, got '2'"),
    ],
)
def test_bad_optional_field(tmp_path, cells, message):
    rows = [f"x.jpg,a,shop,train,tee,{cells}", "y.jpg,b,shop,train,tee,1,2,9,9,front,0,1"]
    (problem,) = problems_of(tmp_path, rows, FULL)
    assert problem.startswith(f"2: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ":1: is empty"),
        ("\ufeff\n,,\n", ":1: is empty"),
        ("image,item_id,domain\na,b,c\n", ":1: column 'split' is missing"),
        ("image,split\na,train\n", ":1: column 'item_id' is missing"),
        ("\nimage,item_id,domain,split,split\n", ":2: column 'split' is there twice"),
        (f"{PLAIN},x_1,y_1\na,b,shop,train,1,2", ":1: column 'x_2' is missing"),
        (f"{PLAIN}\n\n", ":1: has a header and no rows"),
        (f"{PLAIN}\na.jpg,caf\xe9,shop,train\n", ":2: not UTF-8: byte 0xe9"),
        (f'{PLAIN}\n"a.jpg"x,a,shop,train\n', ":2: not a CSV row"),
        (f'{PLAIN}\na.jpg,"a,shop,train\n', ":2: not a CSV row"),
        (f'sep=,\r\n{PLAIN}\r\n\r\n"a\r\nb",a,b,c\r\n"x"y,b\r\n', ":6: not a CSV row"),
        ("PK\x03\x04", ":1: is a workbook or an archive, expected text"),
        (None, " (dataset.source): is a folder, expected a CSV; --dataset=folder"),
    ],
)
def test_unreadable_manifest(tmp_path, content, message):
    path = tmp_path / "photos.csv"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content.encode("utf-8" if "\ufeff" in content else "latin-1"))
    with pytest.raises(DatasetError, match=re.escape(f"{path}{message}")) as caught:
        load("manifest", path, tmp_path)
    assert "on_error" not in str(caught.value)


TEXT = (
    f"image,item_id,domain,split,{BOX},landmarks\n"
    "É 1.JPG,007,shop,train,1.5,2,30,20.25,\nÉ 1.JPG,0x,shop,test,nan,NaN,NULL,,long\n"
)
FORMS = {
    "BOM": TEXT.encode("utf-8-sig"),
    "UTF-16": TEXT.encode("utf-16"),
    "UTF-16 without mark": TEXT.encode("utf-16-le"),
    "CRLF": TEXT.replace("\n", "\r\n").encode(),
    "CR": TEXT.replace("\n", "\r").encode(),
    "tabs": TEXT.replace(",", "\t").encode("utf-16"),
    "Excel": re.sub(r"(\d)\.(\d)", r"\1,\2", TEXT.replace(",", ";")).encode("utf-8-sig"),
    "sep": ("sep=;\r\n" + TEXT.replace(",", ";")).encode(),
    "empty columns and rows": f",,,\n\n{TEXT}".replace("\n", ",,\n").encode(),
    "quotes": re.sub(r"[^,\n]+", r'"\g<0>"', TEXT).replace("long", "lo\nng").encode(),
    "blanks": TEXT.replace(",", " ,\u200b\t\ufeff").encode(),
    "upper case": TEXT.replace("image,item_id", "IMAGE,Item_ID").encode(),
    "decomposed": unicodedata.normalize("NFD", TEXT).encode(),
}


@pytest.mark.parametrize("content", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_forms_of_a_csv(tmp_path, content, form):
    (tmp_path / unicodedata.normalize(form, "É 1.JPG")).write_bytes(photo_bytes())
    path = tmp_path / "photos.csv"
    path.write_bytes(content)
    table, problems, notes = check_table(manifest.to_table(epath.Path(path)), 1000)
    assert not problems
    assert table["image"].tolist() == ["É 1.JPG"] * 2
    assert table["item_id"].tolist() == ["007", "0x"]
    np.testing.assert_array_equal(table[BOX.split(",")], [[1.5, 2, 30, 20.25], [np.nan] * 4])
    assert notes == {"cell in an unused column, 'landmarks'": 2}


def test_spellings_of_a_path(tmp_path):
    """The name is one, the path is what opens."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(photo_bytes(kind="PNG"))
    full = f"{tmp_path}/in/a.png"
    names = {"in/a.png": "in/a.png", "./in//a.png": "in/a.png", r"in\a.png": "in/a.png", full: full}
    rows = [f"{cell},{number},shop,train" for number, cell in enumerate(names)]
    table = manifest.to_table(epath.Path(write_manifest(tmp_path, rows)))
    assert table["image"].tolist() == [*names.values()]
    assert {os.path.realpath(path) for path in table["path"]} == {os.path.realpath(full)}


def test_what_prepares_anew(tmp_path):
    """Neither another place, name nor other times; another list or photo."""
    before = manifest.fingerprint(epath.Path(write_manifest(tmp_path / "first", [GOOD])))
    path = epath.Path(shutil.copytree(tmp_path / "first", tmp_path / "second")) / "photos.csv"
    path = path.rename(path.with_name("list.csv"))
    os.utime(path.parent / "good.jpg", (1, 1))
    prepared = [
        load("manifest", place, tmp_path / "data").directory
        for place in (tmp_path / "first/photos.csv", path, f"{path.parent}/../second/./list.csv")
    ]
    assert len({*prepared}) == 1
    assert manifest.fingerprint(path) == before
    (path.parent / "good.jpg").write_bytes(photo_bytes(5, size=(50, 50)))
    changed = manifest.fingerprint(path)
    path.write_text(path.read_text() + "x.jpg,b,customer,train\n")
    assert len({before, changed, manifest.fingerprint(path)}) == 3


def test_fields_are_stored(tmp_path):
    rows = ["c.jpg,a,customer,train,tee,1.5,2,30,20.25,side,1,0", "s.jpg,a,shop,train,,,,,,,,"]
    split = load("manifest", write_manifest(tmp_path, rows, FULL), tmp_path / "data").split("train")
    index = split.index
    np.testing.assert_array_equal(index.box, np.float32([[1.5, 2, 30, 20.25], [0, 0, 36, 24]]))
    columns = (index.category, index.view, index.occluded, index.cropped, index.domain)
    assert [column.tolist() for column in columns] == [[0, -1], [1, -1], [1, -1], [0, -1], [0, 1]]
    assert (index.categories.tolist(), index.size.tolist()) == (["tee"], [[24, 36], [24, 36]])


def test_photos_with_a_category_and_no_item(tmp_path):
    rows = ["./a.jpg,train,hat", "b.jpg,train,"]
    path = write_manifest(tmp_path, rows, "image,split,category")
    (problem,) = check("manifest", path).checked.problems
    assert str(problem) == f"{path}:3: field 'category': is empty"
    split = load("manifest", path, tmp_path / "data", on_error="value").split("train")
    (record,) = (split.record(row) for row in range(len(split)))
    found = (record.photo_id, record.item_id, record.domain, record.category)
    assert found == ("a.jpg", "a.jpg", "shop", "hat")


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def test_every_kind_of_photo_reaches_the_model_upright(tmp_path):
    """Gray and RGB JPEGs are stored as they are."""
    exifs = {turn: exif_of(turn) for turn in range(1, 9)}
    kept = {f"{turn}.jpg": photo_bytes(turn, exif=exif) for turn, exif in exifs.items()}
    kept["gray.jpg"] = photo_bytes(20, mode="L")
    kinds = kept | {
        "cmyk.jpg": photo_bytes(21, mode="CMYK", quality=95),
        "palette.png": photo_bytes(22, mode="P", kind="PNG"),
        "alpha.png": photo_bytes(23, mode="RGBA", kind="PNG"),
        "photo.webp": photo_bytes(24, kind="WEBP"),
        "turned.png": photo_bytes(25, kind="PNG", exif=exifs[6]),
    }
    for name, content in kinds.items():
        (tmp_path / name).write_bytes(content)
    rows = [f"{name},{number},shop,train" for number, name in enumerate(kinds)]
    split = load("manifest", write_manifest(tmp_path, rows), tmp_path / "data").split("train")
    for row, (name, content) in enumerate(kinds.items()):
        assert split.record(row).image.startswith(content if name in kept else b"\x89PNG")
        np.testing.assert_array_equal(split.picture(row), load_image(content))
    (batch,) = image_batches(split, range(len(split)), IMAGE, batch=len(split))
    for photo, row in zip(batch["image"], batch["row"], strict=True):
        assert np.abs(photo.astype(int) - split.model_input(row, IMAGE)).max() <= 1


BAD = ["gone.png,a,shop,train,,,,", "b.jpg,b,shop,train,9,3,5,20"]  # no file; no size
ROWS = ["c.jpg,a,customer,train,2,3,20,22", "s.jpg,a,shop,train,,,,", *BAD]


def test_all_problems_are_told(tmp_path, capsys):
    path = write_manifest(tmp_path, [*ROWS, "b.jpg,b,door,nowhere,,,,"], f"{PLAIN},{BOX}")
    with pytest.raises(AnnotationError, match=r"^4 problems:") as caught:
        load("manifest", path, tmp_path / "data")
    assert [line[-1] for line in re.findall(f"{path}:.", str(caught.value))] == [*"4566"]
    assert "--on_error=skip, or --on_error=box,missing_image,value" in str(caught.value)
    assert not list((tmp_path / "data").glob("manifest/*/*"))
    command = ["--dataset=manifest", f"--source={path}", "--check"]
    assert prepare.main([*command, "--on_error=box,value"]) == 2
    said = "3 bad rows, 1 problems that stop preparing; --on_error=skip leaves all bad rows out, "
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"{said}--on_error=missing_image those of these kinds."
    assert prepare.main([*command, "--on_error=box,missing_image,value"]) == 0
    path = write_manifest(tmp_path, BAD, f"{PLAIN},{BOX}")
    with pytest.raises(AnnotationError, match=r"^2 problems"):  # no row is left
        load("manifest", path, tmp_path / "data", on_error="skip")


def test_rows_that_are_left_out(tmp_path, capsys):
    rows = [*ROWS, *(f"gone{n}.png,a,shop,train,,,," for n in range(30))]
    path = write_manifest(tmp_path, rows, f"{PLAIN},{BOX}")
    dataset = load("manifest", path, tmp_path, on_error="missing_image, box", max_side=500)
    assert len(dataset.split("train")) == 2
    stored = json.loads((dataset.directory / "summary.json").read_text())
    assert (stored["problems"], stored["skipped_rows"]) == ({"box": 1, "missing_image": 31}, 32)
    printed = capsys.readouterr().out
    assert f"Left out: {path}:4: gone.png: no such file" in printed
    assert "Left out: missing_image: 31 in all; --check lists them" in printed
    assert printed.count("Left out: ") == 22
    assert "(32 bad rows were left out)" in printed
    with pytest.raises(DatasetError, match="was prepared with --max_side=500, not 0"):
        load("manifest", path, tmp_path, max_side=0)


def test_kinds_that_are_left_out():
    assert parse_on_error("", ["box"]) == {"box"}
    assert parse_on_error("error", ["box"]) == set()
    assert parse_on_error("skip", []) == KINDS.keys()
    assert parse_on_error("box,value", ["mask"]) == {"box", "value"}
    with pytest.raises(DatasetError, match=r"--on_error='box,hat': 'hat' is neither"):
        parse_on_error("box,hat", [])


def test_stored_size(tmp_path):
    """A photo of 80 x 120 pixels (width x height), stored with a longer side of 60."""
    (tmp_path / "c.jpg").write_bytes(photo_bytes(1, size=(120, 80)))
    (tmp_path / "turned.jpg").write_bytes(photo_bytes(2, size=(80, 120), exif=exif_of(6)))
    (tmp_path / "s.jpg").write_bytes(photo_bytes(3, size=(60, 40)))
    rows = [
        "c.jpg,a,customer,train,10,20,70,110",
        "turned.jpg,b,shop,train,0,0,80,120",
        "s.jpg,a,shop,train,,,,",
    ]
    path = write_manifest(tmp_path, rows, f"{PLAIN},{BOX}")
    split = load("manifest", path, tmp_path / "data", max_side=60).split("train")
    for record in (split.record(0), split.record(1)):
        assert (record.height, record.width, record.orientation) == (60, 40, 1)
        image = Image.open(io.BytesIO(record.image))
        assert (image.format, image.size) == ("JPEG", (40, 60))
    np.testing.assert_allclose(split.index.box, [(5, 10, 35, 55), (0, 0, 40, 60), (0, 0, 40, 60)])
    assert split.record(2).image == (tmp_path / "s.jpg").read_bytes()  # as it was
    # The same picture: near Pillow's own reduction of the file.
    reduced = Image.open(tmp_path / "c.jpg").reduce(2)
    assert np.abs(split.picture(0).astype(int) - np.asarray(reduced)).mean() < 4
    np.testing.assert_array_equal(split.index.resize_scale, np.float32([0.5, 0.5, 1]))


def test_landmarks_and_masks_shrink_with_their_photo():
    small = Resize((20 / 50, 40 / 100), 100, 50)
    landmarks = np.array([[0, 49, 99], [1, 0, 0], [-1, 0, 0], [2, 60, -3]], np.int32)
    assert small.landmarks(landmarks).tolist() == [[0, 19, 39], [1, 0, 0], [-1, 0, 0], [2, 24, -2]]
    mask = to_mask([[5, 10, 25, 10, 25, 60, 5, 60]], (5, 10, 25, 60), 100, 50)
    wanted = np.zeros((40, 20), np.uint8)
    wanted[4:24, 2:10] = 255
    np.testing.assert_array_equal(Image.open(io.BytesIO(small.mask(mask))), wanted)
    assert small.mask(b"") == b""


def test_findfashion_beside_the_paper(tmp_path):
    flags = ["test,front,0,0", "test,back,1,0", "train,side,0,1", "test,side,yes,1"]
    flags += ["val,side,0,1"]
    rows = [f"c{number}.jpg,{number // 2},customer,{row}" for number, row in enumerate(flags)]
    path = write_manifest(
        tmp_path, [*rows, "s.jpg,0,shop,test,,,"], f"{PLAIN},view,occluded,cropped"
    )
    release = check("findfashion", path).summary["release"]
    assert {line["what"]: (line["found"], line["paper"]) for line in release} == {
        "images": (5, 565_041),
        "pairs": (2, 382_230),
        "easy test queries": (1, 30_746),
        "hard_view test queries": (1, 11_383),
        "hard_occlusion test queries": (1, 1_250),
        "hard_cropping test queries": (0, 3_883),
        "easy val queries": (0, 125_863),
        "hard_view val queries": (1, 47_164),
        "hard_occlusion val queries": (0, 4_920),
        "hard_cropping val queries": (1, 15_883),
    }
    assert {line["what"]: line["listed"] for line in release}["hard_view test queries"] == 2
    with pytest.raises(AnnotationError, match="column 'occluded' is missing"):
        check("findfashion", write_manifest(tmp_path, [GOOD]))


def test_what_a_merge_leaves_empty_is_not_known(tmp_path):
    (tmp_path / "a.jpg").write_bytes(photo_bytes())
    row = {"image": "a.jpg", "path": f"{tmp_path}/a.jpg", "split": "test", "source": "list:1"}
    others = dict.fromkeys(("category", "view", "landmarks", "segmentation", "attributes", "x_1"))
    wrong = {"source": "boxes:7", "problems": (Problem("box", "boxes:7", "is none"),)}
    table, problems, _ = check_table(pd.DataFrame([{**row, **others}, wrong]), 1000)
    assert (table["category"][0], table["view"][0], table["attributes"][0]) == ("", -1, ())
    assert [str(problem) for problem in problems] == ["boxes:7: is none"]


FOLDERS = {  # image, and its item, domain, split and category; None: a problem
    "a category": {
        "train/hat/a b.JPG": ("train/hat/a b.JPG", "shop", "train", "hat"),
        "Testing/hat/old/é.png": ("Testing/hat/old/é.png", "shop", "test", "hat/old"),
        "test/no category.png": None,
        "coat/no split.png": None,
    },
    "an item": {
        "test/hat/7/shop/a.jpg": ("hat/7", "shop", "test", "hat"),
        "test/hat/7/customer/b.jpg": ("hat/7", "customer", "test", "hat"),
        "gallery/training/8/c.jpg": ("8", "shop", "train", ""),
        "Query/training/8/d.jpg": ("8", "customer", "train", ""),
        "train/shop/no item.jpg": None,
        "train/9/no domain.jpg": None,
        "valid/hat/7/shop/another split.jpg": None,
    },
}


@pytest.mark.parametrize("what", FOLDERS)
def test_folders(tmp_path, what):
    root = tmp_path / "set"
    for name in [*FOLDERS[what], "train/.cache/x/hidden.png", "train/hat/notes.txt"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(photo_bytes())
    (root / "train/again").symlink_to(root, target_is_directory=True)
    table, problems, notes = check("folder", root).checked
    rows = table[["image", "item_id", "domain", "split", "category"]].to_numpy().tolist()
    right = {name: row for name, row in FOLDERS[what].items() if row}
    assert {name: tuple(row) for name, *row in rows} == right
    wrong = {f"{root}/{name}" for name in FOLDERS[what].keys() - right.keys()}
    assert {problem.source for problem in problems} == wrong
    assert notes == {"file that is no image": 2, f"folder that names {what}": 3}


def test_folders_without_splits(tmp_path):
    """A tenth each, by item; more images, or another place, change no item's split."""
    splits = []
    for place, items in (("all", 400), ("some", 20)):
        for name in [f"{item}/{who}/a.jpg" for item in range(items) for who in ("shop", "query")]:
            (tmp_path / place / name).parent.mkdir(parents=True)
            (tmp_path / place / name).touch()
        table = folder.to_table(epath.Path(tmp_path / place))
        splits.append(table.groupby("item_id")["split"].unique().str.join("+"))
    counts = splits[0].value_counts()
    assert counts.sum() - counts["train"] == counts["val"] + counts["test"]
    assert all(20 < counts[split] < 60 for split in ("val", "test"))  # 40, and 3 sigma are 18
    assert splits[0][splits[1].index].equals(splits[1])
    before = folder.fingerprint(epath.Path(tmp_path / "some"))
    root = epath.Path(shutil.move(tmp_path / "some", tmp_path / "moved"))
    assert folder.fingerprint(root) == before
    (root / "0/shop/a.jpg").write_bytes(b"1")
    assert folder.fingerprint(root) != before
