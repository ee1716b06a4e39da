"""Segmentations of objects as in COCO files: polygons, or run-length encoded (RLE) masks."""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, TypeGuard

import numpy as np
from pycocotools import mask as coco_mask

# A run's length is written in 5-bit digits from "0" on, all but the last with bit 32. The C code
# reads on past the end of a string that breaks off.
_WELL_FORMED = re.compile(r"(?:[P-o]{0,6}[0-O])*")
_MOST_PIXELS = 2**31


class RLE(NamedTuple):
    """The mask of an object, run-length encoded column by column.

    Attributes:
      height: of the whole mask, in pixels.
      width: as height.
      counts: lengths of alternating runs outside and inside, compressed as pycocotools does.
    """

    height: int
    width: int
    counts: bytes

    def _encoded(self) -> dict[str, Any]:
        return {"size": [self.height, self.width], "counts": self.counts}

    def pixels(self) -> np.ndarray:
        """Decodes the mask, uint8 [height, width], 0 or 1."""
        return coco_mask.decode(self._encoded())

    def bounding_box(self) -> tuple[float, float, float, float]:
        """Returns (x_1, y_1, x_2, y_2) of the pixels inside; all 0 without any."""
        x, y, width, height = coco_mask.toBbox(self._encoded()).tolist()
        return x, y, x + width, y + height


Polygons: TypeAlias = tuple[np.ndarray, ...]  # of each: float64 (x, y, x, y, ...)
Segmentation: TypeAlias = Polygons | RLE


class SegmentationError(ValueError):
    """A value is no segmentation; the message says why."""


def parse_segmentation(value: object) -> Segmentation | None:
    """Parses the field `segmentation`; returns None for None, [] and {}.

    Raises:
      SegmentationError: it is neither polygons nor a run-length encoded mask.
    """
    if value is None or value == [] or value == {}:
        return None
    if isinstance(value, list):
        return tuple(_polygon(polygon) for polygon in value)
    if isinstance(value, dict):
        return _parse_rle(value)
    raise SegmentationError(f"expected polygons or a run-length mask, got {short(value)}")


def rasterize(polygons: Polygons, height: int, width: int) -> RLE:
    """Returns the mask of the pixels inside any of these polygons, clipped to the image."""
    limits = np.array([width, height], np.float64)
    inside = [np.clip(points.reshape(-1, 2), 0, limits).ravel().tolist() for points in polygons]
    merged = coco_mask.merge(coco_mask.frPyObjects(inside, height, width))
    return RLE(height, width, merged["counts"])


def is_number(value: object) -> TypeGuard[float]:
    """Returns whether it is a finite number, and no bool."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def is_integer(value: object, least: int) -> TypeGuard[int]:
    """Returns whether it is an integer of at least `least`, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def short(value: object) -> str:
    """Returns a value as a message shows it."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return "an integer of more than 40 digits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _polygon(points: object) -> np.ndarray:
    if not isinstance(points, list):
        raise SegmentationError(f"expected a list of polygons, got {short(points)} among them")
    if len(points) % 2:
        raise SegmentationError(
            f"a polygon of {len(points)} numbers: expected an x and a y of each point"
        )
    if len(points) < 6:
        raise SegmentationError(f"a polygon of {len(points) // 2} points: expected at least 3")
    if wrong := [value for value in points if not is_number(value)]:
        raise SegmentationError(f"expected a polygon's numbers of pixels, got {short(wrong[0])}")
    return np.array(points, np.float64)


def _parse_rle(value: dict[Any, Any]) -> RLE:
    size, counts = value.get("size"), value.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(is_integer(n, 1) for n in size)):
        raise SegmentationError(f"expected a mask's size as [height, width], got {short(size)}")
    height, width = size
    if height * width > _MOST_PIXELS:
        raise SegmentationError(f"a mask of {short(width)}x{short(height)} pixels is too large")
    if isinstance(counts, str):
        if not _WELL_FORMED.fullmatch(counts):
            raise SegmentationError(
                f"counts {short(counts)}: no run-length mask, or one broken off"
            )
        runs: Sequence[int] = _decompress(counts)
    elif isinstance(counts, list):
        runs = counts
    else:
        raise SegmentationError(
            f"expected a mask's counts as a text or a list, got {short(counts)}"
        )
    if wrong := [run for run in runs if not is_integer(run, 0)]:
        raise SegmentationError(f"expected lengths of runs from 0 on, got {short(wrong[0])}")
    if sum(runs) != height * width:
        raise SegmentationError(
            f"runs of {short(sum(runs))} pixels in a mask of {width}x{height} = {height * width}"
        )
    if isinstance(counts, str):
        return RLE(height, width, counts.encode())
    encoded = coco_mask.frPyObjects({"size": size, "counts": list(counts)}, height, width)
    return RLE(height, width, encoded["counts"])


def _decompress(counts: str) -> list[int]:
    """Returns the runs' lengths, to be checked: pycocotools takes sums other than the size."""
    runs: list[int] = []
    value = shift = 0
    for code in counts.encode():
        digit = code - ord("0")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:  # negative
            value -= 1 << shift
        # From the fourth on, the difference to the run before the last.
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs
