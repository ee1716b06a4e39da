"""Which part of each photo a model sees, and where the landmarks are in it; in NumPy."""

import csv
import io
import posixpath
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from input_pipeline.config import ImageConfig
from input_pipeline.errors import DatasetError
from input_pipeline.images import ImageTransform, build_transform
from input_pipeline.index import PhotoIndex
from input_pipeline.vocabulary import CUSTOMER, SHOP, TRUNCATED, UNKNOWN

_MIRRORED = [1, 0, 3, 2, 5, 4, 7, 6]  # the slot of the other side
_COLUMNS = ("image", "x_1", "y_1", "x_2", "y_2")


class CropBoxes:
    """What is cut out of every photo of a split, by the `image` section.

    Args:
      split: an `input_pipeline.Split`.
      image: how.
      jitter: how far training may move an edge, as a share of the crop's side.

    Raises:
      InputError: a field is wrong.
    """

    def __init__(self, split: Any, image: ImageConfig, jitter: float = 0.0):
        self._index: PhotoIndex = split.index
        self._jitter = np.float32(jitter)
        self._boxes = np.empty((len(split.index), 4), np.float32)
        for domain in (CUSTOMER, SHOP):
            transform = build_transform(image, shop=domain == SHOP)
            rows = np.flatnonzero(split.index.domain == domain)
            self._boxes[rows] = _boxes(split, rows, transform, image.detections)
            self._square = transform.square

    def pixels(
        self, rows: np.ndarray, shift: np.ndarray | None = None, place: np.ndarray | None = None
    ) -> np.ndarray:
        """int32 [n, 4] (left, top, right, bottom) in pixels of each upright photo.

        Args:
          rows: int [n].
          shift: float32 [n, 4] in -1..1; each edge moves by this times the jitter
            of the cut's width or height.
          place: float32 [n] in -1..1; where along the cut `image.square` takes its square,
            from the left or top end to the right or bottom one; None for the middle.
        """
        boxes = self._boxes[rows]
        if shift is not None:
            sides = boxes[:, 2:] - boxes[:, :2]
            boxes = boxes + self._jitter * shift * np.tile(sides, 2)
        if self._square:
            limits = np.tile(self._index.size[rows, ::-1], 2)
            boxes = np.clip(boxes, 0, limits)  # a square that leaves the photo would be cut off
            boxes = square_boxes(boxes, np.zeros(len(rows), np.float32) if place is None else place)
        return round_to_pixels(boxes, self._index.size[rows])


def square_boxes(boxes: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Squares of boxes' shorter sides, float32 [n, 4] as the boxes.

    Args:
      boxes: float32 [n, 4] (left, top, right, bottom).
      place: [n] in -1..1, where along the longer side; 0 is its middle.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    side = sides.min(axis=1, keepdims=True)
    corner = boxes[:, :2] + (sides - side) * (1 + place[:, None]) / 2
    return np.concatenate([corner, corner + side], axis=1).astype(np.float32)


def round_to_pixels(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Rounds boxes float32 [n, 4] in photos of sizes [n, 2] (height, width), as `pixel_box` does.

    Returns:
      int32 [n, 4] (left, top, right, bottom), of at least one pixel, within the photos.
    """
    edges = np.rint(boxes).astype(np.int32)
    limits = sizes[:, ::-1].astype(np.int32)
    low = np.clip(edges[:, :2], 0, limits - 1)
    return np.concatenate([low, np.clip(edges[:, 2:], low + 1, limits)], axis=1)


def transform_landmarks(
    landmarks: np.ndarray, cut: np.ndarray, flip: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks where they are in the cut.

    Args:
      landmarks: int32 [n, 8, 3] (visibility, x, y) of whole photos, as in an index.
      cut: int32 [n, 4] of `CropBoxes.pixels`.
      flip: bool [n], whether the cut is mirrored: left and right change places.

    Returns:
      float32 [n, 8, 2], (x, y) of the pixels' centres as shares of the cut's width and height;
      0 where a landmark is absent. int32 [n, 8], visibility: 0 visible, 1 occluded, 2 truncated,
      as every landmark outside the cut is, -1 absent.
    """
    visibility = landmarks[..., 0].copy()
    sides = (cut[:, 2:] - cut[:, :2])[:, None]  # [n, 1, 2]
    points = ((landmarks[..., 1:] + 0.5 - cut[:, None, :2]) / sides).astype(np.float32)
    outside = ((points < 0) | (points >= 1)).any(axis=-1)
    visibility[outside & (visibility != UNKNOWN)] = TRUNCATED
    points[flip, :, 0] = 1 - points[flip, :, 0]
    points[flip], visibility[flip] = points[flip][:, _MIRRORED], visibility[flip][:, _MIRRORED]
    points[visibility == UNKNOWN] = 0
    return points, visibility


def _boxes(split: Any, rows: np.ndarray, transform: ImageTransform, detections: str) -> np.ndarray:
    """float32 [n, 4]: what the framing cuts out of these photos, before rounding."""
    if transform.crop == "box":
        return split.index.box[rows]
    if transform.crop == "detected":
        return split.detected(detections)[rows]
    size = split.index.size[rows, ::-1].astype(np.float64)  # width, height
    cut = size
    if transform.crop == "center":
        cut = transform.center_fraction * size.min(axis=1, keepdims=True).repeat(2, axis=1)
    corner = (size - cut) / 2
    return np.concatenate([corner, corner + cut], axis=1).astype(np.float32)


def read_detections(path: str, index: PhotoIndex) -> np.ndarray:
    """float32 [N, 4]: each photo's detected box with the highest score; without one all of it.

    The file is a CSV with the columns image (a photo_id of the data set), x_1, y_1, x_2, y_2
    (pixels of the upright photo as it was found) and, where wanted, score, category and item_id: a
    box with these is for the photo's rows of that category or item alone, and goes before one
    without. Lines of photos that are not in this index are passed over; a box that overhangs its
    photo is cut at the edge; both are counted in what is printed.

    Raises:
      DatasetError: no file, a column missing, no box for any photo, or wrong cells, each with file
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
            f"{str(index.photo_id[0])!r}; the first there is {next(iter(best), ('',))[0]!r}"
        )
    rows = np.array(list(chosen))
    found = np.array([detection.box for detection in chosen.values()], np.float32)
    found *= index.shrunk[rows, None]
    low, high = np.maximum(found[:, :2], 0), np.minimum(found[:, 2:], whole[rows, 2:])
    if (gone := (low >= high).any(axis=1)).any():
        row = int(rows[np.flatnonzero(gone)[0]])
        raise DatasetError(
            f"{path}:{chosen[row].line}: nothing of the box lies in {str(index.photo_id[row])!r} "
            f"({gone.sum()} such boxes)"
        )
    boxes = whole.copy()
    boxes[rows] = np.concatenate([low, high], axis=1)
    overhanging = int((boxes[rows] != found).any(axis=1).sum())
    others = len({image for image, _, _ in best} - set(index.photo_id.tolist()))
    print(
        f"{path}: boxes for {len(rows):,} of {len(index):,} photos, {overhanging:,} cut at the "
        f"photo's edge; without a box {len(index) - len(rows):,}, which are taken whole; boxes of "
        f"{others:,} other photos"
    )
    return boxes


class _Detection(NamedTuple):
    score: float
    box: tuple[float, float, float, float]
    line: int


# By image, category and item_id; "" where a line does not say.
_Detections = dict[tuple[str, str, str], _Detection]


def _choose(best: _Detections, index: PhotoIndex, row: int) -> _Detection | None:
    """The detection for a row: one for its item, else for its category, else for the photo."""
    image, item = str(index.photo_id[row]), str(index.items[index.item[row]])
    number = index.category[row]
    category = str(index.categories[number]) if number >= 0 else ""
    for key in ((category, item), ("", item), (category, ""), ("", "")):
        if found := best.get((image, *key)):
            return found
    return None


def read_csv(path: epath.Path, field: str) -> csv.DictReader:
    """The lines of a CSV of photos that a field of the config names, by their columns.

    Raises:
      DatasetError: it cannot be read, or is not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read (config.{field}): {error}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8: byte {error.object[error.start]:#04x}") from None
    return csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)


def _best_boxes(path: epath.Path) -> _Detections:
    reader = read_csv(path, "image.detections")
    missing = [name for name in _COLUMNS if name not in (reader.fieldnames or [])]
    if missing:
        raise DatasetError(f"{path}:1: column {missing[0]!r} is missing")
    best: _Detections = {}
    for cells in csv_rows(path, reader):
        line = reader.line_num
        if None in cells:
            raise DatasetError(f"{path}:{line}: has more cells than there are columns")
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


def csv_rows(path: epath.Path, reader: csv.DictReader) -> Iterator[dict[Any, Any]]:
    """The rows; raises DatasetError, naming file and line, where there is none to read."""
    try:
        yield from reader
    except csv.Error as error:
        raise DatasetError(f"{path}:{reader.line_num}: not a CSV row: {error}") from error


def number_cell(path: epath.Path, line: int, cells: dict[str, Any], name: str) -> float:
    """A cell's number; raises DatasetError, naming file, line and field, where it is none."""
    try:
        value = float(cells[name])
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value):
        raise DatasetError(f"{path}:{line}: field {name!r}: expected a number, got {cells[name]!r}")
    return value
