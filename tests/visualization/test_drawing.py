"""What stands where in a drawing."""

import numpy as np
import pytest

from grnet_jax.visualization.drawing import render_heat, render_image, render_region
from grnet_jax.visualization.explanations import CroppedImage, crop_image
from input_pipeline.images import ImageTransform

_HEIGHT = 720


def _image(height, width, crop=None):
    """An image of one blue, with a crop."""
    whole = np.zeros((height, width, 3), np.uint8)
    whole[...] = (20, 60, 160)
    return CroppedImage("image", whole, crop or (0, 0, width, height), whole)


def test_an_image_is_cropped_as_the_framing_says():
    whole = np.arange(60 * 40 * 3, dtype=np.uint32).reshape(60, 40, 3).astype(np.uint8)
    seen = crop_image("a", whole, (10, 20, 26, 36), ImageTransform(16, "box", "bilinear", 1.0))
    assert seen.crop == (10, 20, 26, 36)
    assert seen.is_cropped
    np.testing.assert_array_equal(seen.input, whole[20:36, 10:26])  # 16 to 16 pixels
    center = crop_image("a", whole, None, ImageTransform(16, "center", "bilinear", 0.5))
    assert center.crop == (10, 20, 30, 40)
    assert not crop_image("a", whole, None, ImageTransform(16, "none", "bilinear", 1.0)).is_cropped


def test_images_are_pale_outside_the_crop():
    drawn = np.asarray(render_image(_image(100, 100, (50, 0, 100, 100))))
    assert drawn.shape == (_HEIGHT, _HEIGHT, 3)
    np.testing.assert_allclose(drawn[_HEIGHT // 2, _HEIGHT // 4], [161, 177, 217], atol=2)
    np.testing.assert_allclose(drawn[_HEIGHT // 2, 3 * _HEIGHT // 4], [20, 60, 160], atol=2)


@pytest.mark.parametrize("row", [0, 3])
@pytest.mark.parametrize("column", [0, 2])
def test_the_hot_cell_is_brightest_in_its_place_of_the_crop(row, column):
    image = _image(120, 120, (20, 40, 100, 120))
    heat = np.zeros((4, 4), np.float32)
    heat[row, column] = 5e-7  # of whatever scale
    drawn = render_heat(image, heat).convert("L")
    scale = _HEIGHT / 120
    box = [round(edge * scale) for edge in (20, 40, 100, 120)]
    cropped = np.asarray(drawn.crop(box), np.float32)[8:-8, 8:-8]
    y, x = np.unravel_index(cropped.argmax(), cropped.shape)
    cell = 20 * scale
    assert row * cell <= y + 8 < (row + 1) * cell
    assert column * cell <= x + 8 < (column + 1) * cell


def test_a_region_is_the_part_of_the_crop_in_its_window():
    pixels = np.arange(100 * 80 * 3, dtype=np.uint32).reshape(100, 80, 3).astype(np.uint8)
    image = CroppedImage("image", pixels, (10, 20, 70, 80), pixels)
    region = render_region(image, (1 / 3, 0, 2 / 3, 0.5))
    np.testing.assert_array_equal(region, pixels[20:50, 30:50])
    large = CroppedImage("image", np.zeros((900, 600, 3), np.uint8), (0, 0, 600, 900), pixels)
    assert render_region(large, (0, 0, 1, 1)).size == (128, 192)
