"""Crops, landmarks and keypoints in them, files of boxes and keypoints, and augmentation."""

import colorsys
import types

import numpy as np
import pytest
from scipy import ndimage

from input_pipeline import AugmentConfig, DatasetError, ImageConfig, SamplerConfig, image_batches
from input_pipeline.images import pixel_box
from input_pipeline.sampling import build_sampler
from input_pipeline.tf_transforms import augment_image
from input_pipeline.transforms import (
    CropBoxes,
    annotated_keypoints,
    augment_landmarks,
    read_detections,
    read_keypoints,
    round_to_pixels,
    square_boxes,
    transform_landmarks,
)
from tests.input_pipeline.test_batches import take

_BOXES = "image,x_1,y_1,x_2,y_2,score"
_JOINTS = "image,x_left_wrist,y_left_wrist,x_right_wrist,y_right_wrist,x_neck,y_neck"
_ALL = AugmentConfig(rotation_degrees=20.0, shear=0.3, color_jitter=0.4, hue_jitter=0.1)


class _Index(types.SimpleNamespace):
    def __len__(self):
        return len(self.photo_id)


def _index(names="0.jpg 1.jpg 2.jpg", scale=(1, 1, 1)):
    """Three images, 40 pixels wide and 20 high, with one box."""
    return _Index(
        photo_id=np.array(names.split()),
        resize_scale=np.array(scale, np.float32),
        domain=np.array([0, 1, 1]),
        box=np.tile(np.array([4, 2, 30, 18], np.float32), (3, 1)),
        size=np.tile(np.array([20, 40], np.int32), (3, 1)),
        item=np.arange(3),
        items=np.array(["item0", "item1", "item2"]),
        category=np.array([0, 1, -1]),
        categories=np.array(["bags", "hats"]),
        landmarks=np.full((3, 8, 3), -1, np.int32),
    )


def _crops(index=None, **fields):
    index = index or _index()
    split = types.SimpleNamespace(index=index, detected=lambda path: read_detections(path, index))
    return CropBoxes(split, ImageConfig(**fields)).pixels(np.arange(3)).tolist()


def _write(folder, header, *rows):
    path = folder / "file.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return str(path)


def _image(size=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def _draws(**values):
    names = ("rotation", "shear", "brightness", "contrast", "saturation", "hue")
    return np.array([values.get(name, 0.0) for name in names], np.float32)


def test_rounding_is_that_of_a_single_box():
    rng = np.random.default_rng(0)
    boxes = rng.uniform(-30, 90, (500, 4)).astype(np.float32)
    boxes[:50] = np.round(boxes[:50]) + 0.5
    sizes = rng.integers(1, 60, (500, 2))
    expected = [pixel_box(tuple(box), *size) for box, size in zip(boxes, sizes, strict=True)]
    np.testing.assert_array_equal(round_to_pixels(boxes, sizes), expected)


def test_shop_images_may_be_cropped_otherwise():
    box, whole = [4, 2, 30, 18], [0, 0, 40, 20]
    assert _crops() == [box] * 3
    assert _crops(shop_crop="none") == [box, whole, whole]
    central = [15, 5, 25, 15]
    assert _crops(crop="center", center_fraction=0.5, shop_crop="box") == [central, box, box]


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
    image = ImageConfig(size=16, crop="none", square="always")
    crops, size = split.crop_boxes(image), split.index.size[:, ::-1]
    shorter = np.tile(size.min(axis=1, keepdims=True), 2)
    np.testing.assert_array_equal(crops[:, 2:] - crops[:, :2], shorter)
    assert (np.abs(crops[:, :2] - (size - crops[:, 2:])) <= 1).all()
    assert (size[:, 0] != size[:, 1]).any()
    outward = np.tile(np.array([-1, -1, 1, 1], np.float32), (len(split), 1))
    jittered = CropBoxes(split, image, jitter=0.2).pixels(np.arange(len(split)), outward)
    np.testing.assert_array_equal(*(jittered[:, 2:] - jittered[:, :2]).T)  # width and height
    sampler = SamplerConfig(name="images")
    (batch,) = take(split, image, sampler=sampler, steps=1)
    rows = build_sampler(split, sampler, seed=0).sample(0, batch_size=8).flat().rows
    central = np.stack([split.model_input(row, image) for row in rows]).astype(int)
    assert (np.abs(batch["image"] - central) > 5).any()
    in_training = image.model_copy(update={"square": "training"})
    (again,) = take(split, in_training, sampler=sampler, steps=1)
    np.testing.assert_array_equal(again["image"], batch["image"])
    whole = image.model_copy(update={"square": "never"})
    np.testing.assert_array_equal(split.crop_boxes(in_training), split.crop_boxes(whole))
    views = [split.model_input(0, one) for one in (in_training, whole)]
    np.testing.assert_array_equal(*views)


def test_landmarks_follow_their_pixels():
    """An image with one bright pixel a landmark, cropped and mirrored as pixels."""
    rng = np.random.default_rng(1)
    for case in range(40):
        landmarks = np.full((8, 3), -1, np.int32)
        known = rng.permutation(8)[:5]
        landmarks[known, 0] = rng.integers(0, 2, 5)
        spots = rng.permutation(20 * 30)[:5]
        landmarks[known, 1], landmarks[known, 2] = spots % 30, spots // 30
        picture = np.zeros((20, 30), int)
        picture[landmarks[known, 2], landmarks[known, 1]] = known + 1
        left, top = rng.integers(0, 15), rng.integers(0, 10)
        right, bottom = rng.integers(left + 1, 31), rng.integers(top + 1, 21)
        flip = bool(case % 2)
        crop = picture[top:bottom, left:right][:, :: -1 if flip else 1]
        ((points,), (visibility,)) = transform_landmarks(
            landmarks[None], np.array([[left, top, right, bottom]]), np.array([flip])
        )
        for slot in range(8):
            source = slot ^ 1 if flip else slot  # mirrored, the left collar is the right one
            pixels = np.argwhere(crop == source + 1)
            if source not in known:
                assert visibility[slot] == -1
                assert (points[slot] == 0).all()
            elif not len(pixels):
                assert visibility[slot] == 2
            else:
                assert visibility[slot] == landmarks[source, 0]
                expected = (pixels[0][::-1] + 0.5) / [right - left, bottom - top]
                np.testing.assert_allclose(points[slot], expected, atol=1e-6)


def test_mirroring_twice_changes_nothing():
    rng = np.random.default_rng(2)
    landmarks = rng.integers(0, 20, (6, 8, 3)).astype(np.int32)
    landmarks[..., 0] %= 3
    whole = np.tile([0, 0, 20, 20], (6, 1))
    points, visibility = transform_landmarks(landmarks, whole, np.ones(6, bool))
    pixels = np.floor(points * 20).astype(np.int32)
    again = np.concatenate([visibility[..., None], pixels], axis=-1)
    twice, seen = transform_landmarks(again, whole, np.ones(6, bool))
    once, visibility = transform_landmarks(landmarks, whole, np.zeros(6, bool))
    np.testing.assert_allclose(twice, once, atol=1e-6)
    np.testing.assert_array_equal(seen, visibility)


def test_detected_boxes(tmp_path, capsys):
    rows = "1.jpg,1,2,10,12,0.4", "1.jpg,3,3,50,12,0.9", "z.jpg,0,0,5,5,1", "0.jpg,5,5,9,9,0"
    boxes = _crops(shop_crop="detected", detections=_write(tmp_path, _BOXES, *rows))
    assert boxes == [[4, 2, 30, 18], [3, 3, 40, 12], [0, 0, 40, 20]]
    printed = capsys.readouterr().out
    assert "boxes for 2 of 3 photos, 1 clipped at the photo's edge; without a box 1" in printed
    assert "boxes of 1 other photos" in printed


def test_detected_boxes_of_a_category_or_an_item(tmp_path):
    path = _write(
        tmp_path,
        _BOXES + ",category,item_id",
        "0.jpg,1,1,9,9,0.9,hats,",  # row 0 is a bag
        "0.jpg,2,2,9,9,0.1,bags,",
        "0.jpg,3,3,9,9,0.8,,",
        "1.jpg,4,4,9,9,0.9,hats,",
        "./1.jpg,5,5,9,9,0.1,,item1",
        "2.jpg,6,6,9,9,0.9,hats,",
    )
    boxes = _crops(crop="detected", detections=path)
    assert [box[:2] for box in boxes] == [[2, 2], [5, 5], [0, 0]]


def test_detections_are_reduced_with_their_photo(tmp_path):
    path = _write(tmp_path, _BOXES, "0.jpg,8,4,60,36,1")
    half = _index(scale=(0.5, 0.5, 0.5))
    assert _crops(half, crop="detected", detections=path)[0] == [4, 2, 30, 18]


def test_keypoints_of_images(tmp_path, capsys):
    path = _write(tmp_path, _JOINTS, "./a.jpg,1,2,3,4,,", "b.jpg,10,20,30,40,50,60", "z.jpg,,,,,,")
    found = read_keypoints(path, _index("a.jpg b.jpg a.jpg", scale=(1, 0.5, 1)))
    assert found.names == ("left_wrist", "right_wrist", "neck")
    a, b = [[1, 2], [3, 4], [np.nan, np.nan]], [[5, 10], [15, 20], [25, 30]]
    np.testing.assert_array_equal(found.positions, [a, b, a])
    assert "3 keypoints, for 2 of 2 photos" in capsys.readouterr().out
    boxes = np.array([[1, 0, 5, 10], [5, 5, 25, 25], [1, 0, 5, 10]], np.int32)
    points, visible = found.crop(np.arange(3), boxes, np.array([False, False, True]))
    np.testing.assert_allclose(points[0], [[0.125, 0.25], [0.625, 0.45], [0, 0]])
    assert visible.tolist() == [[True, True, False]] * 3
    np.testing.assert_allclose(points[1], [[0.025, 0.275], [0.525, 0.775], [1.025, 1.275]])
    # Mirrored: left and right change places.
    np.testing.assert_allclose(points[2], [[0.375, 0.45], [0.875, 0.25], [0, 0]])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1.jpg,1,2,10,x,1", r"2: field 'y_2': expected a number, got 'x'"),
        ("0.jpg,0,0,5,5,1\n1.jpg,1,2,10,nan,1", r"3: field 'y_2'"),
        ("1.jpg,1,2", r"2: expected 6 cells, got 3"),
        ("1.jpg,1,2,10,12,1,7", r"2: expected 6 cells, got 7"),
        (",1,2,10,12,1", r"2: field 'image': is empty"),
        ("p/1.jpg,1,2,10,12,1", r" has no box for any.*as '0\.jpg'.*in the file is 'p/1\.jpg'"),
        ("1.jpg,9,2,9,12,1", r"2: the box has no size"),
        ("1.jpg,60,2,90,12,1", r"2: nothing of the box lies in '1\.jpg'"),
    ],
)
def test_wrong_detections_are_named(tmp_path, rows, message):
    with pytest.raises(DatasetError, match=r"file\.csv:" + message):
        read_detections(_write(tmp_path, _BOXES, rows), _index())


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (_JOINTS, "0.jpg,1,two,3,4,5,6", r"2: field 'y_left_wrist': expected a number"),
        (_JOINTS, "0.jpg,1,,3,4,5,6", r"2: field 'y_left_wrist': expected a number"),
        (_JOINTS, "0.jpg,1,2,3,4,5,6,7", r"2: expected 7 cells, got 8"),
        (_JOINTS, "0.jpg,1,2,,,,\n0.jpg,1,2,,,,", r"3: '0\.jpg' has a line already, 2"),
        (_JOINTS, "c.jpg,1,2,3,4,5,6", r" has no line for any of these photos"),
        ("x_a,y_a", "1,2", r"1: column 'image' is missing"),
        ("image,x_a", "0.jpg,1", r"1: column 'y_a' is missing"),
        ("image,y_a", "0.jpg,1", r"1: no keypoints"),
        ("image,x_left_a,y_left_a", "0.jpg,1,2", r"1: 'left_a' has no other side, 'right_a'"),
    ],
)
def test_wrong_keypoints_are_named(tmp_path, header, rows, message):
    with pytest.raises(DatasetError, match=r"file\.csv:" + message):
        read_keypoints(_write(tmp_path, header, rows), _index())


def test_what_is_missing_is_named(tmp_path):
    gone = str(tmp_path / "gone.csv")
    for read, field in ((read_detections, "detections"), (read_keypoints, "keypoints")):
        with pytest.raises(DatasetError, match=rf"gone\.csv: no such file \(image\.{field}\)"):
            read(gone, _index())
    with pytest.raises(DatasetError, match=r"file\.csv:1: column 'y_2' is missing"):
        read_detections(_write(tmp_path, "image,x_1,y_1,x_2"), _index())
    with pytest.raises(DatasetError, match=r"image\.detections is empty"):
        _crops(crop="detected")
    with pytest.raises(DatasetError, match=r"image\.keypoints='landmarks': no photo of this split"):
        annotated_keypoints(_index())


def test_batches_have_the_keypoints(dataset, tmp_path):
    split = dataset.split("train")
    names = split.index.photo_id.tolist()
    path = _write(tmp_path, _JOINTS, *(f"{name},40,50,,,60,70" for name in names[:-1]))
    image = ImageConfig(size=16, keypoints=path)
    rows = np.arange(len(split))
    expected = split.keypoints(path).crop(rows, split.crop_boxes(image), np.zeros(len(rows), bool))
    batches = list(image_batches(split, rows, image, batch=7))
    for name, values in zip(("points", "points_visible"), expected, strict=True):
        whole = np.concatenate([batch[name] for batch in batches])
        np.testing.assert_array_equal(whole[: len(rows)], values)
        assert not whole[len(rows) :].any()
    assert not expected[1][-1].any()


@pytest.mark.parametrize("sampler", ["items", "images"])
def test_annotated_landmarks_are_where_the_labels_have_them(dataset, sampler):
    image = ImageConfig(size=16, keypoints="landmarks")
    augment = AugmentConfig(crop_jitter=0.2, rotation_degrees=20.0)
    sampler = SamplerConfig(name=sampler)
    (batch,) = take(dataset.split("train"), image, augment, sampler, steps=1, seed=3)
    visible = batch["visibility"] == 0
    assert 0 < visible.mean() < 1
    np.testing.assert_array_equal(batch["points_visible"], visible)
    points, landmarks = batch["points"][visible], batch["landmarks"][visible]
    np.testing.assert_allclose(points, landmarks, rtol=0, atol=1e-6)


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
    back = np.eye(3)
    back[:2, :2] = np.linalg.inv(forward)[::-1, ::-1]  # (row, column), of every color
    center = np.array([(size - 1) / 2, (size - 1) / 2, 0])
    expected = ndimage.affine_transform(
        image.astype(float), back, center - back @ center, order=1, mode="nearest"
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
        assert (result.dtype, result.shape) == (np.uint8, (16, 16, 3))
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
        center = np.array(ndimage.center_of_mass(shown))[::-1]
        points = np.array([[[(column + 0.5) / 64, (row + 0.5) / 64]]], np.float32)
        visible = np.zeros((1, 1), np.int32)
        moved, visibility = augment_landmarks(points, visible, draws[None], augment)
        assert visibility.item() == 0
        np.testing.assert_allclose(moved[0, 0] * 64 - 0.5, center, atol=0.15)


def test_landmarks_that_leave_are_truncated_and_absent_ones_stay():
    points = np.array([[[0.01, 0.01], [0.0, 0.0], [0.5, 0.5]]], np.float32)
    known = np.array([[0, -1, 1]], np.int32)
    augment = AugmentConfig(rotation_degrees=45.0)
    moved, visibility = augment_landmarks(points, known, _draws(rotation=1)[None], augment)
    assert visibility.tolist() == [[2, -1, 1]]
    np.testing.assert_allclose(moved[0, 1:], points[0, 1:])
    assert (moved[0, 0] != points[0, 0]).all()
