"""Keypoints from a file, where they are in crops, and what is wrong with a file."""

import types

import numpy as np
import pytest

from input_pipeline import AugmentConfig, DatasetError, ImageConfig, SamplerConfig, image_batches
from input_pipeline.keypoints import annotated_keypoints, read_keypoints
from tests.input_pipeline.test_batches import take

_HEADER = "image,x_left_wrist,y_left_wrist,x_right_wrist,y_right_wrist,x_neck,y_neck"


class _Index(types.SimpleNamespace):
    def __len__(self):
        return len(self.photo_id)


def _index():
    names = np.array(["a.jpg", "b.jpg", "a.jpg"])  # a photo with two boxes
    return _Index(photo_id=names, resize_scale=np.array([1.0, 0.5, 1.0], np.float32))


def _write(path, *rows, header=_HEADER):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return str(path)


def test_keypoints_of_images(tmp_path, capsys):
    path = _write(tmp_path / "p.csv", "./a.jpg,1,2,3,4,,", "b.jpg,10,20,30,40,50,60", "z.jpg,,,,,,")
    found = read_keypoints(path, _index())
    assert found.names == ("left_wrist", "right_wrist", "neck")
    assert found.mirrored == [1, 0, 2]
    np.testing.assert_array_equal(found.positions[0], [[1, 2], [3, 4], [np.nan, np.nan]])
    np.testing.assert_array_equal(found.positions[2], found.positions[0])
    np.testing.assert_array_equal(found.positions[1], [[5, 10], [15, 20], [25, 30]])
    assert "3 keypoints, for 2 of 2 photos" in capsys.readouterr().out


def test_keypoints_in_crops(tmp_path):
    path = _write(tmp_path / "p.csv", "a.jpg,1,2,3,4,,", "b.jpg,10,20,30,40,50,60")
    found = read_keypoints(path, _index())
    boxes = np.array([[1, 0, 5, 10], [5, 5, 25, 25], [1, 0, 5, 10]], np.int32)
    points, visible = found.crop(np.arange(3), boxes, np.array([False, False, True]))
    np.testing.assert_allclose(points[0], [[0.125, 0.25], [0.625, 0.45], [0, 0]])
    assert visible.tolist() == [[True, True, False], [True, True, False], [True, True, False]]
    np.testing.assert_allclose(points[1], [[0.025, 0.275], [0.525, 0.775], [1.025, 1.275]])
    # Mirrored: left and right change places.
    np.testing.assert_allclose(points[2], [[0.375, 0.45], [0.875, 0.25], [0, 0]])


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        (_HEADER, "a.jpg,1,two,3,4,5,6", r"p\.csv:2: field 'y_left_wrist': expected a number"),
        (_HEADER, "a.jpg,1,,3,4,5,6", r"p\.csv:2: field 'y_left_wrist': expected a number"),
        (_HEADER, "a.jpg,1,2,3,4,5,6,7", r"p\.csv:2: has more cells"),
        (_HEADER, "a.jpg,1,2,3,4,5,6\na.jpg,1,2,3,4,5,6", r"p\.csv:3: 'a\.jpg' has a line already"),
        (_HEADER, "c.jpg,1,2,3,4,5,6", r"has no line for any of these photos"),
        ("x_a,y_a", "1,2", r"p\.csv:1: column 'image' is missing"),
        ("image,x_a", "a.jpg,1", r"p\.csv:1: column 'y_a' is missing"),
        ("image,y_a", "a.jpg,1", r"p\.csv:1: no keypoints"),
        ("image,x_left_a,y_left_a", "a.jpg,1,2", r"'left_a' has no other side, 'right_a'"),
    ],
)  # fmt: skip
def test_wrong_files_are_named(tmp_path, header, row, message):
    with pytest.raises(DatasetError, match=message):
        read_keypoints(_write(tmp_path / "p.csv", row, header=header), _index())
    with pytest.raises(DatasetError, match=r"cannot be read \(image\.keypoints\)"):
        read_keypoints(str(tmp_path / "none.csv"), _index())


def test_batches_have_the_keypoints(dataset, tmp_path):
    split = dataset.split("train")
    names = split.index.photo_id.tolist()
    path = _write(tmp_path / "p.csv", *(f"{name},40,50,,,60,70" for name in names[:-1]))
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
    (batch,) = take(
        dataset.split("train"), image, augment, SamplerConfig(name=sampler), steps=1, seed=3
    )
    visible = batch["visibility"] == 0
    assert visible.any()
    assert not visible.all()
    np.testing.assert_array_equal(batch["points_visible"], visible)
    np.testing.assert_allclose(
        batch["points"][visible], batch["landmarks"][visible], rtol=0, atol=1e-6
    )


def test_annotated_landmarks_are_asked_for_where_there_are_none():
    index = _Index(photo_id=np.array(["a", "b"]), landmarks=np.full((2, 8, 3), -1, np.int32))
    with pytest.raises(DatasetError, match=r"image\.keypoints='landmarks': no photo of this split"):
        annotated_keypoints(index)
