"""Batches of pixels."""

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import (
    AugmentConfig,
    DatasetError,
    ImageConfig,
    SamplerConfig,
    image_batches,
    train_batches,
)
from input_pipeline.images import build_transform, crop_and_resize
from input_pipeline.sampling import build_sampler
from input_pipeline.tf_transforms import _decode_crop, decode, resize
from tests.input_pipeline.conftest import IMAGE, photo_bytes

PAIRS = SamplerConfig()
ITEMS = SamplerConfig(name="items", images_per_item=3)
PLAIN = AugmentConfig(flip=False)


def take(
    split,
    image=IMAGE,
    augment=PLAIN,
    sampler=PAIRS,
    start_step=0,
    steps=3,
    batch_size=8,
    seed=0,
    **hosts,
):
    batches = train_batches(
        split,
        image,
        augment,
        sampler,
        batch_size=batch_size,
        start_step=start_step,
        steps=steps,
        seed=seed,
        **hosts,
    )
    return list(batches)


def assert_near(pixels, others):
    """The same but for a gray level."""
    assert np.abs(pixels.astype(int) - others).max() <= 1


@pytest.mark.parametrize(
    "augment", [PLAIN, AugmentConfig(flip=True, crop_jitter=0.2)], ids=["plain", "augmented"]
)
def test_pixels_and_labels_are_those_of_the_sampled_rows(dataset, augment):
    split, transform = dataset.split("train"), build_transform(IMAGE)
    sampler = build_sampler(split, PAIRS, seed=0)
    flips = []
    for batch in take(split, augment=augment, start_step=5):
        sampled = sampler.sample(batch["step"], batch_size=8)
        np.testing.assert_array_equal(batch["item"], split.index.item[sampled.rows[:, 0]])
        np.testing.assert_array_equal(batch["content"], split.index.content[sampled.rows[:, 1]])
        assert batch["item"].dtype == batch["content"].dtype == np.int32
        for column, name in enumerate(("customer", "shop")):
            assert batch[name].shape == (8, 16, 16, 3)
            assert batch[name].dtype == np.uint8
            rows, shifts = sampled.rows[:, column], sampled.shift[:, column]
            for place, (row, shift) in enumerate(zip(rows, shifts, strict=True)):
                box = split.index.box[row]
                width, height = box[2:] - box[:2]
                box = box + augment.crop_jitter * shift * [width, height, width, height]
                expected = crop_and_resize(split.picture(row), tuple(box), transform)
                flips.append(augment.flip and sampled.flip[place, column])
                assert_near(batch[name][place], expected[:, ::-1] if flips[-1] else expected)
    assert any(flips) == augment.flip
    assert not all(flips)


@pytest.mark.parametrize(
    "sampler", [PAIRS, SamplerConfig(epoch="items"), ITEMS], ids=["pairs", "items-epoch", "items"]
)
def test_batches_are_a_function_of_seed_and_step_shared_by_hosts(dataset, sampler):
    split = dataset.split("train")
    augment = AugmentConfig(
        flip=True, rotation_degrees=15, shear=0.1, color_jitter=0.3, hue_jitter=0.05
    )
    straight = take(split, augment=augment, sampler=sampler, steps=4)
    resumed = take(split, augment=augment, sampler=sampler, start_step=2, steps=2)
    halves = [
        take(split, augment=augment, sampler=sampler, start_step=2, steps=2, host=host, hosts=2)
        for host in range(2)
    ]
    for step, batch in enumerate(straight[2:]):
        for name in batch:
            np.testing.assert_array_equal(resumed[step][name], batch[name])
            if name != "step":
                together = np.concatenate([half[step][name] for half in halves])
                np.testing.assert_array_equal(together, batch[name])
    pixels = "customer" if sampler.name == "pairs" else "image"
    other = take(split, augment=augment, sampler=sampler, steps=1, seed=1)
    assert (straight[0][pixels] != other[0][pixels]).any()
    plain = take(split, sampler=sampler, steps=1)
    assert all((x != y).any() for x, y in zip(straight[0][pixels], plain[0][pixels], strict=True))


def test_no_steps_and_a_batch_larger_than_the_split(dataset):
    assert take(dataset.split("train"), steps=0) == []
    (batch,) = take(dataset.split("val"), steps=1, batch_size=40)  # of 16 pairs
    assert batch["customer"].shape[0] == 40


def test_wrong_arguments_are_refused_at_once(dataset):
    split = dataset.split("train")
    sections = (split, IMAGE, PLAIN, PAIRS)
    numbers = {"batch_size": 8, "start_step": 0, "steps": 1, "seed": 0}
    with pytest.raises(DatasetError, match="8 pairs cannot be divided among 3 hosts"):
        train_batches(*sections, **numbers, hosts=3)
    with pytest.raises(DatasetError, match="host 2 of 2"):
        train_batches(*sections, **numbers, host=2, hosts=2)
    with pytest.raises(DatasetError, match="at least 1"):
        image_batches(split, [0], IMAGE, batch=0)
    with pytest.raises(DatasetError, match=r"rows 72\.\.72 of a split of 72"):
        image_batches(split, [72], IMAGE, batch=1)
    with pytest.raises(DatasetError, match="of a split of 72"):
        split.read([-1])


@pytest.mark.parametrize(
    ("crop", "interpolation"),
    [("box", "bilinear"), ("none", "bicubic"), ("center", "bilinear"), ("center", "bicubic")],
)
def test_image_batches_equal_the_twin_without_tensorflow(dataset, crop, interpolation):
    split = dataset.split("test")
    image = ImageConfig(size=16, crop=crop, interpolation=interpolation, center_fraction=0.7)
    for batch in image_batches(split, range(len(split)), image, batch=36):
        for pixels, row in zip(batch["image"], batch["row"], strict=True):
            assert_near(pixels, split.model_input(row, image))


def test_image_batches_pad_the_last(dataset):
    split = dataset.split("test")
    rows = split.gallery_rows()[::-1]
    batches = list(image_batches(split, rows, IMAGE, batch=5))
    assert all(batch["image"].shape == (5, 16, 16, 3) for batch in batches)
    whole = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    assert whole["mask"].tolist() == [True] * 12 + [False] * 3
    np.testing.assert_array_equal(whole["row"][:12], rows)
    assert not whole["image"][12:].any()
    assert whole["domain"].tolist() == [1] * 12 + [0] * 3
    assert list(image_batches(split, [], IMAGE, batch=4)) == []


def test_undecodable_photo_is_named(dataset, monkeypatch):
    split = dataset.split("test")
    intact = split.read

    def read(rows):
        return [
            record.replace(b"\xff\xda", b"\x00\x00") if row == 7 else record
            for row, record in zip(rows, intact(rows), strict=True)
        ]

    monkeypatch.setattr(split, "read", read)
    name = split.index.photo_id[7]
    batches = image_batches(split, range(12), IMAGE, batch=4)
    assert next(batches)["mask"].all()
    with pytest.raises(DatasetError, match=f"cannot decode {name}: "):
        next(batches)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_crop_is_decoded_to_the_pixels_of_the_whole(subsampling):
    rng = np.random.default_rng(subsampling)
    data = photo_bytes(3, size=(61, 83), quality=70, subsampling=subsampling)
    whole = decode(tf.constant(data)).numpy()
    for _ in range(30):
        left, top = rng.integers(0, 82), rng.integers(0, 60)
        right, bottom = rng.integers(left + 1, 84), rng.integers(top + 1, 62)
        crop = _decode_crop(tf.constant(data), tf.constant([left, top, right, bottom]))
        np.testing.assert_array_equal(crop.numpy(), whole[top:bottom, left:right])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [16, 224])
def test_resizing_gives_the_pixels_of_tensorflow(size, interpolation):
    transform = build_transform(ImageConfig(size=size, interpolation=interpolation))
    rng = np.random.default_rng(size)
    for shape in [(245, 185), (90, 400), (16, 224), (1, 1), (1, 300), (7, 3)]:
        image = tf.constant(rng.integers(0, 256, (*shape, 3), np.uint8))
        expected = tf.image.resize(image, [size, size], interpolation, antialias=True)
        expected = np.clip(np.rint(expected.numpy()), 0, 255)
        np.testing.assert_array_equal(resize(image, transform).numpy(), expected)


def test_item_batches_hold_images_and_labels(dataset):
    split = dataset.split("train")
    index = split.index
    (batch,) = take(split, sampler=ITEMS, steps=1, batch_size=4)
    assert batch["image"].shape == (12, 16, 16, 3)
    assert (batch["item"].reshape(4, 3) == batch["item"].reshape(4, 3)[:, :1]).all()
    assert batch["domain"].reshape(4, 3).tolist() == [[0, 1, 1]] * 4
    sampled = build_sampler(split, ITEMS, seed=0).sample(0, batch_size=4)
    for place, row in enumerate(sampled.rows.reshape(-1)):
        assert_near(batch["image"][place], split.model_input(row, IMAGE))
        record = split.record(row)
        assert index.categories[batch["category"][place]] == record.category
        assert batch["clothes_type"][place] == record.clothes_type
        attributes = set(index.attributes[batch["attributes"][place] == 1])
        assert attributes == set(record.attributes)
        np.testing.assert_array_equal(
            batch["visibility"][place] == -1, record.landmarks[:, 0] == -1
        )


def test_image_batches_for_training_hold_every_image(dataset):
    split = dataset.split("train")
    batches = take(split, sampler=SamplerConfig(name="images"), steps=9)  # 72 images
    items = np.concatenate([batch["item"] for batch in batches])
    np.testing.assert_array_equal(np.bincount(items), np.bincount(split.index.item))
    assert all(batch["image"].shape == (8, 16, 16, 3) for batch in batches)
