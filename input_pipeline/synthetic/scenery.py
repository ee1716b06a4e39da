"""Backgrounds of customer photos: rooms, streets, shops and parks, and passers-by."""

from __future__ import annotations

import cv2
import numpy as np

from input_pipeline.synthetic import palette
from input_pipeline.synthetic.fabrics import noise_tile
from input_pipeline.synthetic.painting import Canvas
from input_pipeline.synthetic.palette import Color

_COARSE = 2  # backgrounds are drawn this much smaller: they are out of focus anyway
_WALLS: tuple[Color, ...] = (
    (214, 208, 198),
    (188, 196, 200),
    (168, 150, 132),
    (222, 214, 180),
    (150, 160, 150),
    (120, 110, 112),
    (200, 176, 170),
)


def draw_scene(canvas: Canvas, rng: np.random.Generator) -> None:
    """Fills the canvas with a random scene."""
    height, width = canvas.whole.shape
    rows, columns = height // _COARSE + 1, width // _COARSE + 1
    page = np.empty((rows, columns, 3), np.uint8)
    floor = int((7.2 - canvas.origin[1]) * canvas.scale / _COARSE)
    floor += int(rng.integers(-rows // 8, rows // 12))
    kinds = (_room, _street, _store, _park)
    kinds[int(rng.choice(4, p=[0.35, 0.3, 0.2, 0.15]))](page, rng, floor)
    for _ in range(int(rng.integers(2, 6))):
        _thing(page, rng)
    noise = noise_tile(6)[np.arange(rows) & 255][:, np.arange(columns) & 255]
    textured = page * (1 + 0.05 * noise[..., None])
    page = np.clip(textured, 0, 255).astype(np.uint8)
    big = cv2.resize(page, (columns * _COARSE, rows * _COARSE), None, 0, 0, cv2.INTER_LINEAR)
    canvas.image[:] = big[:height, :width]


def _vertical_gradient(page: np.ndarray, top: Color, bottom: Color) -> None:
    share = np.linspace(0, 1, page.shape[0])[:, None, None]
    page[:] = np.asarray(top) * (1 - share) + np.asarray(bottom) * share


def _any(rng: np.random.Generator) -> Color:
    color = palette.pick(rng, tuple(palette.CLOTHING.values()))
    return palette.jitter(rng, color, 25)


def _rectangle(page: np.ndarray, x: float, y: float, w: float, h: float, color: Color) -> None:
    first, second = (int(x), int(y)), (int(x + w), int(y + h))
    cv2.rectangle(page, first, second, color, -1)


def _floor(page: np.ndarray, rng: np.random.Generator, floor: int, color: Color) -> None:
    rows, columns = page.shape[:2]
    if floor >= rows:
        return
    floor = max(floor, rows // 3)
    page[floor:] = color
    lines = palette.scaled(color, 0.82)
    vanish = (int(columns * rng.uniform(0.2, 0.8)), floor - rows // 3)
    for x in np.arange(-columns, 2 * columns, max(columns // 4, 8)):
        cv2.line(page, (int(x), rows), (int((x + 3 * vanish[0]) / 4), floor), lines, 1, cv2.LINE_AA)


def _room(page: np.ndarray, rng: np.random.Generator, floor: int) -> None:
    rows, columns = page.shape[:2]
    wall = palette.jitter(rng, palette.pick(rng, _WALLS), 15)
    _vertical_gradient(page, palette.scaled(wall, 1.08), palette.scaled(wall, 0.85))
    _floor(page, rng, floor, palette.jitter(rng, (150, 116, 84), 30))
    for _ in range(int(rng.integers(2, 6))):  # pictures, shelves, doors, a mirror
        w, h = rng.uniform(0.12, 0.5) * columns, rng.uniform(0.08, 0.5) * rows
        x, y = rng.uniform(-0.1, 0.95) * columns, rng.uniform(-0.1, 0.8) * rows
        frame = _any(rng)
        _rectangle(page, x, y, w, h, frame)
        _rectangle(page, x + 3, y + 3, w - 6, h - 6, _any(rng))
    if rng.random() < 0.5:  # a sofa or bed
        x, y = rng.uniform(-0.3, 0.6) * columns, rng.uniform(0.55, 0.85) * rows
        _rectangle(page, x, y, 0.6 * columns, rows, _any(rng))


def _street(page: np.ndarray, rng: np.random.Generator, floor: int) -> None:
    rows, columns = page.shape[:2]
    _vertical_gradient(page, (188, 206, 226), (226, 228, 226))
    x = -rng.uniform(0, 0.3) * columns
    while x < columns:
        wide = rng.uniform(0.25, 0.6) * columns
        top = rng.uniform(-0.3, 0.35) * rows
        wall = palette.jitter(rng, palette.pick(rng, _WALLS), 30)
        _rectangle(page, x, top, wide, 2 * rows, palette.scaled(wall, rng.uniform(0.6, 1.0)))
        pane = palette.jitter(rng, (84, 98, 116), 25)
        step_x, step_y = rng.uniform(0.1, 0.2) * columns, rng.uniform(0.09, 0.18) * rows
        for wx in np.arange(x + 0.3 * step_x, x + wide - 0.5 * step_x, step_x):
            for wy in np.arange(top + 0.4 * step_y, 0.75 * rows, step_y):
                _rectangle(page, wx, wy, 0.5 * step_x, 0.55 * step_y, pane)
        x += wide
    _floor(page, rng, floor, palette.jitter(rng, (134, 132, 130), 20))
    if rng.random() < 0.6:  # a lamp post or sign
        x = rng.uniform(0, 1) * columns
        _rectangle(
            page, x, -1, max(2, 0.03 * columns), 2 * rows, palette.jitter(rng, (70,) * 3, 20)
        )


def _store(page: np.ndarray, rng: np.random.Generator, floor: int) -> None:
    rows, columns = page.shape[:2]
    wall = palette.jitter(rng, palette.pick(rng, _WALLS), 20)
    _vertical_gradient(page, palette.scaled(wall, 1.1), wall)
    _floor(page, rng, floor, palette.jitter(rng, (180, 176, 168), 20))
    for y in rng.uniform(-0.05, 0.6, 2) * rows:  # rails of clothes
        x = rng.uniform(-0.2, 0.2) * columns
        end = x + rng.uniform(0.5, 1.2) * columns
        while x < end:
            wide = rng.uniform(0.04, 0.11) * columns
            _rectangle(page, x, y, wide, rng.uniform(0.2, 0.35) * rows, _any(rng))
            x += wide + 1
        _rectangle(page, 0, y - 3, columns, 2, (90, 90, 92))


def _park(page: np.ndarray, rng: np.random.Generator, floor: int) -> None:
    rows, columns = page.shape[:2]
    _vertical_gradient(page, (180, 204, 228), (170, 190, 150))
    for _ in range(3):  # trunks
        x = rng.uniform(0, 1) * columns
        _rectangle(page, x, 0, rng.uniform(0.03, 0.1) * columns, 2 * rows, (92, 74, 58))
    leaves = rng.uniform((-0.1, -0.1), (1.1, 0.75), (40, 2)) * (columns, rows)
    for middle, size in zip(leaves, rng.uniform(0.03, 0.12, 40) * rows, strict=True):
        green = palette.jitter(rng, (88, 128, 66), 34)
        axes = (int(size), int(size * 0.7))
        cv2.ellipse(page, (int(middle[0]), int(middle[1])), axes, 0, 0, 360, green, -1)
    _floor(page, rng, floor, palette.jitter(rng, (122, 146, 84), 20))


def _thing(page: np.ndarray, rng: np.random.Generator) -> None:
    """Draws an object or a passer-by somewhere in the background."""
    rows, columns = page.shape[:2]
    x, y = rng.uniform(-0.1, 1.1) * columns, rng.uniform(0.0, 1.0) * rows
    kind = int(rng.integers(4))
    if kind == 0:
        _rectangle(page, x, y, rng.uniform(0.05, 0.25) * columns, 0.2 * rows, _any(rng))
    elif kind == 1:
        radius = int(rng.uniform(0.03, 0.1) * rows)
        cv2.circle(page, (int(x), int(y)), radius, _any(rng), -1, cv2.LINE_AA)
    elif kind == 2:
        end = (int(x + rng.normal(0, 0.3) * columns), int(y + rng.normal(0, 0.3) * rows))
        cv2.line(page, (int(x), int(y)), end, _any(rng), int(rng.integers(1, 5)), cv2.LINE_AA)
    else:
        head = rng.uniform(0.03, 0.07) * rows
        top = rng.uniform(0.1, 0.5) * rows
        trunk = (int(x - head * 1.6), int(top + head), int(head * 3.2), int(head * 5))
        _rectangle(
            page, trunk[0] + head * 0.4, top + 5 * head, trunk[2] * 0.75, 6 * head, _any(rng)
        )
        _rectangle(page, *trunk, _any(rng))
        cv2.circle(page, (int(x), int(top)), int(head), palette.pick(rng, palette.SKIN), -1)
