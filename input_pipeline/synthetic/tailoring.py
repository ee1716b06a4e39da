"""The cut of garments: their outlines, the tubes they form on a figure, and their landmarks."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from input_pipeline.synthetic import body
from input_pipeline.synthetic.body import Figure, Point
from input_pipeline.synthetic.garments import CLOTHES_TYPES, Garment, has_legs
from input_pipeline.synthetic.painting import Tube, limb, profile
from input_pipeline.vocabulary import FULL, LOWER

SIDES = ("left", "right")

# Half width and depth of the neck opening.
NECK_HALF = {"crew": 0.31, "v": 0.31, "scoop": 0.4, "square": 0.4, "collar": 0.27}
NECK_DROP = {"crew": 0.2, "v": 0.66, "scoop": 0.56, "square": 0.46, "collar": 0.3, "hood": 0.34}
LOWER_TOP = 2.75
SLEEVE_LENGTH = {"short": 0.68, "half": 1.22, "long": 2.28}
_UPPER_HEM = {"short": 3.05, "regular": 3.5, "long": 3.95}
_SKIRT_HEM = {"short": 4.5, "regular": 5.3, "long": 6.4}
_FULL_HEM = {"short": 4.6, "regular": 5.4, "long": 6.5}
# The seat narrows a little downwards, so that it runs into the legs without an edge.
_SEAT_HALF = 0.77
_LEG_HEM = {"short": 4.95, "regular": 6.5, "long": 7.2}


@dataclasses.dataclass(frozen=True)
class Outline:
    """Half widths of the trunk piece of a garment, seen from the front, at heights y."""

    heights: tuple[float, ...]
    halves: tuple[float, ...]

    @property
    def top(self) -> float:
        """Returns where the piece begins (head heights from the top of the head)."""
        return self.heights[0]

    @property
    def bottom(self) -> float:
        """Returns where the piece ends."""
        return self.heights[-1]

    def half(self, height: float) -> float:
        """Returns the half width at a height."""
        return float(np.interp(height, self.heights, self.halves))


@dataclasses.dataclass(frozen=True)
class Piece:
    """A tube and the panel of cloth it is made of."""

    panel: str
    tube: Tube


def neck_half(garment: Garment) -> float:
    """Returns the half width of the garment at the neck."""
    return NECK_HALF.get(garment.neck, 0.29)


def trunk_outline(garment: Garment) -> Outline:
    """Returns the trunk piece: the whole upper body, a skirt, or the seat of trousers."""
    if CLOTHES_TYPES[garment.category] == LOWER:
        return _lower_outline(garment)
    return _upper_outline(garment)


def _upper_outline(garment: Garment) -> Outline:
    ease = (0.1 if has_legs(garment.category) else 0.27) * garment.fit
    shoulder = 0.6 if garment.sleeve == "none" else 0.82 + 0.25 * ease
    points = [
        (body.NECK_TOP, neck_half(garment) + 0.07),
        (body.SHOULDER - 0.02, 0.57 if garment.sleeve == "none" else 0.7),
        (1.68, shoulder - 0.02),
        (1.85, 0.59 if garment.sleeve == "none" else shoulder),
        (2.15, 0.73 + 0.5 * ease),
        (body.WAIST, 0.6 + ease),
        (body.HIP, 0.77 + 0.8 * ease),
    ]
    if garment.category == "Jumpsuit":
        points.append((4.0, _SEAT_HALF + 0.04 * garment.fit))
        hem = body.CROTCH + 0.1
    elif CLOTHES_TYPES[garment.category] == FULL:
        hem = _FULL_HEM[garment.length]
    else:
        hem = _UPPER_HEM[garment.length]
    return _with_hem(points, hem, 0.0 if has_legs(garment.category) else garment.flare)


def _lower_outline(garment: Garment) -> Outline:
    ease = (0.05 if has_legs(garment.category) else 0.12) * garment.fit
    points = [(LOWER_TOP, 0.6), (2.95, 0.62), (body.HIP, 0.78 + ease)]
    if has_legs(garment.category):
        points.append((4.0, _SEAT_HALF + 0.04 * garment.fit))
        return _with_hem(points, body.CROTCH + 0.12, 0.0)
    return _with_hem(points, _SKIRT_HEM[garment.length], garment.flare)


def _with_hem(points: list[tuple[float, float]], hem: float, flare: float) -> Outline:
    """Cuts or lengthens an outline to a hem, widened by the flare below the waist."""
    heights, halves = zip(*points, strict=True)
    kept = [(y, half) for y, half in points if y < hem - 0.05]
    last = float(np.interp(hem, heights, halves))
    kept.append((hem, last))
    widened = [(y, half + 0.3 * flare * max(0.0, y - body.WAIST)) for y, half in kept]
    return Outline(tuple(y for y, _ in widened), tuple(half for _, half in widened))


def leg_hem(garment: Garment) -> float:
    """Returns where the legs of the garment end."""
    return _LEG_HEM[garment.length]


def leg_halves(garment: Garment) -> tuple[float, float, float]:
    """Returns the half widths of a leg at the hip, the knee and the hem."""
    thick, knee = 0.44 + 0.05 * garment.fit, 0.26 + 0.13 * garment.fit
    if garment.category == "Joggers":
        return thick, knee, 0.18
    if garment.length == "short":
        # Narrower at the hem than at the hip: the gap between the legs tells shorts from skirts.
        return thick, 0.4, 0.33 + 0.05 * garment.fit
    return thick, knee, 0.19 + 0.12 * garment.fit + 0.22 * garment.flare


def trunk_depth(garment: Garment) -> float:
    """Returns the depth of the trunk piece as a share of its width."""
    if garment.flare > 0.4 and not has_legs(garment.category):
        return 0.78
    return body.DEPTH + 0.08 * garment.fit


def trunk_tube(garment: Garment, figure: Figure, wobble: np.ndarray | None = None) -> Tube:
    """Returns the trunk piece on a figure. wobble: float [6], unevenness of the outline (heads)."""
    outline = trunk_outline(garment)
    top, bottom = outline.top, outline.bottom
    start, end = figure.place(0, top), figure.place(0, bottom)
    if bottom > body.HIP:
        # A straight axis cannot follow both lean and legs: meet the lean at the hip.
        hip = figure.place(0, body.HIP)
        share = (bottom - body.HIP) / (bottom - top)
        end = (hip[0] - 0.4 * share * (start[0] - hip[0]), bottom)
    places = [(y - top) / (bottom - top) for y in outline.heights]
    girth = profile(places, list(outline.halves))
    depth = trunk_depth(garment)
    half = girth * body.narrowing(figure.yaw, depth)
    center = np.zeros_like(girth)
    if wobble is not None:
        steps = [0.0, 0.2, 0.45, 0.7, 0.9, 1.0]
        half = half + profile(steps, [0.0, 0.0, *np.abs(wobble[:3]), float(wobble[2])])
        center = profile(steps, [0.0, 0.0, *wobble[3:6], float(wobble[5])])
    turn = body.cloth_turn(figure.yaw, depth)
    return Tube(start, end, half.astype(np.float32), girth, center, (top, bottom), turn)


def sleeve_pieces(garment: Garment, figure: Figure, side: int) -> list[Piece]:
    """Returns the sleeve of one arm (side 0 left, 1 right), forearm first; empty for none."""
    if garment.sleeve == "none":
        return []
    name = f"sleeve_{SIDES[side]}"
    length = SLEEVE_LENGTH[garment.sleeve]
    shoulder, elbow, wrist = figure.arm(side)
    thick, middle = 0.28 + 0.06 * garment.fit, 0.2 + 0.1 * garment.fit
    last = 0.15 + 0.08 * garment.fit
    pieces = []
    upper_share = min(1.0, length / body.UPPER_ARM)
    upper_end = shoulder + upper_share * (elbow - shoulder)
    ends_above = length <= body.UPPER_ARM
    # Narrow at the joint, so that the shoulder slopes instead of puffing up.
    cap = min(0.35, 0.35 / upper_share)
    end_half = thick + upper_share * (middle - thick) + (0.03 if ends_above else 0.0)
    half = profile([0, cap, 1], [0.2, thick, end_half])
    upper = Tube(
        figure.seen(shoulder),
        figure.seen(upper_end),
        half,
        half,
        np.zeros_like(half),
        rows=(0.0, min(length, body.UPPER_ARM)),
        round_start=True,
        round_end=not ends_above,
    )
    if not ends_above:
        share = (length - body.UPPER_ARM) / body.FOREARM
        end = elbow + share * (wrist - elbow)
        fore = limb(
            figure.seen(elbow),
            figure.seen(end),
            middle,
            last,
            rows=(body.UPPER_ARM, length),
            round_start=True,
        )
        pieces.append(Piece(name, fore))
    pieces.append(Piece(name, upper))
    return pieces


def _thigh(
    figure: Figure,
    first: np.ndarray,
    last: np.ndarray,
    halves: tuple[float, float],
    rows: tuple[float, float],
    round_end: bool = False,
) -> Tube:
    """Returns the upper part of a leg, narrower below the seat, so that it stays inside the hip."""
    share = 0.45 / (rows[1] - rows[0])
    full = halves[0] + share * (halves[1] - halves[0])
    half = profile([0, share, 1], [0.34, full, halves[1]])
    start, end, center = figure.seen(first), figure.seen(last), np.zeros_like(half)
    return Tube(start, end, half, half, center, rows, figure.yaw, round_end=round_end)


def leg_pieces(garment: Garment, figure: Figure, side: int) -> list[Piece]:
    """Returns a leg of the garment (side 0 left, 1 right), shin first; empty without legs."""
    if not has_legs(garment.category):
        return []
    name = f"leg_{SIDES[side]}"
    hip, knee, ankle = figure.leg(side)
    hem = leg_hem(garment)
    thick, middle, last = leg_halves(garment)
    start, turn = float(hip[1]), figure.yaw
    if hem <= body.KNEE:
        share = (hem - start) / (body.KNEE - start)
        end = hip + share * (knee - hip)
        thigh = _thigh(figure, hip, end, (thick, last), (start, hem))
        return [Piece(name, thigh)]
    share = (hem - body.KNEE) / (body.ANKLE - body.KNEE)
    end = knee + share * (ankle - knee)
    shin = limb(
        figure.seen(knee),
        figure.seen(end),
        middle,
        last,
        rows=(body.KNEE, hem),
        turn=turn,
        round_start=True,
    )
    thigh = _thigh(figure, hip, knee, (thick, middle), (start, body.KNEE), round_end=True)
    return [Piece(name, shin), Piece(name, thigh)]


def neck_tube(garment: Garment, figure: Figure) -> Tube | None:
    """Returns the part of a garment above the shoulders: a turtle neck or a worn-down hood."""
    if garment.neck == "turtle":
        return limb(figure.place(0, 1.08), figure.place(0, 1.5), 0.27, 0.35, rows=(1.36, 1.6))
    if garment.neck == "hood":
        forward = -0.1 * math.cos(figure.yaw)
        start, end = figure.place(0, 1.02, forward), figure.place(0, 1.5, forward)
        return limb(start, end, 0.36, 0.5, rows=(1.3, 1.6), round_start=True, round_end=True)
    return None


def all_tubes(garment: Garment, figure: Figure) -> list[Tube]:
    """Returns every tube of the garment, to know where it is before it is drawn."""
    tubes = [trunk_tube(garment, figure)]
    for side in (0, 1):
        tubes += [piece.tube for piece in sleeve_pieces(garment, figure, side)]
        tubes += [piece.tube for piece in leg_pieces(garment, figure, side)]
    neck = neck_tube(garment, figure)
    return tubes if neck is None else [*tubes, neck]


def extent(garment: Garment, figure: Figure) -> tuple[float, float, float, float]:
    """Returns x_1, y_1, x_2, y_2 of the garment on the figure (head heights)."""
    boxes = []
    for tube in all_tubes(garment, figure):
        ends = np.array([tube.start, tube.end])
        length = float(np.linalg.norm(ends[1] - ends[0])) or 1.0
        axis = np.abs(ends[1] - ends[0]) / length
        reach = float(tube.half.max()) * np.array([axis[1], axis[0]])
        boxes.append((*(ends.min(axis=0) - reach), *(ends.max(axis=0) + reach)))
    low, high = np.min(boxes, axis=0), np.max(boxes, axis=0)
    return float(low[0]), float(low[1]), float(high[2]), float(high[3])


def landmark_points(garment: Garment, figure: Figure) -> list[tuple[Point, bool] | None]:
    """Returns each landmark's point (head heights) and whether it faces the camera.

    "left" is the wearer's left, which is on the right of the picture in a front view. None where
    the clothes type has no such landmark.
    """
    clothes_type = CLOTHES_TYPES[garment.category]
    outline = trunk_outline(garment)
    slots: list[tuple[Point, bool] | None] = []
    for kind in ("collar", "sleeve", "waistline", "hem"):
        for side, sign in enumerate((1.0, -1.0)):
            absent = (kind in ("collar", "sleeve") and clothes_type == LOWER) or (
                kind == "waistline" and clothes_type not in (LOWER, FULL)
            )
            slots.append(None if absent else _landmark(garment, figure, outline, kind, side, sign))
    return slots


def _landmark(
    garment: Garment, figure: Figure, outline: Outline, kind: str, side: int, sign: float
) -> tuple[Point, bool]:
    if kind == "sleeve" and garment.sleeve != "none":
        tube = sleeve_pieces(garment, figure, side)[0].tube
        return _towards_end(tube, 0.94), True
    if kind == "hem" and has_legs(garment.category):
        return _towards_end(leg_pieces(garment, figure, side)[0].tube, 0.94), True
    height = {
        "collar": body.NECK_TOP + 0.06,
        "sleeve": 1.9,
        "waistline": LOWER_TOP + 0.08 if CLOTHES_TYPES[garment.category] == LOWER else body.WAIST,
        "hem": outline.bottom - 0.08,
    }[kind]
    half = neck_half(garment) + 0.05 if kind == "collar" else 0.93 * outline.half(height)
    facing = figure.nearness(sign * half, 0.0) > -0.35 * half
    return figure.place(sign * half, height), facing


def _towards_end(tube: Tube, share: float) -> Point:
    return (
        tube.start[0] + share * (tube.end[0] - tube.start[0]),
        tube.start[1] + share * (tube.end[1] - tube.start[1]),
    )
