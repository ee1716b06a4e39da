"""Drawing clothes and the figure that wears them, from the farthest part to the nearest."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from input_pipeline.synthetic import body, palette, tailoring
from input_pipeline.synthetic.body import Figure
from input_pipeline.synthetic.garments import CLOTHES_TYPES, Garment
from input_pipeline.synthetic.painting import Canvas, Panel, limb
from input_pipeline.synthetic.palette import Color
from input_pipeline.synthetic.panels import panels_of
from input_pipeline.vocabulary import LOWER


@dataclasses.dataclass(frozen=True)
class Worn:
    """A garment on a figure. target: it is the photographed one; otherwise it is an extra, drawn
    in `color` only where that is given. wobble: see tailoring.trunk_tube. owner: see Canvas."""

    garment: Garment
    target: bool
    color: Color | None = None
    wobble: np.ndarray | None = None
    owner: int = 0

    def surface(self, panel: str) -> Panel | Color:
        """Returns what the named panel is drawn with."""
        return panels_of(self.garment)[panel] if self.color is None else self.color


@dataclasses.dataclass(frozen=True)
class Looks:
    """A person's skin, hair, its length (head heights below the crown) and shoes."""

    skin: Color
    hair: Color
    hair_length: float
    shoes: Color


def random_looks(rng: np.random.Generator) -> Looks:
    """Returns a random person's looks."""
    long_hair = rng.random() < 0.5
    return Looks(
        skin=palette.jitter(rng, palette.pick(rng, palette.SKIN), 8),
        hair=palette.jitter(rng, palette.pick(rng, palette.HAIR), 8),
        hair_length=float(rng.uniform(1.0, 2.1) if long_hair else rng.uniform(0.4, 0.75)),
        shoes=palette.pick(rng, tuple(palette.CLOTHING.values())),
    )


def lay_out(canvas: Canvas, garment: Garment, figure: Figure) -> None:
    """Draws the garment of a shop photo, on an invisible dummy."""
    worn = Worn(garment, target=True, owner=canvas.add_object(garment.category))
    neck = tailoring.neck_tube(garment, figure)
    base = garment.fabric.colors[0]
    trunk = tailoring.trunk_tube(garment, figure)
    if neck is not None and garment.neck == "hood":
        canvas.tube(neck, palette.scaled(base, 0.85), garment=True, owner=worn.owner, flat=True)
    for side in (0, 1):
        _draw_leg(canvas, worn, figure, side, flat=True)
        _draw_sleeve(canvas, worn, figure, side)
    if CLOTHES_TYPES[garment.category] != LOWER and garment.neck != "turtle":
        # The inside of the back shows through the neck opening.
        canvas.tube(
            trunk,
            worn.surface("trunk"),
            garment=True,
            owner=worn.owner,
            flat=True,
            dim=0.6,
            back_side=True,
        )
    canvas.tube(trunk, worn.surface("trunk"), garment=True, owner=worn.owner, flat=True)
    if neck is not None and garment.neck == "turtle":
        canvas.tube(neck, palette.scaled(base, 0.94), garment=True, owner=worn.owner, flat=True)


def _draw_leg(canvas: Canvas, worn: Worn, figure: Figure, side: int, flat: bool = False) -> None:
    for piece in tailoring.leg_pieces(worn.garment, figure, side):
        canvas.tube(
            piece.tube, worn.surface(piece.panel), garment=worn.target, owner=worn.owner, flat=flat
        )


def _draw_sleeve(canvas: Canvas, worn: Worn, figure: Figure, side: int) -> None:
    for piece in tailoring.sleeve_pieces(worn.garment, figure, side):
        canvas.tube(
            piece.tube, worn.surface(piece.panel), garment=worn.target, owner=worn.owner, flat=True
        )


def _draw_trunk(canvas: Canvas, worn: Worn, figure: Figure) -> None:
    tube = tailoring.trunk_tube(worn.garment, figure, worn.wobble)
    canvas.tube(tube, worn.surface("trunk"), garment=worn.target, owner=worn.owner)
    if not _hood_is_behind(worn, figure):
        _draw_neck_piece(canvas, worn, figure)


def _hood_is_behind(worn: Worn, figure: Figure) -> bool:
    return worn.garment.neck == "hood" and math.cos(figure.yaw) > 0


def _draw_neck_piece(canvas: Canvas, worn: Worn, figure: Figure) -> None:
    neck = tailoring.neck_tube(worn.garment, figure)
    if neck is not None:
        color = worn.color or palette.scaled(worn.garment.fabric.colors[0], 0.9)
        canvas.tube(neck, color, garment=worn.target, owner=worn.owner)


def _arm_is_near(figure: Figure, side: int) -> bool:
    """Returns whether an arm passes in front of the trunk rather than behind it."""
    shoulder, elbow, wrist = figure.arm(side)
    near = [figure.nearness(float(p[0]), float(p[2])) for p in (shoulder, elbow, wrist)]
    return near[0] * 0.5 + near[1] * 0.25 + near[2] * 0.6 > 0.12


def draw_person(canvas: Canvas, figure: Figure, looks: Looks, outfit: list[Worn]) -> None:
    """Draws a dressed person; `outfit` from the innermost garment to the outermost."""
    outfit = [
        dataclasses.replace(worn, owner=canvas.add_object(worn.garment.category)) for worn in outfit
    ]
    facing = math.cos(figure.yaw)
    arms_near = [_arm_is_near(figure, side) for side in (0, 1)]
    if facing > 0:
        _draw_back_hair(canvas, figure, looks)
    for side in (0, 1):
        if not arms_near[side]:
            _draw_arm(canvas, figure, looks, outfit, side)
    _draw_legs(canvas, figure, looks, outfit)
    for worn in outfit:
        if _hood_is_behind(worn, figure):
            _draw_neck_piece(canvas, worn, figure)
    _draw_skin_trunk(canvas, figure, looks)
    for worn in outfit:
        _draw_trunk(canvas, worn, figure)
    for side in (0, 1):
        if arms_near[side]:
            _draw_arm(canvas, figure, looks, outfit, side)
    _draw_head(canvas, figure, looks)


def _draw_arm(canvas: Canvas, figure: Figure, looks: Looks, outfit: list[Worn], side: int) -> None:
    shoulder, elbow, wrist = figure.arm(side)
    seen = [figure.seen(point) for point in (shoulder, elbow, wrist)]
    skin = looks.skin
    bare = all(worn.garment.sleeve != "long" for worn in outfit)
    if bare:
        canvas.tube(limb(seen[0], seen[1], 0.2, 0.155, round_start=True, round_end=True), skin)
    canvas.tube(limb(seen[1], seen[2], 0.155, 0.105, round_start=True, round_end=True), skin)
    hand = seen[2] + 0.16 * (np.array(seen[2]) - seen[1]) / body.FOREARM
    tilt = math.degrees(math.atan2(seen[2][1] - seen[1][1], seen[2][0] - seen[1][0]))
    canvas.ellipse((float(hand[0]), float(hand[1])), (0.21, 0.12), tilt, skin)
    for worn in outfit:
        _draw_sleeve(canvas, worn, figure, side)


def _draw_legs(canvas: Canvas, figure: Figure, looks: Looks, outfit: list[Worn]) -> None:
    def nearness(side: int) -> float:
        hip, knee, _ = figure.leg(side)
        return figure.nearness(float(hip[0]), 0.5 * float(knee[2]))

    for side in sorted((0, 1), key=nearness):
        hip, knee, ankle = (figure.seen(point) for point in figure.leg(side))
        canvas.tube(limb(hip, knee, 0.36, 0.23, round_end=True), looks.skin)
        canvas.tube(limb(knee, ankle, 0.23, 0.13, round_end=True), looks.skin)
        toe = 0.22 * math.sin(-figure.yaw)
        shoe, middle = canvas.add_object("Shoe"), (ankle[0] + toe, ankle[1] + 0.16)
        canvas.ellipse(middle, (0.2 + abs(toe), 0.15), 0, looks.shoes, shoe)
        for worn in outfit:
            _draw_leg(canvas, worn, figure, side)


def _draw_skin_trunk(canvas: Canvas, figure: Figure, looks: Looks) -> None:
    wide = body.narrowing(figure.yaw, body.DEPTH)
    for top, bottom, first, last in ((1.5, 2.85, 0.7, 0.55), (2.85, 4.0, 0.55, 0.74)):
        tube = limb(figure.place(0, top), figure.place(0, bottom), first * wide, last * wide)
        canvas.tube(tube, looks.skin)
    neck = limb(figure.place(0, 0.85), figure.place(0, 1.7), 0.2, 0.3)
    canvas.tube(neck, palette.scaled(looks.skin, 0.9))


def _draw_back_hair(canvas: Canvas, figure: Figure, looks: Looks) -> None:
    middle = figure.place(0, 0.55)
    canvas.ellipse(middle, (0.46, 0.53), 0, looks.hair)
    if looks.hair_length > 0.8:
        end = figure.place(0, looks.hair_length, -0.2)
        canvas.tube(limb(middle, end, 0.46, 0.4, round_end=True), looks.hair)


def _draw_head(canvas: Canvas, figure: Figure, looks: Looks) -> None:
    middle = figure.place(0, 0.58)
    facing, aside = math.cos(figure.yaw), -math.sin(figure.yaw)
    if facing < -0.5:
        canvas.ellipse(middle, (0.42, 0.5), 0, looks.hair)
        if looks.hair_length > 0.8:
            end = figure.place(0, looks.hair_length)
            canvas.tube(limb(middle, end, 0.42, 0.36, round_end=True), looks.hair)
        return
    canvas.ellipse(middle, (0.37, 0.48), 0, looks.skin)
    face_x = middle[0] + 0.17 * aside
    dark = palette.scaled(looks.skin, 0.45)
    for sign in (-1.0, 1.0):
        canvas.ellipse((face_x + 0.14 * sign * max(facing, 0.3), middle[1]), (0.05, 0.03), 0, dark)
    mouth = palette.mixed(looks.skin, (170, 60, 60), 0.5)
    canvas.ellipse((face_x, middle[1] + 0.27), (0.1 * max(facing, 0.4), 0.03), 0, mouth)
    canvas.ellipse((middle[0] - 0.1 * aside, middle[1] - 0.3), (0.41, 0.24), 12 * aside, looks.hair)
    if abs(aside) > 0.6:
        canvas.ellipse((middle[0] - 0.2 * aside, middle[1] - 0.1), (0.26, 0.4), 0, looks.hair)
        if looks.hair_length > 0.8:
            start = (middle[0] - 0.24 * aside, middle[1])
            end = (middle[0] - 0.3 * aside, looks.hair_length)
            canvas.tube(limb(start, end, 0.2, 0.2, round_end=True), looks.hair)
