"""Batches of images with objects, against NumPy; order, shares and errors."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from input_pipeline import DatasetError
from input_pipeline.config import AugmentConfig
from input_pipeline.images import ImageTransform, crop_and_resize, encode_png, fit_on_canvas
from input_pipeline.objects.batches import ObjectShape, object_batches, object_train_batches
from input_pipeline.objects.single import SingleObjectSplit
from tests.input_pipeline import coco_trees as trees
from tests.input_pipeline.conftest import load

SIZES = [(24, 36), (36, 24), (20, 20), (24, 36), (7, 40), (24, 36), (30, 29)]  # height, width


def photo(number):
    height, width = SIZES[number]
    coarse = np.random.default_rng(number).integers(0, 256, (4, 5, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def mask(number, height, width):
    coarse = np.random.default_rng(number).random((3, 4)) < 0.6
    found = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST))
    found[height // 2, width // 2] = True
    return found.astype(np.uint8)


def prepare(folder, mirrored=False):
    """Photos as PNG of both splits; number n has n % 4 objects, some without a mask."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number, (height, width) in enumerate(SIZES):
        name, split = f"{number}.png", "test" if number == 6 else "train"
        size = {"height": height, "width": width}
        images.append({"id": number, "file_name": name, "split": split, **size})
        pixels = photo(number)[:, :: -1 if mirrored else 1]
        (folder / "images" / name).write_bytes(encode_png(np.ascontiguousarray(pixels)))
        for place in range(number % 4):
            x, y, wide, high = 1.5 * place, 1.0, width - 2.5 * place - 0.5, height - 2.0 - place
            pixels = mask(10 * number + place, height, width)
            if mirrored:
                x, pixels = width - x - wide, pixels[:, ::-1]
            coded = {"size": [height, width], "counts": trees.runs_of(pixels)}
            fields = {"iscrowd": int(place == 1), "segmentation": None if place == 2 else coded}
            box = [x, y, wide, high]
            annotations.append(
                trees.annotation(10 * number + place, number, place + 5, box, **fields)
            )
    categories = [{"id": key, "name": f"class {key}"} for key in (5, 6, 7)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    trees.write_json(folder / "annotations.json", content)
    return load("coco", folder, folder / "data").object_split("train")


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("objects"))


SEEN = ("scale", "size", "box", "ignore", "mask")
SHAPE = ObjectShape(32, 32, max_objects=4, mask_size=7)


def weights(pixels, places, scale, shift):
    """[places, pixels]: a triangle filter, as wide as the shrinking needs, at each place."""
    centers = (np.arange(places) + 0.5 - shift) / scale
    reach = max(1 / scale, 1)
    found = np.maximum(0, 1 - np.abs(np.arange(pixels) + 0.5 - centers[:, None]) / reach)
    found[(centers < 0) | (centers > pixels)] = 0
    total = found.sum(axis=1, keepdims=True)
    return np.divide(found, total, where=total > 0, out=np.zeros_like(found))


def crop_mask(record, place, side):
    """A mask cropped to its box and scaled, by NumPy."""
    pixels = np.asarray(Image.open(io.BytesIO(record.masks[place]))).astype(float)
    x_1, y_1, x_2, y_2 = record.boxes[place].astype(float)
    down, across = side / (y_2 - y_1), side / (x_2 - x_1)
    rows = weights(pixels.shape[0], side, down, -y_1 * down)
    columns = weights(pixels.shape[1], side, across, -x_1 * across)
    return rows @ pixels @ columns.T


@pytest.fixture(scope="module")
def batch(split):
    """All six images: not to be changed."""
    (batch,) = object_batches(split, range(6), SHAPE, batch=6)
    return batch


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 24)])
def test_against_numpy(split, height, width):
    shape = SHAPE._replace(height=height, width=width)
    (batch,) = object_batches(split, range(6), shape, batch=6)
    for row in range(6):
        record, picture = split.record(row), split.picture(row)
        sides, count = picture.shape[:2], len(record.boxes)
        scale = min(height / sides[0], width / sides[1])
        assert batch["row"][row] == row
        assert batch["scale"][row] == pytest.approx(scale, rel=1e-6)
        assert abs(batch["size"][row] - np.array(sides) * scale).max() <= 0.5
        down, across = weights(sides[0], height, scale, 0), weights(sides[1], width, scale, 0)
        expected = np.einsum("ij,jkc,lk->ilc", down, picture, across)
        assert np.abs(batch["image"][row] - expected).max() <= 1
        assert batch["valid"][row].tolist() == [place < count for place in range(4)]
        np.testing.assert_allclose(batch["box"][row, :count], record.boxes * scale, rtol=1e-6)
        assert batch["category"][row, :count].tolist() == record.categories.tolist()
        for name in ("crowd", "ignore"):
            assert batch[name][row, :count].tolist() == record.crowd.tolist()
        for place in range(count):
            has_mask = place != 2
            assert batch["has_mask"][row, place] == has_mask
            expected = crop_mask(record, place, 7) if has_mask else np.zeros((7, 7))
            assert np.abs(batch["mask"][row, place] - expected).max() <= 1
    assert [int(valid.sum()) for valid in batch["valid"]] == [0, 1, 2, 3, 0, 1]


def test_what_is_smaller_than_a_pixel_is_ignored(split):
    (batch,) = object_batches(split, [1, 3], ObjectShape(1, 1), batch=2)
    assert batch["valid"].tolist() == [[True, False, False], [True] * 3]
    np.testing.assert_array_equal(batch["ignore"], batch["valid"])


def test_padding(split, batch):
    empty = ~batch["valid"]
    assert empty.sum() == 6 * 4 - 7
    assert (batch["category"][empty] == -1).all()
    for name in ("box", "crowd", "ignore", "mask", "has_mask"):
        assert not batch[name][empty].any()
    for image, (height, width) in zip(batch["image"], batch["size"], strict=True):
        assert max(height, width) == 32
        assert not image[height:].any()
        assert not image[:, width:].any()
        assert image[height - 1, width - 1].any()
    (more,) = object_batches(split, range(6), SHAPE._replace(max_objects=9), batch=6)
    assert not more["valid"][:, 4:].any()
    for name in batch:
        values = more[name] if name in ("image", "size", "scale", "row") else more[name][:, :4]
        np.testing.assert_array_equal(values, batch[name])


def test_as_other_photos_are_scaled(split):
    """A square photo becomes what the matcher's batches make of it."""
    (batch,) = object_batches(split, [2], ObjectShape(13, 13, interpolation="bicubic"), batch=1)
    expected = crop_and_resize(split.picture(2), None, ImageTransform(13, "none", "bicubic", 1.0))
    assert np.abs(batch["image"][0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("canvas", [(32, 32), (40, 24), (96, 128)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_without_tensorflow(split, canvas, interpolation):
    """A photo is what `fit_on_canvas` makes of it, but for rounding."""
    shape = ObjectShape(*canvas, interpolation=interpolation)
    (batch,) = object_batches(split, range(6), shape, batch=6)
    for row in range(6):
        image, size = fit_on_canvas(split.picture(row), canvas, interpolation)
        assert list(size) == batch["size"][row].tolist()
        difference = np.abs(image.astype(int) - batch["image"][row])
        assert difference[: size[0] - 2, : size[1] - 2].max() <= 1
        assert difference.max() <= 12  # at the end, where pixels reach beyond the photo


def draw(split, shape=SHAPE, **changes):
    arguments = {"start_step": 0, "steps": 3, "batch_size": 6, "seed": 5, **changes}
    return list(object_train_batches(split, shape, **arguments))


def test_mirrored_twice_is_the_photo(tmp_path, split, batch):
    """What is drawn mirrored of a mirrored data set is the data set."""
    other = prepare(tmp_path, mirrored=True)
    (other_batch,) = object_batches(other, range(6), SHAPE, batch=6)
    turned = 0
    for plain, mirrored in zip(draw(split), draw(other), strict=True):
        np.testing.assert_array_equal(plain["row"], mirrored["row"])
        for place, row in enumerate(plain["row"]):
            flipped = (plain["image"][place] != batch["image"][row]).any()
            turned += flipped
            # Drawn mirrored, each of the two sets shows what the other is.
            shown = (other_batch, batch) if flipped else (batch, other_batch)
            for drawn, as_is in zip((plain, mirrored), shown, strict=True):
                for name in batch:
                    # A mask is mirrored when it is cut, and may round another way.
                    np.testing.assert_allclose(
                        drawn[name][place].astype(float),
                        as_is[name][row].astype(float),
                        atol=1 if name == "mask" else 2e-5,
                    )
    assert 3 < turned < 15
    for drawn in draw(split, augment=AugmentConfig(flip=False)):
        np.testing.assert_array_equal(drawn["image"], batch["image"][drawn["row"]])


def test_training_depends_on_seed_and_step_alone(split):
    whole = draw(split, steps=6, batch_size=4)
    assert [batch["step"] for batch in whole] == list(range(6))
    rows = np.concatenate([batch["row"] for batch in whole]).reshape(4, 6)
    np.testing.assert_array_equal(np.sort(rows), [range(6)] * 4)
    assert len(set(map(tuple, rows.tolist()))) > 1
    again = draw(split, start_step=3, batch_size=4)
    shares = [draw(split, steps=6, batch_size=4, host=host, hosts=2) for host in range(2)]
    for step, batch in enumerate(whole):
        for name in batch.keys() - {"step"}:
            joined = np.concatenate([share[step][name] for share in shares])
            np.testing.assert_array_equal(joined, batch[name])
            if step >= 3:
                np.testing.assert_array_equal(again[step - 3][name], batch[name])
    others = draw(split, steps=6, batch_size=4, seed=2)
    assert any((a["row"] != b["row"]).any() for a, b in zip(others, whole, strict=True))


def test_last_batch_is_filled_up(split):
    first, last = object_batches(split, [3, 1, 3, 0], SHAPE, batch=3)
    assert (first["row"].tolist(), last["row"].tolist()) == ([3, 1, 3], [0, -1, -1])
    assert not last["image"][1:].any()
    assert not last["valid"][1:].any()
    assert (last["category"][1:] == -1).all()
    kinds = {
        **dict.fromkeys(("image", "mask"), "uint8"),
        **dict.fromkeys(("size", "row", "category"), "int32"),
        **dict.fromkeys(("scale", "box"), "float32"),
        **dict.fromkeys(("valid", "crowd", "ignore", "has_mask"), "bool"),
    }
    for batch in (first, last):
        assert {name: str(values.dtype) for name, values in batch.items()} == kinds
    assert list(object_batches(split, [], SHAPE, batch=3)) == []
    (few,) = object_batches(split, [0], SHAPE._replace(max_objects=0, mask_size=0), batch=1)
    assert few["box"].shape == (1, 3, 4)  # the most of the split
    assert few.keys() == kinds.keys() - {"mask", "has_mask"}


@pytest.mark.parametrize(
    ("rows", "batch", "shape", "text"),
    [
        ([0], 1, {"max_objects": 2}, "3.png of split 'train' has 3 objects; set it to 3 or more"),
        ([0], 1, {"mask_size": -1}, "mask_size=-1: expected at least 0"),
        ([6], 1, {}, r"rows 6\.\.6 of a split of 6"),
        ([0], 0, {}, "a batch of 0 photos"),
    ],
)
def test_wrong_fields(split, rows, batch, shape, text):
    with pytest.raises(DatasetError, match=text):
        object_batches(split, rows, SHAPE._replace(**shape), batch=batch)
    with pytest.raises(DatasetError, match="5 photos cannot be divided among 2 hosts"):
        draw(split, batch_size=5, hosts=2)


def test_scaled_photos_keep_their_objects(tmp_path):
    """A red box whose left half is the mask, and green: where they are is read off the pixels."""
    (tmp_path / "images").mkdir()
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[5:35, 10:50, 0] = 255
    pixels[5:35, 10:30] = [0, 255, 0]
    (tmp_path / "images" / "0.png").write_bytes(encode_png(pixels))
    half = np.zeros((40, 60), np.uint8)
    half[5:35, 10:30] = 1
    coded = {"size": [40, 60], "counts": trees.runs_of(half)}
    image = {"id": 0, "file_name": "0.png", "split": "train", "height": 40, "width": 60}
    object_ = trees.annotation(0, 0, 5, [10, 5, 40, 30], segmentation=coded)
    content = {"images": [image], "annotations": [object_]}
    content["categories"] = [{"id": 5, "name": "class 5"}]
    trees.write_json(tmp_path / "annotations.json", content)
    split = load("coco", tmp_path, tmp_path / "data").object_split("train")
    shape, augment = ObjectShape(64, 64, mask_size=16), AugmentConfig(scale_jitter=9.0)
    batches = draw(split, shape, augment=augment, steps=6, batch_size=4)
    batch = {name: np.concatenate([one[name] for one in batches]) for name in ("image", *SEEN)}
    scale = batch["scale"] / (64 / 60)
    assert 0.1 <= scale.min() < 0.5 < 2 < scale.max() <= 10
    assert (
        batch["size"] == np.minimum(64, np.ceil([[40, 60]] * batch["scale"][:, None] - 0.5))
    ).all()
    kept = 0
    for place, ignored in enumerate(batch["ignore"][:, 0]):
        image, box = batch["image"][place].astype(int), batch["box"][place, 0]
        assert 0 <= box.min() <= box.max() < 64.001
        area = np.prod(box[2:] - box[:2]) / batch["scale"][place] ** 2
        assert ignored == (area < 0.25 * 40 * 30)
        assert (image[:, batch["size"][place, 1] :] == 0).all()
        if ignored or batch["scale"][place] < 0.5:
            continue
        kept += 1
        rows, columns = np.nonzero(image.sum(axis=2) > 127)
        edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        np.testing.assert_allclose(box, edges, atol=1)
        x, y = (
            (np.arange(16) + 0.5) / 16 * (box[2 + axis] - box[axis]) + box[axis] for axis in (0, 1)
        )
        green = image[y.astype(int)][:, x.astype(int), 1]
        assert np.mean((batch["mask"][place, 0] > 127) == (green > 127)) > 0.9
    assert 5 < kept < 24
    assert batch["ignore"].any()


def test_garments_of_pairs_are_objects(dataset):
    split = dataset.split("val")
    seen = dataset.as_objects().object_split("val")
    assert seen.index.categories.tolist() == split.index.categories.tolist()
    assert seen.index.counts()["objects"] == len(split)
    for row in (0, 5):
        record, photo = seen.record(row), split.record(row)
        assert record.boxes.tolist() == [list(photo.box)]
        assert split.index.categories[record.categories[0]] == photo.category
        assert (record.masks, record.image) == ((photo.mask,), photo.image)
        np.testing.assert_array_equal(seen.picture(row), split.picture(row))
    (batch,) = object_batches(seen, [5], ObjectShape(160, 120), batch=1)
    np.testing.assert_allclose(batch["box"][0], [split.index.box[5]])
    index = dataclasses.replace(
        split.index, categories=np.array([], str), clothes_type=np.arange(len(split)) % 4 - 1
    )
    unnamed = SingleObjectSplit(type(split)("val", index, split._records))
    assert unnamed.index.categories.tolist() == ["upper body", "lower body", "full body"]
    assert [unnamed.record(row).crowd.tolist() for row in range(3)] == [[True], [True], [False]]
    assert unnamed.record(3).categories.tolist() == [1]
