"""What is cropped out of images, a detector's boxes, and landmarks in the crops."""

import types

import numpy as np
import pytest

from input_pipeline import DatasetError, ImageConfig
from input_pipeline.crops import CropBoxes, read_detections, round_to_pixels, transform_landmarks
from input_pipeline.images import pixel_box


class FakeIndex(types.SimpleNamespace):
    def __len__(self):
        return len(self.domain)


def make_split(domain=(0, 1, 1)):
    """Three images, 40 pixels wide and 20 high, with one box."""
    count = len(domain)
    index = FakeIndex(
        domain=np.array(domain),
        box=np.tile(np.array([4, 2, 30, 18], np.float32), (count, 1)),
        size=np.tile(np.array([20, 40], np.int32), (count, 1)),
        photo_id=np.array([f"{n}.jpg" for n in range(count)]),
        resize_scale=np.ones(count, np.float32),
        item=np.arange(count),
        items=np.array([f"item{n}" for n in range(count)]),
        category=np.array([0, 1, -1]),
        categories=np.array(["bags", "hats"]),
    )
    return types.SimpleNamespace(index=index, detected=lambda path: read_detections(path, index))


def test_rounding_is_that_of_a_single_box():
    rng = np.random.default_rng(0)
    boxes = rng.uniform(-30, 90, (500, 4)).astype(np.float32)
    boxes[:50] = np.round(boxes[:50]) + 0.5
    sizes = rng.integers(1, 60, (500, 2))
    for box, (height, width), found in zip(
        boxes, sizes, round_to_pixels(boxes, sizes), strict=True
    ):
        assert tuple(found) == pixel_box(tuple(box), height, width)


def crop_boxes(split, **fields):
    return CropBoxes(split, ImageConfig(**fields)).pixels(np.arange(3)).tolist()


def test_shop_images_may_be_cropped_otherwise():
    box, whole = [4, 2, 30, 18], [0, 0, 40, 20]
    assert crop_boxes(make_split()) == [box] * 3
    assert crop_boxes(make_split(), shop_crop="none") == [box, whole, whole]
    central = crop_boxes(make_split(), crop="center", center_fraction=0.5, shop_crop="box")
    assert central == [[15, 5, 25, 15], box, box]


def write_boxes(path, *rows, header="image,x_1,y_1,x_2,y_2,score"):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return str(path)


def test_detected_boxes(tmp_path, capsys):
    path = write_boxes(
        tmp_path / "boxes.csv",
        "1.jpg,1,2,10,12,0.4",
        "1.jpg,3,3,50,12,0.9",
        "other.jpg,0,0,5,5,1",
        "0.jpg,5,5,9,9,0.1",
    )
    boxes = crop_boxes(make_split(), shop_crop="detected", detections=path)
    assert boxes == [[4, 2, 30, 18], [3, 3, 40, 12], [0, 0, 40, 20]]
    printed = capsys.readouterr().out
    assert "boxes for 2 of 3 photos, 1 clipped at the photo's edge; without a box 1" in printed
    assert "boxes of 1 other photos" in printed


def test_detected_boxes_of_a_category_or_an_item(tmp_path):
    path = write_boxes(
        tmp_path / "boxes.csv",
        "0.jpg,1,1,9,9,0.9,hats,",  # row 0 is a bag
        "0.jpg,2,2,9,9,0.1,bags,",
        "0.jpg,3,3,9,9,0.8,,",
        "1.jpg,4,4,9,9,0.9,hats,",
        "./1.jpg,5,5,9,9,0.1,,item1",
        "2.jpg,6,6,9,9,0.9,hats,",
        header="image,x_1,y_1,x_2,y_2,score,category,item_id",
    )
    boxes = crop_boxes(make_split(), crop="detected", detections=path)
    assert [box[:2] for box in boxes] == [[2, 2], [5, 5], [0, 0]]


def test_detections_are_reduced_with_their_photo(tmp_path):
    path = write_boxes(tmp_path / "boxes.csv", "0.jpg,8,4,60,36,1")
    split = make_split()
    split.index.resize_scale[:] = 0.5
    assert crop_boxes(split, crop="detected", detections=path)[0] == [4, 2, 30, 18]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1.jpg,1,2,10,x,1"], r"boxes\.csv:2: field 'y_2': expected a number, got 'x'"),
        (["0.jpg,0,0,5,5,1", "1.jpg,1,2,10,nan,1"], r"boxes\.csv:3: field 'y_2'"),
        (["1.jpg,1,2"], r"boxes\.csv:2: field 'x_2': expected a number, got None"),
        (["1.jpg,1,2,10,12,1,7"], r"boxes\.csv:2: has more cells"),
        ([",1,2,10,12,1"], r"boxes\.csv:2: field 'image': is empty"),
        (
            ["photos/1.jpg,1,2,10,12,1"],
            r"no box for any.*as '0\.jpg'.*in the file is 'photos/1\.jpg'",
        ),
        (["1.jpg,9,2,9,12,1"], r"boxes\.csv:2: the box has no size"),
        (["1.jpg,60,2,90,12,1"], r"boxes\.csv:2: nothing of the box lies in '1\.jpg'"),
    ],
)
def test_wrong_detections_are_named(tmp_path, rows, message):
    path = write_boxes(tmp_path / "boxes.csv", *rows)
    with pytest.raises(DatasetError, match=message):
        crop_boxes(make_split(), crop="detected", detections=path)


def test_missing_detections(tmp_path):
    with pytest.raises(DatasetError, match=r"image\.detections is empty"):
        crop_boxes(make_split(), crop="detected")
    with pytest.raises(DatasetError, match=r"gone\.csv: cannot be read \(image\.detections\)"):
        crop_boxes(make_split(), crop="detected", detections=str(tmp_path / "gone.csv"))
    path = write_boxes(tmp_path / "boxes.csv", header="image,x_1,y_1,x_2")
    with pytest.raises(DatasetError, match=r"boxes\.csv:1: column 'y_2' is missing"):
        crop_boxes(make_split(), crop="detected", detections=path)


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
        crop = picture[top:bottom, left:right]
        crop = crop[:, ::-1] if flip else crop
        ((points,), (visibility,)) = transform_landmarks(
            landmarks[None], np.array([[left, top, right, bottom]]), np.array([flip])
        )
        names = np.array(["left", "right"] * 4)
        for slot in range(8):
            source = slot ^ 1 if flip else slot  # mirrored, the left collar is the right one
            assert not flip or names[source] != names[slot]
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
