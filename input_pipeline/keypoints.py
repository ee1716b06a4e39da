"""Keypoints to pool around in the place of estimated landmarks: a pose estimator's, or annotated."""

import posixpath
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from input_pipeline.augmentation import move_landmarks
from input_pipeline.config import ANNOTATED, AugmentConfig
from input_pipeline.crops import csv_rows, number_cell, read_csv
from input_pipeline.errors import DatasetError
from input_pipeline.index import PhotoIndex
from input_pipeline.vocabulary import LANDMARKS, UNKNOWN, VISIBLE

_SIDES = ("left_", "right_")


class Keypoints(NamedTuple):
    """Keypoints of every photo of a split.

    Attributes:
      names: of the P points.
      places: float32 [N, P, 2], (x, y) in pixels of the upright stored photo; NaN where unknown.
    """

    names: tuple[str, ...]
    places: np.ndarray

    @property
    def mirrored(self) -> list[int]:
        """For each point the one that has its place in a mirrored photo: left_NAME, right_NAME."""
        return [self.names.index(_other_side(name)) for name in self.names]

    def crop(
        self, rows: np.ndarray, box: np.ndarray, flip: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The points of some photos where they are in the cut.

        Args:
          rows: int [n].
          box: int32 [n, 4] of `CropBoxes.pixels`.
          flip: bool [n], whether the cut is mirrored.

        Returns:
          float32 [n, P, 2], (x, y) as shares of the cut's width and height, as landmarks are; 0
          where a point is unknown. bool [n, P], whether it is known and within the cut.
        """
        sides = (box[:, 2:] - box[:, :2])[:, None]  # [n, 1, 2]
        points = ((self.places[rows] + 0.5 - box[:, None, :2]) / sides).astype(np.float32)
        points[flip, :, 0] = 1 - points[flip, :, 0]
        points[flip] = points[flip][:, self.mirrored]
        seen = ((points >= 0) & (points < 1)).all(axis=-1)
        return np.nan_to_num(points), seen


def augment_keypoints(
    places: np.ndarray, seen: np.ndarray, change: np.ndarray, augmentation: AugmentConfig
) -> dict[str, np.ndarray]:
    """What a batch has of given points where `augment` moves what they mark.

    Args:
      places: float32 [n, P, 2] of `Keypoints.cut`.
      seen: bool [n, P] of the same.
      change: float32 [n, 6], as `augment` takes it.
      augmentation: largest changes.

    Returns:
      points, float32 [n, P, 2], and points_visible, bool [n, P].
    """
    visibility = np.where(seen, VISIBLE, UNKNOWN)
    places, visibility = move_landmarks(places, visibility, change, augmentation)
    return {"points": places, "points_visible": visibility == VISIBLE}


def annotated_keypoints(index: PhotoIndex) -> Keypoints:
    """The visible ones of the landmarks that a split's photos are annotated with.

    Raises:
      DatasetError: no photo has any.
    """
    visible = index.landmarks[..., :1] == VISIBLE
    if not visible.any():
        raise DatasetError(
            f"image.keypoints={ANNOTATED!r}: no photo of this split has a visible landmark"
        )
    photos = int(visible.any(axis=(1, 2)).sum())
    print(f"image.keypoints={ANNOTATED}: visible in {photos:,} of {len(index):,} photos")
    return Keypoints(
        LANDMARKS, np.where(visible, index.landmarks[..., 1:], np.nan).astype(np.float32)
    )


def read_keypoints(path: str, index: PhotoIndex) -> Keypoints:
    """The points that a file has for the photos of a split.

    The file is a CSV with the column image (a photo_id of the data set) and, for each point, x_NAME
    and y_NAME: pixels of the upright photo as it was found, both empty where the point was not
    found. Names that differ in left_ and right_ at their start alone change places in a mirrored
    photo. BatchSpec without a line have no points; lines of other photos are passed over.

    Raises:
      DatasetError: no file, no points, a column missing, no line for any photo, or wrong cells,
        each with file and line.
    """
    file = epath.Path(path).expanduser()
    reader = read_csv(file, "image.keypoints")
    names = _names(file, reader.fieldnames or [])
    rows_of: dict[str, list[int]] = {}
    for row, image in enumerate(index.photo_id.tolist()):
        rows_of.setdefault(image, []).append(row)
    places = np.full((len(index), len(names), 2), np.nan, np.float32)
    lines: dict[str, int] = {}
    for cells in csv_rows(file, reader):
        line = reader.line_num
        if None in cells:
            raise DatasetError(f"{path}:{line}: has more cells than there are columns")
        image = posixpath.normpath((cells["image"] or "").strip())
        if image in lines:
            raise DatasetError(f"{path}:{line}: {image!r} has a line already, {lines[image]}")
        lines[image] = line
        places[rows_of.get(image, [])] = [_place(file, line, cells, name) for name in names]
    found = [image for image in rows_of if image in lines]
    if not found:
        raise DatasetError(
            f"{path}: has no line for any of these photos, whose names are as "
            f"{str(index.photo_id[0])!r}"
        )
    print(f"{path}: {len(names)} points, for {len(found):,} of {len(rows_of):,} photos")
    return Keypoints(names, places * index.shrunk[:, None, None])


def keypoint_names(path: str) -> tuple[str, ...]:
    """The names of the points that a file has, as `read_keypoints` reads it.

    Raises:
      DatasetError: no file, no points, or a column missing.
    """
    file = epath.Path(path).expanduser()
    return _names(file, read_csv(file, "image.keypoints").fieldnames or [])


def _names(path: epath.Path, columns: Sequence[str]) -> tuple[str, ...]:
    if "image" not in columns:
        raise DatasetError(f"{path}:1: column 'image' is missing")
    names = tuple(column[2:] for column in columns if column.startswith("x_"))
    if not names:
        raise DatasetError(f"{path}:1: no points: expected columns x_NAME and y_NAME")
    for name in names:
        if f"y_{name}" not in columns:
            raise DatasetError(f"{path}:1: column 'y_{name}' is missing")
        if _other_side(name) not in names:
            raise DatasetError(
                f"{path}:1: {name!r} has no other side, {_other_side(name)!r}, to change places "
                "with in a mirrored photo"
            )
    return names


def _other_side(name: str) -> str:
    for own, other in (_SIDES, _SIDES[::-1]):
        if name.startswith(own):
            return other + name.removeprefix(own)
    return name


def _place(path: epath.Path, line: int, cells: dict[str, str], name: str) -> tuple[float, float]:
    if not (cells[f"x_{name}"] or "").strip() and not (cells[f"y_{name}"] or "").strip():
        return np.nan, np.nan
    x, y = (number_cell(path, line, cells, f"{axis}_{name}") for axis in "xy")
    return x, y
