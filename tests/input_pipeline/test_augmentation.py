"""Tilt, skew and colors of training photos, and the landmarks that move along."""

import colorsys

import numpy as np
import pytest
from input_pipeline.pixel_changes import augment
from scipy import ndimage

from input_pipeline import DatasetError
from input_pipeline.augmentation import Augmentation, build_augmentation, move_landmarks
from input_pipeline.crops import CropBoxes, square_boxes
from tests.input_pipeline.conftest import make_data
from tests.input_pipeline.test_batches import changed, take

_ALL = Augmentation(tilt=20.0, skew=0.3, color=0.4, hue=0.1)
_OFF = {"flip": False, "sampler": "items"}


def _photo(size=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def _drawn(**given):
    names = ("tilt", "skew", "brightness", "contrast", "saturation", "hue")
    return np.array([given.get(name, 0.0) for name in names], np.float32)


def test_nothing_drawn_or_nothing_set_changes_nothing():
    photo = _photo()
    np.testing.assert_array_equal(augment(photo, _drawn(), _ALL), photo)
    anything = np.random.default_rng(1).uniform(-1, 1, 6).astype(np.float32)
    np.testing.assert_array_equal(augment(photo, anything, Augmentation()), photo)


@pytest.mark.parametrize("size", [16, 17])
def test_tilt_and_skew_are_scipys(size):
    # An affine map that reads (row, column) of the photo for each place shown.
    photo = ndimage.gaussian_filter(_photo(size).astype(float), (2, 2, 0)).round().astype(np.uint8)
    angle, shear = np.deg2rad(0.7 * 20), -0.5 * 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = turn @ np.array([[1, shear], [0, 1]])  # (x, y), y down
    back = np.linalg.inv(forward)[::-1, ::-1]  # (row, column)
    center = np.full(2, (size - 1) / 2)
    wanted = np.stack(
        [
            ndimage.affine_transform(
                photo[..., c].astype(float), back, center - back @ center, order=1, mode="nearest"
            )
            for c in range(3)
        ],
        axis=-1,
    )
    found = np.asarray(augment(photo, _drawn(tilt=0.7, skew=-0.5), _ALL._replace(color=0, hue=0)))
    assert np.abs(found - wanted).max() <= 0.51
    assert (found != photo).any()


def test_colors_are_those_of_loops():
    photo, drawn = _photo(6), _drawn(brightness=0.5, contrast=-0.8, saturation=0.6, hue=-0.4)
    x = photo / 255 * (1 + 0.5 * 0.4)
    x = x.mean() + (x - x.mean()) * (1 - 0.8 * 0.4)
    gray = x @ [0.2989, 0.5870, 0.1140]
    x = np.clip(gray[..., None] + (x - gray[..., None]) * (1 + 0.6 * 0.4), 0, 1)
    for pixel in x.reshape(-1, 3):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        pixel[:] = colorsys.hsv_to_rgb((hue - 0.4 * 0.1) % 1, saturation, value)
    found = np.asarray(augment(photo, drawn, Augmentation(color=0.4, hue=0.1))).astype(int)
    assert np.abs(found - 255 * x).max() <= 0.6


def test_extremes_stay_in_range():
    for sign in (-1, 1):
        found = np.asarray(augment(_photo(), np.full(6, sign, np.float32), _ALL))
        assert found.dtype == np.uint8
        assert found.shape == (16, 16, 3)
    white = np.full((8, 8, 3), 255, np.uint8)
    assert (np.asarray(augment(white, _drawn(brightness=1), _ALL)) == 255).all()


def test_landmarks_move_with_what_they_mark():
    largest = Augmentation(tilt=30.0, skew=0.3)
    rng = np.random.default_rng(0)
    for drawn in rng.uniform(-1, 1, (5, 6)).astype(np.float32):
        row, column = rng.integers(24, 40, 2)
        photo = np.zeros((64, 64, 3), np.uint8)
        photo[row - 1 : row + 2, column - 1 : column + 2] = 255
        shown = np.asarray(augment(photo, drawn, largest), float)[..., 0]
        weights = shown / shown.sum()
        center = np.array([(weights.sum(0) @ np.arange(64)), (weights.sum(1) @ np.arange(64))])
        points = np.array([[[(column + 0.5) / 64, (row + 0.5) / 64]]], np.float32)
        moved, visibility = move_landmarks(points, np.zeros((1, 1), np.int32), drawn[None], largest)
        assert visibility.item() == 0
        np.testing.assert_allclose(moved[0, 0] * 64 - 0.5, center, atol=0.15)


def test_landmarks_that_leave_are_truncated_and_absent_ones_stay():
    points = np.array([[[0.01, 0.01], [0.0, 0.0], [0.5, 0.5]]], np.float32)
    found, visibility = move_landmarks(
        points, np.array([[0, -1, 1]], np.int32), _drawn(tilt=1)[None], Augmentation(tilt=45.0)
    )
    assert visibility.tolist() == [[2, -1, 1]]
    np.testing.assert_allclose(found[0, 1:], points[0, 1:])
    assert (found[0, 0] != points[0, 0]).all()


def test_batches_are_augmented_by_seed_and_step(dataset, data):
    split = dataset.split("train")
    fields = changed(data, **_OFF, tilt=15.0, skew=0.1, color=0.3, hue=0.05)
    plain, first = take(split, changed(data, **_OFF)), take(split, fields)
    later = take(split, fields, start_step=1, steps=1)
    np.testing.assert_array_equal(first[1]["photo"], later[0]["photo"])
    assert (first[0]["photo"] != take(split, fields, steps=1, seed=1)[0]["photo"]).any()
    for before, after in zip(plain, first, strict=True):
        np.testing.assert_array_equal(before["item"], after["item"])
        assert all((x != y).any() for x, y in zip(before["photo"], after["photo"], strict=True))
        known = before["visibility"] >= 0
        np.testing.assert_array_equal(known, after["visibility"] >= 0)


def test_squares_lie_along_the_longer_side():
    boxes = np.array([[0, 0, 40, 20], [4, 2, 10, 30]] * 3, np.float32)
    place = np.repeat([-1.0, 0.0, 1.0], 2)
    assert square_boxes(boxes, place).tolist() == [
        [0, 0, 20, 20], [4, 2, 10, 8],
        [10, 0, 30, 20], [4, 13, 10, 19],
        [20, 0, 40, 20], [4, 24, 10, 30],
    ]  # fmt: skip


def test_square_cuts_are_central_but_in_training(dataset, data):
    split = dataset.split("train")
    fields = changed(data, crop="none", square=True)
    left, top, right, bottom = split.cuts(fields).T
    height, width = split.index.size.T
    np.testing.assert_array_equal(right - left, np.minimum(height, width))
    np.testing.assert_array_equal(bottom - top, np.minimum(height, width))
    assert (np.abs(left - (width - right)) <= 1).all()
    assert (np.abs(top - (height - bottom)) <= 1).all()
    assert (height != width).any()
    jittered = CropBoxes(split, changed(fields, box_jitter=0.2))
    outward = np.tile(np.array([-1, -1, 1, 1], np.float32), (len(split), 1))
    left, top, right, bottom = jittered.pixels(np.arange(len(split)), outward).T
    np.testing.assert_array_equal(right - left, bottom - top)
    shown = take(split, changed(fields, **_OFF), steps=1)[0]["photo"]
    central = np.stack([split.framed(row, fields) for row in range(len(split))]).astype(int)
    distances = np.abs(shown[:, None].astype(int) - central[None]).max(axis=(2, 3, 4)).min(axis=1)
    assert (distances > 5).any()


@pytest.mark.parametrize(
    ("field", "value"),
    [("tilt", 180.0), ("tilt", -1.0), ("skew", 1.0), ("color", 1.0), ("hue", 0.5)],
)
def test_changes_that_cannot_be_are_named(field, value):
    with pytest.raises(DatasetError, match=rf"config\.data\.{field}={value}: expected 0 to less"):
        build_augmentation(make_data(**{field: value}))
