"""The canvas and its primitives: tubes of cloth or skin, polygons, strokes, discs.

Keypoints are given in head heights (x to the right, y down); the canvas knows its own scale. Beside
the picture it keeps two masks of the garment being photographed: `whole`, every pixel the garment
was drawn on, and `visible`, those that nothing was drawn over afterwards; and `owner`, which object
of a kind that detectors look for is on top at each pixel.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import numpy as np

from input_pipeline.synthetic.fabrics import noise_tile
from input_pipeline.synthetic.palette import Color

_STATIONS = 256
_SHIFT = 4  # fractional bits of cv2's fixed-point coordinates


@dataclasses.dataclass(frozen=True)
class Panel:
    """A piece of drawn cloth: uint8 RGBA [rows, columns, 4].

    A two-sided panel holds the front in its left half and the back in its right half. Each half
    is `2 * half_width` head heights wide; rows run from `top` to `bottom` (head heights).
    """

    pixels: np.ndarray
    half_width: float
    top: float
    bottom: float
    two_sided: bool


@dataclasses.dataclass(frozen=True)
class Tube:
    """A piece of clothing or limb round a straight axis, seen from one side.

    half: float32 [256] apparent half width along the axis; girth: float32 [256] half width as
    seen from the front, which the cloth is measured in; center: float32 [256] sideways shift.
    rows: range of the panel (head heights) that the axis covers. turn: rotation of the cloth
    round the axis (radians, 0 shows the front).
    """

    start: tuple[float, float]
    end: tuple[float, float]
    half: np.ndarray
    girth: np.ndarray
    center: np.ndarray
    rows: tuple[float, float] = (0.0, 1.0)
    turn: float = 0.0
    round_start: bool = False
    round_end: bool = False


def profile(positions: list[float], values: list[float]) -> np.ndarray:
    """Interpolates `values` at `positions` (0 start .. 1 end of the axis), float32 [256]."""
    line = np.linspace(0, 1, _STATIONS)
    return np.interp(line, positions, values).astype(np.float32)


def limb(
    start: tuple[float, float], end: tuple[float, float], first: float, last: float, **more: Any
) -> Tube:
    """Returns a tube whose half width goes evenly from `first` to `last`."""
    half = profile([0, 1], [first, last])
    return Tube(start, end, half, half, np.zeros(_STATIONS, np.float32), **more)


class Canvas:
    """A picture under construction, its garment masks and its units.

    origin: the point (head heights) at the canvas's upper left corner; scale: pixels a head;
    objects: what each object is, in the order of their numbers in `owner` from 1 on; 0 is none.
    """

    def __init__(
        self, width: int, height: int, origin: tuple[float, float], scale: float, fold_seed: int
    ) -> None:
        self.image = np.empty((height, width, 3), np.uint8)
        self.whole = np.zeros((height, width), np.uint8)
        self.visible = np.zeros((height, width), np.uint8)
        self.owner = np.zeros((height, width), np.uint8)
        self.objects: list[str] = []
        self.origin = origin
        self.scale = scale
        self.light = 0.0
        self._folds = _fold_field(width, height, scale, fold_seed)

    def add_object(self, kind: str) -> int:
        """Returns the number that a new object has in `owner`."""
        self.objects.append(kind)
        return len(self.objects)

    def pixel(self, point: tuple[float, float]) -> tuple[float, float]:
        """Returns the canvas place (pixels) of a point (head heights)."""
        return (point[0] - self.origin[0]) * self.scale, (point[1] - self.origin[1]) * self.scale

    def _fixed(self, points: np.ndarray) -> np.ndarray:
        pixels = (np.asarray(points, np.float32) - self.origin) * self.scale
        return np.round(pixels * (1 << _SHIFT)).astype(np.int32)

    def polygon(self, points: np.ndarray, color: Color, owner: int = 0) -> None:
        """Fills a polygon (float [n, 2]) over whatever is there."""
        fixed = [self._fixed(points)]
        cv2.fillPoly(self.image, fixed, color, cv2.LINE_AA, _SHIFT)
        cv2.fillPoly(self.visible, fixed, 0, cv2.LINE_AA, _SHIFT)
        cv2.fillPoly(self.owner, fixed, owner, cv2.LINE_8, _SHIFT)

    def stroke(self, points: np.ndarray, width: float, color: Color, owner: int = 0) -> None:
        """Draws a line through points (float [n, 2]), `width` head heights thick."""
        fixed = [self._fixed(points)]
        thick = max(1, round(width * self.scale))
        cv2.polylines(self.image, fixed, False, color, thick, cv2.LINE_AA, _SHIFT)
        cv2.polylines(self.visible, fixed, False, 0, thick, cv2.LINE_AA, _SHIFT)
        cv2.polylines(self.owner, fixed, False, owner, thick, cv2.LINE_8, _SHIFT)

    def ellipse(
        self,
        middle: tuple[float, float],
        axes: tuple[float, float],
        tilt: float,
        color: Color,
        owner: int = 0,
    ) -> None:
        """Fills an ellipse: half axes in head heights, tilt in degrees."""
        turns = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        across, down = axes[0] * np.cos(turns), axes[1] * np.sin(turns)
        sine, cosine = np.sin(np.radians(tilt)), np.cos(np.radians(tilt))
        x = middle[0] + across * cosine - down * sine
        y = middle[1] + across * sine + down * cosine
        self.polygon(np.stack([x, y], axis=1), color, owner)

    def tube(
        self,
        tube: Tube,
        surface: Panel | Color,
        *,
        garment: bool = False,
        owner: int = 0,
        flat: bool = False,
        dim: float = 1.0,
        back_side: bool = False,
    ) -> None:
        """Draws a tube in cloth (a Panel) or one color.

        garment: it belongs to the photographed garment (both masks take it). owner: number of the
        object that it belongs to. flat: laid out, not wrapped round a body. dim: brightness factor.
        back_side: show the panel's back half.
        """
        area = self._tube_area(tube)
        if area is None:
            return
        rows, columns = area
        along, alpha, side, station = self._tube_coordinates(tube, rows, columns)
        if not alpha.any():
            return
        if isinstance(surface, Panel):
            place = _cloth_places(tube, surface, along, side, station, flat, back_side)
            cloth = cv2.remap(surface.pixels, *place, cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE)
            color = cloth[..., :3].astype(np.float32)
            alpha = alpha * (cloth[..., 3].astype(np.float32) * (1 / 255))
        else:
            color = np.asarray(surface, np.float32)
        shade = self._shade(tube, side, station, rows, columns, flat) * dim
        self._blend(rows, columns, color * shade[..., None], alpha, garment, owner)

    def _tube_area(self, tube: Tube) -> tuple[slice, slice] | None:
        ends = np.array([self.pixel(tube.start), self.pixel(tube.end)])
        reach = (float(tube.half.max()) + float(np.abs(tube.center).max())) * self.scale + 2
        low = np.floor(ends.min(axis=0) - reach).astype(int)
        high = np.ceil(ends.max(axis=0) + reach).astype(int)
        height, width = self.whole.shape
        x_1, y_1 = max(int(low[0]), 0), max(int(low[1]), 0)
        x_2, y_2 = min(int(high[0]), width), min(int(high[1]), height)
        if x_1 >= x_2 or y_1 >= y_2:
            return None
        return slice(y_1, y_2), slice(x_1, x_2)

    def _tube_coordinates(
        self, tube: Tube, rows: slice, columns: slice
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns (position along the axis 0..1, coverage 0..1, side -1..1, station) per pixel."""
        start, end = self.pixel(tube.start), self.pixel(tube.end)
        length = max(float(np.hypot(end[0] - start[0], end[1] - start[1])), 1e-3)
        axis = ((end[0] - start[0]) / length, (end[1] - start[1]) / length)
        x = np.arange(columns.start, columns.stop, dtype=np.float32) + (0.5 - start[0])
        y = (np.arange(rows.start, rows.stop, dtype=np.float32) + (0.5 - start[1]))[:, None]
        along = np.float32(axis[0]) * x + np.float32(axis[1]) * y
        across = np.float32(axis[1]) * x - np.float32(axis[0]) * y
        station = np.clip(along * np.float32(255 / length), 0, 255).astype(np.int16)
        half = (tube.half * np.float32(self.scale))[station]
        if tube.center.any():
            across = across - (tube.center * np.float32(self.scale))[station]
        away = np.abs(across)
        if tube.round_start:
            away = np.hypot(away, np.minimum(along, 0))
        if tube.round_end:
            away = np.hypot(away, np.maximum(along - np.float32(length), 0))
        alpha = np.clip(half - away + 0.5, 0, 1)
        if not tube.round_start:
            alpha *= np.clip(along + 0.5, 0, 1)
        if not tube.round_end:
            alpha *= np.clip(np.float32(length + 0.5) - along, 0, 1)
        side = np.clip(across / half, -1, 1)
        return along * np.float32(1 / length), alpha, side, station

    def _shade(
        self,
        tube: Tube,
        side: np.ndarray,
        station: np.ndarray,
        rows: slice,
        columns: slice,
        flat: bool,
    ) -> np.ndarray:
        square = side * side
        round_off = 0.1 if flat else 0.2
        shade = 1.03 + np.float32(0.14 * self.light) * side - round_off * square
        rim = np.clip(
            (1 - np.abs(side)) * (tube.half * np.float32(self.scale / 2.5))[station], 0, 1
        )
        shade *= 0.74 + 0.26 * rim
        shade *= self._folds[rows, columns]
        return shade

    def _blend(
        self,
        rows: slice,
        columns: slice,
        color: np.ndarray,
        alpha: np.ndarray,
        garment: bool,
        owner: int,
    ) -> None:
        below = self.image[rows, columns].astype(np.float32)
        below += alpha[..., None] * (np.minimum(color, 255) - below)
        self.image[rows, columns] = below + 0.5
        cover = (alpha * 255).astype(np.uint8)
        self.owner[rows, columns][cover > 127] = owner
        visible = self.visible[rows, columns]
        if garment:
            np.maximum(self.whole[rows, columns], cover, out=self.whole[rows, columns])
            np.maximum(visible, cover, out=visible)
        else:
            np.minimum(visible, 255 - cover, out=visible)


def _cloth_places(
    tube: Tube,
    panel: Panel,
    along: np.ndarray,
    side: np.ndarray,
    station: np.ndarray,
    flat: bool,
    back_side: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the panel's column and row for every pixel (float32, as cv2.remap takes them)."""
    height, width = panel.pixels.shape[:2]
    panel_width = width // 2 if panel.two_sided else width
    back: np.ndarray | bool = back_side
    if not flat:
        angle = np.arcsin(side) + np.float32(tube.turn)
        angle -= np.float32(2 * np.pi) * np.round(angle * np.float32(0.5 / np.pi))
        back = np.abs(angle) > np.float32(np.pi / 2)
        angle = np.where(back, angle - np.copysign(np.float32(np.pi), angle), angle)
        # Half way between a flat cloth and one measured along the arc.
        side = 0.5 * np.sin(angle) + np.float32(1 / np.pi) * angle
    column = side * tube.girth[station] * np.float32(0.5 / panel.half_width) + 0.5
    column = np.clip(column * panel_width - 0.5, 0, panel_width - 1)
    if panel.two_sided:
        column = column + np.float32(panel_width) * back
    first, last = tube.rows
    per_unit = height / (panel.bottom - panel.top)
    row = (along * np.float32(last - first) + np.float32(first - panel.top)) * per_unit - 0.5
    return column.astype(np.float32), row.astype(np.float32)


def _fold_field(width: int, height: int, scale: float, seed: int) -> np.ndarray:
    """Returns the brightness of folds, about 1, the same at any scale, float32 [height, width]."""
    tile = noise_tile(28)
    shift = (seed % 193, seed // 193 % 191)
    rolled = np.roll(tile, shift, (0, 1))
    # 40 noise pixels a head height across, fewer along: folds hang downwards.
    across = np.arange(width) * (40 / scale)
    down = np.arange(height) * (22 / scale)
    columns = across.astype(np.int32) & 255
    rows = down.astype(np.int32) & 255
    field = rolled[rows][:, columns]
    return 1 + 0.13 * cv2.GaussianBlur(field, (0, 0), max(scale / 60, 0.5))
