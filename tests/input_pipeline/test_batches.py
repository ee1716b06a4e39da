"""Batches of pixels."""

import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict

from input_pipeline import DatasetError, InputError, decoding, image_batches, train_batches
from input_pipeline.images import build_transform, crop_and_resize
from input_pipeline.sampling import make_sampler
from tests.input_pipeline.conftest import make_data, photo_bytes


def take(split, data, start_step=0, steps=3, batch_size=8, seed=0, **hosts):
    batches = train_batches(
        split,
        data,
        batch_size=batch_size,
        start_step=start_step,
        steps=steps,
        seed=seed,
        **hosts,
    )
    return list(batches)


def changed(data: ConfigDict, **changes: object) -> ConfigDict:
    return ConfigDict({**data.to_dict(), **changes})


def test_train_batch(dataset, data):
    split = dataset.split("train")
    batches = take(split, data, start_step=5)
    assert [batch["step"] for batch in batches] == [5, 6, 7]
    for batch in batches:
        for name in ("customer", "shop"):
            assert batch[name].shape == (8, 16, 16, 3)
            assert batch[name].dtype == np.uint8
        assert batch["item"].dtype == batch["content"].dtype == np.int32
        assert batch["item"].shape == batch["content"].shape == (8,)


def test_pixels_and_labels_are_those_of_the_pairs(dataset, data):
    split = dataset.split("train")
    index = split.index
    for batch in take(split, changed(data, flip=False)):
        for place, (item, content) in enumerate(zip(batch["item"], batch["content"], strict=True)):
            shops = np.flatnonzero((index.content == content) & (index.item == item))
            customers = np.flatnonzero((index.item == item) & (index.domain == 0))
            assert len(shops)
            for name, rows in (("shop", shops), ("customer", customers)):
                distances = [
                    np.abs(batch[name][place].astype(int) - split.framed(row, data)).max()
                    for row in rows
                ]
                assert min(distances) <= 1


def test_flips_mirror(dataset, data):
    split = dataset.split("train")
    plain = take(split, changed(data, flip=False))
    flipped = take(split, data)
    mirrored = 0
    for before, after in zip(plain, flipped, strict=True):
        for name in ("customer", "shop"):
            for photo, other in zip(before[name], after[name], strict=True):
                same = (photo == other).all()
                assert same or (photo[:, ::-1] == other).all()
                mirrored += not same
    assert 10 < mirrored < 38  # of 48


def test_jitter_moves_the_edges_of_the_box(dataset, data):
    split = dataset.split("train")
    moved = take(split, changed(data, flip=False, box_jitter=0.2))
    sampler = make_sampler(split, data, seed=0)
    framing = build_transform(data)
    for step, batch in enumerate(moved):
        plan = sampler.plan(step, batch_size=8, host=0, hosts=1)
        for place, (rows, shifts) in enumerate(zip(plan.rows, plan.shift, strict=True)):
            for name, row, shift in zip(("customer", "shop"), rows, shifts, strict=True):
                x_1, y_1, x_2, y_2 = split.index.box[row]
                width, height = x_2 - x_1, y_2 - y_1
                box = split.index.box[row] + 0.2 * shift * [width, height, width, height]
                wanted = crop_and_resize(split.picture(row), tuple(box), framing)
                assert np.abs(batch[name][place].astype(int) - wanted).max() <= 1


def test_a_jitter_that_could_lose_the_box_is_named(dataset, data):
    with pytest.raises(DatasetError, match=r"config\.data\.box_jitter=0\.5"):
        take(dataset.split("train"), changed(data, box_jitter=0.5))


@pytest.mark.parametrize("epoch", ["pairs", "items"])
def test_resuming_gives_the_same_batches(dataset, data, epoch):
    data = changed(data, epoch=epoch)
    split = dataset.split("train")
    straight = take(split, data, steps=9)
    resumed = take(split, data, start_step=5, steps=4)
    for one, other in zip(straight[5:], resumed, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    assert (straight[0]["customer"] != take(split, data, steps=1, seed=1)[0]["customer"]).any()


def test_hosts_share_the_batch(dataset, data):
    split = dataset.split("train")
    whole = take(split, data)
    halves = [take(split, data, host=host, hosts=2) for host in range(2)]
    for step, batch in enumerate(whole):
        for name in ("customer", "shop", "item", "content"):
            together = np.concatenate([half[step][name] for half in halves])
            np.testing.assert_array_equal(together, batch[name])


def test_no_steps(dataset, data):
    assert take(dataset.split("train"), data, steps=0) == []


def test_batch_larger_than_the_split(dataset, data):
    (batch,) = take(dataset.split("val"), data, steps=1, batch_size=40)  # of 16 pairs
    assert batch["customer"].shape[0] == 40


def test_wrong_arguments_are_refused_at_once(dataset, data):
    split = dataset.split("train")
    arguments = {"batch_size": 8, "start_step": 0, "steps": 1, "seed": 0}
    with pytest.raises(ValueError, match="8 pairs cannot be divided among 3 hosts"):
        train_batches(split, data, **arguments, hosts=3)
    with pytest.raises(DatasetError, match="host 2 of 2"):
        train_batches(split, data, **arguments, host=2, hosts=2)
    for field, value in (("crop", "middle"), ("interpolation", ""), ("center_fraction", 1.5)):
        with pytest.raises(InputError, match=rf"config\.data\.{field}='?{value}"):
            train_batches(split, changed(data, **{field: value}), **arguments)
    with pytest.raises(InputError, match=r"config\.data\.image_size=0"):
        image_batches(split, [0], changed(data, image_size=0), batch=1)
    with pytest.raises(DatasetError, match="at least 1"):
        image_batches(split, [0], data, batch=0)


def test_photo_batches_pad_the_last(dataset, data):
    split = dataset.split("test")
    rows = split.gallery_rows()[::-1]
    batches = list(image_batches(split, rows, data, batch=5))
    assert len(batches) == 3
    assert all(batch["photo"].shape == (5, 16, 16, 3) for batch in batches)
    mask = np.concatenate([batch["mask"] for batch in batches])
    assert mask.tolist() == [True] * 12 + [False] * 3
    np.testing.assert_array_equal(np.concatenate([b["row"] for b in batches])[mask], rows)
    assert not np.concatenate([b["photo"] for b in batches])[~mask].any()
    assert np.concatenate([b["domain"] for b in batches]).tolist() == [1] * 12 + [0] * 3


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop", ["box", "none", "center"])
def test_photo_batches_equal_the_twin(dataset, data, crop, interpolation):
    split = dataset.split("test")
    data = changed(data, crop=crop, interpolation=interpolation, center_fraction=0.7)
    for batch in image_batches(split, range(len(split)), data, batch=36):
        for photo, row in zip(batch["photo"], batch["row"], strict=True):
            assert np.abs(photo.astype(int) - split.framed(row, data)).max() <= 1


def test_no_photos(dataset, data):
    assert list(image_batches(dataset.split("test"), [], data, batch=4)) == []


def test_undecodable_photo_is_named(dataset, data, monkeypatch):
    split = dataset.split("test")
    intact = split.read

    def read(rows):
        return [
            record.replace(b"\xff\xda", b"\x00\x00") if row == 7 else record
            for row, record in zip(rows, intact(rows), strict=True)
        ]

    monkeypatch.setattr(split, "read", read)
    name = split.index.photo_id[7]
    batches = image_batches(split, range(12), data, batch=4)
    assert next(batches)["mask"].all()
    with pytest.raises(DatasetError, match=f"cannot decode {name}: "):
        next(batches)


def test_rows_outside_the_split(dataset, data):
    split = dataset.split("test")
    with pytest.raises(DatasetError, match="of a split of 36"):
        list(image_batches(split, [36], data, batch=1))
    with pytest.raises(DatasetError, match="of a split of 36"):
        split.read([-1])


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_cut_is_decoded_to_the_pixels_of_the_whole(subsampling):
    rng = np.random.default_rng(subsampling)
    data = photo_bytes(3, size=(61, 83), quality=70, subsampling=subsampling)
    whole = decoding.decode(tf.constant(data)).numpy()
    for _ in range(60):
        left, top = rng.integers(0, 82), rng.integers(0, 60)
        right, bottom = rng.integers(left + 1, 84), rng.integers(top + 1, 62)
        cut = decoding._decode_cut(tf.constant(data), tf.constant([left, top, right, bottom]))
        np.testing.assert_array_equal(cut.numpy(), whole[top:bottom, left:right])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [16, 224])
def test_resizing_gives_the_pixels_of_tensorflow(size, interpolation):
    framing = build_transform(make_data(image_size=size, interpolation=interpolation))
    rng = np.random.default_rng(size)
    for shape in [(245, 185), (90, 400), (16, 224), (1, 1), (1, 300), (7, 3)]:
        image = tf.constant(rng.integers(0, 256, (*shape, 3), np.uint8))
        wanted = tf.image.resize(image, [size, size], interpolation, antialias=True)
        wanted = np.clip(np.rint(wanted.numpy()), 0, 255)
        np.testing.assert_array_equal(decoding.resize(image, framing).numpy(), wanted)


def test_item_batches_hold_photos_and_labels(dataset, data):
    data = changed(data, sampler="items", images_per_item=3, flip=False)
    split = dataset.split("train")
    index = split.index
    (batch,) = take(split, data, steps=1, batch_size=4)
    assert batch["photo"].shape == (12, 16, 16, 3)
    assert (batch["item"].reshape(4, 3) == batch["item"].reshape(4, 3)[:, :1]).all()
    assert batch["domain"].reshape(4, 3).tolist() == [[0, 1, 1]] * 4
    plan = make_sampler(split, data, seed=0).plan(0, batch_size=4, host=0, hosts=1)
    for place, row in enumerate(plan.rows.reshape(-1)):
        assert np.abs(batch["photo"][place].astype(int) - split.framed(row, data)).max() <= 1
        record = split.record(row)
        assert index.categories[batch["category"][place]] == record.category
        assert batch["clothes_type"][place] == record.clothes_type
        named = set(index.attributes[batch["attributes"][place] == 1])
        assert named == set(record.attributes)
        np.testing.assert_array_equal(
            batch["visibility"][place] == -1, record.landmarks[:, 0] == -1
        )


def test_photo_batches_for_training_hold_every_photo(dataset, data):
    split = dataset.split("train")
    data = changed(data, sampler="photos")
    found = take(split, data, steps=9, batch_size=8)  # 72 photos
    items = np.concatenate([batch["item"] for batch in found])
    np.testing.assert_array_equal(np.bincount(items), np.bincount(split.index.item))
    assert all(batch["photo"].shape == (8, 16, 16, 3) for batch in found)
