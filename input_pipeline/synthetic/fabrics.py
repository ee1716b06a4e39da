"""Fabric patterns: colors as functions of the place on the garment, vectorized.

Every function takes float32 coordinates x, y (head heights, any equal shapes) and returns
uint8 RGB of that shape plus a channel axis.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import cv2
import numpy as np

from input_pipeline.synthetic.garments import Fabric

_TILE = 256


@functools.lru_cache(maxsize=8)
def noise_tile(cell: int) -> np.ndarray:
    """Returns smooth noise in [-1, 1] that tiles, in blobs of `cell` pixels, float32 [256, 256]."""
    rng = np.random.default_rng(9000 + cell)
    white = rng.standard_normal((_TILE, _TILE)).astype(np.float32)
    padded = np.tile(white, (3, 3))
    smooth = cv2.GaussianBlur(padded, (0, 0), cell / 2)[_TILE : 2 * _TILE, _TILE : 2 * _TILE]
    return np.ascontiguousarray(np.clip(smooth / (2.2 * smooth.std()), -1, 1))


def _noise(x: np.ndarray, y: np.ndarray, cell: int, per_unit: float, seed: int) -> np.ndarray:
    tile = noise_tile(cell)
    column = (x * per_unit + (seed % 251)).astype(np.float32) % _TILE
    row = (y * per_unit + (seed // 251 % 253)).astype(np.float32) % _TILE
    return cv2.remap(tile, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def _color_table(fabric: Fabric) -> np.ndarray:
    return np.asarray(fabric.colors, np.float32)


def _indexed(fabric: Fabric, index: np.ndarray) -> np.ndarray:
    return _color_table(fabric)[index]


def _blend(fabric: Fabric, share: np.ndarray, first: int = 0, second: int = 1) -> np.ndarray:
    table = _color_table(fabric)
    return table[first] + share[..., None] * (table[second] - table[first])


def _soft_step(value: np.ndarray, width: float) -> np.ndarray:
    return np.clip(value / width + 0.5, 0, 1)


def _plain(fabric: Fabric, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    grain = _noise(x, y, 2, 60, fabric.seed)
    return _color_table(fabric)[0] + 5 * grain[..., None]


def _bands(fabric: Fabric, position: np.ndarray) -> np.ndarray:
    period = 0.34 * fabric.scale
    phase = (position / period) % 1.0
    duty = 0.3 + 0.3 * (fabric.seed % 7) / 6
    index = (phase < duty).astype(np.int32)
    if fabric.seed % 3 == 0:
        index[(phase > duty + 0.14) & (phase < duty + 0.34)] = 2
    return _indexed(fabric, index)


def _stripes_h(fabric: Fabric, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _bands(fabric, y + x * fabric.angle)


def _stripes_v(fabric: Fabric, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _bands(fabric, 1.15 * (x + y * fabric.angle * 0.5))


def _diagonal(fabric: Fabric, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    sign = 1.0 if fabric.seed % 2 else -1.0
    return _bands(fabric, 0.75 * (y + sign * x))


def _plaid(fabric: Fabric, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    period = 0.5 * fabric.scale
    table = _color_table(fabric)
    across, down = (x / period) % 1.0, (y / period) % 1.0
    wide = 0.45 * ((across < 0.42).astype(np.float32) + (down < 0.42))
    thin = 0.8 * np.maximum(np.abs(across - 0.71) < 0.06, np.abs(down - 0.71) < 0.06)
    color = table[0] + wide[..., None] * (table[1] - table[0])
    return color + thin[..., None] * (table[2] - color)


def _gingham(fabric: Fabric, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    period = 0.26 * fabric.scale
    share = 0.5 * (((x / period) % 1 < 0.5).astype(np.float32) + ((y / period) % 1 < 0.5))
    return _blend(fabric, share)


def _dots(fabric: Fabric, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    period = 0.32 * fabric.scale
    row = np.floor(y / period)
    across = (x / period + 0.5 * (row % 2)) % 1.0 - 0.5
    down = (y / period) % 1.0 - 0.5
    radius = 0.22 + 0.1 * (fabric.seed % 5) / 4
    return _blend(fabric, _soft_step(radius - np.hypot(across, down), 0.1))


def _floral(fabric: Fabric, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    period = 0.46 * fabric.scale
    column, row = np.floor(x / period), np.floor(y / period)
    hashed = np.sin(column * 12.9898 + row * 78.233 + fabric.seed % 97) * 437.585
    hashed = hashed - np.floor(hashed)
    across = (x / period) % 1 - 0.5 - 0.24 * (hashed - 0.5)
    down = (y / period) % 1 - 0.5 - 0.24 * ((hashed * 7) % 1 - 0.5)
    radius, angle = np.hypot(across, down), np.arctan2(down, across)
    petals = 0.27 + 0.1 * np.cos(5 * angle + 6.28 * hashed)
    flower = _soft_step(petals - radius, 0.08)[..., None]
    heart = _soft_step(0.1 - radius, 0.06)[..., None]
    table = _color_table(fabric)
    leaf = (_noise(x, y, 6, 40, fabric.seed) > 0.55)[..., None] * 0.45
    color = table[0] + leaf * (np.asarray((70, 116, 70), np.float32) - table[0])
    color = color + flower * (table[1] - color)
    return color + heart * (table[2] - color)


def _block(fabric: Fabric, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    edge = 1.9 + 0.5 * (fabric.seed % 11) / 10
    position = y + (0.5 * x if fabric.seed % 3 == 0 else 0.0)
    period = 1.3 * fabric.scale
    index = np.clip(np.floor((position - edge) / period).astype(np.int32) + 1, 0, 2)
    return _indexed(fabric, index)


def _gradient(fabric: Fabric, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    del x
    return _blend(fabric, 0.5 - 0.5 * np.cos((y - 1.3) / (2.3 * fabric.scale) * np.pi))


def _camouflage(fabric: Fabric, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    per_unit = 34 / fabric.scale
    first = _noise(x, y, 10, per_unit, fabric.seed)
    second = _noise(x, y, 10, per_unit, fabric.seed + 7919)
    index = np.where(first > 0.15, 1, np.where(second > 0.2, 2, 0))
    return _indexed(fabric, index)


def _herringbone(fabric: Fabric, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    period = 0.36 * fabric.scale
    zigzag = np.abs((x / period) % 1 - 0.5)
    share = ((y / (period * 0.5) + 2 * zigzag) % 1 < 0.5).astype(np.float32)
    return _blend(fabric, 0.75 * share)


def _denim(fabric: Fabric, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    wash = 0.5 * np.exp(-(((np.abs(x) - 0.42) / 0.22) ** 2)) * np.exp(-(((y - 4.4) / 0.9) ** 2))
    base = _color_table(fabric)[0] * 1.0
    grain = 9 * _noise(x, y, 2, 50, fabric.seed) + 10 * _noise(x, y, 10, 40, fabric.seed)
    return base + (grain + 60 * wash)[..., None]


_PATTERNS: dict[str, Callable[[Fabric, np.ndarray, np.ndarray], np.ndarray]] = {
    "plain": _plain,
    "stripes_h": _stripes_h,
    "stripes_v": _stripes_v,
    "diagonal": _diagonal,
    "plaid": _plaid,
    "gingham": _gingham,
    "dots": _dots,
    "floral": _floral,
    "block": _block,
    "gradient": _gradient,
    "camouflage": _camouflage,
    "herringbone": _herringbone,
    "denim": _denim,
}


def paint_fabric(fabric: Fabric, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the fabric's color at x, y (float32 head heights on the garment), uint8 [..., 3]."""
    return np.clip(_PATTERNS[fabric.kind](fabric, x, y), 0, 255).astype(np.uint8)
