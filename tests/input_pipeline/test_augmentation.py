"""Rotation, shear and colors of training images, and the landmarks that move along."""

import colorsys

import numpy as np
import pytest
from scipy import ndimage

from input_pipeline import AugmentConfig, ImageConfig, SamplerConfig
from input_pipeline.augmentation import augment_landmarks
from input_pipeline.crops import CropBoxes, square_boxes
from input_pipeline.sampling import build_sampler
from input_pipeline.tf_augmentation import augment_image
from tests.input_pipeline.test_batches import take

_ALL = AugmentConfig(rotation_degrees=20.0, shear=0.3, color_jitter=0.4, hue_jitter=0.1)


def _image(size=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def _draws(**values):
    names = ("rotation", "shear", "brightness", "contrast", "saturation", "hue")
    return np.array([values.get(name, 0.0) for name in names], np.float32)


def test_no_draws_or_no_augmentation_change_nothing():
    image = _image()
    np.testing.assert_array_equal(augment_image(image, _draws(), _ALL), image)
    draws = np.random.default_rng(1).uniform(-1, 1, 6).astype(np.float32)
    np.testing.assert_array_equal(augment_image(image, draws, AugmentConfig()), image)


@pytest.mark.parametrize("size", [16, 17])
def test_rotation_and_shear_are_scipys(size):
    # An affine map from (row, column) shown to (row, column) read.
    image = ndimage.gaussian_filter(_image(size).astype(float), (2, 2, 0)).round().astype(np.uint8)
    angle, shear = np.deg2rad(0.7 * 20), -0.5 * 0.3
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = rotation @ np.array([[1, shear], [0, 1]])  # (x, y), y down
    back = np.linalg.inv(forward)[::-1, ::-1]  # (row, column)
    center = np.full(2, (size - 1) / 2)
    expected = np.stack(
        [
            ndimage.affine_transform(
                image[..., c].astype(float), back, center - back @ center, order=1, mode="nearest"
            )
            for c in range(3)
        ],
        axis=-1,
    )
    augment = AugmentConfig(rotation_degrees=20.0, shear=0.3)
    result = np.asarray(augment_image(image, _draws(rotation=0.7, shear=-0.5), augment))
    assert np.abs(result - expected).max() <= 0.51
    assert (result != image).any()


def test_colors_are_those_of_loops():
    image, draws = _image(6), _draws(brightness=0.5, contrast=-0.8, saturation=0.6, hue=-0.4)
    x = image / 255 * (1 + 0.5 * 0.4)
    x = x.mean() + (x - x.mean()) * (1 - 0.8 * 0.4)
    gray = x @ [0.2989, 0.5870, 0.1140]
    x = np.clip(gray[..., None] + (x - gray[..., None]) * (1 + 0.6 * 0.4), 0, 1)
    for pixel in x.reshape(-1, 3):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        pixel[:] = colorsys.hsv_to_rgb((hue - 0.4 * 0.1) % 1, saturation, value)
    augment = AugmentConfig(color_jitter=0.4, hue_jitter=0.1)
    result = np.asarray(augment_image(image, draws, augment)).astype(int)
    assert np.abs(result - 255 * x).max() <= 0.6


def test_extremes_stay_in_range():
    for sign in (-1, 1):
        result = np.asarray(augment_image(_image(), np.full(6, sign, np.float32), _ALL))
        assert result.dtype == np.uint8
        assert result.shape == (16, 16, 3)
    white = np.full((8, 8, 3), 255, np.uint8)
    assert (np.asarray(augment_image(white, _draws(brightness=1), _ALL)) == 255).all()


def test_landmarks_move_with_what_they_mark():
    augment = AugmentConfig(rotation_degrees=30.0, shear=0.3)
    rng = np.random.default_rng(0)
    for draws in rng.uniform(-1, 1, (5, 6)).astype(np.float32):
        row, column = rng.integers(24, 40, 2)
        image = np.zeros((64, 64, 3), np.uint8)
        image[row - 1 : row + 2, column - 1 : column + 2] = 255
        shown = np.asarray(augment_image(image, draws, augment), float)[..., 0]
        weights = shown / shown.sum()
        center = np.array([(weights.sum(0) @ np.arange(64)), (weights.sum(1) @ np.arange(64))])
        points = np.array([[[(column + 0.5) / 64, (row + 0.5) / 64]]], np.float32)
        visible = np.zeros((1, 1), np.int32)
        moved, visibility = augment_landmarks(points, visible, draws[None], augment)
        assert visibility.item() == 0
        np.testing.assert_allclose(moved[0, 0] * 64 - 0.5, center, atol=0.15)


def test_landmarks_that_leave_are_truncated_and_absent_ones_stay():
    points = np.array([[[0.01, 0.01], [0.0, 0.0], [0.5, 0.5]]], np.float32)
    moved, visibility = augment_landmarks(
        points,
        np.array([[0, -1, 1]], np.int32),
        _draws(rotation=1)[None],
        AugmentConfig(rotation_degrees=45.0),
    )
    assert visibility.tolist() == [[2, -1, 1]]
    np.testing.assert_allclose(moved[0, 1:], points[0, 1:])
    assert (moved[0, 0] != points[0, 0]).all()


def test_squares_lie_along_the_longer_side():
    boxes = np.array([[0, 0, 40, 20], [4, 2, 10, 30]] * 3, np.float32)
    position = np.repeat([-1.0, 0.0, 1.0], 2)
    assert square_boxes(boxes, position).tolist() == [
        [0, 0, 20, 20], [4, 2, 10, 8],
        [10, 0, 30, 20], [4, 13, 10, 19],
        [20, 0, 40, 20], [4, 24, 10, 30],
    ]  # fmt: skip


def test_square_crops_are_central_but_in_training(dataset):
    split = dataset.split("train")
    image = ImageConfig(size=16, crop="none", square=True)
    left, top, right, bottom = split.crop_boxes(image).T
    height, width = split.index.size.T
    np.testing.assert_array_equal(right - left, np.minimum(height, width))
    np.testing.assert_array_equal(bottom - top, np.minimum(height, width))
    assert (np.abs(left - (width - right)) <= 1).all()
    assert (np.abs(top - (height - bottom)) <= 1).all()
    assert (height != width).any()
    outward = np.tile(np.array([-1, -1, 1, 1], np.float32), (len(split), 1))
    jittered = CropBoxes(split, image, jitter=0.2).pixels(np.arange(len(split)), outward)
    left, top, right, bottom = jittered.T
    np.testing.assert_array_equal(right - left, bottom - top)
    sampler = SamplerConfig(name="images")
    (batch,) = take(split, image, sampler=sampler, steps=1)
    rows = build_sampler(split, sampler, seed=0).sample(0, batch_size=8).flat().rows
    central = np.stack([split.model_input(row, image) for row in rows]).astype(int)
    assert (np.abs(batch["image"] - central) > 5).any()
