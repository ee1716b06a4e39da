"""DeepFashion's benchmarks, from small downloads in their form: records, counts, problems."""

import re

import numpy as np
import pytest

from input_pipeline import DatasetError, prepare
from input_pipeline.errors import AnnotationError
from tests.input_pipeline import deepfashion_trees as trees
from tests.input_pipeline.conftest import load as load_from
from tests.input_pipeline.conftest import write_manifest
from tests.input_pipeline.test_dataset import WITHOUT_TENSORFLOW, run_python

WRITERS = {
    "deepfashion_c2s": trees.write_c2s,
    "deepfashion_inshop": trees.write_inshop,
    "deepfashion_attributes": trees.write_attributes,
    "deepfashion_fine": trees.write_fine,
}


def load(name, root, **changes):
    return load_from(name, root, root.parent / "data", **changes)


def problems_of(name, root, **changes):
    with pytest.raises(AnnotationError) as caught:
        load(name, root, **changes)
    assert not list((root.parent / "data").glob("*/*/*"))
    return [problem.removeprefix(f"{root}/") for problem in caught.value.problems]


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    """One of each benchmark, by name: not to be changed."""
    folder = tmp_path_factory.mktemp("downloads")
    return {name: write(folder / name) for name, write in WRITERS.items()}


@pytest.fixture
def c2s(tmp_path):
    return trees.write_c2s(tmp_path / "c2s")


@pytest.fixture
def inshop(tmp_path):
    return trees.write_inshop(tmp_path / "inshop")


@pytest.fixture
def attributes(tmp_path):
    return trees.write_attributes(tmp_path / "attributes")


@pytest.fixture
def fine(tmp_path):
    return trees.write_fine(tmp_path / "fine")


def records(split):
    return {record.photo_id: record for record in map(split.record, range(len(split)))}


def test_c2s_records(downloads):
    root = downloads["deepfashion_c2s"]
    dataset = load("deepfashion_c2s", root)
    assert dataset.splits == ("train", "val", "test")
    counts = dataset.summary["splits"]
    assert [counts[split]["items"] for split in dataset.splits] == [4, 1, 2]
    assert [counts[split]["pairs"] for split in dataset.splits] == [16, 4, 8]
    assert [counts[split]["queries"] for split in dataset.splits] == [8, 2, 4]
    assert [counts[split]["gallery"] for split in dataset.splits] == [8, 2, 4]
    assert dataset.summary["skipped_rows"] == 0
    assert dataset.summary["tolerated"] == {}
    found = records(dataset.split("test"))
    photos = trees.c2s_photos(6)
    assert list(found)[:4] == [
        photos[domain][n] for domain, n in (("customer", 0), ("shop", 0), ("shop", 1))
    ] + [photos["customer"][1]]
    record = found[photos["customer"][1]]
    assert record.image == (root / photos["customer"][1]).read_bytes()
    assert record.item_id == "id_00000006"
    assert record.domain == "customer"
    assert record.category == "TOPS/T_Shirt"
    assert record.clothes_type == 1
    assert record.box == (2, 3, 23, 34)
    assert (record.view, record.occluded, record.cropped) == (-1, -1, -1)
    assert record.attributes == ("long sleeve", "slim")
    np.testing.assert_array_equal(
        record.landmarks,
        [
            *([0, 8, 4], [0, 15, 4], [1, 2, 12], [0, 21, 12]),
            *([-1, 0, 0], [-1, 0, 0], [0, 7, 30], [2, 0, 0]),
        ],
    )
    lower = records(dataset.split("test"))[trees.c2s_photos(7)["shop"][0]]
    assert (lower.domain, lower.clothes_type) == ("shop", 2)
    np.testing.assert_array_equal(lower.landmarks[:, 0], [-1, -1, -1, -1, 0, 0, 0, 1])
    assert records(dataset.split("val"))[trees.c2s_photos(5)["shop"][0]].clothes_type == 3


C2S_FIRST = "img/TROUSERS/Jeans/id_00000001/comsumer_01.jpg"
C2S_SHOP = "img/TROUSERS/Jeans/id_00000001/shop_01.jpg"
OUTSIDE = "is outside the picture, which is 24x36 pixels (upright)"


@pytest.mark.parametrize(
    ("file", "line", "old", "new", "messages"),
    [
        (
            trees.PARTITION,
            3,
            "train",
            "trian",
            ["field 'evaluation_status': expected train, val or test, got 'trian'"],
        ),
        (
            trees.PARTITION,
            4,
            "train",
            "test",
            [
                "field 'evaluation_status': item 'id_00000001' is in split 'train' on line 3, "
                "here in 'test'"
            ],
        ),
        (
            trees.PARTITION,
            3,
            " id_00000001 ",
            " ",
            [
                "expected 4 fields (image_pair_name_1, image_pair_name_2, item_id, "
                "evaluation_status), got 3"
            ],
        ),
        (
            trees.PARTITION,
            3,
            " id_00000001 ",
            " id_00000009 ",
            ["field 'item_id': 'id_00000009' is not in Anno/list_item_consumer2shop.txt"],
        ),
        (trees.PARTITION, 3, "img/T", "/img/T", None),
        (trees.C2S_BOXES, 3, "002 003", "023 003", ["the box has no size: x_2=023 is not above"]),
        (trees.C2S_BOXES, 3, "023", "0x7", ["field 'x_2': expected a whole number of pixels"]),
        (trees.C2S_BOXES, 3, "023", "099999999999", ["field 'x_2': expected a whole number of"]),
        (trees.C2S_BOXES, 3, "023", "026", [f"field 'x_2': 26 {OUTSIDE}"]),
        (trees.C2S_BOXES, 3, "002", "-02", [f"field 'x_1': -2 {OUTSIDE}"]),
        (trees.C2S_BOXES, 3, " 2 2 ", " 4 2 ", ["field 'clothes_type': expected 1, 2 or 3, got"]),
        (trees.C2S_BOXES, 3, " 2 2 ", " 2 3 ", ["field 'source_type': expected 1 or 2, got '3'"]),
        (
            trees.C2S_BOXES,
            3,
            " 033",
            "",
            [
                "expected 7 fields (image_name, clothes_type, source_type, x_1, y_1, x_2, y_2), "
                "got 6"
            ],
        ),
        (
            trees.C2S_LANDMARKS,
            3,
            "  0 008 004",
            "",
            ["clothes type 2 has 4 landmarks, which take 12 fields after variation_type; got 9"],
        ),
        (trees.C2S_LANDMARKS, 3, "008 004", "008 0.4", ["expected a whole number, got '0.4'"]),
        (trees.C2S_LANDMARKS, 3, "0 008", "3 008", ["expected a visibility of 0, 1 or 2, got 3"]),
        (trees.C2S_LANDMARKS, 3, "008 004", "026 004", [f"landmark (26, 4) {OUTSIDE}"]),
        (
            trees.C2S_LANDMARKS,
            3,
            f"{C2S_FIRST}  2 1  {trees.POINTS[2]}",
            f"{C2S_FIRST}  3 1  {trees.POINTS[3]}",
            ["field 'clothes_type': is 3 here and 2 at "],
        ),
    ],
)
def test_c2s_bad_row(c2s, file, line, old, new, messages):
    trees.edit(c2s / file, line, old, new)
    problems = problems_of("deepfashion_c2s", c2s)
    if messages is None:
        expected = f"field 'image_pair_name_1': expected img/..., got '/{C2S_FIRST}'"
        assert problems == [f"{file}:{line}: {expected}"]
        return
    assert len(problems) == len(messages)
    for problem, message in zip(problems, messages, strict=True):
        assert problem.startswith(f"{file}:{line}: ")
        assert message in problem


def test_c2s_problems_between_files(c2s):
    (c2s / C2S_FIRST).unlink()
    content = (c2s / C2S_SHOP).read_bytes()
    (c2s / C2S_SHOP).write_bytes(content[: len(content) // 2])
    boxes = c2s / trees.C2S_BOXES
    other = trees.c2s_photos(2)
    trees.edit(boxes, 7, other["customer"][0], "img/other.jpg")
    trees.edit(boxes, 8, " 3 2 ", " 3 1 ")
    trees.append(boxes, f"{other['shop'][1]} 3 1 001 003 023 034")
    problems = problems_of("deepfashion_c2s", c2s)
    expected = [
        f"{trees.C2S_BOXES}:31: field 'image_name': '{other['shop'][1]}' has another box on line",
        f"{trees.PARTITION}:3: field 'image_pair_name_1': {C2S_FIRST}: no such file",
        f"{trees.PARTITION}:3: field 'image_pair_name_2': {C2S_SHOP}: is not a photo that",
        f"{trees.PARTITION}:7: field 'image_pair_name_1': '{other['customer'][0]}' has no box in ",
        f"{trees.PARTITION}:9: field 'image_pair_name_1': '{other['customer'][1]}' is a shop photo",
    ]
    assert len(problems) == len(expected)
    for problem, beginning in zip(problems, expected, strict=True):
        assert problem.startswith(beginning)


def test_c2s_a_photo_of_both_domains(c2s):
    trees.append(c2s / trees.PARTITION, f"{C2S_SHOP} {C2S_FIRST} id_00000001 train")
    first, second = problems_of("deepfashion_c2s", c2s)
    message = "is a shop photo in an earlier row"
    assert first == f"{trees.PARTITION}:31: field 'image_pair_name_1': '{C2S_SHOP}' {message}"
    assert second.endswith("is a customer photo in an earlier row")


def test_c2s_skipping(c2s, capsys):
    (c2s / C2S_FIRST).unlink()
    trees.edit(c2s / trees.C2S_BOXES, 4, "002 003", "023 003")
    trees.edit(c2s / trees.PARTITION, 30, "test", "dev")
    dataset = load("deepfashion_c2s", c2s, on_error="skip")
    printed = capsys.readouterr().out
    assert f"Skipped {c2s}/{trees.PARTITION}:3: field 'image_pair_name_1'" in printed
    assert printed.count("Skipped ") == 3
    assert "(3 bad rows were left out)" in printed
    summary = dataset.summary
    assert summary["problems"] == {"box": 1, "missing photo": 1, "unknown status": 1}
    assert summary["skipped_rows"] == 3
    assert summary["facts"] == {"pairs_listed": 27}
    assert summary["splits"]["train"]["customer_photos"] == 6
    # The last pair is left out; its photos are in other pairs.
    assert summary["splits"]["test"]["pairs"] == 8


def test_c2s_tolerated(c2s, capsys):
    partition = c2s / trees.PARTITION
    trees.append(partition, partition.read_text().split("\n")[2])
    boxes = c2s / trees.C2S_BOXES
    trees.append(boxes, boxes.read_text().split("\n")[2])
    trees.append(boxes, "img/unlisted.jpg 1 1 0 0 9 9")
    trees.edit(boxes, 3, "002 003 023 033", "-01 003 025 037")
    trees.edit(c2s / trees.C2S_BOXES, 31, "002 003 023 033", "-01 003 025 037")
    landmarks = c2s / trees.C2S_LANDMARKS
    trees.edit(landmarks, 3, "008 004", "024 004")
    trees.edit(landmarks, 4, f"{C2S_FIRST.replace('01.jpg', '02.jpg')} ", "img/other.jpg ")
    dataset = load("deepfashion_c2s", c2s)
    expected = {
        "box moved to the photo's edge": 1,
        "box of a photo in no split": 1,
        "landmark moved to the photo's edge": 1,
        "landmarks of a photo in no split": 1,
        "photo without landmarks": 1,
        "repeated pair": 1,
        "repeated row of a box": 1,
    }
    assert dataset.summary["tolerated"] == expected
    printed = capsys.readouterr().out
    assert all(f"Tolerated: {kind}: {count}" in printed for kind, count in expected.items())
    record = records(dataset.split("train"))[C2S_FIRST]
    assert record.box == (0, 3, 24, 36)
    assert record.landmarks[4].tolist() == [0, 23, 4]
    without = records(dataset.split("train"))[C2S_FIRST.replace("01.jpg", "02.jpg")]
    assert (without.landmarks == -1).all()
    assert without.clothes_type == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ":1: expected the number of rows, the file is empty"),
        (b"\xef\xbb\xbfmany\n", ":1: expected the number of rows, got 'many'"),
        (b"\x1c1\nimages\n", ":2: expected the names of the columns"),
        (b"5\n", ":2: expected the names of the columns, from 'image_pair_name_1' on; the file"),
        (b"1\na.jpg b.jpg id train\n", ":2: expected the names of the columns, .* got 'a.jpg b"),
        (b"0\nimage_pair_name_1\n", ":1: has no rows, expected 0"),
        (b"1\nimage_pair_name_1\n\nimg/caf\xe9.jpg\n", ":4: not UTF-8: byte 0xe9"),
    ],
)
def test_unreadable_file(c2s, content, message):
    (c2s / trees.PARTITION).write_bytes(content)
    with pytest.raises(AnnotationError, match=re.escape(str(c2s / trees.PARTITION)) + message):
        load("deepfashion_c2s", c2s, on_error="skip")


def test_truncated_file(c2s):
    path = c2s / trees.PARTITION
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    (problem,) = problems_of("deepfashion_c2s", c2s)
    assert problem.startswith(f"{trees.PARTITION}:30: expected 4 fields")
    path.write_bytes(content[:-300])
    problems = problems_of("deepfashion_c2s", c2s)
    assert problems[0] == f"{trees.PARTITION}:1: says that there are 28 rows; there are 26"
    path.write_bytes(content)
    landmarks = c2s / trees.C2S_LANDMARKS
    landmarks.write_bytes(landmarks.read_bytes()[:-2])  # the last number loses a digit
    tolerated = load("deepfashion_c2s", c2s).summary["tolerated"]
    assert tolerated == {"last line without an end, perhaps cut": 1}


@pytest.mark.parametrize("name", WRITERS)
def test_wrong_source(name, tmp_path, downloads):
    for source, message in (
        ("", r"dataset\.source is empty: give the folder of DeepFashion's"),
        (str(tmp_path / "nothing"), r"nothing: no such folder \(dataset\.source\)"),
        (str(tmp_path), r"(Eval|Anno_fine)/list_.*\.txt, .* missing, which DeepFashion's"),
    ):
        with pytest.raises(DatasetError, match=message):
            load_from(name, source, tmp_path)
    root = WRITERS[name](tmp_path / "download")
    next(path for path in (root / "Img", root / "img") if path.exists()).rename(root / "photos")
    with pytest.raises(DatasetError, match="has neither a folder img nor Img/img"):
        load(name, root)
    with pytest.raises(DatasetError, match=r"--on_error='drop'"):
        load(name, downloads[name], on_error="drop")


def test_changed_annotations_are_prepared_anew(c2s):
    first = load("deepfashion_c2s", c2s)
    assert load("deepfashion_c2s", c2s).directory == first.directory
    trees.edit(c2s / trees.C2S_BOXES, 3, "002", "001")
    second = load("deepfashion_c2s", c2s)
    (c2s / trees.C2S_LANDMARKS).unlink()
    third = load("deepfashion_c2s", c2s)
    assert len({first.directory, second.directory, third.directory}) == 3
    assert third.summary["tolerated"] == {"photo without landmarks": 28}
    assert (third.split("train").record(0).landmarks == -1).all()


def test_many_problems_are_shown_in_part(c2s, monkeypatch):
    monkeypatch.setattr(AnnotationError, "most_shown", 5)
    for path in (c2s / "img").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(
        AnnotationError, match=r"(?s)have 28 problems:.*and 23 more; .*--check"
    ) as caught:
        load("deepfashion_c2s", c2s, on_error="skip")
    assert len(caught.value.problems) == 28


def test_prepare_command(downloads, tmp_path, capsys):
    root = downloads["deepfashion_c2s"]
    command = ["--dataset=deepfashion_c2s", f"--source={root}", f"--dir={tmp_path}"]
    assert prepare.main([*command, "--check"]) == 0
    checked = capsys.readouterr().out.splitlines()
    assert not list(tmp_path.iterdir())
    assert checked[-1] == "No problems."
    assert prepare.main(command) == 0
    prepared = capsys.readouterr().out.splitlines()
    for lines in (checked, prepared):
        rows = [line.split() for line in lines]
        # Photos, categories, items, customer and shop photos, pairs, queries and gallery.
        assert ["train", "16", "3", "4", "8", "8", "16", "8", "8"] in [row[:9] for row in rows]
        assert ["test", "8", "2", "2", "4", "4", "8", "4", "4"] in [row[:9] for row in rows]
        assert ["photos", "28", "239,557", "differs"] in rows
        assert ["pairs", "listed", "28", "195,540", "251,361", "differs"] in rows
    assert prepared[-1] == (
        "Next: python train.py --config=configs/grnet.py:deepfashion_c2s "
        f"--config.dataset.dir={tmp_path} --config.dataset.source={root}"
    )


def test_check_command_lists_every_problem(c2s, capsys, tmp_path):
    (c2s / C2S_FIRST).unlink()
    trees.edit(c2s / trees.C2S_BOXES, 4, "002 003", "023 003")
    command = ["--dataset=deepfashion_c2s", f"--source={c2s}", "--check", f"--dir={tmp_path}/data"]
    assert prepare.main(command) == 2
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(f"{c2s}/") for line in lines) == 2
    assert {"  box: 1", "  missing photo: 1"} <= set(lines)
    assert lines[-1].startswith("2 bad rows, 2 problems that stop preparing; --on_error=skip")
    assert prepare.main([*command, "--on_error=skip"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 bad rows will be left out."
    assert prepare.main(["--check"]) == 2
    assert "nothing to check" in capsys.readouterr().err


def test_inshop_records(downloads):
    dataset = load("deepfashion_inshop", downloads["deepfashion_inshop"])
    assert dataset.splits == ("train", "test")
    counts = dataset.summary["splits"]
    keys = ("items", "customer_photos", "shop_photos", "pairs", "queries", "gallery")
    assert [counts["train"][key] for key in keys] == [4, 4, 8, 8, 4, 8]
    assert [counts["test"][key] for key in keys] == [3, 6, 6, 12, 6, 6]
    found = records(dataset.split("train"))
    folder = "img/WOMEN/Blouses_Shirts/id_00000001"
    views = {photo: record.view for photo, record in found.items() if photo.startswith(folder)}
    assert list(views.values()) == [0, 1, 2]
    domains = [found[photo].domain for photo in views]
    assert domains == ["shop", "customer", "shop"]
    record = found[f"{folder}/01_1_pose.jpg"]
    assert (record.item_id, record.category) == ("id_00000001", "WOMEN/Blouses_Shirts")
    assert (record.clothes_type, record.box) == (2, (2, 3, 23, 34))
    assert record.landmarks[:, 0].tolist() == [-1, -1, -1, -1, 0, 0, 0, 1]
    test = records(dataset.split("test")).values()
    assert [record.domain for record in test][:4] == ["customer", "customer", "shop", "shop"]
    assert [record.view for record in test][:4] == [0, 1, 2, -1]
    release = {line["what"]: line for line in dataset.summary["release"]}
    figures = {what: (line["found"], line["release"]) for what, line in release.items()}
    assert figures == {
        "photos": (24, 52_712),
        "train photos": (12, 25_882),
        "query photos": (6, 14_218),
        "gallery photos": (6, 12_612),
        "items": (7, 7_982),
        "train items": (4, 3_997),
        "test items": (3, 3_985),
    }
    assert (release["photos"]["paper"], release["items"]["paper"]) == (54_642, 11_735)


@pytest.mark.parametrize(
    ("file", "line", "old", "new", "message"),
    [
        (
            trees.PARTITION,
            3,
            "train",
            "val",
            "field 'evaluation_status': expected train, query or gallery, got 'val'",
        ),
        (
            trees.PARTITION,
            4,
            "train",
            "query",
            "field 'evaluation_status': item 'id_00000001' is in split 'train' on line 3, here in "
            "'test'",
        ),
        (
            trees.PARTITION,
            4,
            "02_2",
            "01_1",
            "field 'image_name': 'img/WOMEN/Blouses_Shirts/id_00000001/01_1_pose.jpg' of item "
            "'id_00000001' is on line 3 already",
        ),
        (
            trees.PARTITION,
            4,
            " id_00000001 ",
            " id_00000008 ",
            "field 'item_id': 'id_00000008' is not in Anno/list_item_inshop.txt",
        ),
        (
            trees.INSHOP_BOXES,
            3,
            " 2 1 ",
            " 2 7 ",
            "field 'pose_type': expected 1, 2, 3, 4, 5 or 6, got '7'",
        ),
        (
            "Anno/list_item_inshop.txt",
            1,
            "7",
            "8",
            "says that there are 8 rows; there are 7",
        ),
    ],
)
def test_inshop_bad_row(inshop, file, line, old, new, message):
    trees.edit(inshop / file, line, old, new)
    assert problems_of("deepfashion_inshop", inshop) == [f"{file}:{line}: {message}"]


@pytest.mark.parametrize("folder", ["Anno", "Anno_coarse"])
def test_attributes_records(tmp_path, folder):
    root = trees.write_attributes(tmp_path / "download", folder)
    dataset = load("deepfashion_attributes", root)
    counts = dataset.summary["splits"]
    assert [counts[split]["shop_photos"] for split in ("train", "val", "test")] == [4, 2, 2]
    assert {counts[split]["pairs"] for split in counts} == {0}
    index = dataset.split("train").index
    assert index.categories.tolist() == ["Blouse", "Jeans"]
    blouse, jeans = (
        records(dataset.split("val"))[f"img/{folder}/img_00000003.jpg"]
        for folder in ("Sheer_Pleated-Front_Blouse", "Two-Tone_Jeans")
    )
    assert (blouse.category, blouse.clothes_type, blouse.attributes) == ("Blouse", 1, ())
    assert (jeans.category, jeans.clothes_type, jeans.attributes) == (
        "Jeans",
        2,
        ("acid wash jean",),
    )
    assert (blouse.item_id, blouse.domain) == (blouse.photo_id, "shop")
    assert blouse.box == (2, 3, 23, 34)
    assert blouse.landmarks[:, 0].tolist() == [0, 0, 1, 0, -1, -1, 0, 2]
    (line,) = dataset.summary["release"]
    assert (line["found"], line["release"]) == (8, 289_222)


BLOUSE = "img/Sheer_Pleated-Front_Blouse/img_00000001.jpg"


@pytest.mark.parametrize(
    ("file", "line", "old", "new", "message"),
    [
        (
            trees.PARTITION,
            3,
            "train",
            "query",
            "field 'evaluation_status': expected train, val or test, got 'query'",
        ),
        (
            trees.PARTITION,
            4,
            "00002",
            "00001",
            f"field 'image_name': {BLOUSE!r} of item {BLOUSE!r} is on line 3 already",
        ),
        (
            "Anno/list_category_cloth.txt",
            4,
            " 1",
            " 4",
            "field 'category_type': expected 1, 2 or 3, got '4'",
        ),
        ("Anno/list_attr_img.txt", 3, "-1 ", "-2 ", "expected 1, -1 or 0, got '-2'"),
        (
            "Anno/list_attr_img.txt",
            3,
            "-1 ",
            " ",
            f"expected 3 values after {BLOUSE!r}, got 2",
        ),
        (
            "Anno/list_landmarks.txt",
            3,
            " 1 ",
            " 1 1",
            "clothes type 1 has 6 landmarks, which take 18 fields after clothes_type; got 19",
        ),
    ],
)
def test_attributes_bad_row(attributes, file, line, old, new, message):
    trees.edit(attributes / file, line, old, new)
    found = problems_of("deepfashion_attributes", attributes)
    assert found == [f"{file}:{line}: {message}"]


def test_attributes_bad_category(attributes):
    trees.edit(attributes / "Anno/list_category_img.txt", 3, "   1", "   51")
    label, photo = problems_of("deepfashion_attributes", attributes)
    assert (
        label == "Anno/list_category_img.txt:3: field 'category_label': expected 1 to 3, got '51'"
    )
    assert photo.startswith(f"{trees.PARTITION}:3: field 'image_name': {BLOUSE!r} has no category")
    assert photo.endswith("in Anno/list_category_img.txt")


def test_fine_records(downloads):
    dataset = load("deepfashion_fine", downloads["deepfashion_fine"])
    counts = dataset.summary["splits"]
    assert [counts[split]["shop_photos"] for split in ("train", "val", "test")] == [3, 1, 2]
    assert dataset.summary["attribute_types"] == {"cotton": "fabric", "tight": "fit"}
    found = records(dataset.split("test"))
    (odd, even) = (found[f"img/Two-Tone_Jeans/img_0000000{number}.jpg"] for number in (5, 6))
    assert (odd.attributes, even.attributes) == (("cotton", "tight"), ("cotton",))
    assert odd.unknown_attributes == even.unknown_attributes == ()
    assert (odd.category, odd.clothes_type, odd.box) == ("Jeans", 2, (2, 3, 23, 34))
    assert (odd.item_id, odd.domain) == (odd.photo_id, "shop")
    assert odd.landmarks[:, 0].tolist() == [-1, -1, -1, -1, 0, 0, 0, 1]


def test_fine_needs_no_landmarks(fine):
    (fine / "Anno_fine/list_landmarks.txt").unlink()
    dataset = load("deepfashion_fine", fine)
    assert not (dataset.split("train").index.landmarks[..., 0] >= 0).any()


@pytest.mark.parametrize(
    ("file", "line", "old", "new", "message"),
    [
        ("train.txt", 2, "img/", "", "field 'image_name': expected img/..., got 'Two-Tone"),
        ("val_cate.txt", 1, "2", "51", "field 'category_label': expected 1 to 2, got '51'"),
        ("test_bbox.txt", 2, "034", "", "expected 4 fields (x_1, y_1, x_2, y_2), got 3"),
        ("test_bbox.txt", 2, "002", "2.5", "field 'x_1': expected a whole number of pixels"),
        ("train_attr.txt", 3, "1 1", "1 1 0", "expected 2 values, got 3"),
        ("train_attr.txt", 3, "1 1", "1 -1", "expected 1 or 0, got '-1'"),
    ],
)
def test_fine_bad_line(fine, file, line, old, new, message):
    trees.edit(fine / "Anno_fine" / file, line, old, new)
    (found,) = problems_of("deepfashion_fine", fine)
    assert found.startswith(f"Anno_fine/{file}:{line}: {message}")
    kept = load("deepfashion_fine", fine, on_error="skip").summary["splits"]
    assert sum(kept[split]["shop_photos"] for split in kept) == 5


def test_fine_lines_that_may_belong_to_a_neighbor_are_never_skipped(fine):
    trees.write_lines(fine / "Anno_fine/train_attr.txt", ["1 1", "1 0"])
    (found,) = problems_of("deepfashion_fine", fine, on_error="skip")
    assert found == (
        "Anno_fine/train_attr.txt: has 2 lines, expected 3, a line for each photo of train.txt"
    )


def test_fine_lines_are_those_of_their_photos(fine):
    for name in ("train.txt", "train_cate.txt", "train_bbox.txt", "train_attr.txt"):
        path = fine / "Anno_fine" / name
        lines = path.read_text().splitlines()
        blank = 0 if name == "train_cate.txt" else 1
        path.write_text("\n".join([*lines[:blank], "", *lines[blank:]]) + "\n")
    (found,) = problems_of("deepfashion_fine", fine, on_error="skip")
    assert found == "Anno_fine/train_cate.txt:2: train.txt has no photo on this line"


def test_fine_a_photo_in_two_splits_with_two_boxes(fine):
    image = "img/Two-Tone_Jeans/img_00000001.jpg"
    trees.edit(fine / "Anno_fine/test.txt", 2, "00000006", "00000001")
    trees.edit(fine / "Anno_fine/test_bbox.txt", 2, "002", "001")
    _, found = problems_of("deepfashion_fine", fine)  # the first: it is listed twice
    assert found == (
        f"Anno_fine/test_bbox.txt:2: field 'image_name': {image!r} has another box at "
        f"{fine}/Anno_fine/train_bbox.txt:1"
    )


def test_preparing_needs_no_tensorflow(downloads, tmp_path):
    source = downloads["deepfashion_c2s"]
    lines = run_python(WITHOUT_TENSORFLOW, "deepfashion_c2s", source, tmp_path).splitlines()
    assert lines[-2].endswith("(36, 24, 3) 8")


def test_check_command_takes_a_manifest(tmp_path, capsys):
    path = write_manifest(tmp_path, ["s.jpg,a,shop,train", "gone.png,a,customer,train"])
    assert prepare.main(["--dataset=manifest", f"--source={path}", "--check"]) == 2
    out = capsys.readouterr().out
    assert f"{path}:3: field 'image': gone.png: no such file" in out
    assert "  missing photo: 1" in out


def test_c2s_a_photo_of_two_items_is_stored_for_each(c2s):
    photos = trees.c2s_photos(2)
    row = f"{photos['customer'][0]}   {C2S_SHOP}   id_00000002   train"
    trees.append(c2s / trees.PARTITION, row)
    dataset = load("deepfashion_c2s", c2s)
    split = dataset.split("train")
    rows = [n for n in range(len(split)) if split.index.photo_id[n] == C2S_SHOP]
    assert [split.record(n).item_id for n in rows] == ["id_00000001", "id_00000002"]
    assert len({int(split.index.content[n]) for n in rows}) == 1
    # The item's other customer photo is paired with it too.
    assert dataset.summary["splits"]["train"]["pairs"] == 18
    assert dataset.summary["facts"]["pairs_listed"] == 29


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("list_category_cloth.txt", " 1", " one", "field 'category_type': expected 1, 2 or 3, got"),
        ("list_category_cloth.txt", " 1", "", "expected 2 fields (category_name, category_type)"),
        ("list_attr_cloth.txt", " 1", "", "field 'attribute_type': expected a number, got 'jean'"),
    ],
)
def test_a_wrong_name_is_never_skipped(attributes, file, old, new, message):
    """Left out, it would shift all names after it."""
    trees.edit(attributes / "Anno" / file, 4, old, new)
    (problem,) = problems_of("deepfashion_attributes", attributes, on_error="skip")
    assert problem.startswith(f"Anno/{file}:4: {message}")


def test_attributes_are_apart_from_those_not_known(downloads):
    dataset = load("deepfashion_attributes", downloads["deepfashion_attributes"])
    names = ["a-line", "abstract print", "acid wash jean"]  # in the index sorted
    assert dataset.summary["attribute_types"] == {
        "a-line": "shape",
        "acid wash jean": "texture",
        "abstract print": "texture",
    }
    split = dataset.split("train")
    # Of the blouses all is -1 or unknown, and no photo of any split is an a-line: it has no column.
    assert split.index.attributes.tolist() == names[1:]
    values = split.index.attribute_values(np.arange(len(split)))
    for row in range(len(split)):
        record = split.record(row)
        assert record.unknown_attributes == ("abstract print",)
        jeans = record.category == "Jeans"
        assert record.attributes == (("acid wash jean",) if jeans else ())
        assert values[row].tolist() == [-1, int(jeans)]
    reversed_rows = np.arange(len(split))[::-1]
    np.testing.assert_array_equal(split.index.attribute_values(reversed_rows), values[::-1])


def test_joined_splits_hold_the_photos_of_both(downloads):
    dataset = load("deepfashion_c2s", downloads["deepfashion_c2s"])
    val, test = dataset.split("val"), dataset.split("test")
    joined = dataset.joined(("test", "val"))
    assert joined.name == "test+val"
    assert len(joined) == len(test) + len(val)
    for row in range(len(joined)):
        split, own = (test, row) if row < len(test) else (val, row - len(test))
        ours, theirs = joined.record(row), split.record(own)
        assert (ours.photo_id, ours.image) == (theirs.photo_id, theirs.image)
        assert joined.index.items[joined.index.item[row]] == ours.item_id
        assert joined.index.photo_id[row] == ours.photo_id
        assert joined.index.box[row].tolist() == list(ours.box)
    rows = np.arange(len(joined))
    np.testing.assert_array_equal(
        joined.index.attribute_values(rows),
        np.concatenate([part.index.attribute_values(np.arange(len(part))) for part in (test, val)]),
    )
    assert joined.index.attribute_values(rows).any()
    pairs = {tuple(joined.index.photo_id[pair]) for pair in joined.pairs()}
    apart = {tuple(part.index.photo_id[pair]) for part in (test, val) for pair in part.pairs()}
    assert pairs == apart
    assert dataset.joined(("val",)) is val


def test_contents_are_numbered_alike_in_all_splits(c2s):
    """One shop photo stands under an item of train and, byte for byte, under one of test."""
    twin = c2s / trees.c2s_photos(6)["shop"][0]
    twin.write_bytes((c2s / trees.c2s_photos(1)["shop"][1]).read_bytes())
    dataset = load("deepfashion_c2s", c2s)
    contents = {
        str(name): int(content)
        for name in dataset.splits
        for name, content in zip(
            dataset.split(name).index.photo_id, dataset.split(name).index.content, strict=True
        )
    }
    ours = contents[trees.c2s_photos(6)["shop"][0]]
    assert ours == contents[trees.c2s_photos(1)["shop"][1]]
    assert list(contents.values()).count(ours) == 2
    assert len(set(contents.values())) == len(contents) - 1


def test_photos_that_arrive_later_are_told_of(c2s, capsys):
    content = (c2s / C2S_FIRST).read_bytes()
    (c2s / C2S_FIRST).unlink()
    dataset = load("deepfashion_c2s", c2s, on_error="missing photo")
    assert dataset.summary["missing_photos"] == [C2S_FIRST]
    load("deepfashion_c2s", c2s, on_error="missing photo")
    assert "are there now" not in capsys.readouterr().out
    (c2s / C2S_FIRST).write_bytes(content)
    load("deepfashion_c2s", c2s, on_error="missing photo")
    said = f"1 photos that were missing when {dataset.directory} was prepared are there now"
    assert said in capsys.readouterr().out
