"""What a model sees of each image: its crop, and where landmarks and keypoints are in it; NumPy.

`tf_transforms` does the same to the pixels. The sampler draws how much each image changes, from the
seed and the step alone.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from input_pipeline import files
from input_pipeline.config import ANNOTATED, AugmentConfig, ImageConfig
from input_pipeline.errors import DatasetError
from input_pipeline.images import ImageTransform, build_transform
from input_pipeline.index import PhotoIndex
from input_pipeline.vocabulary import BOX, CUSTOMER, LANDMARKS, SHOP, TRUNCATED, UNKNOWN, VISIBLE

_Detection = tuple[float, list[float], str]  # score, box and FILE:LINE
_Detections = dict[tuple[str, str, str], _Detection]  # by image, category and item_id, or ""


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
        self._sizes = split.index.size
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
          position: float32 [n] in -1..1; where along the crop `image.square` takes its square; None
            at test.
        """
        boxes = self._boxes[rows]
        if shift is not None:
            sides = boxes[:, 2:] - boxes[:, :2]
            boxes = boxes + self._jitter * shift * np.tile(sides, 2)
        if self._square == "always" or (self._square == "training" and position is not None):
            limits = np.tile(self._sizes[rows, ::-1], 2)
            boxes = np.clip(boxes, 0, limits)  # a square that leaves the image would lose a side
            middle = np.zeros(len(rows), np.float32)
            boxes = square_boxes(boxes, middle if position is None else position)
        return round_to_pixels(boxes, self._sizes[rows])


def _boxes(split: Any, rows: np.ndarray, transform: ImageTransform, detections: str) -> np.ndarray:
    """Returns float32 [n, 4]: what the transform crops out of these images, before rounding."""
    if transform.crop == "box":
        return split.index.box[rows]
    if transform.crop == "detected":
        return split.detected(detections)[rows]
    size = split.index.size[rows, ::-1].astype(np.float64)  # width, height
    fraction = transform.center_fraction
    crop = size if transform.crop == "none" else fraction * size.min(axis=1, keepdims=True)
    corner = (size - crop) / 2
    return np.concatenate([corner, corner + crop], axis=1).astype(np.float32)


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
    """Rounds boxes [n, 4] of images of sizes [n, 2] (height, width), as `pixel_box` does, int32."""
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
    mirrored = _mirrored(LANDMARKS)
    points = _to_crops(landmarks[..., 1:], boxes, flip, mirrored)
    visibility = landmarks[..., 0].copy()
    visibility[flip] = visibility[flip][:, mirrored]
    points[visibility == UNKNOWN] = 0
    visibility[~_inside(points)] = TRUNCATED  # the absent ones are inside, at 0
    return points, visibility


def augment_landmarks(
    points: np.ndarray, visibility: np.ndarray, draws: np.ndarray, augment: AugmentConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Returns where `augment_image` moves landmarks or keypoints, and which are visible then.

    Args:
      points: float32 [n, p, 2] of `transform_landmarks`.
      visibility: int [n, p].
      draws: float32 [n, 6], as `augment_image` takes them.
      augment: the largest changes.

    Returns:
      As points and visibility; a landmark that left the image is truncated.
    """
    if not augment.rotation_degrees and not augment.shear:
        return points, visibility
    angle = np.deg2rad(draws[:, 0] * augment.rotation_degrees)
    shear = draws[:, 1] * augment.shear
    cosine, sine, one = np.cos(angle), np.sin(angle), np.ones_like(angle)
    rotation = np.stack([cosine, -sine, sine, cosine], axis=-1).reshape(-1, 2, 2)
    shearing = np.stack([one, shear, 0 * one, one], axis=-1).reshape(-1, 2, 2)
    # [n, 2, 2] each, and [n, p, 2]
    moved = np.einsum("nij,njk,nlk->nli", rotation, shearing, points - 0.5) + 0.5
    known = visibility != UNKNOWN
    return (
        np.where(known[..., None], moved, points).astype(np.float32),
        np.where(known & ~_inside(moved), TRUNCATED, visibility).astype(visibility.dtype),
    )


def _to_crops(
    positions: np.ndarray, boxes: np.ndarray, flip: np.ndarray, mirrored: list[int]
) -> np.ndarray:
    """Returns float32 [n, p, 2]: pixels' centers as fractions of the crops' widths and heights."""
    sides = (boxes[:, 2:] - boxes[:, :2])[:, None]  # [n, 1, 2]
    points = ((positions + 0.5 - boxes[:, None, :2]) / sides).astype(np.float32)
    points[flip, :, 0] = 1 - points[flip, :, 0]
    points[flip] = points[flip][:, mirrored]
    return points


def _inside(points: np.ndarray) -> np.ndarray:
    return np.all((points >= 0) & (points < 1), axis=-1)


def _mirrored(names: Sequence[str]) -> list[int]:
    """Returns which point each becomes in a mirrored image: left_ and right_ swap."""
    return [names.index(_other_side(name)) for name in names]


def _other_side(name: str) -> str:
    for side, other in (("left_", "right_"), ("right_", "left_")):
        if name.startswith(side):
            return other + name.removeprefix(side)
    return name


class Keypoints(NamedTuple):
    """Keypoints of every image of a split, to pool around: a pose estimator's, or annotated.

    Attributes:
      names: of the P keypoints.
      positions: float32 [N, P, 2], (x, y) in pixels of the upright stored image; NaN where unknown.
    """

    names: tuple[str, ...]
    positions: np.ndarray

    def crop(
        self, rows: np.ndarray, boxes: np.ndarray, flip: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns where the keypoints of some images are in their crops.

        Args:
          rows: int [n].
          boxes: int32 [n, 4] of `CropBoxes.pixels`.
          flip: bool [n], whether the crop is mirrored.

        Returns:
          float32 [n, P, 2], (x, y) as fractions of the crop's width and height, as landmarks are; 0
          where a keypoint is unknown. bool [n, P], whether it is known and within the crop.
        """
        points = _to_crops(self.positions[rows], boxes, flip, _mirrored(self.names))
        return np.nan_to_num(points), _inside(points)


def annotated_keypoints(index: PhotoIndex) -> Keypoints:
    """Returns the visible landmarks of a split; raises DatasetError if no image has any."""
    visible = index.landmarks[..., :1] == VISIBLE
    if not visible.any():
        raise DatasetError(
            f"image.keypoints={ANNOTATED!r}: no photo of this split has a visible landmark"
        )
    photos = visible.any(axis=(1, 2)).sum()
    print(f"image.keypoints={ANNOTATED}: visible in {photos:,} of {len(index):,} photos")
    positions = np.where(visible, index.landmarks[..., 1:], np.nan).astype(np.float32)
    return Keypoints(LANDMARKS, positions)


def read_keypoints(path: str, index: PhotoIndex) -> Keypoints:
    """Reads the keypoints that a file has for the images of a split.

    The file is a CSV with the column image (a photo_id of the data set) and, for each keypoint,
    x_NAME and y_NAME: pixels of the upright original photo, both empty where the keypoint is
    unknown. Names that differ only in left_ and right_ at their start swap in a mirrored image.
    Images without a line have no keypoints; lines of other images are ignored.

    Raises:
      DatasetError: the file cannot be read, has no line for any image, or a line is wrong.
    """
    file = epath.Path(path).expanduser()
    columns, rows = _read_csv(file, "image.keypoints", ["image"])
    names = _keypoint_names(file, columns)
    places: dict[str, list[int]] = {}
    for place, image in enumerate(index.photo_id.tolist()):
        places.setdefault(image, []).append(place)
    positions = np.full((len(index), len(names), 2), np.nan, np.float32)
    lines: dict[str, str] = {}
    for row in rows:
        image = files.image_name(row["image"])
        if image in lines:
            raise DatasetError(f"{row['source']}: {image!r} has a line already, {lines[image]}")
        lines[image] = row["source"].rpartition(":")[-1]
        positions[places.get(image, [])] = [_position(row, name) for name in names]
    if not (annotated := places.keys() & lines.keys()):
        raise DatasetError(
            f"{path}: has no line for any of these photos, whose names are as "
            f"{str(index.photo_id[0])!r}"
        )
    print(f"{path}: {len(names)} keypoints, for {len(annotated):,} of {len(places):,} photos")
    return Keypoints(names, positions * index.resize_scale[:, None, None])


def keypoint_names(path: str) -> tuple[str, ...]:
    """Reads the names of a file's keypoints; raises DatasetError as `read_keypoints` does."""
    file = epath.Path(path).expanduser()
    return _keypoint_names(file, _read_csv(file, "image.keypoints", ["image"])[0])


def _keypoint_names(path: epath.Path, columns: Sequence[str]) -> tuple[str, ...]:
    names = tuple(column[2:] for column in columns if column.startswith("x_"))
    if not names:
        raise DatasetError(f"{path}:1: no keypoints: expected columns x_NAME and y_NAME")
    for name in names:
        if f"y_{name}" not in columns:
            raise DatasetError(f"{path}:1: column 'y_{name}' is missing")
        if _other_side(name) not in names:
            raise DatasetError(
                f"{path}:1: {name!r} has no other side, {_other_side(name)!r}, to swap with in a "
                "mirrored photo"
            )
    return names


def _position(row: dict[str, Any], name: str) -> list[float]:
    """Returns a keypoint's x and y; NaN where both cells are empty."""
    axes = (f"x_{name}", f"y_{name}")
    return _numbers(row, *axes) if any(row[axis] for axis in axes) else [np.nan, np.nan]


def read_detections(path: str, index: PhotoIndex) -> np.ndarray:
    """Reads each image's detected box with the highest score, float32 [N, 4]; else all of it.

    The file is a CSV with the columns image (a photo_id of the data set), x_1, y_1, x_2, y_2
    (pixels of the upright original photo) and, optionally, score, category and item_id: a box with
    a category or item counts only for the image's rows of that category or item, and there before
    a box without. Lines of images that are not in this index are ignored; a box that reaches beyond
    its image is clipped; both are counted in what is printed.

    Raises:
      DatasetError: the file cannot be read, has no box for any image, or a line is wrong.
    """
    if not path:
        raise DatasetError(
            "image.detections is empty, but image.crop or image.shop_crop is 'detected'"
        )
    best = _best_boxes(epath.Path(path).expanduser())
    chosen = {row: box for row in range(len(index)) if (box := _choose(best, index, row))}
    if not chosen:
        raise DatasetError(
            f"{path}: has no box for any of these photos, whose names are as "
            f"{str(index.photo_id[0])!r}; the first in the file is {next(iter(best), ('',))[0]!r}"
        )
    boxes = np.pad(index.size[:, ::-1], [(0, 0), (2, 0)]).astype(np.float32)  # all of each image
    rows = np.array(list(chosen))
    detected = np.array([box for _, box, _ in chosen.values()], np.float32)
    detected *= index.resize_scale[rows, None]
    low, high = np.maximum(detected[:, :2], 0), np.minimum(detected[:, 2:], boxes[rows, 2:])
    if (empty := (low >= high).any(axis=1)).any():
        row = int(rows[empty][0])
        raise DatasetError(
            f"{chosen[row][2]}: nothing of the box lies in {str(index.photo_id[row])!r} "
            f"({empty.sum()} such boxes)"
        )
    boxes[rows] = np.concatenate([low, high], axis=1)
    clipped = int((boxes[rows] != detected).any(axis=1).sum())
    others = len({image for image, _, _ in best} - set(index.photo_id.tolist()))
    print(
        f"{path}: boxes for {len(rows):,} of {len(index):,} photos, {clipped:,} clipped at the "
        f"photo's edge; without a box {len(index) - len(rows):,}, which are taken whole; boxes of "
        f"{others:,} other photos"
    )
    return boxes


def _choose(best: _Detections, index: PhotoIndex, row: int) -> _Detection | None:
    """Returns the detection for a row: one for its item, else its category, else its image."""
    image, item = str(index.photo_id[row]), str(index.items[index.item[row]])
    number = index.category[row]
    category = str(index.categories[number]) if number >= 0 else ""
    keys = [(image, category, item), (image, "", item), (image, category, ""), (image, "", "")]
    return next((best[key] for key in keys if key in best), None)


def _best_boxes(path: epath.Path) -> _Detections:
    best: _Detections = {}
    _, rows = _read_csv(path, "image.detections", ["image", *BOX])
    for row in rows:
        *box, score = _numbers({"score": "0", **row}, *BOX, "score")
        if not (box[0] < box[2] and box[1] < box[3]):
            raise DatasetError(f"{row['source']}: the box has no size: {tuple(box)}")
        image, category, item = (row.get(name, "") for name in ("image", "category", "item_id"))
        if not image:
            raise DatasetError(f"{row['source']}: field 'image': is empty")
        key = files.image_name(image), category, item
        if key not in best or score > best[key][0]:
            best[key] = score, box, row["source"]
    return best


def _read_csv(
    path: epath.Path, field: str, required: Sequence[str]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Returns a file's columns, and its rows: text by column, and the "source", FILE:LINE."""
    if not path.exists():
        raise DatasetError(f"{path}: no such file ({field})")
    table = files.read_csv(path, required)
    files.require_columns(table, required)
    rows = table.to_dict("records")
    if wrong := next((row for row in rows if row["error"]), None):
        raise DatasetError(f"{wrong['source']}: {wrong['error']}")
    return list(table.columns), rows


def _numbers(row: dict[str, Any], *names: str) -> list[float]:
    """Returns the numbers in these cells; raises DatasetError if one is none, or not finite."""
    numbers = []
    for name in names:
        try:
            numbers.append(float(row[name]))
        except ValueError:
            numbers.append(np.nan)
        if not np.isfinite(numbers[-1]):
            text = f"field {name!r}: expected a number, got {row[name]!r}"
            raise DatasetError(f"{row['source']}: {text}")
    return numbers
