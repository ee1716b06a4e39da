"""Colors of the synthetic wardrobe, skin, hair and scenery (all RGB, 0-255)."""

from __future__ import annotations

import numpy as np

Color = tuple[int, int, int]

# A short list on purpose: many items share a color, so color alone does not identify one.
CLOTHING: dict[str, Color] = {
    "white": (238, 238, 234),
    "cream": (228, 216, 190),
    "gray": (150, 152, 156),
    "charcoal": (72, 74, 80),
    "black": (34, 34, 38),
    "navy": (36, 48, 88),
    "blue": (62, 100, 170),
    "sky": (146, 184, 216),
    "teal": (40, 118, 120),
    "green": (66, 120, 76),
    "olive": (104, 106, 66),
    "mustard": (206, 160, 58),
    "orange": (214, 112, 52),
    "red": (184, 46, 50),
    "wine": (110, 36, 54),
    "pink": (226, 160, 174),
    "lilac": (170, 150, 200),
    "brown": (112, 78, 56),
    "beige": (196, 172, 138),
}
DENIM: tuple[Color, ...] = ((58, 82, 128), (96, 128, 172), (34, 44, 72), (150, 174, 204))
ACCENTS: tuple[Color, ...] = (
    (240, 240, 236),
    (30, 30, 34),
    (200, 44, 48),
    (240, 196, 60),
    (52, 92, 176),
    (48, 140, 88),
    (236, 140, 168),
)
SKIN: tuple[Color, ...] = (
    (246, 214, 190),
    (232, 190, 160),
    (208, 160, 124),
    (172, 122, 88),
    (126, 84, 60),
    (86, 58, 44),
)
HAIR: tuple[Color, ...] = (
    (30, 24, 22),
    (60, 40, 30),
    (104, 70, 44),
    (190, 152, 96),
    (140, 62, 36),
    (160, 160, 160),
)


def jitter(rng: np.random.Generator, color: Color, spread: int) -> Color:
    """Returns `color` with every channel moved by up to `spread`, kept within 0-255."""
    moved = np.asarray(color) + rng.integers(-spread, spread + 1, 3)
    return as_color(np.clip(moved, 0, 255))


def as_color(values: np.ndarray) -> Color:
    """Returns three numbers as a tuple of plain ints."""
    red, green, blue = (round(float(value)) for value in values)
    return red, green, blue


def scaled(color: Color, factor: float) -> Color:
    """Returns `color` made darker (factor < 1) or lighter, kept within 0-255."""
    return as_color(np.clip(np.asarray(color, np.float32) * factor, 0, 255))


def mixed(first: Color, second: Color, share: float) -> Color:
    """Returns `first` with `share` of `second` mixed in."""
    return as_color(np.asarray(first) * (1 - share) + np.asarray(second) * share)


def distance(first: Color, second: Color) -> float:
    """Returns the Euclidean distance of two RGB colors."""
    return float(np.linalg.norm(np.asarray(first, float) - np.asarray(second, float)))


def pick(rng: np.random.Generator, colors: tuple[Color, ...]) -> Color:
    """Returns one of `colors`, evenly."""
    return colors[int(rng.integers(len(colors)))]


def contrasting(
    rng: np.random.Generator, colors: tuple[Color, ...], against: Color, least: float = 110.0
) -> Color:
    """Returns one of `colors` at least `least` away from `against` (the farthest where none is)."""
    far = [color for color in colors if distance(color, against) >= least]
    if not far:
        return max(colors, key=lambda color: distance(color, against))
    return far[int(rng.integers(len(far)))]
