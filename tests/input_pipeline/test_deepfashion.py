"""DeepFashion's benchmarks, from small downloads in their form: records, counts, problems."""

import re
from pathlib import Path

import numpy as np
import pytest

from input_pipeline import DatasetError, prepare
from input_pipeline.errors import AnnotationError
from input_pipeline.vocabulary import VIEWS
from tests.input_pipeline import deepfashion_trees as trees
from tests.input_pipeline.conftest import check
from tests.input_pipeline.conftest import load as load_from

WRITERS = {
    "deepfashion_c2s": trees.write_c2s,
    "deepfashion_inshop": trees.write_inshop,
    "deepfashion_attributes": trees.write_attributes,
    "deepfashion_fine": trees.write_fine,
}
ABSENT = [-1, 0, 0]
LOWER = [ABSENT] * 4 + [[0, 8, 4], [0, 15, 4], [0, 7, 30], [1, 16, 30]]  # trees.POINTS[2]
JEANS = "img/Two-Tone_Jeans/img_0000000"


def load(name, root, **options):
    return load_from(name, root, root.parent / "data", **options)


def records(split):
    return {record.photo_id: record for record in map(split.record, range(len(split)))}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """One data set of each, by name: not to be changed."""
    folder = tmp_path_factory.mktemp("downloads")
    return {name: load(name, write(folder / name)) for name, write in WRITERS.items()}


@pytest.fixture
def download(tmp_path, request):
    """A benchmark's name and folder, to be changed; consumer-to-shop where no test says which."""
    name = getattr(request, "param", "deepfashion_c2s")
    return name, WRITERS[name](tmp_path / "download")


def counts(dataset, *names):
    splits = dataset.summary["splits"]
    return {split: tuple(splits[split][name] for name in names) for split in splits}


def test_c2s_records(prepared):
    dataset = prepared["deepfashion_c2s"]
    found = counts(dataset, "items", "pairs", "queries", "gallery")
    assert found == {"train": (4, 16, 8, 8), "val": (1, 4, 2, 2), "test": (2, 8, 4, 4)}
    assert (dataset.summary["skipped_rows"], dataset.summary["notes"]) == (0, {})
    assert dataset.summary["attribute_types"]["floral print"] == "1"
    test = records(dataset.split("test"))
    photos = trees.c2s_photos(6)
    first = [("customer", 0), ("shop", 0), ("shop", 1), ("customer", 1)]
    assert list(test)[:4] == [photos[domain][n] for domain, n in first]
    record = test[photos["customer"][1]]
    assert record.image == (Path(dataset.summary["source"]) / record.photo_id).read_bytes()
    assert (record.item_id, record.domain) == ("id_00000006", "customer")
    assert (record.category, record.clothes_type) == ("TOPS/T_Shirt", 1)
    assert record.box == (2, 3, 23, 34)
    assert (record.view, record.occluded, record.cropped) == (-1, -1, -1)
    assert record.attributes == ("long sleeve", "slim")
    upper = [[0, 8, 4], [0, 15, 4], [1, 2, 12], [0, 21, 12], ABSENT, ABSENT, [0, 7, 30], [2, 0, 0]]
    assert record.landmarks.tolist() == upper
    lower = test[trees.c2s_photos(7)["shop"][0]]
    assert (lower.domain, lower.clothes_type) == ("shop", 2)
    assert lower.landmarks.tolist() == LOWER
    full = records(dataset.split("val"))[trees.c2s_photos(5)["shop"][0]]
    assert full.clothes_type == 3
    assert full.landmarks[:, 0].tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    release = {line["what"]: line for line in dataset.summary["release"]}
    assert (release["pairs"]["found"], release["pairs"]["release"]) == (28, 195_540)


@pytest.mark.parametrize("folder", ["Anno", "Anno/attributes"])
def test_inshop_records(tmp_path, folder):
    dataset = load("deepfashion_inshop", trees.write_inshop(tmp_path / "download", folder))
    found = counts(dataset, "items", "customer_photos", "shop_photos", "pairs", "queries")
    assert found == {"train": (4, 4, 8, 8, 4), "test": (3, 6, 6, 12, 6)}
    train, test = (list(records(dataset.split(name)).values()) for name in dataset.splits)
    assert [record.domain for record in train[:3]] == ["shop", "customer", "shop"]
    assert [record.domain for record in test[:4]] == ["customer", "customer", "shop", "shop"]
    views = [VIEWS[record.view] for record in train[:3] + test[:4]]
    assert views == ["front", "zoom_out", "stand_alone", "front", "side", "back", "zoom_in"]
    assert (train[0].item_id, train[0].category) == ("id_00000001", "WOMEN/Blouses_Shirts")
    assert (train[0].clothes_type, train[0].box) == (2, (2, 3, 23, 34))
    assert train[0].landmarks.tolist() == LOWER
    assert (train[0].attributes, train[0].unknown_attributes) == (("pointelle 2",), ())
    assert train[3].unknown_attributes == ("1950s",)
    assert dataset.split("test").index.attributes.tolist() == ["v neck", "1950s", "pointelle 2"]
    release = {line.pop("what"): line for line in dataset.summary["release"]}
    assert release["items"] == {"listed": 7, "found": 7, "release": 7_982, "paper": 11_735}
    parts = ("train images", "query images", "gallery images", "train items", "test items")
    assert [release[part]["found"] for part in parts] == [12, 6, 6, 4, 3]


@pytest.mark.parametrize("folder", ["Anno", "Anno_coarse"])
def test_attributes_records(tmp_path, folder):
    dataset = load("deepfashion_attributes", trees.write_attributes(tmp_path / "download", folder))
    found = counts(dataset, "shop_photos", "pairs", "categories")
    assert found == {"train": (4, 0, 2), "val": (2, 0, 2), "test": (2, 0, 2)}
    val = records(dataset.split("val"))
    blouse, jeans = val["img/Sheer_Pleated-Front_Blouse/img_00000003.jpg"], val[f"{JEANS}3.jpg"]
    assert (blouse.category, blouse.clothes_type, blouse.attributes) == ("Blouse", 1, ())
    assert (jeans.category, jeans.clothes_type) == ("Jeans", 2)
    assert jeans.attributes == ("acid wash jean",)
    assert jeans.unknown_attributes == ("abstract print",)
    assert (blouse.item_id, blouse.domain, blouse.box) == (blouse.photo_id, "shop", (2, 3, 23, 34))
    assert blouse.landmarks[:, 0].tolist() == [0, 0, 1, 0, -1, -1, 0, 2]
    (line,) = dataset.summary["release"]
    assert (line["found"], line["release"]) == (8, 289_222)


@pytest.mark.parametrize("landmarks", ["visibility", "pairs", "none"])
def test_fine_records(tmp_path, landmarks):
    root = trees.write_fine(tmp_path / "download")
    path, expected = root / "Anno_fine/list_landmarks.txt", LOWER
    if landmarks == "none":
        path.unlink()
        expected = [[-1, -1, -1]] * 8
    elif landmarks == "pairs":
        path.write_text(path.read_text().replace(trees.POINTS[2], "008 004  000 000  007 0 000 30"))
        expected = [ABSENT] * 4 + [[0, 8, 4], ABSENT, [0, 7, 0], [0, 0, 30]]
    trees.edit(root / "Anno_fine/test_bbox.txt", 1, "002", "1.5")
    dataset = load("deepfashion_fine", root)
    assert counts(dataset, "shop_photos") == {"train": (3,), "val": (1,), "test": (2,)}
    assert dataset.summary["attribute_types"] == {"cotton": "fabric", "tight": "fit"}
    odd, even = records(dataset.split("test")).values()
    assert (odd.attributes, even.attributes) == (("cotton", "tight"), ("cotton",))
    assert odd.unknown_attributes == even.unknown_attributes == ()
    assert (odd.category, odd.clothes_type, odd.box) == ("Jeans", 2, (1.5, 3, 23, 34))
    assert (odd.item_id, odd.domain) == (odd.photo_id, "shop") == (f"{JEANS}5.jpg", "shop")
    assert odd.landmarks.tolist() == expected


def test_names_are_numbered_as_in_their_lists(prepared):
    """Label n is row n, whether an image has that category or none has."""
    for name, categories, label in (
        ("deepfashion_attributes", ["Blouse", "Button-Down", "Jeans"], {0, 2}),
        ("deepfashion_fine", ["Blouse", "Jeans"], {1}),
    ):
        for split in ("train", "val", "test"):
            index = prepared[name].split(split).index
            assert index.categories.tolist() == categories
            assert set(index.category.tolist()) == label
    types = {"a-line": "shape", "acid wash jean": "texture", "abstract print": "texture"}
    dataset = prepared["deepfashion_attributes"]
    assert dataset.summary["attribute_types"] == types
    split = dataset.split("train")
    assert split.index.attributes.tolist() == list(types)
    assert split.index.attribute_values(np.array([3, 0])).tolist() == [[0, 1, -1], [0, 0, -1]]


C2S, INSHOP, COARSE, FINE = WRITERS
FIRST, SHOP = (f"img/TROUSERS/Jeans/id_00000001/{name}_01.jpg" for name in ("comsumer", "shop"))
POSE = "img/WOMEN/Blouses_Shirts/id_00000001/01_1_pose.jpg"
LIST, BOXES, POINTS = trees.PARTITION, trees.C2S_BOXES, trees.C2S_LANDMARKS
LABELS, SIGNS = "Anno/list_category_img.txt", "Anno/list_attr_img.txt"
CATEGORIES, ATTRIBUTES = "Anno/list_category_cloth.txt", "Anno_fine/list_attr_cloth.txt"
OUTSIDE = "is outside the image of 24x36 pixels"
DRESS = (f"2 1  {trees.POINTS[2]}", f"3 1  {trees.POINTS[3]}")
BAD_ROWS = [
    (C2S, LIST, 3, "train", "trian", "value", "field 'evaluation_status': expected train, val or"),
    (C2S, LIST, 4, "train", "test", "contradiction", "item 'id_00000001' is in split 'train' at"),
    (C2S, LIST, 3, " id_00000001 ", " ", "format", "expected 4 fields (image_pair_name_1, image"),
    (C2S, LIST, 3, "id_00000001 ", "id_9 ", "reference", "field 'item_id': 'id_9' is not in"),
    (C2S, LIST, 3, "img/T", "img/../T", "value", "field 'image_name': expected img/..., got"),
    (C2S, BOXES, 3, "002 003", "023 003", "box", "field 'x_2': the box has no size: 23 is not ab"),
    (C2S, BOXES, 3, "023", "0x7", "box", "field 'x_2': expected a number of pixels, got '0x7'"),
    (C2S, BOXES, 3, "023", "026", "box", f"field 'x_2': 26 {OUTSIDE}"),
    (C2S, BOXES, 3, " 2 2 ", " 4 2 ", "value", "field 'clothes_type': expected 1, 2 or 3, got"),
    (C2S, BOXES, 3, " 2 2 ", " 2 3 ", "value", "field 'source_type': expected 1 or 2, got '3'"),
    (C2S, BOXES, 3, " 033", "", "format", "expected 7 fields (image, clothes_type, source_type, "),
    (C2S, POINTS, 3, "  0 008 004", "", "landmarks", "clothes type 2 has 4 landmarks, which take"),
    (C2S, POINTS, 3, "0 008 004  0", "", "landmarks", "clothes type 2 has 4 landmarks, which take"),
    (C2S, POINTS, 3, "004", "0.4", "landmarks", "expected a whole number, got '0.4'"),
    (C2S, POINTS, 3, "0 008", "3 008", "landmarks", "expected a visibility of 0, 1 or 2, got 3"),
    (C2S, POINTS, 3, "008 004", "026 004", "landmarks", f"landmark (26, 4) {OUTSIDE}"),
    (C2S, POINTS, 3, *DRESS, "contradiction", "field 'clothes_type': is 3 here and 2 at "),
    (INSHOP, LIST, 3, "train", "val", "value", "field 'evaluation_status': expected train, query"),
    (INSHOP, LIST, 4, "train", "query", "contradiction", "item 'id_00000001' is in split 'train'"),
    (INSHOP, LIST, 4, "02_4", "01_1", "duplicate", f"{POSE!r} of item 'id_00000001' is listed"),
    (INSHOP, trees.INSHOP_BOXES, 3, " 2 1 ", " 2 7 ", "value", "field 'pose_type': expected 1, 2"),
    (INSHOP, "Anno/list_item_inshop.txt", 1, "7", "8", "format", "says that there are 8 rows; the"),
    (COARSE, LIST, 4, "00002", "00001", "duplicate", "'img/Sheer_Pleated-Front_Blouse/img_0000"),
    (COARSE, LABELS, 3, "   1", "   51", "value", "field 'category_label': expected 1 to 3, got"),
    (COARSE, SIGNS, 3, "-1 ", "-2 ", "value", "expected 1, -1 or 0, got '-2'"),
    (COARSE, SIGNS, 3, "-1 ", " ", "value", "expected 3 values, got 2"),
    (FINE, "Anno_fine/train.txt", 2, "img/", "", "value", "field 'image_name': expected img/..., "),
    (FINE, "Anno_fine/test.txt", 2, "6.jpg", "1.jpg", "contradiction", f"item '{JEANS}1.jpg' is "),
    (FINE, "Anno_fine/val_cate.txt", 1, "2", "51", "value", "field 'category_label': expected 1 t"),
    (FINE, "Anno_fine/test_bbox.txt", 2, "034", "", "box", "expected 4 numbers, got '002 003 023'"),
    (FINE, "Anno_fine/train_attr.txt", 3, "1 1", "1 -1", "value", "expected 2 values of 1 or 0, g"),
    # Without one of the names, all after it would be their neighbors': no kind is left out.
    (COARSE, CATEGORIES, 3, "1", "4", "", "expected a name and a type (1, 2 or 3), got 'Blouse  4"),
    (COARSE, CATEGORIES, 3, "1", "", "", "expected a name and a type (1, 2 or 3), got 'Blouse'"),
    (FINE, ATTRIBUTES, 4, "6", "x", "", "expected a name and a type, got 'tight  x'"),
    (FINE, ATTRIBUTES, 1, "2", "3", "", "says that there are 3 rows; there are 2"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("download", "file", "line", "old", "new", "kind", "text"), BAD_ROWS, indirect=["download"]
)
def test_bad_row(download, file, line, old, new, kind, text):
    name, root = download
    trees.edit(root / file, line, old, new)
    if not kind:
        with pytest.raises(AnnotationError, match=re.escape(f"{root}/{file}:{line}: {text}")):
            load(name, root, on_error="skip")
        return
    problems = check(name, root).fatal
    assert {problem[:2] for problem in problems} == {(kind, f"{root}/{file}:{line}")}
    assert len(problems) <= (2 if name == C2S else 1)  # a pair that is wrong has two images
    assert problems[0].text.startswith(text)


def test_problems_between_files(download):
    name, root = download
    (root / FIRST).unlink()
    content = (root / SHOP).read_bytes()
    (root / SHOP).write_bytes(content[: len(content) // 2])
    customers, shops = trees.c2s_photos(2).values()
    trees.edit(root / BOXES, 7, customers[0], "img/other.jpg")
    trees.edit(root / BOXES, 8, " 3 2 ", " 3 1 ")
    trees.append(root / BOXES, f"{shops[1]} 3 1 001 003 023 034")
    trees.append(root / LIST, f"{shops[0]} {shops[1]} id_00000002 train")
    expected = [
        ("contradiction", BOXES, 31, f"field 'image': {shops[1]!r} has another box at {root}"),
        ("missing_image", LIST, 3, f"{FIRST}: no such file"),
        ("unreadable_image", LIST, 3, f"{SHOP}: "),
        ("reference", LIST, 7, f"field 'image': {customers[0]!r} is not in "),
        ("contradiction", LIST, 9, f"{customers[1]!r} is a customer image here, but of source_typ"),
        ("contradiction", LIST, 31, f"{shops[0]!r} is a customer image here, but of source_type 1"),
    ]
    for problem, (kind, file, line, text) in zip(check(name, root).fatal, expected, strict=True):
        assert problem[:2] == (kind, f"{root}/{file}:{line}")
        assert problem.text.startswith(text)


def test_bad_rows_stop_or_are_left_out(download, capsys):
    name, root = download
    (root / FIRST).unlink()
    trees.edit(root / BOXES, 4, "002 003", "023 003")
    trees.edit(root / LIST, 30, "test", "dev")
    for policy, stopping in (("", 3), ("error", 3), ("box, missing_image", 1)):
        with pytest.raises(AnnotationError) as caught:
            load(name, root, on_error=policy)
        assert len(caught.value.problems) == stopping
        assert not list((root.parent / "data").glob("*/*/*"))
    with pytest.raises(DatasetError, match=r"--on_error='drop': 'drop' is neither error nor skip"):
        load(name, root, on_error="drop")
    dataset = load(name, root, on_error="skip")
    printed = capsys.readouterr().out
    assert f"Left out: {root}/{LIST}:3: {FIRST}: no such file" in printed
    assert "(3 bad rows were left out)" in printed
    assert dataset.summary["skipped_rows"] == 3
    assert dataset.summary["problems"] == {"box": 1, "missing_image": 1, "value": 1}
    # The images of the last pair, which is left out, are in other pairs too.
    assert counts(dataset, "customer_photos", "pairs")["train"] == (6, 12)
    assert counts(dataset, "customer_photos", "pairs")["test"] == (4, 8)


def test_oddities_are_noted_once(download, capsys):
    """Repeated rows, rows of no image, and a pixel over the edge are no problems."""
    name, root = download
    boxes = root / BOXES
    trees.append(root / LIST, (root / LIST).read_text().split("\n")[2])
    trees.edit(boxes, 3, "002 003 023 033", "-01 003 025 037")
    trees.append(boxes, boxes.read_text().split("\n")[2])
    trees.append(boxes, "img/unlisted.jpg 1 1 0 0 9 9")
    second = FIRST.replace("01.jpg", "02.jpg")
    trees.edit(root / POINTS, 3, "008 004", "024 004")
    trees.edit(root / POINTS, 4, f"{second} ", "img/other.jpg ")
    dataset = load(name, root)
    expected = [
        *("box moved to the image's edge", "box of no listed image", "image without landmarks"),
        *("landmark moved to the image's edge", "landmarks of no listed image"),
        "repeated row of box",
    ]
    assert dataset.summary["notes"] == dict.fromkeys(expected, 1)
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if "Noted" in line] == [f"Noted: {it}: 1" for it in expected]
    train = records(dataset.split("train"))
    assert train[FIRST].box == (0, 3, 24, 36)
    assert train[FIRST].landmarks[4].tolist() == [0, 23, 4]
    assert (train[second].landmarks == -1).all()
    assert train[second].clothes_type == 2


def test_unreadable_file(download):
    name, root = download
    for content, message in {
        b"": ":1: expected the number of rows, got ''",
        b"9" * 5000: ":1: expected the number of rows, got '999",
        b"5\n": ":2: expected the names of the columns, got ''",
        b"1\na.jpg b.jpg id train\n": ":2: expected the names of the columns, got 'a.jpg b",
        b"0\nimage_pair_name_1\n": ":1: has no rows, expected 0",
        b"1\nimage_pair_name_1\n\nimg/caf\xe9.jpg\n": ":4: not UTF-8: byte 0xe9",
    }.items():
        (root / LIST).write_bytes(content)
        with pytest.raises(AnnotationError, match=re.escape(f"{root}/{LIST}{message}")):
            load(name, root, on_error="skip")


@pytest.mark.parametrize("download", WRITERS, indirect=True)
def test_wrong_source(download, tmp_path):
    name, root = download
    for source, message in (
        ("", rf"dataset\.source is empty: give what {name} is prepared from"),
        (tmp_path, rf"(Eval|Anno_fine)/list_.*\.txt, .* missing, which {name} has"),
    ):
        with pytest.raises(DatasetError, match=message):
            load_from(name, source, tmp_path)
    next(path for path in (root / "Img", root / "img") if path.exists()).rename(root / "photos")
    with pytest.raises(DatasetError, match="has neither a folder img nor Img/img"):
        load(name, root)


def test_changed_annotations_are_prepared_anew(download, capsys):
    name, root = download
    first = load(name, root)
    assert load(name, root).directory == first.directory
    trees.edit(root / BOXES, 3, "002", "001")
    second = load(name, root)
    assert f"  {first.directory.parent}\n" in capsys.readouterr().out
    (root / POINTS).unlink()
    third = load(name, root)
    older = sorted(f"  {dataset.directory.parent}" for dataset in (first, second))
    assert [line for line in capsys.readouterr().out.split("\n") if line.startswith("  ")] == older
    assert (third.split("train").record(0).landmarks == -1).all()


def test_prepare_command(download, tmp_path, capsys):
    name, root = download
    command = [f"--dataset={name}", f"--source={root}", f"--dir={tmp_path}/data"]
    assert prepare.main([*command, "--check"]) == 0
    checked = capsys.readouterr().out.splitlines()
    assert checked[-1] == "No problems."
    assert not (tmp_path / "data").exists()
    assert prepare.main(command) == 0
    printed = capsys.readouterr().out.splitlines()
    for rows in ([line.split() for line in lines] for lines in (checked, printed)):
        # Images, categories, items, customer and shop images, pairs, queries and gallery.
        assert ["train", "16", "3", "4", "8", "8", "16", "8", "8"] in [row[:9] for row in rows]
    assert printed[-1].startswith(f"Next: python train.py --config=configs/grnet.py:{name} ")
    (root / FIRST).unlink()
    trees.edit(root / BOXES, 4, "002 003", "023 003")
    assert prepare.main([*command, "--check"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(f"{root}/") for line in lines) == 2
    assert {"  box: 1", "  missing_image: 1"} <= set(lines)
    assert lines[-1].startswith("2 bad rows, 2 problems that stop preparing; --on_error=skip")


def test_fine_lines_that_may_belong_to_a_neighbor_always_stop(tmp_path):
    root = trees.write_fine(tmp_path / "download")
    path = root / "Anno_fine/train_attr.txt"
    for lines, text in (
        (["1 1", "1 0"], "3: has 2 lines, expected 3, one for each image of train.txt"),
        (["1 1", "", "1 0", "1 1"], "2: has 3 lines, expected 3, one for each image of train.txt"),
    ):
        trees.write_lines(path, lines)
        with pytest.raises(AnnotationError) as caught:
            load(FINE, root, on_error="skip")
        assert caught.value.problems[0].startswith(f"{path}:{text}")


def test_c2s_an_image_of_two_items_is_a_record_of_each(download):
    name, root = download
    customer = trees.c2s_photos(2)["customer"][0]
    trees.append(root / LIST, f"{customer}   {SHOP}   id_00000002   train")
    dataset = load(name, root)
    split = dataset.split("train")
    rows = np.flatnonzero(split.index.photo_id == SHOP)
    assert [split.record(n).item_id for n in rows] == ["id_00000001", "id_00000002"]
    assert len(set(split.index.content[rows])) == 1
    # The item's other customer image is paired with it too.
    assert counts(dataset, "pairs")["train"] == (18,)


def test_contents_are_numbered_alike_in_all_splits(download):
    """One shop image stands under an item of train and, byte for byte, under one of test."""
    name, root = download
    first, twin = (trees.c2s_photos(item)["shop"][place] for item, place in ((1, 1), (6, 0)))
    (root / twin).write_bytes((root / first).read_bytes())
    contents, dataset = {}, load(name, root)
    for index in (dataset.split(split).index for split in dataset.splits):
        contents |= dict(zip(index.photo_id.tolist(), index.content.tolist(), strict=True))
    assert contents[twin] == contents[first]
    assert len(set(contents.values())) == len(contents) - 1
