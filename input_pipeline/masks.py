"""Masks of garments as COCO writes them: polygons, or run-length encoded; drawn by pycocotools."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pydantic
from pycocotools import mask as coco_mask

from input_pipeline.files import short

# A run's length is written in 5-bit digits from "0" on, all but the last with bit 32. The C code
# reads on past the end of a string that breaks off.
_WELL_FORMED = re.compile(r"(?:[P-o]{0,6}[0-O])*")
_FARTHEST = 100_000  # drawing walks along every edge of a polygon, in the image or not
_STRICT = pydantic.ConfigDict(strict=True, allow_inf_nan=False)
_NUMBERS = pydantic.TypeAdapter(list[float], config=_STRICT)


class _Runs(pydantic.BaseModel):
    """A run-length mask; its `size` is (height, width)."""

    model_config = _STRICT
    size: list[pydantic.PositiveInt] = pydantic.Field(min_length=2, max_length=2)
    counts: str | list[pydantic.NonNegativeInt]


class MaskError(ValueError):
    """A value is no mask, or a wrong one; the message says why."""


def to_arrays(segmentation: Any) -> Any:
    """Returns polygons as float64 arrays, an eighth of a list's memory; what is none stays."""
    return list(map(_to_array, segmentation)) if isinstance(segmentation, list) else segmentation


def to_mask(
    segmentation: Any, box: Sequence[float], height: int, width: int, turn: int = 1
) -> bytes:
    """Draws a segmentation, and checks it against its box.

    Args:
      segmentation: polygons [[x, y, x, y, ...], ...] or a run-length mask {"size", "counts"}, of
        the image before it is turned.
      box: x_1, y_1, x_2, y_2 in the upright image; NaN without one.
      height: of the upright image, in pixels.
      width: as height.
      turn: EXIF orientation by which the segmentation has to be turned.

    Returns:
      The compressed counts of the upright mask.

    Raises:
      MaskError: it is no segmentation, or all of it is outside the image or the box.
    """
    size = (width, height) if turn >= 5 else (height, width)
    runs = _parse(segmentation, *size)
    if turn > 1:
        runs = coco_mask.encode(np.asfortranarray(turn_mask(coco_mask.decode(runs), turn)))
    x, y, across, down = coco_mask.toBbox(runs).tolist()
    if not across:
        raise MaskError("no pixel of the image lies in it")
    x_1, y_1, x_2, y_2 = box
    if x >= x_2 + 1 or x + across <= x_1 - 1 or y >= y_2 + 1 or y + down <= y_1 - 1:
        raise MaskError(f"all of it lies outside the box {x_1:g}, {y_1:g}, {x_2:g}, {y_2:g}")
    return runs["counts"]


def draw(counts: bytes, height: int, width: int) -> np.ndarray:
    """Returns the pixels of a mask, uint8 [height, width], 0 or 1."""
    return coco_mask.decode({"size": [height, width], "counts": counts})


def turn_box(
    box: Sequence[float], turn: int, height: int, width: int
) -> tuple[float, float, float, float]:
    """Returns a box of a stored image, in its upright picture of this size."""
    x_1, y_1, x_2, y_2 = box
    if turn >= 5:
        x_1, y_1, x_2, y_2 = y_1, x_1, y_2, x_2
    if turn in (2, 3, 6, 7):
        x_1, x_2 = width - x_2, width - x_1
    if turn in (3, 4, 7, 8):
        y_1, y_2 = height - y_2, height - y_1
    return x_1, y_1, x_2, y_2


def turn_mask(mask: np.ndarray, turn: int) -> np.ndarray:
    """Returns a mask [H, W] of a stored image, as that of its upright picture."""
    mask = mask.T if turn >= 5 else mask
    mask = mask[:, ::-1] if turn in (2, 3, 6, 7) else mask
    return mask[::-1] if turn in (3, 4, 7, 8) else mask


def _parse(value: Any, height: int, width: int) -> dict[str, Any]:
    """Returns pycocotools' run-length mask of this size."""
    if isinstance(value, dict):
        return _parse_runs(value, height, width)
    if not isinstance(value, list):
        raise MaskError(f"expected polygons or a run-length mask, got {short(value)}")
    polygons = [_parse_polygon(polygon) for polygon in value]
    return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))


def _to_array(points: Any) -> Any:
    try:
        return np.array(_NUMBERS.validate_python(points), np.float64)
    except pydantic.ValidationError:
        return points


def _parse_polygon(points: Any) -> list[float]:
    points = _to_array(points)
    if not isinstance(points, np.ndarray):
        raise MaskError(f"expected a polygon's numbers of pixels, got {short(points)}")
    if len(points) % 2 or len(points) < 6:
        raise MaskError(f"a polygon of {len(points)} numbers: expected x and y of 3 points or more")
    if np.abs(points).max() > _FARTHEST:
        raise MaskError(f"a point lies more than {_FARTHEST:,} pixels away")
    return points.tolist()


def _parse_runs(value: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    try:
        size, counts = vars(_Runs.model_validate(value)).values()
    except pydantic.ValidationError as error:
        field = str(error.errors()[0]["loc"][0])
        expected = {"size": "[height, width]", "counts": "a text or lengths of runs"}[field]
        raise MaskError(
            f"expected a mask's {field} as {expected}, got {short(value.get(field))}"
        ) from None
    if size != [height, width]:
        raise MaskError(f"a mask of {size[1]}x{size[0]} pixels for an image of {width}x{height}")
    if isinstance(counts, str) and not _WELL_FORMED.fullmatch(counts):
        raise MaskError("counts are no run-length mask, or one broken off")
    runs = _decompress(counts) if isinstance(counts, str) else counts
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise MaskError(f"runs of {sum(runs)} pixels in a mask of {width}x{height}")
    return coco_mask.frPyObjects({"size": size, "counts": runs}, height, width)


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
