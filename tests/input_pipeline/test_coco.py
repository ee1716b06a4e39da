"""COCO's form and ModaNet: records against independent decoders, layouts, splits, problems."""

import io
import json
from collections import Counter

import numpy as np
import pytest
from etils import epath
from input_pipeline.datasets.coco import CocoConfig
from input_pipeline.datasets.coco_file import read_lists
from input_pipeline.datasets.modanet import CLASSES, STREET2SHOP_CLASSES, ModanetConfig
from input_pipeline.datasets.segmentation import SegmentationError, parse_segmentation
from PIL import Image
from pycocotools import mask as coco_mask

from input_pipeline import DatasetError, prepare
from input_pipeline.dataset import open_dataset
from input_pipeline.datasets import modanet
from input_pipeline.errors import AnnotationError
from tests.input_pipeline import coco_trees as trees
from tests.input_pipeline.conftest import check
from tests.input_pipeline.conftest import load as load_from
from tests.input_pipeline.test_dataset import run_python


def load(root, name="coco", **changes):
    return load_from(name, root, root.parent / "data", **changes)


def photos(dataset):
    """Every record by name, with its split."""
    splits = [dataset.split(name) for name in dataset.splits]
    return {
        record.photo_id: (split.name, record)
        for split in splits
        for record in map(split.record, range(len(split)))
    }


def problems_of(root, **changes):
    with pytest.raises(AnnotationError) as caught:
        load(root, **changes)
    assert not list((root.parent / "data").glob("*/*/*"))
    return [problem.removeprefix(f"{root}/") for problem in caught.value.problems]


def mask_of(png):
    picture = Image.open(io.BytesIO(png))
    assert picture.mode == "L"
    return np.asarray(picture)


def filled_runs(runs, height, width):
    """Uncompressed runs, decoded by NumPy: down the columns, outside first."""
    return np.repeat(np.arange(len(runs)) % 2, runs).reshape(width, height).T


def in_polygon(points, height, width):
    """Which pixels' centers lie in a polygon, and which within a pixel of its edges."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.zeros((height, width), bool)
    distance = np.full((height, width), np.inf)
    corners = np.array(points, float).reshape(-1, 2)
    for (x_1, y_1), (x_2, y_2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y_1 != y_2:
            crossing = x_1 + (y - y_1) / (y_2 - y_1) * (x_2 - x_1)
            inside ^= ((y_1 > y) != (y_2 > y)) & (x < crossing)
        along = np.clip(
            ((x - x_1) * (x_2 - x_1) + (y - y_1) * (y_2 - y_1))
            / ((x_2 - x_1) ** 2 + (y_2 - y_1) ** 2),
            0,
            1,
        )
        near = np.hypot(x - x_1 - along * (x_2 - x_1), y - y_1 - along * (y_2 - y_1))
        distance = np.minimum(distance, near)
    return inside, distance < 1


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
    assert record.boxes.dtype == np.float32
    np.testing.assert_array_equal(
        record.boxes, [[0, 2, 30, 20], [4, 3, 30, 20], [1.5, 2.25, 4.5, 6.25]]
    )
    # By the order of the ids: 3 dress, 7 bag, 9 café au lait.
    assert dataset.summary["categories"] == ["dress", "bag", "café au lait"]
    assert (record.categories.tolist(), record.categories.dtype) == ([1, 0, 0], np.int32)
    assert record.crowd.tolist() == [False] * 3
    assert record.masks[2] == b""
    _, record = found["0002.jpg"]
    assert record.boxes.tolist() == [[10, 10, 36, 24]]  # half a pixel was outside
    assert (record.crowd.tolist(), record.masks) == ([True], (b"",))
    _, record = found["0003.jpg"]
    assert record.boxes.shape == (0, 4)
    assert record.boxes.dtype == np.float32
    assert (record.categories.shape, record.crowd.shape, record.masks) == ((0,), (0,), ())
    assert dataset.summary["tolerated"] == {"box moved to the photo's edge": 1}


def test_masks_by_independent_decoders(street):
    _, record = photos(load(street))["0001.jpg"]
    ring, star = map(mask_of, record.masks[:2])
    np.testing.assert_array_equal(ring, 255 * trees.ring())
    runs = trees.street()["annotations"][0]["segmentation"]["counts"]
    np.testing.assert_array_equal(ring, 255 * filled_runs(runs, 24, 36))
    inside, near = in_polygon(trees.STAR, 24, 36)
    assert (inside & ~near).sum() > 30  # the comparison below is about something
    np.testing.assert_array_equal((star == 255)[~near], inside[~near])
    assert set(np.unique(star)) == {0, 255}


def test_compressed_runs_and_several_polygons(tmp_path):
    content = trees.street()
    coded = coco_mask.encode(np.asfortranarray(trees.ring()))
    content["annotations"][0]["segmentation"] = {
        "size": coded["size"],
        "counts": coded["counts"].decode(),
    }
    content["annotations"][1]["segmentation"] = [
        [4, 3, 12, 3, 12, 12, 4, 12],
        [20, 8, 30, 20, 18, 20],
    ]
    _, record = photos(load(trees.write_coco(tmp_path / "coco", content)))["0001.jpg"]
    np.testing.assert_array_equal(mask_of(record.masks[0]), 255 * trees.ring())
    two = mask_of(record.masks[1]) == 255
    for polygon in content["annotations"][1]["segmentation"]:
        inside, near = in_polygon(polygon, 24, 36)
        assert two[inside & ~near].all()
    assert two.sum() == pytest.approx(9 * 8 + 12 * 12 / 2, rel=0.15)  # the areas of the two


@pytest.mark.parametrize("seed", range(20))
def test_random_runs(seed):
    rng = np.random.default_rng(seed)
    mask = (rng.random((17, 23)) < rng.choice([0.02, 0.5, 0.9])).astype(np.uint8)
    as_text = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
    for counts in (as_text, trees.runs_of(mask)):
        found = parse_segmentation({"size": [17, 23], "counts": counts})
        np.testing.assert_array_equal(found.pixels(), mask)
        if mask.any():
            y, x = np.nonzero(mask)
            assert found.bounding_box() == (x.min(), y.min(), x.max() + 1, y.max() + 1)


def test_damaged_runs_are_no_mask():
    """Whatever is accepted is what some mask of that size encodes to."""
    rng = np.random.default_rng(0)
    good = coco_mask.encode(np.asfortranarray(trees.ring()))["counts"].decode()
    refused = 0
    for _ in range(400):
        text = list(good)
        text[rng.integers(len(text))] = chr(rng.integers(32, 127))
        text = "".join(text[: rng.integers(1, len(text) + 1)])
        try:
            found = parse_segmentation({"size": [24, 36], "counts": text})
        except SegmentationError:
            refused += 1
            continue
        again = coco_mask.encode(np.asfortranarray(found.pixels()))["counts"].decode()
        assert (
            parse_segmentation({"size": [24, 36], "counts": again}).bounding_box()
            == found.bounding_box()
        )
        assert found.pixels().shape == (24, 36)
    assert refused > 300


TURNS = {  # from the upright picture to the stored one, for each EXIF orientation
    1: lambda picture: picture,
    2: lambda picture: picture[:, ::-1],
    3: lambda picture: picture[::-1, ::-1],
    4: lambda picture: picture[::-1],
    5: lambda picture: picture.swapaxes(0, 1),
    6: lambda picture: np.rot90(picture, 1),
    7: lambda picture: picture[::-1, ::-1].swapaxes(0, 1),
    8: lambda picture: np.rot90(picture, -1),
}


@pytest.mark.parametrize("stated", ["stored", "upright"])
@pytest.mark.parametrize("orientation", TURNS)
def test_turned_photos(tmp_path, orientation, stated):
    """A bright rectangle is found in the upright picture where its box and mask say."""
    upright = np.zeros((24, 36, 3), np.uint8)
    upright[3:9, 5:25] = 250
    pixels = TURNS[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "coco/images").mkdir(parents=True)
    path = tmp_path / "coco/images/a.jpg"
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, quality=100, exif=exif)
    # Of orientations 2 to 4 the size tells nothing: boxes are taken as upright.
    as_stored = stated == "stored" and orientation >= 5
    seen = pixels if as_stored else upright
    y, x = np.nonzero(seen[..., 0])
    box = [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
    counts = trees.runs_of((seen[..., 0] > 0).astype(np.uint8))
    size = seen.shape[:2]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": size[0], "width": size[1]}],
        "annotations": [
            trees.annotation(
                1, 1, 1, list(map(int, box)), segmentation={"size": list(size), "counts": counts}
            )
        ],
        "categories": [{"id": 1, "name": "bag"}],
    }
    trees.write_json(tmp_path / "coco/annotations.json", content)
    dataset = load(tmp_path / "coco")
    split, record = photos(dataset)["a.jpg"]
    assert (record.height, record.width, record.orientation) == (24, 36, orientation)
    assert record.boxes.tolist() == [[5, 3, 25, 9]]
    expected = np.zeros((24, 36), np.uint8)
    expected[3:9, 5:25] = 255
    np.testing.assert_array_equal(mask_of(record.masks[0]), expected)
    picture = dataset.split(split).picture(0)
    assert (np.abs(picture.astype(int) - upright) < 60).all()
    assert dataset.summary["tolerated"] == (
        {"objects turned upright with their photo": 1}
        if as_stored
        else {"objects of a turned photo taken as upright": 1}
        if orientation in (2, 3, 4)
        else {}
    )


def test_max_side(street, tmp_path):
    full, small = photos(load(street)), photos(load_from("coco", street, tmp_path, max_side=18))
    for name, (_, record) in small.items():
        assert (record.height, record.width) == (12, 18)
        assert Image.open(io.BytesIO(record.image)).size == (18, 12)
        np.testing.assert_allclose(record.boxes, full[name][1].boxes / 2, atol=1e-6)
    ring = mask_of(small["0001.jpg"][1].masks[0])
    whole = trees.ring().reshape(12, 2, 18, 2).sum(axis=(1, 3))
    np.testing.assert_array_equal(ring == 255, whole >= 2)


def test_splits_of_one_file(street):
    """By a hash of the id alone: neither the order nor other photos matter."""
    config = CocoConfig.split_of
    self = CocoConfig(name="", stem="", options=None, root=None)
    counts = Counter(config(self, number) for number in range(20_000))
    assert counts["train"] == pytest.approx(16_000, rel=0.02)
    assert counts["val"] == pytest.approx(2_000, rel=0.1)
    assert counts["test"] == pytest.approx(2_000, rel=0.1)
    found = photos(load(street))
    assert {int(name[:4]): split for name, (split, _) in found.items()} == {
        number: config(self, number) for number in range(1, 6)
    }


def test_own_splits(tmp_path):
    content = trees.street()
    for image, split in zip(
        content["images"], ["test", "train", "val", "train", "test"], strict=True
    ):
        image["split"] = split
    dataset = load(trees.write_coco(tmp_path / "coco", content))
    names = {split: dataset.split(split).index.photo_id.tolist() for split in dataset.splits}
    assert names == {
        "train": ["0002.jpg", "0004.jpg"],
        "val": ["0003.jpg"],
        "test": ["0001.jpg", "0005.jpg"],
    }
    counts = dataset.summary["splits"]
    assert [counts[s]["objects"] for s in counts] == [2, 0, 4]
    assert [counts[s]["crowd"] for s in counts] == [1, 0, 0]
    assert [counts[s]["photos_without_objects"] for s in counts] == [0, 1, 0]
    assert [counts[s]["most_objects"] for s in counts] == [1, 0, 3]
    assert dataset.summary["objects_per_category"] == {
        "dress": {"train": 0, "val": 0, "test": 2},
        "bag": {"train": 1, "val": 0, "test": 1},
        "café au lait": {"train": 1, "val": 0, "test": 1},
    }


@pytest.mark.parametrize("folder", ["annotations", "."])
def test_file_for_each_split(tmp_path, folder):
    """Ids may repeat in another file; photos may lie beside `images`."""
    root = tmp_path / "coco"
    for split, name in (("train", "a.jpg"), ("test", "b.jpg")):
        content = trees.street()
        content["images"] = [{"id": 1, "file_name": name, "height": 24, "width": 36}]
        content["annotations"] = content["annotations"][:1]
        if split == "test":
            content["categories"] = content["categories"][:1]
        trees.write_json(root / folder / f"{split}.json", content)
        trees.write_photos(root if split == "train" else root / "images", content)
    dataset = load(root)
    assert dataset.splits == ("train", "test")
    assert [dataset.split(split).index.photo_id.tolist() for split in dataset.splits] == [
        ["a.jpg"],
        ["b.jpg"],
    ]
    assert dataset.split("test").record(0).categories.tolist() == [1]


def test_layout_messages(tmp_path):
    with pytest.raises(DatasetError, match=r"expected annotations/\{train,val,test\}.json"):
        load(tmp_path)
    trees.write_coco(tmp_path)
    trees.write_json(tmp_path / "val.json", trees.street())
    with pytest.raises(
        DatasetError, match=r"expected one of .*there are .*val.json, .*annotations"
    ):
        load(tmp_path)


def test_index_and_opening(street):
    dataset = load(street)
    assert dataset.summary["kind"] == "objects"
    for name in dataset.splits:
        split = dataset.object_split(name)
        records = [split.record(row) for row in range(len(split))]
        index = split.index
        assert index.photo_id.tolist() == [record.photo_id for record in records]
        assert index.objects.tolist() == [len(record.boxes) for record in records]
        assert index.crowd.tolist() == [int(record.crowd.sum()) for record in records]
        assert index.size.tolist() == [[24, 36]] * len(split)
        assert index.categories.tolist() == ["dress", "bag", "café au lait"]
        summary = dict(dataset.summary["splits"][name])
        assert summary.pop("bytes") > 0
        assert index.counts() == summary
        assert split.picture(0).shape == (24, 36, 3)
    report = check("coco", street)
    assert {name: {**counts, "bytes": 0} for name, counts in report.summary["splits"].items()} == {
        name: {**counts, "bytes": 0} for name, counts in dataset.summary["splits"].items()
    }


def test_equal_photos_have_one_content_number(tmp_path):
    root = trees.write_coco(tmp_path / "coco")
    (root / "images/0005.jpg").write_bytes((root / "images/0001.jpg").read_bytes())
    dataset = load(root)
    numbers = {}
    for name in dataset.splits:
        index = dataset.split(name).index
        numbers |= dict(zip(index.photo_id.tolist(), index.content.tolist(), strict=True))
    assert numbers["0005.jpg"] == numbers["0001.jpg"]
    assert len(set(numbers.values())) == 4


def test_damaged_index(tmp_path):
    dataset = load(trees.write_coco(tmp_path / "coco"))
    path = dataset.directory / f"index.{dataset.splits[0]}.npz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DatasetError, match=r"index\..*npz: damaged .* delete"):
        open_dataset("coco", dataset.directory)
    path.unlink()
    with pytest.raises(DatasetError, match=r"npz: missing"):
        open_dataset("coco", dataset.directory)


def test_objects_of_a_set_of_photos(dataset):
    with pytest.raises(DatasetError, match="synthetic is no data set of objects"):
        dataset.object_split("train")


def test_needs_no_tensorflow(street):
    dataset = load(street)
    code = f"""
import sys
from etils import epath
from input_pipeline.dataset import open_dataset
split = open_dataset("coco", epath.Path({str(dataset.directory)!r})).split({dataset.splits[0]!r})
print(len(split.record(0).boxes), split.picture(0).shape)
assert "tensorflow" not in sys.modules
"""
    first = dataset.split(dataset.splits[0]).record(0)
    assert run_python(code).splitlines()[-1] == f"{len(first.boxes)} (24, 36, 3)"


def change(content, where, value):
    """Sets what a path such as annotations.0.bbox leads to; None takes it away."""
    *path, last = [int(part) if part.isdigit() else part for part in where.split(".")]
    for part in path:
        content = content[part]
    if value is None:
        del content[last]
    else:
        content[last] = value


PROBLEMS = [
    (
        "annotations.0.bbox",
        [1, 2, 0, 5],
        "box",
        "annotation 11: field 'bbox': [1, 2, 0, 5] has no size",
    ),
    (
        "annotations.0.bbox",
        [1, 2, "x", 5],
        "box",
        "annotation 11: field 'bbox': expected [x, y, width, height], got [1, 2, 'x', 5]",
    ),
    (
        "annotations.1.bbox",
        [10, 3, 28, 17],
        "box",
        "annotation 12: field 'bbox': [10, 3, 38, 20] (x_1, y_1, x_2, y_2) leaves the photo of "
        "36x24 pixels",
    ),
    (
        "annotations.2.bbox",
        [36, 3, 0.5, 17],
        "box",
        "annotation 13: field 'bbox': [36, 3, 36.5, 20] (x_1, y_1, x_2, y_2): nothing of it lies "
        "in the photo of 36x24 pixels",
    ),
    (
        "annotations.0.category_id",
        4,
        "unknown category",
        "annotation 11: field 'category_id': there is no category 4",
    ),
    (
        "annotations.0.image_id",
        "1",
        "unknown photo",
        "annotation 11: field 'image_id': there is no image '1'",
    ),
    (
        "annotations.0.iscrowd",
        2,
        "fields",
        "annotation 11: field 'iscrowd': expected 0 or 1, got 2",
    ),
    (
        "annotations.1.id",
        11,
        "duplicate row",
        "annotations[1]: field 'id': there is annotation 11 already",
    ),
    ("annotations.1", 5, "fields", "annotations[1]: expected fields in braces, got 5"),
    (
        "annotations.1.segmentation",
        [[1, 2, 3, 4, 5, 6, 7]],
        "outline",
        "annotation 12: field 'segmentation': a polygon of 7 numbers: expected an x and a y of "
        "each point",
    ),
    (
        "annotations.1.segmentation",
        [[1, 2, 3, 4]],
        "outline",
        "annotation 12: field 'segmentation': a polygon of 2 points: expected at least 3",
    ),
    (
        "annotations.1.segmentation",
        [[1, 2, 3, 4, 5, 30]],
        "outline",
        "annotation 12: field 'segmentation': a point of it lies 6 pixels outside the photo of "
        "36x24 pixels",
    ),
    (
        "annotations.1.segmentation",
        [[5, 5, 5, 5, 5, 5]],
        "outline",
        "annotation 12: field 'segmentation': no pixel lies in it",
    ),
    (
        "annotations.2.segmentation",
        [[20, 12, 30, 12, 30, 20]],
        "outline",
        "annotation 13: field 'segmentation': all of it lies outside the object's box "
        "[1.5, 2.25, 4.5, 6.25]",
    ),
    (
        "annotations.0.segmentation.size",
        [36, 24],
        "outline",
        "annotation 11: field 'segmentation': a mask of 24x36 pixels for the photo of 36x24 pixels",
    ),
    (
        "annotations.0.segmentation.counts",
        [24, 36],
        "outline",
        "annotation 11: field 'segmentation': runs of 60 pixels in a mask of 36x24 = 864",
    ),
    (
        "annotations.0.segmentation.counts",
        "0o",
        "outline",
        "annotation 11: field 'segmentation': counts '0o': no run-length mask, or one broken off",
    ),
    (
        "images.0.height",
        48,
        "photo size",
        "image 1: fields 'height' and 'width': 36x48, but the photo has 36x24 pixels (upright)",
    ),
    (
        "images.0.width",
        None,
        "fields",
        "image 1: fields 'height' and 'width': expected numbers of pixels, got (24, None)",
    ),
    (
        "images.0.file_name",
        "nowhere.jpg",
        "missing photo",
        "image 1: field 'file_name': nowhere.jpg: no such file",
    ),
    (
        "images.0.file_name",
        "../0001.jpg",
        "path",
        "image 1: field 'file_name': expected a path below the folder, got '../0001.jpg'",
    ),
    (
        "images.0.id",
        1.5,
        "fields",
        "images[0]: field 'id': expected an integer from 0 on or a text, got 1.5",
    ),
    ("categories.1.name", "", "fields", "category 3: field 'name': expected a name, got ''"),
    (
        "categories.1.name",
        "bag",
        "category",
        "category 3: field 'name': 'bag' is the name of another category",
    ),
]


@pytest.mark.parametrize(("where", "value", "kind", "text"), PROBLEMS)
def test_problems(tmp_path, where, value, kind, text):
    content = trees.street()
    change(content, where, value)
    root = trees.write_coco(tmp_path / "coco", trees.street())
    trees.write_json(root / "annotations.json", content)
    assert f"annotations.json:1: {text}" in problems_of(root)
    dataset = load(root, on_error="skip")
    assert dataset.summary["problems"][kind] >= 1
    assert dataset.summary["skipped_rows"] >= 1
    found = photos(dataset)
    whole = {  # what an object was before, by its photo and box
        (name, *box) for name, (_, record) in found.items() for box in record.boxes.tolist()
    }
    right = {
        ("0001.jpg", 0, 2, 30, 20),
        ("0001.jpg", 4, 3, 30, 20),
        ("0001.jpg", 1.5, 2.25, 4.5, 6.25),
        ("0002.jpg", 10, 10, 36, 24),
        ("0004.jpg", 1, 1, 35, 23),
        ("0005.jpg", 2, 2, 7, 8),
    }
    assert whole < right
    if where.startswith("annotations"):
        assert len(whole) == 5
        assert len(found) == 5
    if where == "images.0.height":
        assert "0001.jpg" not in found
        assert dataset.summary["facts"] == {"objects_of_left_out_photos": 3}


def test_unreadable_photo_and_one_listed_twice(tmp_path):
    content = trees.street()
    content["images"][4]["file_name"] = "./0004.jpg"
    root = trees.write_coco(tmp_path / "coco", trees.street())
    trees.write_json(root / "annotations.json", content, indent=1)
    (root / "images/0001.jpg").write_bytes(b"\xff\xd8\xff")
    text = (root / "annotations.json").read_text().split("\n")
    # The place of the id, counted from 0, is that of the brace before it, counted from 1.
    fourth, fifth = (text.index(f'   "id": {number},') for number in (4, 5))
    found = problems_of(root)
    assert found[0].startswith("annotations.json:3: image 1: field 'file_name': 0001.jpg: ")
    home = f"{root}/annotations.json:{fourth}"
    assert found[1].startswith(
        f"annotations.json:{fifth}: image 5: field 'file_name': './0004.jpg' is image 4 ({home}, "
    )
    assert len(found) == 2


def test_image_id_twice(tmp_path):
    """Whose the objects are cannot be told, so both photos are left out."""
    content = trees.street()
    content["images"][1]["id"] = 1
    root = trees.write_coco(tmp_path / "coco", content)
    found = problems_of(root)
    assert "annotations.json:1: images[1]: field 'id': there is image 1 already" in found
    assert "annotations.json:1: image 1: field 'id': another image has it too" in found
    assert sorted(photos(load(root, on_error="skip"))) == ["0003.jpg", "0004.jpg", "0005.jpg"]


def test_categories_of_two_files(tmp_path):
    root = tmp_path / "coco"
    for split, name in (("train", "a.jpg"), ("test", "b.jpg")):
        content = trees.street()
        content["images"] = [{"id": 1, "file_name": name}]  # no size is stated
        content["annotations"] = content["annotations"][:3]
        if split == "test":
            content["categories"][0]["name"] = "hat"
        trees.write_json(root / f"{split}.json", content)
        trees.write_photos(root, content)
    assert problems_of(root) == [
        "test.json:1: category 7: field 'name': 'hat' is 'bag' in another file",
        "test.json:1: annotation 11: field 'category_id': there is no category 7",
    ]
    dataset = load(root, on_error="skip")
    assert dataset.split("test").record(0).categories.tolist() == [0, 0]
    assert dataset.summary["skipped_rows"] == 2


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda text: text[:-5], "annotations.json:1: not a COCO file in JSON"),
        (lambda text: "", "annotations.json:1: not a COCO file in JSON: it breaks off"),
        (lambda text: "[]", "annotations.json:1: not a COCO file in JSON: expected '{', got '['"),
        (lambda text: '{"images": []}', "annotations.json:1: annotations, categories missing"),
        (
            lambda text: f"\n\n{text} x",
            "annotations.json:3: not a COCO file in JSON: there is more",
        ),
        (lambda text: text.replace("[0, 2", "[NaN, 2"), "JSON: NaN is no number"),
        (
            lambda text: text.replace("[0, 2", f"[{'9' * 5000}, 2"),
            "not a COCO file in JSON: Exceeds",
        ),
        (lambda text: text.replace("[0, 2", "[" * 100_000), "not a COCO file in JSON"),
        (lambda text: text.replace("{", '{"images": [], ', 1), "JSON: 'images' is there twice"),
        (lambda text: text.replace('"images": [', '"images": {', 1), "'images': expected a list"),
        (lambda text: text.encode("utf-16"), "annotations.json:1: not a text in UTF-8"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, damage, text):
    root = trees.write_coco(tmp_path / "coco")
    path = root / "annotations.json"
    damaged = damage(path.read_text())
    path.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    for policy in ("error", "skip"):
        (problem,) = problems_of(root, on_error=policy)
        assert problem.startswith("annotations.json:")
        assert text in problem


@pytest.mark.parametrize("indent", [None, 0, 2])
def test_scanner_reads_what_json_reads(tmp_path, indent):
    content = {"info": {"a": [1, {"b": '"]}'}]}, **trees.street(), "licenses": []}
    path = trees.write_json(tmp_path / "x.json", content, indent)
    found = list(read_lists(epath.Path(path)))
    text = path.read_text()
    parsed = json.loads(text)
    lines = text.split("\n")
    for name in ("images", "annotations", "categories"):
        own = [(number, value) for list_name, _, number, value in found if list_name == name]
        assert own == list(enumerate(parsed[name]))
    for _, place, _, value in found:
        if indent is None:
            assert place.line == 1
        else:  # an entry's first line, and the id below it
            assert lines[place.line - 1].strip() == "{"
            assert lines[place.line].strip() == f'"id": {value["id"]},'


def test_prepare_prints_counts(street, tmp_path, capsys):
    arguments = [f"--source={street}", "--dataset=coco", f"--dir={tmp_path}"]
    assert prepare.main([*arguments, "--check"]) == 0
    checked = capsys.readouterr().out
    assert prepare.main(arguments) == 0
    prepared = capsys.readouterr().out
    assert "Next:" not in prepared
    for printed in (checked, prepared):
        lines = [line.split() for line in printed.splitlines()]
        assert any(line[:2] == ["split", "photos"] for line in lines)
        (header,) = [line for line in lines if line[:1] == ["objects"]]
        bags = next(line for line in lines if line[:1] == ["bag"])
        assert len(bags) == len(header)
        assert sum(map(int, bags[1:])) == 2


@pytest.fixture
def moda(tmp_path):
    """Forty photos in ModaNet's form, whose file spells a class in another way."""
    content = {
        "info": {"version": "1"},
        "images": [
            {"id": 100 + n, "file_name": f"{n:07}.jpg", "height": 24, "width": 36, "license": 3}
            for n in range(40)
        ],
        "annotations": [
            trees.annotation(
                n, 100 + n, n % 13 + 1, [2, 2, 20, 20], segmentation=[[2, 2, 22, 2, 22, 22, 2, 22]]
            )
            for n in range(40)
        ],
        "categories": [
            {"supercategory": "fashion", "id": key, "name": name.replace(" & ", "/")}
            for key, name in CLASSES.items()
        ],
    }
    root = tmp_path / "modanet"
    trees.write_json(root / "annotations/modanet2018_instances_train.json", content)
    trees.write_json(
        root / "annotations/modanet2018_instances_val.json",
        {"images": [{"id": 1, "file_name": "x.jpg"}]},
    )
    trees.write_photos(root / "images", content)
    return root


def test_modanet(moda):
    dataset = load(moda, name="modanet")
    assert dataset.splits == ("train", "val")
    found = photos(dataset)
    assert len(found) == 40
    names = list(CLASSES.values())
    assert dataset.split("val").index.categories.tolist() == names
    for name, (_, record) in found.items():
        assert record.categories.tolist() == [int(name[:7]) % 13]
    (moda / "images/0000003.jpg").unlink()  # the photos are another download
    again = load_from("modanet", moda, moda.parent / "again")
    assert again.summary["problems"] == {"missing photo": 1}


def test_modanet_holds_out_a_twentieth():
    config = ModanetConfig(name="", stem="", options=None, root=None)
    held = Counter(config.split_of(number) for number in range(50_000))
    assert set(held) == {"train", "val"}
    assert held["val"] / 50_000 == pytest.approx(0.05, abs=0.003)


def test_modanet_unknown_class_and_missing_file(moda):
    path = moda / "annotations/modanet2018_instances_train.json"
    content = json.loads(path.read_text())
    content["categories"].append({"id": 14, "name": "cape"})
    trees.write_json(path, content)
    assert problems_of(moda, name="modanet") == [
        "annotations/modanet2018_instances_train.json:1: category 14: field 'id': expected 1 to 13 "
        "('cape')"
    ]
    path.unlink()
    with pytest.raises(DatasetError, match=r"annotations/modanet2018_instances_train.json missing"):
        load(moda, name="modanet")


def test_street2shop_classes():
    assert set().union(*STREET2SHOP_CLASSES.values()) <= set(modanet.CLASSES.values())
    assert len(STREET2SHOP_CLASSES) == 11
    assert len(CLASSES) == 13
