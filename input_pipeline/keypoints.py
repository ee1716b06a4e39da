"""Keypoints to pool around instead of estimated landmarks: a pose estimator's, or annotated."""

import posixpath
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from input_pipeline.config import ANNOTATED
from input_pipeline.csv_files import csv_rows, number_cell, read_csv
from input_pipeline.errors import DatasetError
from input_pipeline.index import PhotoIndex
from input_pipeline.vocabulary import LANDMARKS, VISIBLE

_SIDES = ("left_", "right_")


class Keypoints(NamedTuple):
    """Keypoints of every image of a split.

    Attributes:
      names: of the P keypoints.
      positions: float32 [N, P, 2], (x, y) in pixels of the upright stored image; NaN where unknown.
    """

    names: tuple[str, ...]
    positions: np.ndarray

    @property
    def mirrored(self) -> list[int]:
        """Returns which keypoint each becomes in a mirrored image: left_ and right_ swap."""
        return [self.names.index(_other_side(name)) for name in self.names]

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
        sides = (boxes[:, 2:] - boxes[:, :2])[:, None]  # [n, 1, 2]
        points = ((self.positions[rows] + 0.5 - boxes[:, None, :2]) / sides).astype(np.float32)
        points[flip, :, 0] = 1 - points[flip, :, 0]
        points[flip] = points[flip][:, self.mirrored]
        visible = ((points >= 0) & (points < 1)).all(axis=-1)
        return np.nan_to_num(points), visible


def annotated_keypoints(index: PhotoIndex) -> Keypoints:
    """Returns the visible ones of the landmarks that a split's images are annotated with.

    Raises:
      DatasetError: no image has any.
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
    """Reads the keypoints that a file has for the images of a split.

    The file is a CSV with the column image (a photo_id of the data set) and, for each keypoint,
    x_NAME and y_NAME: pixels of the upright original photo, both empty where the keypoint is
    unknown. Names that differ only in left_ and right_ at their start swap in a mirrored image.
    Images without a line have no keypoints; lines of other images are ignored.

    Raises:
      DatasetError: no file, no keypoints, a column missing, no line for any image, or wrong cells,
        each with file and line.
    """
    file = epath.Path(path).expanduser()
    reader = read_csv(file, "image.keypoints")
    names = _names(file, reader.fieldnames or [])
    rows_of: dict[str, list[int]] = {}
    for row, image in enumerate(index.photo_id.tolist()):
        rows_of.setdefault(image, []).append(row)
    positions = np.full((len(index), len(names), 2), np.nan, np.float32)
    lines: dict[str, int] = {}
    for cells in csv_rows(file, reader):
        line = reader.line_num
        image = posixpath.normpath((cells["image"] or "").strip())
        if image in lines:
            raise DatasetError(f"{path}:{line}: {image!r} has a line already, {lines[image]}")
        lines[image] = line
        positions[rows_of.get(image, [])] = [_position(file, line, cells, name) for name in names]
    annotated = rows_of.keys() & lines.keys()
    if not annotated:
        raise DatasetError(
            f"{path}: has no line for any of these photos, whose names are as "
            f"{str(index.photo_id[0])!r}"
        )
    print(f"{path}: {len(names)} keypoints, for {len(annotated):,} of {len(rows_of):,} photos")
    return Keypoints(names, positions * index.resize_scale[:, None, None])


def keypoint_names(path: str) -> tuple[str, ...]:
    """Reads the names of the keypoints in a file that `read_keypoints` reads.

    Raises:
      DatasetError: no file, no keypoints, or a column missing.
    """
    file = epath.Path(path).expanduser()
    return _names(file, read_csv(file, "image.keypoints").fieldnames or [])


def _names(path: epath.Path, columns: Sequence[str]) -> tuple[str, ...]:
    if "image" not in columns:
        raise DatasetError(f"{path}:1: column 'image' is missing")
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


def _other_side(name: str) -> str:
    for side, other in (_SIDES, _SIDES[::-1]):
        if name.startswith(side):
            return other + name.removeprefix(side)
    return name


def _position(path: epath.Path, line: int, cells: dict[str, str], name: str) -> tuple[float, float]:
    if not (cells[f"x_{name}"] or "").strip() and not (cells[f"y_{name}"] or "").strip():
        return np.nan, np.nan
    x, y = (number_cell(path, line, cells, f"{axis}_{name}") for axis in "xy")
    return x, y
