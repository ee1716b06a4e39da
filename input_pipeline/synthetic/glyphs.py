"""Small prints: masks of the glyphs that logos are made of."""

from __future__ import annotations

import functools

import cv2
import numpy as np

_SIZE = 64


def _ring(count: int, radius: float, start: float, inner: float | None = None) -> np.ndarray:
    """Returns the corners of a regular polygon, or with `inner` of a star, round the middle."""
    total = count if inner is None else 2 * count
    turns = start + np.arange(total) * 2 * np.pi / total
    radii = np.full(total, radius)
    if inner is not None:
        radii[1::2] = inner
    return np.stack([32 + radii * np.cos(turns), 32 + radii * np.sin(turns)], axis=1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 40)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([32 + 1.75 * x, 30 - 1.75 * y], axis=1)


_CROSS_X = (22, 42, 42, 61, 61, 42, 42, 22, 22, 3, 3, 22)
_CROSS_Y = (3, 3, 22, 22, 42, 42, 61, 61, 42, 42, 22, 22)
_CROSS = np.stack([_CROSS_X, _CROSS_Y], axis=1)

_POLYGONS: dict[str, np.ndarray] = {
    "square": np.array([(7, 7), (57, 7), (57, 57), (7, 57)]),
    "triangle": np.array([(32, 4), (61, 58), (3, 58)]),
    "star": _ring(5, 31, -np.pi / 2, 12),
    "heart": _heart(),
    "diamond": np.array([(32, 2), (56, 32), (32, 62), (8, 32)]),
    "cross": _CROSS,
    "bolt": np.array([(38, 2), (10, 38), (29, 38), (24, 62), (54, 24), (35, 24)]),
    "arrow": np.array([(32, 3), (60, 32), (43, 32), (43, 61), (21, 61), (21, 32), (4, 32)]),
}


@functools.lru_cache(maxsize=64)
def glyph_mask(name: str) -> np.ndarray:
    """Returns a mask, 255 inside the glyph, uint8 [64, 64] (treat as read-only)."""
    mask = np.zeros((_SIZE, _SIZE), np.uint8)
    if name in _POLYGONS:
        points = np.round(_POLYGONS[name] * 16).astype(np.int32)
        cv2.fillPoly(mask, [points], 255, cv2.LINE_AA, 4)
    elif name == "disc":
        cv2.circle(mask, (32, 32), 28, 255, -1, cv2.LINE_AA)
    elif name == "ring":
        cv2.circle(mask, (32, 32), 24, 255, 11, cv2.LINE_AA)
    elif name == "moon":
        cv2.circle(mask, (30, 32), 29, 255, -1, cv2.LINE_AA)
        cv2.circle(mask, (44, 27), 24, 0, -1, cv2.LINE_AA)
    elif name == "bars":
        for top in (6, 26, 46):
            cv2.rectangle(mask, (4, top), (60, top + 11), 255, -1)
    else:
        _write(mask, name)
    return mask


def _write(mask: np.ndarray, text: str) -> None:
    """Draws letters or digits, stretched to fill the mask."""
    page = np.zeros((120, 200), np.uint8)
    cv2.putText(page, text, (20, 90), cv2.FONT_HERSHEY_SIMPLEX, 2.6, 255, 13, cv2.LINE_AA)
    x, y, width, height = cv2.boundingRect(page)
    mask[:] = cv2.resize(page[y : y + height, x : x + width], (_SIZE, _SIZE), None, 0, 0, 3)
