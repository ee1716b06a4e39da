"""What stands where in a drawing."""

import numpy as np
import pytest
from PIL import Image

from grnet_jax.visualization.drawing import draw_heat, draw_images, draw_nodes
from grnet_jax.visualization.explanations import CroppedImage, crop_image
from grnet_jax.visualization.strongest_nodes import StrongNode
from input_pipeline.images import ImageTransform

_HEIGHT, _GAP = 360, 44


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
    drawn = np.asarray(draw_images(_image(100, 100, (50, 0, 100, 100)), _image(200, 100)))
    assert drawn.shape == (_HEIGHT, 360 + _GAP + 180, 3)
    np.testing.assert_allclose(drawn[180, 90], [161, 177, 217], atol=2)
    np.testing.assert_allclose(drawn[180, 270], [20, 60, 160], atol=2)
    np.testing.assert_allclose(drawn[180, 360 + _GAP // 2], 255)


@pytest.mark.parametrize("row", [0, 3])
@pytest.mark.parametrize("column", [0, 2])
def test_the_hot_cell_is_brightest_in_its_place_of_the_crop(row, column):
    image = _image(120, 120, (20, 40, 100, 120))
    heat = np.zeros((4, 4), np.float32)
    heat[row, column] = 5e-7  # of whatever scale
    drawn = draw_heat(image, image, heat, np.zeros((4, 4), np.float32)).convert("L")
    scale = _HEIGHT / 120
    box = [round(edge * scale) for edge in (20, 40, 100, 120)]
    cropped = np.asarray(drawn.crop(box), np.float32)[4:-4, 4:-4]
    y, x = np.unravel_index(cropped.argmax(), cropped.shape)
    cell = 20 * scale
    assert row * cell <= y + 4 < (row + 1) * cell
    assert column * cell <= x + 4 < (column + 1) * cell


def test_without_heat_it_is_said():
    nothing, some = np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32)
    hot = draw_heat(_image(50, 50), _image(50, 50), some, some)
    cold = draw_heat(_image(50, 50), _image(50, 50), nothing, some)
    assert hot.height == _HEIGHT < cold.height
    assert np.asarray(cold)[_HEIGHT + 4 :].min() < 100  # ink


def test_regions_of_a_pair_have_one_color_and_are_joined():
    node = StrongNode(0.02, (1, 2), query=(0, 0, 0.5, 1), gallery=(0.5, 0, 1, 1))
    drawn = np.asarray(draw_nodes(_image(100, 100), _image(100, 100), [node], 0.008), np.int32)
    orange = np.abs(drawn - (230, 159, 0)).max(axis=-1) < 25
    # The inner edges of both rectangles, in the middle of the images' heights.
    assert orange[200, 173:181].any()
    assert orange[200, 404 + 178 : 404 + 187].any()
    assert not orange[200, 190:350].any()
    assert orange[:40, 362:402].any(axis=0).all()  # the line between the images
    assert drawn.shape[0] == _HEIGHT + 2 * 22 + 8


def test_regions_that_coincide_are_all_seen():
    windows = (0.0, 0.0, 1.0, 1.0)
    nodes = [StrongNode(0.01, (1, 2), windows, windows) for _ in range(5)]
    drawn = draw_nodes(_image(100, 100), _image(100, 100), nodes, 0.008)
    picture = np.asarray(drawn.crop((200, 250, 360, 270)), np.int32)
    for color in ((230, 159, 0), (86, 180, 233), (0, 158, 115), (213, 94, 0), (204, 121, 167)):
        assert (np.abs(picture - color).max(axis=-1) < 40).any(), color
    assert isinstance(drawn, Image.Image)
