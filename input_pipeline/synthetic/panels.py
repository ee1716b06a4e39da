"""Panels: the drawn cloth of a garment, with pockets, buttons, prints and the rest on it."""

from __future__ import annotations

import functools

import cv2
import numpy as np

from input_pipeline.synthetic import body, palette, tailoring
from input_pipeline.synthetic.fabrics import paint_fabric
from input_pipeline.synthetic.garments import CLOTHES_TYPES, Garment, Logo, has_legs
from input_pipeline.synthetic.glyphs import glyph_mask
from input_pipeline.synthetic.painting import Panel
from input_pipeline.synthetic.palette import Color
from input_pipeline.vocabulary import LOWER, UPPER

PER_UNIT = 48  # pixels of cloth a head height
_SHIFT = 4
# Fabrics on which a print needs a badge below it.
_BUSY = frozenset(
    (
        "plaid",
        "gingham",
        "floral",
        "dots",
        "camouflage",
        "herringbone",
        "stripes_h",
        "stripes_v",
        "diagonal",
    )
)


class Pen:
    """Draws on one side of a panel; points are (x, y) in head heights, x to the wearer's left."""

    def __init__(self, rgb: np.ndarray, half_width: float, top: float) -> None:
        self.rgb = rgb
        self.alpha = np.full(rgb.shape[:2], 255, np.uint8)
        self._shift = np.array([half_width, -top], np.float32)

    def _fixed(self, points: object) -> np.ndarray:
        pixels = (np.asarray(points, np.float32) + self._shift) * PER_UNIT
        return np.round(pixels * (1 << _SHIFT)).astype(np.int32)

    def fill(self, points: object, color: Color) -> None:
        """Fills a polygon."""
        cv2.fillPoly(self.rgb, [self._fixed(points)], color, cv2.LINE_AA, _SHIFT)

    def cut(self, points: object) -> None:
        """Cuts a polygon out of the cloth."""
        cv2.fillPoly(self.alpha, [self._fixed(points)], 0, cv2.LINE_AA, _SHIFT)

    def line(self, points: object, width: float, color: Color, closed: bool = False) -> None:
        """Draws a line `width` head heights thick."""
        thick = max(1, round(width * PER_UNIT))
        fixed = [self._fixed(points)]
        cv2.polylines(self.rgb, fixed, closed, color, thick, cv2.LINE_AA, _SHIFT)

    def box(self, x: float, y: float, width: float, height: float, color: Color) -> None:
        """Fills an upright rectangle, x and y its middle."""
        self.fill(_rectangle(x, y, width, height), color)

    def disc(self, x: float, y: float, radius: float, color: Color) -> None:
        """Fills a disc."""
        self.fill(_oval(x, y, radius, radius), color)

    def stamp(self, mask: np.ndarray, x: float, y: float, size: float, color: Color) -> None:
        """Prints a square mask with its middle at x, y and `size` head heights wide."""
        pixels = max(4, round(size * PER_UNIT))
        small = cv2.resize(mask, (pixels, pixels), None, 0, 0, cv2.INTER_AREA)
        left = round(float(x + self._shift[0]) * PER_UNIT - pixels / 2)
        top = round(float(y + self._shift[1]) * PER_UNIT - pixels / 2)
        height, width = self.rgb.shape[:2]
        x_1, y_1 = max(left, 0), max(top, 0)
        x_2, y_2 = min(left + pixels, width), min(top + pixels, height)
        if x_1 >= x_2 or y_1 >= y_2:
            return
        share = small[y_1 - top : y_2 - top, x_1 - left : x_2 - left, None] / 255.0
        area = self.rgb[y_1:y_2, x_1:x_2]
        area[:] = area + share * (np.asarray(color) - area.astype(np.float32))


def _rectangle(x: float, y: float, width: float, height: float) -> list[tuple[float, float]]:
    left, right, top, bottom = x - width / 2, x + width / 2, y - height / 2, y + height / 2
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _oval(x: float, y: float, across: float, down: float) -> np.ndarray:
    turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([x + across * np.cos(turns), y + down * np.sin(turns)], axis=1)


def seam_color(garment: Garment) -> Color:
    """Returns the color of stitching: darker than the cloth, or lighter where that is dark."""
    base = garment.fabric.colors[0]
    return palette.scaled(base, 0.62) if sum(base) > 210 else palette.mixed(base, (255,) * 3, 0.3)


def pocket_color(garment: Garment) -> Color:
    """Returns a color that stands out from the cloth, though not as much as trim."""
    return palette.mixed(garment.fabric.colors[0], garment.trim, 0.5)


@functools.lru_cache(maxsize=64)
def panels_of(garment: Garment) -> dict[str, Panel]:
    """Returns all panels of a garment by name: trunk, sleeve_left/right, leg_left/right."""
    panels = {"trunk": _trunk_panel(garment)}
    if garment.sleeve != "none":
        for side in tailoring.SIDES:
            panels[f"sleeve_{side}"] = _sleeve_panel(garment, side)
    if has_legs(garment.category):
        for side in tailoring.SIDES:
            panels[f"leg_{side}"] = _leg_panel(garment, side)
    return panels


def _cloth(
    garment: Garment, half_width: float, top: float, bottom: float, shift: float
) -> np.ndarray:
    """Returns uint8 RGB of bare fabric; `shift` moves the pattern sideways."""
    columns, rows = round(2 * half_width * PER_UNIT), round((bottom - top) * PER_UNIT)
    fine = 1 if garment.fabric.kind in ("plain", "denim", "gradient") else 2
    x = (np.arange(columns * fine, dtype=np.float32) + 0.5) / (PER_UNIT * fine) - half_width
    y = (np.arange(rows * fine, dtype=np.float32) + 0.5) / (PER_UNIT * fine) + top
    cloth = paint_fabric(garment.fabric, *np.broadcast_arrays(x[None, :] + shift, y[:, None]))
    if fine == 1:
        return cloth
    return cv2.resize(cloth, (columns, rows), None, 0, 0, cv2.INTER_AREA)


def _two_sided(front: Pen, back: Pen, half_width: float, top: float, bottom: float) -> Panel:
    sides = [np.dstack([pen.rgb, pen.alpha]) for pen in (front, back)]
    return Panel(np.ascontiguousarray(np.hstack(sides)), half_width, top, bottom, True)


def _trunk_panel(garment: Garment) -> Panel:
    outline = tailoring.trunk_outline(garment)
    half_width = max(outline.halves) + 0.1
    top, bottom = outline.top, outline.bottom
    front = Pen(_cloth(garment, half_width, top, bottom, 0.0), half_width, top)
    back = Pen(_cloth(garment, half_width, top, bottom, 7.0), half_width, top)
    lower = CLOTHES_TYPES[garment.category] == LOWER
    for pen in (front, back):
        _draw_hem(pen, garment, outline)
        _draw_waist(pen, garment, front=pen is front)
    if has_legs(garment.category):
        seam = seam_color(garment)
        front.line([(0, 3.1 if lower else body.WAIST), (0, bottom)], 0.03, seam)
        back.line([(0, 3.0), (0, bottom)], 0.03, seam)
    if lower:
        _draw_lower_front(front, garment)
        back.line([(-0.7, 3.05), (0, 3.2), (0.7, 3.05)], 0.03, seam_color(garment))
    else:
        _draw_chest_pockets(front, garment)
        _draw_front_closure(front, garment, outline)
        back.line([(-0.9, 1.85), (0.9, 1.85)], 0.03, seam_color(garment))
    _draw_low_pockets(front, garment, outline)
    _draw_trunk_logo(front, garment, outline)
    if not lower:
        _draw_neck(front, back, garment)
    return _two_sided(front, back, half_width, top, bottom)


def _draw_hem(pen: Pen, garment: Garment, outline: tailoring.Outline) -> None:
    bottom = outline.bottom
    if has_legs(garment.category):
        return
    if garment.hem_band:
        pen.box(0, bottom - 0.11, 4.0, 0.22, garment.trim)
    else:
        pen.line([(-2, bottom - 0.09), (2, bottom - 0.09)], 0.025, seam_color(garment))


def _draw_waist(pen: Pen, garment: Garment, front: bool) -> None:
    lower = CLOTHES_TYPES[garment.category] == LOWER
    height = tailoring.LOWER_TOP + 0.11 if lower else body.WAIST
    seam, trim = seam_color(garment), garment.trim
    if lower:
        pen.line([(-1, height + 0.13), (1, height + 0.13)], 0.03, seam)
    if garment.category == "Hoodie":
        height = body.NECK_TOP + 0.35
    if garment.waist == "belt":
        pen.box(0, height, 2.4, 0.2, trim)
        if front:
            pen.box(0, height, 0.28, 0.26, (206, 180, 110))
            pen.box(0, height, 0.15, 0.13, palette.scaled(trim, 0.7))
    elif garment.waist == "sash":
        pen.box(0, height, 2.4, 0.15, trim)
        if front:
            for sign in (-1.0, 1.0):
                tip = [(0, height), (sign * 0.3, height - 0.13), (sign * 0.3, height + 0.13)]
                pen.fill(tip, palette.scaled(trim, 0.9))
                pen.line([(0, height), (sign * 0.13, height + 0.5)], 0.08, trim)
    elif garment.waist == "drawstring" and front:
        for sign in (-1.0, 1.0):
            end = (sign * 0.13, height + 0.5)
            pen.line([(sign * 0.08, height), end], 0.06, trim)
            pen.disc(*end, 0.06, trim)
    elif garment.waist == "loops":
        for x in (-0.5, -0.25, 0.25, 0.5):
            pen.box(x, height, 0.07, 0.24, seam)


def _draw_pocket(
    pen: Pen, garment: Garment, x: float, y: float, width: float, height: float
) -> None:
    """Draws a patch pocket with a flap line, x and y its middle."""
    seam = seam_color(garment)
    bottom = y + height / 2
    shape = [*_rectangle(x, y, width, height)[:2]]
    shape += [(x + width / 2, bottom - 0.09), (x, bottom), (x - width / 2, bottom - 0.09)]
    pen.fill(shape, pocket_color(garment))
    pen.line(shape, 0.03, seam, closed=True)
    top = y - height / 2 + 0.1
    pen.line([(x - width / 2, top), (x + width / 2, top)], 0.03, seam)


def _chosen_signs(option: str) -> tuple[float, ...]:
    return {"left": (1.0,), "right": (-1.0,), "both": (1.0, -1.0)}.get(option, ())


def _draw_chest_pockets(pen: Pen, garment: Garment) -> None:
    for sign in _chosen_signs(garment.chest_pocket):
        _draw_pocket(pen, garment, 0.37 * sign, 2.14, 0.36, 0.4)


def _draw_low_pockets(pen: Pen, garment: Garment, outline: tailoring.Outline) -> None:
    if garment.low_pocket == "kangaroo":
        low = outline.bottom - 0.24
        shape = [(-0.3, low - 0.66), (0.3, low - 0.66), (0.52, low - 0.2), (0.52, low)]
        shape += [(-0.52, low), (-0.52, low - 0.2)]
        pen.fill(shape, palette.mixed(garment.fabric.colors[0], garment.trim, 0.25))
        pen.line(shape, 0.035, seam_color(garment), closed=True)
        return
    if has_legs(garment.category):
        return  # on the legs instead
    y = outline.bottom - 0.55 if CLOTHES_TYPES[garment.category] == UPPER else 3.5
    for sign in _chosen_signs(garment.low_pocket):
        _draw_pocket(pen, garment, 0.43 * sign, y, 0.42, 0.46)


def _draw_lower_front(pen: Pen, garment: Garment) -> None:
    seam = seam_color(garment)
    for sign in (-1.0, 1.0):
        pen.line([(0.42 * sign, 2.98), (0.5 * sign, 3.25), (0.75 * sign, 3.35)], 0.03, seam)
    if garment.closure == "buttons":
        low = 3.75 if has_legs(garment.category) else trunk_bottom(garment) - 0.3
        pen.line([(0.1, 2.98), (0.1, low)], 0.025, seam)
        for y in np.arange(2.88, low, 0.34):
            pen.disc(0, float(y), 0.07, garment.trim)
    elif garment.closure == "zip":
        pen.line([(0, 2.8), (0, 3.9)], 0.08, garment.trim)
        pen.line([(0, 2.8), (0, 3.9)], 0.03, (190, 190, 190))


def trunk_bottom(garment: Garment) -> float:
    """Returns where the trunk piece of the garment ends."""
    return tailoring.trunk_outline(garment).bottom


def _draw_front_closure(pen: Pen, garment: Garment, outline: tailoring.Outline) -> None:
    top = body.NECK_TOP + tailoring.NECK_DROP.get(garment.neck, 0.0)
    bottom = body.WAIST if garment.category in ("Tank", "Jumpsuit") else outline.bottom
    seam = seam_color(garment)
    if garment.closure == "buttons":
        wide = 0.1
        pen.line([(wide, top), (wide, bottom)], 0.025, seam)
        pen.line([(-wide, top), (-wide, bottom)], 0.025, seam)
        step = 0.3 if garment.category != "Coat" else 0.48
        for y in np.arange(top + 0.12, bottom - 0.1, step):
            pen.disc(0, float(y), 0.065 if step < 0.4 else 0.1, garment.trim)
    elif garment.closure == "zip":
        pen.line([(0, top), (0, bottom)], 0.12, palette.scaled(garment.fabric.colors[0], 0.6))
        pen.line([(0, top), (0, bottom)], 0.06, garment.trim)
        pen.box(0, top + 0.12, 0.11, 0.2, (200, 200, 200))


def _neck_hole(kind: str, half: float, drop: float) -> np.ndarray:
    top = body.NECK_TOP - 0.02
    if kind == "v":
        return np.array([(-half, top), (half, top), (0.04, top + drop), (-0.04, top + drop)])
    if kind == "collar":
        return np.array([(-half, top), (half, top), (0.0, top + drop)])
    if kind == "square":
        low = top + drop
        return np.array([(-half, top), (half, top), (half * 0.9, low), (-half * 0.9, low)])
    turns = np.linspace(0, np.pi, 14)
    return np.stack([half * np.cos(turns), top + drop * np.sin(turns)], axis=1)


def _draw_neck(front: Pen, back: Pen, garment: Garment) -> None:
    half = tailoring.neck_half(garment)
    seam = seam_color(garment)
    if garment.neck == "turtle":
        front.line(_neck_hole("crew", half + 0.04, 0.2), 0.04, seam)
        return
    rib = palette.mixed(garment.fabric.colors[0], garment.trim, 0.6 if garment.hem_band else 0.25)
    hole = _neck_hole(garment.neck, half, tailoring.NECK_DROP[garment.neck])
    if garment.neck == "collar":
        _draw_collar(front, garment, half)
    elif garment.neck == "hood":
        front.line(hole, 0.3, palette.scaled(garment.fabric.colors[0], 0.85))
        front.line(_neck_hole("crew", half + 0.14, 0.52), 0.035, seam)
    else:
        front.line(hole, 0.15, rib)
        front.line(_grown(hole, 0.08), 0.025, seam)
    front.cut(hole)
    if garment.category != "Hoodie" and garment.neck != "hood":
        back_hole = _neck_hole("crew", half, 0.1)
        back.line(back_hole, 0.14, rib)
        back.cut(back_hole)


def _grown(points: np.ndarray, by: float) -> np.ndarray:
    middle = np.array([0.0, body.NECK_TOP])
    away = points - middle
    return points + by * away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-3)


def _draw_collar(pen: Pen, garment: Garment, half: float) -> None:
    top, drop = body.NECK_TOP, tailoring.NECK_DROP["collar"]
    fill = palette.mixed(garment.fabric.colors[0], (255, 255, 255), 0.15)
    large = 1.5 if garment.category in ("Coat", "Jacket") else 1.0
    for sign in (-1.0, 1.0):
        flap = [
            (sign * (half + 0.07), top - 0.05),
            (0.0, top + drop),
            (sign * 0.24 * large, top + drop + 0.2 * large),
            (sign * (half + 0.2), top + 0.2),
        ]
        pen.fill(flap, fill)
        pen.line(flap, 0.035, seam_color(garment), closed=True)


_LOGO_PLACES = {
    "left_chest": (0.37, 2.08),
    "right_chest": (-0.37, 2.08),
    "center": (0.0, 2.3),
    "belly": (0.0, 2.8),
    "left_hip": (0.4, 3.35),
    "right_hip": (-0.4, 3.35),
}


def _draw_logo_at(pen: Pen, garment: Garment, logo: Logo, x: float, y: float) -> None:
    if garment.fabric.kind in _BUSY:
        # A print would drown in a busy pattern: put it on a badge.
        badge = garment.fabric.colors[0]
        if palette.distance(badge, logo.color) < 150:
            badge = (40, 40, 44) if sum(logo.color) > 380 else (236, 236, 232)
        pen.disc(x, y, 0.72 * logo.size, badge)
    pen.stamp(glyph_mask(logo.glyph), x, y, logo.size, logo.color)


def _draw_trunk_logo(pen: Pen, garment: Garment, outline: tailoring.Outline) -> None:
    if garment.logo is None:
        return
    place = garment.logo.place
    if place.endswith("_hem"):
        sign = 1.0 if place.startswith("left") else -1.0
        across = 0.62 * outline.half(outline.bottom - 0.4)
        _draw_logo_at(pen, garment, garment.logo, sign * across, outline.bottom - 0.42)
    elif place in _LOGO_PLACES:
        _draw_logo_at(pen, garment, garment.logo, *_LOGO_PLACES[place])


def _sleeve_panel(garment: Garment, side: str) -> Panel:
    half_width, length = 0.42, tailoring.SLEEVE_LENGTH[garment.sleeve]
    shift = 3.0 if side == "left" else -3.0
    # The pattern of sleeves starts at the height of the shoulder, so that stripes meet.
    cloth = _cloth(garment, half_width, body.SHOULDER, body.SHOULDER + length, shift)
    pen = Pen(cloth, half_width, 0.0)
    seam = seam_color(garment)
    if garment.stripe in (side, "both"):
        pen.line([(0, 0), (0, length)], 0.13, garment.trim)
    if garment.patch == side and garment.sleeve == "long":
        pen.fill(_oval(0, body.UPPER_ARM + 0.05, 0.17, 0.3), pocket_color(garment))
        pen.line(_oval(0, body.UPPER_ARM + 0.05, 0.17, 0.3), 0.03, seam, closed=True)
    if garment.cuff in (side, "both"):
        pen.box(0, length - 0.12, 1.0, 0.24, garment.trim)
    else:
        pen.line([(-1, length - 0.1), (1, length - 0.1)], 0.025, seam)
    if garment.logo is not None and garment.logo.place == f"{side}_sleeve":
        _draw_logo_at(pen, garment, garment.logo, 0, min(0.45, 0.55 * length))
    pixels = np.ascontiguousarray(np.dstack([pen.rgb, pen.alpha]))
    return Panel(pixels, half_width, 0.0, length, False)


def _leg_panel(garment: Garment, side: str) -> Panel:
    sign = 1.0 if side == "left" else -1.0
    half_width = max(tailoring.leg_halves(garment)) + 0.1
    top, bottom = body.LEG_JOINT[1], tailoring.leg_hem(garment)
    middle = sign * body.LEG_JOINT[0]
    seam = seam_color(garment)
    pens = [
        Pen(_cloth(garment, half_width, top, bottom, middle + shift), half_width, top)
        for shift in (0.0, 7.0)
    ]
    for pen in pens:
        if garment.cuff in (side, "both"):
            pen.box(0, bottom - 0.13, 1.4, 0.26, garment.trim)
        else:
            pen.line([(-1, bottom - 0.09), (1, bottom - 0.09)], 0.025, seam)
    front, back = pens
    _draw_leg_front(front, garment, side, sign)
    if garment.stripe in (side, "both"):
        back.line([(sign * 0.26, top), (sign * 0.2, bottom)], 0.11, garment.trim)
    return _two_sided(front, back, half_width, top, bottom)


def _draw_leg_front(pen: Pen, garment: Garment, side: str, sign: float) -> None:
    top, bottom = body.LEG_JOINT[1], tailoring.leg_hem(garment)
    short = garment.length == "short"
    if garment.stripe in (side, "both"):
        pen.line([(sign * 0.26, top), (sign * 0.2, bottom)], 0.11, garment.trim)
    if sign in _chosen_signs(garment.low_pocket):
        _draw_pocket(pen, garment, sign * 0.08, 4.52 if short else 4.8, 0.4, 0.46)
    if garment.patch == side and not short:
        shape = _oval(0, body.KNEE, 0.2, 0.27)
        pen.fill(shape, pocket_color(garment))
        pen.line(shape, 0.035, seam_color(garment), closed=True)
    if garment.logo is not None and garment.logo.place.startswith(side):
        height = {"thigh": 4.5, "shin": 6.1}.get(garment.logo.place.split("_")[-1])
        if height is not None:
            _draw_logo_at(pen, garment, garment.logo, 0.0, height)
