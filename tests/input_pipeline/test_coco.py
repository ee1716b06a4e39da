"""COCO's form and ModaNet: records against independent decoders, layouts, splits, problems."""

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from input_pipeline import AnnotationError, DatasetError
from input_pipeline.objects import coco, modanet
from input_pipeline.objects.modanet import CLASSES, STREET2SHOP_CLASSES
from input_pipeline.vocabulary import SPLITS
from tests.input_pipeline import coco_trees as trees
from tests.input_pipeline.conftest import check
from tests.input_pipeline.conftest import load as load_from
from tests.input_pipeline.test_masks import in_polygon


def load(root, name="coco", **options):
    return load_from(name, root, root.parent / "data", **options)


def photos(dataset):
    """Every record by name, with its split."""
    splits = [dataset.object_split(name) for name in dataset.splits]
    return {
        record.photo_id: (split.name, record)
        for split in splits
        for record in map(split.record, range(len(split)))
    }


def problems_of(root, name="coco"):
    """The texts of all problems, without the path of the folder."""
    return [str(each).replace(f"{root}/", "") for each in check(name, root).checked.problems]


def mask_of(png):
    picture = Image.open(io.BytesIO(png))
    assert picture.mode == "L"
    return np.asarray(picture)


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """The folder of `coco_trees.street`: not to be changed."""
    return trees.write_coco(tmp_path_factory.mktemp("coco") / "street")


def test_records(street):
    dataset = load(street)
    found = photos(dataset)
    assert sorted(found) == [f"000{n}.jpg" for n in range(1, 6)]
    _, record = found["0001.jpg"]
    assert record.image == (street / "images/0001.jpg").read_bytes()
    assert (record.height, record.width, record.orientation) == (24, 36, 1)
    boxes = [[0, 2, 30, 20], [4, 3, 30, 20], [1.5, 2.25, 4.5, 6.25]]
    assert (record.boxes.tolist(), record.boxes.dtype) == (boxes, np.float32)
    # By the order of the ids: 3 dress, 7 bag, 9 café au lait.
    assert (record.categories.tolist(), record.categories.dtype) == ([1, 0, 0], np.int32)
    assert record.crowd.tolist() == [False] * 3
    ring, star = map(mask_of, record.masks[:2])
    np.testing.assert_array_equal(ring, 255 * trees.ring())
    inside, near = in_polygon(trees.STAR, 24, 36)
    np.testing.assert_array_equal(star[~near], 255 * inside[~near])
    assert record.masks[2] == b""
    _, record = found["0002.jpg"]
    assert record.boxes.tolist() == [[10, 10, 36, 24]]  # half a pixel was outside
    assert (record.crowd.tolist(), record.masks) == ([True], (b"",))
    _, record = found["0003.jpg"]
    assert (record.boxes.shape, record.categories.shape, record.masks) == ((0, 4), (0,), ())
    assert dataset.summary["notes"] == {"box moved to the image's edge": 1}


def test_index(street):
    dataset, report = load(street), check("coco", street)
    for name in dataset.splits:
        split = dataset.object_split(name)
        records, index = [split.record(row) for row in range(len(split))], split.index
        assert index.photo_id.tolist() == [record.photo_id for record in records]
        assert index.objects.tolist() == [len(record.boxes) for record in records]
        assert index.crowd.tolist() == [int(record.crowd.sum()) for record in records]
        assert index.size.tolist() == [[24, 36]] * len(split)
        assert index.categories.tolist() == ["dress", "bag", "café au lait"]
        counts = dict(dataset.summary["splits"][name])
        assert counts.pop("bytes") > 0
        assert index.counts() == counts == report.summary["splits"][name]


@pytest.mark.parametrize(
    ("orientation", "as_stored"),
    [*((n, False) for n in trees.TURNS), *((n, True) for n in range(5, 9))],
)
def test_turned_photos(tmp_path, orientation, as_stored):
    """A bright rectangle is found in the upright picture where its box and mask say.

    Of orientations 2 to 4 the size tells nothing: boxes are taken as upright.
    """
    upright = np.zeros((24, 36, 3), np.uint8)
    upright[3:9, 5:25] = 250
    pixels = np.ascontiguousarray(trees.TURNS[orientation](upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "coco/images").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "coco/images/a.jpg", quality=100, exif=exif)
    seen = (pixels if as_stored else upright)[..., 0] // 250
    (y, x), (height, width) = np.argwhere(seen)[0], (seen.any(1).sum(), seen.any(0).sum())
    runs = {"size": list(seen.shape), "counts": trees.runs_of(seen)}
    box = [int(side) for side in (x, y, width, height)]
    size = dict(zip(("height", "width"), seen.shape, strict=True))
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", **size}],
        "annotations": [trees.annotation(1, 1, 1, box, segmentation=runs)],
        "categories": [{"id": 1, "name": "bag"}],
    }
    trees.write_json(tmp_path / "coco/annotations.json", content)
    dataset = load(tmp_path / "coco")
    split, record = photos(dataset)["a.jpg"]
    assert (record.height, record.width, record.orientation) == (24, 36, orientation)
    assert record.boxes.tolist() == [[5, 3, 25, 9]]
    np.testing.assert_array_equal(mask_of(record.masks[0]) > 0, upright[..., 0] > 0)
    picture = dataset.object_split(split).picture(0)
    assert (np.abs(picture.astype(int) - upright) < 60).all()
    note = "image turned upright with its objects" if as_stored else ""
    note = "turned image, its objects taken as upright" if orientation in (2, 3, 4) else note
    assert dataset.summary["notes"] == ({note: 1} if note else {})


def test_max_side(street, tmp_path):
    full, small = photos(load(street)), photos(load_from("coco", street, tmp_path, max_side=18))
    for name, (_, record) in small.items():
        assert (record.height, record.width) == (12, 18)
        assert Image.open(io.BytesIO(record.image)).size == (18, 12)
        np.testing.assert_allclose(record.boxes, full[name][1].boxes / 2, atol=1e-6)
    ring = mask_of(small["0001.jpg"][1].masks[0])
    whole = trees.ring().reshape(12, 2, 18, 2).sum(axis=(1, 3))
    np.testing.assert_array_equal(ring == 255, whole >= 2)


def test_splits(street, tmp_path):
    """Those of the images; else by a hash of the id alone."""
    for shares in (coco._SHARES, modanet._SHARES):
        counts = Counter(coco.split_of(number, shares) for number in range(20_000))
        assert counts == pytest.approx({key: 20_000 * share for key, share in shares.items()}, 0.1)
    found = [split for _, (split, _) in sorted(photos(load(street)).items())]
    assert found == ["test", "train", "train", "train", "train"]
    content = trees.street()
    for number, image in enumerate(content["images"]):
        image["split"] = SPLITS[number % 3]
    dataset = load(trees.write_coco(tmp_path / "coco", content))
    assert [photos(dataset)[f"000{n}.jpg"][0] for n in range(1, 6)] == [*SPLITS, *SPLITS[:2]]
    bags = dataset.summary["objects_per_category"]["bag"]
    assert {split: count for split, count in bags.items() if count} == {"train": 2}


@pytest.mark.parametrize("folder", ["annotations", "."])
def test_file_for_each_split(tmp_path, folder):
    """Ids may repeat in another file; images may lie beside `images`; sizes need not be stated."""
    root = tmp_path / "coco"
    for split, name in (("train", "a.jpg"), ("test", "b.jpg")):
        content = trees.street()
        content["images"] = [{"id": 1, "file_name": name}]
        content["annotations"] = content["annotations"][:3]
        if split == "test":
            content["categories"][0]["name"] = "hat"
        trees.write_json(root / folder / f"{split}.json", content)
        trees.write_photos(root if split == "train" else root / "images", content)
    assert [problem.partition("test.json: ")[2] for problem in problems_of(root)] == [
        "annotations[0]: field 'category_id': expected the id of a category, got 7",
        "categories[0]: field 'name': expected one name for each id in all files, got 'hat'",
    ]
    dataset = load(root, on_error="skip")
    assert dataset.summary["notes"] == {"image of no stated size": 2}
    assert dataset.splits == ("train", "test")
    found = {name: (split, *record.categories) for name, (split, record) in photos(dataset).items()}
    assert found == {"a.jpg": ("train", 1, 0, 0), "b.jpg": ("test", 0, 0)}
    trees.write_json(root / "annotations.json", content)
    with pytest.raises(
        DatasetError, match=r"expected one of .*; there is .*train.json, .*ons.json"
    ):
        load(root)


def test_contents_and_repeats(tmp_path):
    content = trees.street()
    content["images"][1]["id"] = 1  # whose its objects are cannot be told
    content["images"][4]["file_name"] = "./0004.jpg"
    root = trees.write_coco(tmp_path / "coco")
    trees.write_json(root / "annotations.json", content)
    (root / "images/0003.jpg").write_bytes((root / "images/0004.jpg").read_bytes())
    expected = "expected one that no other has, got"
    assert problems_of(root) == [
        "annotations.json: annotations[3]: field 'image_id': expected the id of an image, got 2",
        f"annotations.json: images[0]: field 'id': {expected} 1",
        f"annotations.json: images[1]: field 'id': {expected} 1",
        f"annotations.json: images[4]: field 'file_name': {expected} './0004.jpg'",
    ]
    dataset = load(root, on_error="skip")
    contents = [dataset.object_split(name).index.content for name in dataset.splits]
    assert np.concatenate(contents).tolist() == [0, 0]


NAN = float("nan")
PROBLEMS = [  # what is changed, to what, the kind of problem, its text
    ("annotations.0.bbox", [1, 2, 0, 5], "box", "the box has no size"),
    ("annotations.0.bbox", [1, 2, "x", 5], "box", "expected [x, y, width, height], got [1, 2, 'x'"),
    ("annotations.0.bbox", [NAN, 2, 3, 5], "box", "expected [x, y, width, height], got [nan, 2"),
    ("annotations.0.bbox", [0.1, 0.2, 0.5, 0.6], "box", "smaller than a pixel; boxes are in"),
    ("annotations.1.bbox", [10, 3, 28, 17], "box", "38 is outside the image of 36x24 pixels"),
    ("annotations.2.bbox", [36, 3, 1, 17], "box", "nothing of the box lies in the image of 36x24"),
    ("annotations.0.category_id", 4, "reference", "expected the id of a category, got 4"),
    ("annotations.0.image_id", "1", "reference", "expected the id of an image, got '1'"),
    ("annotations.0.iscrowd", 2, "value", "expected 0 or 1, got 2"),
    ("annotations.1.id", 11, "duplicate", "expected one that no other has, got 11"),
    ("annotations.1", 5, "format", "expected an object, got 5"),
    ("annotations.1.segmentation", [[1, 2, 3, 4, 5, 6, 7]], "mask", "a polygon of 7 numbers"),
    ("annotations.1.segmentation", [[]], "mask", "a polygon of 0 numbers"),
    ("annotations.1.segmentation", [[1, 2, 3, NAN, 5, 6]], "mask", "expected a polygon's numbers"),
    ("annotations.1.segmentation", [[5, 5] * 3], "mask", "no pixel of the image lies in it"),
    ("annotations.2.segmentation", [[20, 12, 30, 12, 30, 20]], "mask", "all of it lies outside"),
    ("annotations.0.segmentation.size", [36, 24], "mask", "a mask of 24x36 pixels for an image of"),
    ("annotations.0.segmentation.counts", [24, 36], "mask", "runs of 60 pixels in a mask of 36x24"),
    ("annotations.0.segmentation.counts", "0o", "mask", "no run-length mask, or one broken off"),
    ("images.0.height", 48, "unreadable_image", "36x48, but the image has 36x24 pixels (upright)"),
    ("images.0.height", "x", "value", "expected a number of pixels, got 'x'"),
    ("images.0.file_name", "nowhere.jpg", "missing_image", "nowhere.jpg: no such file"),
    ("images.0.file_name", "../0001.jpg", "value", "expected a path below the folder of the"),
    ("images.0.id", 1.5, "format", "expected a whole number or a text, got 1.5"),
    ("images.0.split", "dev", "value", "expected train, val or test, got 'dev'"),
    ("categories.1.name", "", "format", "expected a name, got ''"),
    ("categories.1.name", "bag", "contradiction", "expected one name for each id in all files"),
]


@pytest.mark.parametrize(("where", "value", "kind", "text"), PROBLEMS)
def test_problems(street, tmp_path, where, value, kind, text):
    """A problem of an object costs the object, one of an image the image and its objects."""
    content = trees.street()
    for image in content["images"] if "split" in where else ():
        image["split"] = "val"
    inside, (name, number, *rest) = content, where.split(".")
    *path, last = [name, int(number), *rest]
    for part in path:
        inside = inside[part]
    inside[last] = value
    (tmp_path / "images").symlink_to(street / "images")
    trees.write_json(tmp_path / "annotations.json", content)
    checked, fatal, _ = check("coco", tmp_path, on_error="skip")
    assert not fatal
    entry = f"{tmp_path}/annotations.json: {name}[{number}]"
    (problem,) = [problem for problem in checked.problems if problem.source == entry]
    assert problem.kind == kind
    assert text in problem.text
    objects, images = (checked.table["category"] != "").sum(), checked.table["image"].nunique()
    lost = {"annotations": (1, 0), "images": (3, 1), "categories": (2, 0)}[name]
    assert (6 - objects, 5 - images) == lost


def test_what_files_may_leave_open(tmp_path):
    """Sizes of -1, no list of annotations, and regions to be ignored."""
    content = trees.street()
    for image in content["images"]:
        image.update(height=-1, width=-1)
    content["annotations"][5]["ignore"] = 1
    root = trees.write_coco(tmp_path / "coco", content)
    checked = check("coco", root).checked
    assert not checked.problems
    assert checked.notes["image of no stated size"] == 5
    assert checked.table["crowd"].sum() == 2
    del content["annotations"]
    trees.write_json(root / "annotations.json", content)
    assert load(root).summary["splits"]["train"]["objects"] == 0
    for damaged in ("[]", '{"images": []}', '{"images": {}, "categories": []}'):
        (root / "annotations.json").write_text(damaged)
        with pytest.raises(AnnotationError, match=r"annotations.json:1: expected a list '"):
            check("coco", root)


MODA = "annotations/modanet2018_instances_train.json"


def test_modanet(tmp_path):
    """Its file spells a class in another way; images are another download, and some come later."""
    names = {key: name.replace(" & ", "/") for key, name in CLASSES.items()}
    polygon = [2, 2, 22, 2, 22, 22, 2, 22]
    content = {
        "images": [{"id": 100 + n, "file_name": f"{n:07}.jpg"} for n in range(40)],
        "annotations": [
            trees.annotation(n, 100 + n, n % 13 + 1, [2, 2, 20, 20], segmentation=[polygon])
            for n in range(40)
        ],
        "categories": [{"id": key, "name": name} for key, name in names.items()],
    }
    root = tmp_path / "modanet"
    trees.write_json(root / MODA, content)
    trees.write_photos(root / "images", content)
    late = root / "images/0000003.jpg"
    late.rename(root / "late.jpg")
    dataset = load(root, name="modanet")
    assert dataset.summary["problems"] == {"missing_image": 1}
    assert dataset.splits == ("train", "val")
    assert dataset.object_split("val").index.categories.tolist() == list(CLASSES.values())
    for name, (_, record) in photos(dataset).items():
        assert record.categories.tolist() == [int(name[:7]) % 13]
    (root / "late.jpg").rename(late)
    assert len(photos(load(root, name="modanet"))) == 40
    content["categories"].append({"id": 14, "name": "cape"})
    trees.write_json(root / MODA, content)
    text = f"{MODA}: categories[13]: field 'id': expected the id of a category, got 14"
    assert problems_of(root, "modanet") == [text]
    (root / MODA).unlink()
    with pytest.raises(DatasetError, match=f"{MODA} missing"):
        load(root, name="modanet")


def test_street2shop_classes():
    assert set().union(*STREET2SHOP_CLASSES.values()) <= set(CLASSES.values())
    assert len(STREET2SHOP_CLASSES) == 11
