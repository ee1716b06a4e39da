"""Which part of each image a model sees, and where the landmarks are in it; in NumPy."""

import posixpath
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from input_pipeline.config import ImageConfig
from input_pipeline.csv_files import csv_rows, number_cell, read_csv
from input_pipeline.errors import DatasetError
from input_pipeline.images import Box, ImageTransform, build_transform
from input_pipeline.index import PhotoIndex
from input_pipeline.vocabulary import CUSTOMER, SHOP, TRUNCATED, UNKNOWN

_MIRRORED = [1, 0, 3, 2, 5, 4, 7, 6]  # the slot of the other side
_COLUMNS = ("image", "x_1", "y_1", "x_2", "y_2")


class CropBoxes:
    """What is cropped out of every image of a split, by the `image` section.

    Args:
      split: an `input_pipeline.Split`.
      image: how.
      jitter: how far training may move an edge, as a fraction of the crop's side.

    Raises:
      DatasetError: image.detections is missing or wrong.
    """

    def __init__(self, split: Any, image: ImageConfig, jitter: float = 0.0):
        self._index: PhotoIndex = split.index
        self._jitter = np.float32(jitter)
        self._square = image.square
        self._boxes = np.empty((len(split.index), 4), np.float32)
        for domain in (CUSTOMER, SHOP):
            transform = build_transform(image, shop=domain == SHOP)
            rows = np.flatnonzero(split.index.domain == domain)
            self._boxes[rows] = _boxes(split, rows, transform, image.detections)

    def pixels(
        self, rows: np.ndarray, shift: np.ndarray | None = None, position: np.ndarray | None = None
    ) -> np.ndarray:
        """Returns int32 [n, 4] (left, top, right, bottom) in pixels of each upright image.

        Args:
          rows: int [n].
          shift: float32 [n, 4] in -1..1; each edge moves by this times the jitter times the crop's
            width or height.
          position: float32 [n] in -1..1; where along the crop `image.square` takes its square,
            from the left or top end to the right or bottom one; None for the middle.
        """
        boxes = self._boxes[rows]
        if shift is not None:
            sides = boxes[:, 2:] - boxes[:, :2]
            boxes = boxes + self._jitter * shift * np.tile(sides, 2)
        if self._square:
            limits = np.tile(self._index.size[rows, ::-1], 2)
            boxes = np.clip(boxes, 0, limits)  # a square that leaves the image would lose a side
            middle = np.zeros(len(rows), np.float32)
            boxes = square_boxes(boxes, middle if position is None else position)
        return round_to_pixels(boxes, self._index.size[rows])


def square_boxes(boxes: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Returns squares of the boxes' shorter sides, float32 [n, 4] as the boxes.

    Args:
      boxes: float32 [n, 4] (left, top, right, bottom).
      position: [n] in -1..1, where along the longer side; 0 is its middle.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    side = sides.min(axis=1, keepdims=True)
    corner = boxes[:, :2] + (sides - side) * (1 + position[:, None]) / 2
    return np.concatenate([corner, corner + side], axis=1).astype(np.float32)


def round_to_pixels(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Rounds boxes float32 [n, 4] in images of sizes [n, 2] (height, width), as `pixel_box` does.

    Returns:
      int32 [n, 4] (left, top, right, bottom), of at least one pixel, within the images.
    """
    edges = np.rint(boxes).astype(np.int32)
    limits = sizes[:, ::-1].astype(np.int32)
    low = np.clip(edges[:, :2], 0, limits - 1)
    return np.concatenate([low, np.clip(edges[:, 2:], low + 1, limits)], axis=1)


def transform_landmarks(
    landmarks: np.ndarray, boxes: np.ndarray, flip: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns where landmarks are in the crops.

    Args:
      landmarks: int32 [n, 8, 3] (visibility, x, y) of whole images, as in an index.
      boxes: int32 [n, 4] of `CropBoxes.pixels`.
      flip: bool [n], whether the crop is mirrored: left and right swap.

    Returns:
      float32 [n, 8, 2], (x, y) of the pixels' centers as fractions of the crop's width and height;
      0 where a landmark is absent. int32 [n, 8], visibility: 0 visible, 1 occluded, 2 truncated,
      as every landmark outside the crop is, -1 absent.
    """
    visibility = landmarks[..., 0].copy()
    sides = (boxes[:, 2:] - boxes[:, :2])[:, None]  # [n, 1, 2]
    points = ((landmarks[..., 1:] + 0.5 - boxes[:, None, :2]) / sides).astype(np.float32)
    outside = ((points < 0) | (points >= 1)).any(axis=-1)
    visibility[outside & (visibility != UNKNOWN)] = TRUNCATED
    points[flip, :, 0] = 1 - points[flip, :, 0]
    points[flip], visibility[flip] = points[flip][:, _MIRRORED], visibility[flip][:, _MIRRORED]
    points[visibility == UNKNOWN] = 0
    return points, visibility


def _boxes(split: Any, rows: np.ndarray, transform: ImageTransform, detections: str) -> np.ndarray:
    """Returns float32 [n, 4]: what the transform crops out of these images, before rounding."""
    if transform.crop == "box":
        return split.index.box[rows]
    if transform.crop == "detected":
        return split.detected(detections)[rows]
    size = split.index.size[rows, ::-1].astype(np.float64)  # width, height
    crop = size
    if transform.crop == "center":
        crop = transform.center_fraction * size.min(axis=1, keepdims=True).repeat(2, axis=1)
    corner = (size - crop) / 2
    return np.concatenate([corner, corner + crop], axis=1).astype(np.float32)


def read_detections(path: str, index: PhotoIndex) -> np.ndarray:
    """Reads each image's detected box with the highest score, float32 [N, 4]; else all of it.

    The file is a CSV with the columns image (a photo_id of the data set), x_1, y_1, x_2, y_2
    (pixels of the upright original photo) and, optionally, score, category and item_id: a box with
    a category or item counts only for the image's rows of that category or item, and there before
    a box without. Lines of images that are not in this index are ignored; a box that reaches beyond
    its image is clipped; both are counted in what is printed.

    Raises:
      DatasetError: no file, a column missing, no box for any image, or wrong cells, each with file
        and line.
    """
    if not path:
        raise DatasetError(
            "image.detections is empty, but image.crop or image.shop_crop is 'detected'"
        )
    best = _best_boxes(epath.Path(path).expanduser())
    whole = np.zeros((len(index), 4), np.float32)
    whole[:, 2:] = index.size[:, ::-1]
    chosen = {row: box for row in range(len(index)) if (box := _choose(best, index, row))}
    if not chosen:
        raise DatasetError(
            f"{path}: has no box for any of these photos, whose names are as "
            f"{str(index.photo_id[0])!r}; the first in the file is {next(iter(best), ('',))[0]!r}"
        )
    rows = np.array(list(chosen))
    detected = np.array([detection.box for detection in chosen.values()], np.float32)
    detected *= index.resize_scale[rows, None]
    low, high = np.maximum(detected[:, :2], 0), np.minimum(detected[:, 2:], whole[rows, 2:])
    if (empty := (low >= high).any(axis=1)).any():
        row = int(rows[np.flatnonzero(empty)[0]])
        raise DatasetError(
            f"{path}:{chosen[row].line}: nothing of the box lies in {str(index.photo_id[row])!r} "
            f"({empty.sum()} such boxes)"
        )
    boxes = whole.copy()
    boxes[rows] = np.concatenate([low, high], axis=1)
    clipped = int((boxes[rows] != detected).any(axis=1).sum())
    others = len({image for image, _, _ in best} - set(index.photo_id.tolist()))
    print(
        f"{path}: boxes for {len(rows):,} of {len(index):,} photos, {clipped:,} clipped at the "
        f"photo's edge; without a box {len(index) - len(rows):,}, which are taken whole; boxes of "
        f"{others:,} other photos"
    )
    return boxes


class _Detection(NamedTuple):
    score: float
    box: Box
    line: int


# By image, category and item_id; "" where a line does not say.
_Detections = dict[tuple[str, str, str], _Detection]


def _choose(best: _Detections, index: PhotoIndex, row: int) -> _Detection | None:
    """Returns the detection for a row: one for its item, else its category, else its image."""
    image, item = str(index.photo_id[row]), str(index.items[index.item[row]])
    number = index.category[row]
    category = str(index.categories[number]) if number >= 0 else ""
    for key in ((category, item), ("", item), (category, ""), ("", "")):
        if detection := best.get((image, *key)):
            return detection
    return None


def _best_boxes(path: epath.Path) -> _Detections:
    reader = read_csv(path, "image.detections")
    missing = [name for name in _COLUMNS if name not in (reader.fieldnames or [])]
    if missing:
        raise DatasetError(f"{path}:1: column {missing[0]!r} is missing")
    best: _Detections = {}
    for cells in csv_rows(path, reader):
        line = reader.line_num
        x_1, y_1, x_2, y_2 = (number_cell(path, line, cells, name) for name in _COLUMNS[1:])
        score = number_cell(path, line, cells, "score") if "score" in cells else 0.0
        if not (x_1 < x_2 and y_1 < y_2):
            raise DatasetError(f"{path}:{line}: the box has no size: {(x_1, y_1, x_2, y_2)}")
        image, category, item = (
            (cells.get(name) or "").strip() for name in ("image", "category", "item_id")
        )
        if not image:
            raise DatasetError(f"{path}:{line}: field 'image': is empty")
        key = posixpath.normpath(image), category, item
        if key not in best or score > best[key].score:
            best[key] = _Detection(score, (x_1, y_1, x_2, y_2), line)
    return best
