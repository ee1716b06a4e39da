"""Things in front of a garment: hair, straps, bags, phones, plants, tables, an open jacket."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from input_pipeline.synthetic import body, palette, tailoring
from input_pipeline.synthetic.body import Figure
from input_pipeline.synthetic.garments import Garment
from input_pipeline.synthetic.painting import Canvas, Panel, limb
from input_pipeline.synthetic.palette import Color
from input_pipeline.synthetic.panels import PER_UNIT

Box = tuple[float, float, float, float]  # x_1, y_1, x_2, y_2 in head heights


def _any(rng: np.random.Generator) -> Color:
    return palette.jitter(rng, palette.pick(rng, tuple(palette.CLOTHING.values())), 20)


def _middle(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _strap(canvas: Canvas, rng: np.random.Generator, figure: Figure) -> None:
    """Draws a shoulder bag: a diagonal strap over the trunk and the bag at one hip."""
    sign = 1.0 if rng.random() < 0.5 else -1.0
    color = _any(rng)
    front = 0.3 * math.copysign(1.0, math.cos(figure.yaw))
    line = [
        figure.place(-0.4 * sign, 1.5, 0.1),
        figure.place(0.1 * sign, 2.4, front),
        figure.place(0.75 * sign, 3.5, 0.1),
    ]
    bag = canvas.add_object("Bag")
    canvas.stroke(np.array(line), 0.09, palette.scaled(color, 0.8), bag)
    x, y = line[-1]
    canvas.tube(limb((x, y - 0.2), (x, y + 0.55), 0.34, 0.38), color, owner=bag)


def _belt_bag(canvas: Canvas, rng: np.random.Generator, figure: Figure) -> None:
    color = _any(rng)
    half = 0.74 * body.narrowing(figure.yaw, body.DEPTH)
    height = float(rng.uniform(2.8, 3.2))
    x, y = figure.place(0, height)
    bag, line = canvas.add_object("Bag"), np.array([(x - half, y), (x + half, y)])
    canvas.stroke(line, 0.12, palette.scaled(color, 0.75), bag)
    shift = figure.place(float(rng.uniform(-0.3, 0.3)), height, 0.4)[0]
    if math.cos(figure.yaw) > -0.2:
        tube = limb((shift - 0.34, y + 0.08), (shift + 0.34, y + 0.08), 0.2, 0.2)
        canvas.tube(tube, color, owner=bag)


def _phone(canvas: Canvas, rng: np.random.Generator, box: Box, skin: Color) -> None:
    x, y = _middle(box)
    x += float(rng.uniform(-0.25, 0.25)) * (box[2] - box[0])
    y += float(rng.uniform(-0.3, 0.1)) * (box[3] - box[1])
    tilt = float(rng.uniform(-0.12, 0.12))
    canvas.tube(limb((x, y - 0.3), (x + tilt, y + 0.3), 0.17, 0.17), (28, 28, 32))
    canvas.ellipse((x + 0.12, y + 0.18), (0.2, 0.14), -25, skin)
    end = (x + float(rng.uniform(0.2, 0.7)), y + 1.1)
    canvas.tube(limb((x + 0.15, y + 0.2), end, 0.12, 0.17, round_start=True), skin)


def _hair(canvas: Canvas, rng: np.random.Generator, figure: Figure, hair: Color) -> None:
    for sign in (-1.0, 1.0):
        if rng.random() < 0.75:
            start, end = figure.place(0.36 * sign, 0.6), figure.place(0.42 * sign, 2.1)
            canvas.tube(limb(start, end, 0.13, 0.12, round_start=True, round_end=True), hair)


def _leaves(canvas: Canvas, rng: np.random.Generator, box: Box, share: float) -> None:
    """Draws a plant reaching in from one side, covering about `share` of the box's width."""
    from_left = rng.random() < 0.5
    edge = box[0] if from_left else box[2]
    reach = share * (box[2] - box[0])
    count = int(10 + 60 * share)
    across = rng.uniform(-0.35, 1.0, count) * reach * (1 if from_left else -1)
    down = rng.uniform(box[1] - 0.1, box[3] + 0.3, count)
    for dx, y, size in zip(across, down, rng.uniform(0.18, 0.4, count), strict=True):
        green = palette.jitter(rng, (66, 112, 58), 30)
        tilt = float(rng.uniform(0, 180))
        canvas.ellipse((edge + float(dx), float(y)), (float(size), float(size) * 0.42), tilt, green)


def _table(canvas: Canvas, rng: np.random.Generator, box: Box, share: float) -> None:
    """Draws a counter, bench or seat back in front of the lower `share` of the box."""
    color = palette.jitter(rng, (134, 100, 72) if rng.random() < 0.5 else _any(rng), 20)
    top = box[3] - share * (box[3] - box[1])
    slope = float(rng.uniform(-0.12, 0.12))
    left, right, low = box[0] - 8, box[2] + 8, box[3] + 8
    shape = [(left, top - slope * 4), (right, top + slope * 4), (right, low), (left, low)]
    canvas.polygon(np.array(shape), color)
    edge = np.array(shape[:2])
    canvas.stroke(edge, 0.12, palette.scaled(color, 1.25))
    for _ in range(2):
        x = float(rng.uniform(box[0] - 0.5, box[2] + 0.5))
        y = top + float(rng.uniform(-0.15, 0.2))
        canvas.tube(limb((x, y - 0.35), (x, y + 0.1), 0.13, 0.16), _any(rng))


def _passer_by(canvas: Canvas, rng: np.random.Generator, box: Box, share: float) -> None:
    """Draws the shoulder and arm of somebody nearer to the camera, over one side of the box."""
    from_left = rng.random() < 0.5
    sign = 1.0 if from_left else -1.0
    edge = (box[0] if from_left else box[2]) + sign * share * (box[2] - box[0])
    color = _any(rng)
    half = 1.5
    x = edge - sign * half
    top = box[1] + float(rng.uniform(-1.0, 0.1))
    canvas.tube(limb((x, top), (x - 0.1 * sign, box[3] + 3), half, half * 1.06), color)
    canvas.ellipse((x, top), (half * 0.97, 0.55), 0, color)
    canvas.ellipse((x, top - 1.2), (0.62, 0.8), 0, palette.pick(rng, palette.HAIR))


def _big_bag(canvas: Canvas, rng: np.random.Generator, box: Box, share: float) -> None:
    """Draws a tote or parcel held before the garment."""
    color, bag = _any(rng), canvas.add_object("Bag")
    x, y = _middle(box)
    x += float(rng.uniform(-0.1, 0.1)) * (box[2] - box[0])
    y += float(rng.uniform(-0.05, 0.2)) * (box[3] - box[1])
    half_wide = 0.5 * (box[2] - box[0]) * min(0.95, 0.35 + 0.8 * share)
    half_high = 0.5 * (box[3] - box[1]) * min(0.95, 0.3 + 0.75 * share)
    canvas.stroke(
        np.array([(x - 0.3, y - half_high), (x, y - half_high - 0.7), (x + 0.3, y - half_high)]),
        0.09,
        palette.scaled(color, 0.7),
        bag,
    )
    tube = limb((x, y - half_high), (x, y + half_high), half_wide, half_wide * 0.94)
    canvas.tube(tube, color, owner=bag)
    canvas.ellipse((x, y), (0.3 * half_wide, 0.3 * half_wide), 0, palette.scaled(color, 1.3), bag)


def draw_open_jacket(
    canvas: Canvas, rng: np.random.Generator, figure: Figure, jacket: Garment, gap: float
) -> None:
    """Draws an unbuttoned jacket over everything, open by `gap` (half width, head heights)."""
    color = _any(rng)
    outline = tailoring.trunk_outline(jacket)
    half_width = max(outline.halves) + 0.1
    columns = round(2 * half_width * PER_UNIT)
    rows = round((outline.bottom - outline.top) * PER_UNIT)
    pixels = np.empty((rows, 2 * columns, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = color, 255
    x = (np.arange(columns) + 0.5) / PER_UNIT - half_width
    opening = gap * np.linspace(0.7, 1.25, rows)
    inside = np.abs(x)[None, :] - opening[:, None]
    pixels[:, :columns, 3][inside < 0] = 0
    rim = (inside >= 0) & (inside < 0.16)
    pixels[:, :columns, :3][rim] = palette.scaled(color, 0.78)
    panel = Panel(pixels, half_width, outline.top, outline.bottom, True)
    tube = tailoring.trunk_tube(jacket, figure, np.full(6, 0.05))
    owner = canvas.add_object(jacket.category)
    canvas.tube(tube, panel, owner=owner)
    for side in (0, 1):
        for piece in tailoring.sleeve_pieces(jacket, figure, side):
            canvas.tube(piece.tube, color, owner=owner)


def draw_light(
    canvas: Canvas,
    rng: np.random.Generator,
    figure: Figure,
    box: Box,
    skin: Color,
    hair: Color,
) -> None:
    """Draws one small thing in front of the garment."""
    kind = int(rng.choice(5, p=[0.3, 0.2, 0.2, 0.15, 0.15]))
    if kind == 0:
        _strap(canvas, rng, figure)
    elif kind == 1:
        _belt_bag(canvas, rng, figure)
    elif kind == 2:
        _phone(canvas, rng, box, skin)
    elif kind == 3:
        _hair(canvas, rng, figure, hair)
    else:
        _leaves(canvas, rng, box, 0.12)


_HEAVY: tuple[Callable[[Canvas, np.random.Generator, Box, float], None], ...] = (
    _leaves,
    _table,
    _passer_by,
    _big_bag,
)


def draw_heavy(canvas: Canvas, rng: np.random.Generator, box: Box, share: float) -> None:
    """Draws one large thing over about `share` of the box."""
    _HEAVY[int(rng.integers(len(_HEAVY)))](canvas, rng, box, share)
