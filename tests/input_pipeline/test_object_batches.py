"""Batches of images with objects, against NumPy; order, shares and errors."""

import io

import numpy as np
import pytest
from input_pipeline.object_batches import Shape, object_batches, object_train_batches
from PIL import Image

from input_pipeline import DatasetError
from input_pipeline.images import ImageTransform, crop_and_resize, encode_png
from tests.input_pipeline import coco_trees as trees
from tests.input_pipeline.conftest import load

SIZES = [(24, 36), (36, 24), (20, 20), (24, 36), (7, 40), (24, 36), (30, 29)]  # height, width


def photo(number):
    height, width = SIZES[number]
    coarse = np.random.default_rng(number).integers(0, 256, (4, 5, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def mask(number, height, width):
    rng = np.random.default_rng(number)
    coarse = Image.fromarray((rng.random((3, 4)) < 0.6).astype(np.uint8) * 255)
    found = np.asarray(coarse.resize((width, height), Image.Resampling.NEAREST)) > 0
    found = found.copy()
    found[height // 2, width // 2] = True
    return found.astype(np.uint8)


def content_of(mirrored):
    """Photos as PNG of every split; number n has n % 4 objects, some without a mask."""
    images, annotations, pictures = [], [], {}
    for number, (height, width) in enumerate(SIZES):
        name = f"{number}.png"
        split = "test" if number == 6 else "train"
        images.append(
            {"id": number, "file_name": name, "height": height, "width": width, "split": split}
        )
        pixels = photo(number)
        pictures[name] = pixels[:, ::-1] if mirrored else pixels
        for place in range(number % 4):
            key = 10 * number + place
            x, y, wide, high = 1.5 * place, 1.0, width - 2.5 * place - 0.5, height - 2.0 - place
            pixels = mask(key, height, width)
            if mirrored:
                x, pixels = width - x - wide, pixels[:, ::-1]
            coded = {"size": [height, width], "counts": trees.runs_of(pixels)}
            annotations.append(
                trees.annotation(
                    key,
                    number,
                    place + 5,
                    [x, y, wide, high],
                    iscrowd=int(place == 1),
                    **({} if place == 2 else {"segmentation": coded}),
                )
            )
    categories = [{"id": key, "name": f"class {key}"} for key in (5, 6, 7)]
    return {"images": images, "annotations": annotations, "categories": categories}, pictures


def prepare(folder, mirrored=False):
    content, pictures = content_of(mirrored)
    root = folder / ("mirrored" if mirrored else "plain")
    for name, pixels in pictures.items():
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / "images" / name).write_bytes(encode_png(np.ascontiguousarray(pixels)))
    trees.write_json(root / "annotations.json", content)
    return load("coco", root, folder / "data")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("objects")


@pytest.fixture(scope="module")
def split(folder):
    return prepare(folder).object_split("train")


SHAPE = Shape(size=32, max_objects=4, mask_size=7)


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


def test_against_numpy(split, batch):
    for row in range(6):
        record, picture = split.record(row), split.picture(row)
        height, width = picture.shape[:2]
        scale = 32 / max(height, width)
        count = len(record.boxes)
        assert batch["row"][row] == row
        assert batch["scale"][row] == np.float32(scale)
        assert abs(batch["size"][row] - np.array([height, width]) * scale).max() <= 0.5
        down = weights(height, 32, scale, 0)
        across = weights(width, 32, scale, 0)
        expected = np.einsum("ij,jkc,lk->ilc", down, picture, across)
        assert np.abs(batch["image"][row] - expected).max() <= 1
        assert batch["valid"][row].tolist() == [place < count for place in range(4)]
        np.testing.assert_allclose(batch["box"][row, :count], record.boxes * scale, rtol=1e-6)
        assert batch["category"][row, :count].tolist() == record.categories.tolist()
        assert batch["crowd"][row, :count].tolist() == record.crowd.tolist()
        for place in range(count):
            has_mask = place != 2
            assert batch["has_mask"][row, place] == has_mask
            expected = crop_mask(record, place, 7) if has_mask else np.zeros((7, 7))
            assert np.abs(batch["mask"][row, place] - expected).max() <= 1
    assert [int(valid.sum()) for valid in batch["valid"]] == [0, 1, 2, 3, 0, 1]


def test_padding(split, batch):
    empty = ~batch["valid"]
    assert empty.sum() == 6 * 4 - 7
    assert (batch["category"][empty] == -1).all()
    for name in ("box", "crowd", "mask", "has_mask"):
        assert not batch[name][empty].any()
    for photo_, (height, width) in zip(batch["image"], batch["size"], strict=True):
        assert max(height, width) == 32
        assert not photo_[height:].any()
        assert not photo_[:, width:].any()
        assert photo_[height - 1, width - 1].any()
    (more,) = object_batches(split, range(6), SHAPE._replace(max_objects=9), batch=6)
    assert more["box"].shape == (6, 9, 4)
    for name in ("box", "category", "crowd", "mask", "has_mask", "valid"):
        np.testing.assert_array_equal(more[name][:, :4], batch[name])
        assert not more["valid"][:, 4:].any()
    np.testing.assert_array_equal(more["image"], batch["image"])


def test_square_photo_of_the_same_size_is_untouched(split):
    (batch,) = object_batches(split, [2], SHAPE._replace(size=20), batch=1)
    np.testing.assert_array_equal(batch["image"][0], split.picture(2))
    np.testing.assert_array_equal(batch["box"][0, :2], split.record(2).boxes)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_as_other_photos_are_scaled(split, interpolation):
    """A square photo becomes what the matcher's batches make of it."""
    shape = Shape(size=13, mask_size=0, interpolation=interpolation)
    (batch,) = object_batches(split, [2], shape, batch=1)
    transform = ImageTransform(13, "none", interpolation, 1.0)
    expected = crop_and_resize(split.picture(2), None, transform)
    assert np.abs(batch["image"][0].astype(int) - expected).max() <= 1


def test_mirrored_twice_is_the_photo(folder, split, batch):
    """What is drawn mirrored of a mirrored data set is the data set."""
    other = prepare(folder, mirrored=True).object_split("train")
    (other_batch,) = object_batches(other, range(6), SHAPE, batch=6)
    turned = 0
    for plain, mirrored in zip(
        object_train_batches(split, SHAPE, batch_size=6, start_step=0, steps=3, seed=5),
        object_train_batches(other, SHAPE, batch_size=6, start_step=0, steps=3, seed=5),
        strict=True,
    ):
        rows = plain["row"]
        np.testing.assert_array_equal(rows, mirrored["row"])
        as_is = {name: values[rows] for name, values in batch.items()}
        other_as_is = {name: values[rows] for name, values in other_batch.items()}
        for place in range(6):
            flipped = (plain["image"][place] != as_is["image"][place]).any()
            turned += flipped
            # Drawn mirrored, each of the two sets shows what the other is.
            first, second = (other_as_is, as_is) if flipped else (as_is, other_as_is)
            for name in as_is:
                # A mask is mirrored when it is cut, and may round another way.
                near = 1 if name == "mask" else 2e-5
                for drawn, shown in ((plain, first), (mirrored, second)):
                    np.testing.assert_allclose(
                        drawn[name][place].astype(float), shown[name][place], atol=near
                    )
    assert 3 < turned < 15


def test_no_flips(split, batch):
    for drawn in object_train_batches(
        split, SHAPE, flip=False, batch_size=6, start_step=0, steps=3, seed=5
    ):
        np.testing.assert_array_equal(drawn["image"], batch["image"][drawn["row"]])


def test_training_depends_on_seed_and_step_alone(split):
    def batches(start, steps, **changes):
        arguments = {"batch_size": 4, "seed": 1, "host": 0, "hosts": 1, **changes}
        return list(object_train_batches(split, SHAPE, start_step=start, steps=steps, **arguments))

    whole = batches(0, 6)
    assert [batch["step"] for batch in whole] == list(range(6))
    rows = np.concatenate([batch["row"] for batch in whole])
    for epoch in range(4):
        assert sorted(rows[6 * epoch : 6 * epoch + 6]) == list(range(6))
    assert len({tuple(rows[6 * epoch : 6 * epoch + 6]) for epoch in range(4)}) > 1
    for again, batch in zip(batches(3, 3), whole[3:], strict=True):
        for name, values in batch.items():
            np.testing.assert_array_equal(again[name], values)
    shares = [batches(0, 6, host=host, hosts=2) for host in range(2)]
    for step, batch in enumerate(whole):
        for name in batch.keys() - {"step"}:
            joined = np.concatenate([share[step][name] for share in shares])
            np.testing.assert_array_equal(joined, batch[name])
    assert any(
        (one["row"] != other["row"]).any()
        for one, other in zip(batches(0, 6, seed=2), whole, strict=True)
    )


def test_last_batch_is_filled_up(split):
    batches = list(object_batches(split, [3, 1, 3, 0], SHAPE, batch=3))
    assert [batch["row"].tolist() for batch in batches] == [[3, 1, 3], [0, -1, -1]]
    last = batches[1]
    assert not last["image"][1:].any()
    assert not last["valid"][1:].any()
    assert (last["category"][1:] == -1).all()
    assert {name: values.dtype for name, values in last.items()} == {
        name: values.dtype for name, values in batches[0].items()
    }
    assert {name: str(values.dtype) for name, values in last.items()} == {
        "image": "uint8",
        "size": "int32",
        "scale": "float32",
        "row": "int32",
        "valid": "bool",
        "box": "float32",
        "category": "int32",
        "crowd": "bool",
        "has_mask": "bool",
        "mask": "uint8",
    }
    assert list(object_batches(split, [], SHAPE, batch=3)) == []


def test_most_objects_of_the_split_and_no_masks(split):
    (batch,) = object_batches(split, [0], SHAPE._replace(max_objects=0, mask_size=0), batch=1)
    assert batch["box"].shape == (1, 3, 4)
    assert "mask" not in batch
    assert "has_mask" not in batch


def test_wrong_fields(split):
    with pytest.raises(
        DatasetError,
        match=r"max_objects=2: 3.png of split 'train' has 3 objects; set it to 3 or more, or to 0",
    ):
        object_batches(split, [0], SHAPE._replace(max_objects=2), batch=1)
    with pytest.raises(DatasetError, match="mask_size=-1: expected at least 0"):
        object_batches(split, [0], SHAPE._replace(mask_size=-1), batch=1)
    with pytest.raises(DatasetError, match=r"rows 6\.\.6 of a split of 6"):
        object_batches(split, [6], SHAPE, batch=1)
    with pytest.raises(DatasetError, match="a batch of 0 photos"):
        object_batches(split, [0], SHAPE, batch=0)
    with pytest.raises(DatasetError, match="5 photos cannot be divided among 2 hosts"):
        object_train_batches(split, SHAPE, batch_size=5, start_step=0, steps=1, seed=0, hosts=2)
    with pytest.raises(DatasetError, match="host 2 of 2"):
        object_train_batches(
            split, SHAPE, batch_size=4, start_step=0, steps=1, seed=0, host=2, hosts=2
        )
