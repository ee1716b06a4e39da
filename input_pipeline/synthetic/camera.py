"""From a canvas to a picture: cloth deformation and perspective, the frame, light and noise."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import cv2
import numpy as np

from input_pipeline.synthetic.painting import Canvas
from input_pipeline.synthetic.photo import Exposure

_NODES = (10, 8)  # rows, columns of the grid on which the deformation is drawn


@dataclasses.dataclass(frozen=True)
class Frame:
    """The part of a scene that a picture shows (head heights)."""

    left: float
    top: float
    height: float
    width: float


def canvas_for(
    frame: Frame,
    extent: tuple[float, float, float, float],
    picture_height: int,
    oversampling: float,
    fold_seed: int,
) -> tuple[Canvas, tuple[int, int, int, int]]:
    """Returns a canvas that holds the frame and the whole garment, and the frame's window on it.

    The second value is x_1, y_1, x_2, y_2 in canvas pixels.
    """
    scale = picture_height * oversampling / frame.height
    margin = 4 / scale
    left = min(frame.left, extent[0] - margin)
    top = min(frame.top, extent[1] - margin)
    right = max(frame.left + frame.width, extent[2] + margin)
    bottom = max(frame.top + frame.height, extent[3] + margin)
    width, height = round((right - left) * scale), round((bottom - top) * scale)
    x_1, y_1 = round((frame.left - left) * scale), round((frame.top - top) * scale)
    x_2 = min(x_1 + round(frame.width * scale), width)
    y_2 = min(y_1 + round(frame.height * scale), height)
    canvas = Canvas(width, height, (left, top), scale, fold_seed)
    return canvas, (x_1, y_1, x_2, y_2)


def random_displacement(
    rng: np.random.Generator, width: int, height: int, strength: float
) -> np.ndarray:
    """Returns by how much each pixel is displaced (x, y), float32 [height, width, 2].

    A change of perspective (up to about 5% of the size at strength 1) plus smooth waves.
    """
    rows, columns = _NODES
    x = (np.arange(columns) + 0.5) * width / columns
    y = (np.arange(rows) + 0.5) * height / rows
    grid = np.stack(np.meshgrid(x, y), axis=-1).astype(np.float32)
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    moved = corners + rng.normal(0, 0.025 * strength, (4, 2)) * (width, height)
    matrix = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
    seen = cv2.perspectiveTransform(grid.reshape(1, -1, 2), matrix).reshape(rows, columns, 2)
    waves = rng.normal(0, 0.0045 * strength * height, (rows, columns, 2))
    nodes = (seen - grid + waves).astype(np.float32)
    return cv2.resize(nodes, (width, height), None, 0, 0, cv2.INTER_CUBIC)


def _displaced(point: tuple[float, float], displacement: np.ndarray) -> tuple[float, float]:
    """Returns where a canvas point is seen: solves seen + displacement(seen) = point."""
    height, width = displacement.shape[:2]
    x, y = point
    for _ in range(4):
        row, column = min(max(int(y), 0), height - 1), min(max(int(x), 0), width - 1)
        x = point[0] - float(displacement[row, column, 0])
        y = point[1] - float(displacement[row, column, 1])
    return x, y


def expose(
    canvas: Canvas,
    window: tuple[int, int, int, int],
    size: tuple[int, int],
    landmarks: list[tuple[tuple[float, float], bool] | None],
    displacement: np.ndarray | None,
) -> Exposure:
    """Returns a canvas's window as a picture of `size` (width, height), with its annotations."""
    image: Any = canvas.image
    masks: Any = cv2.merge([canvas.whole, canvas.visible])
    owner: Any = canvas.owner
    if displacement is not None:
        height, width = canvas.whole.shape
        across = displacement[..., 0] + np.arange(width, dtype=np.float32)
        down = displacement[..., 1] + np.arange(height, dtype=np.float32)[:, None]
        image = cv2.remap(image, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        masks = cv2.remap(masks, across, down, cv2.INTER_LINEAR)
        owner = cv2.remap(owner, across, down, cv2.INTER_NEAREST)
    x_1, y_1, x_2, y_2 = window
    small = cv2.resize(image[y_1:y_2, x_1:x_2], size, None, 0, 0, cv2.INTER_AREA)
    small_masks = cv2.resize(masks[y_1:y_2, x_1:x_2], size, None, 0, 0, cv2.INTER_AREA)
    small_owner = cv2.resize(owner[y_1:y_2, x_1:x_2], size, None, 0, 0, cv2.INTER_NEAREST_EXACT)
    shrink = (size[0] / (x_2 - x_1), size[1] / (y_2 - y_1))
    points: list[tuple[float, float, bool] | None] = []
    for landmark in landmarks:
        if landmark is None:
            points.append(None)
            continue
        x, y = canvas.pixel(landmark[0])
        if displacement is not None:
            x, y = _displaced((x, y), displacement)
        points.append(((x - x_1) * shrink[0], (y - y_1) * shrink[1], landmark[1]))
    area = float(np.count_nonzero(masks[..., 0] > 127)) * shrink[0] * shrink[1]
    objects = small_owner, tuple(canvas.objects)
    return Exposure(small, small_masks[..., 0], small_masks[..., 1], area, points, *objects)


@functools.lru_cache(maxsize=1)
def _grain() -> np.ndarray:
    return np.random.default_rng(77).standard_normal((512, 512, 3)).astype(np.float32)


def _light_field(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Returns the light's brightness over the picture, about 1, float32 [height, width]."""
    nodes = np.ones((4, 4), np.float32)
    slope = rng.normal(0, 0.12, 2)
    line = np.linspace(-1, 1, 4)
    nodes += slope[0] * line[None, :] + slope[1] * line[:, None]
    if rng.random() < 0.35:  # somebody's or something's shadow
        nodes[int(rng.integers(4)), int(rng.integers(4))] *= rng.uniform(0.45, 0.8)
    return cv2.resize(nodes, (width, height), None, 0, 0, cv2.INTER_CUBIC)


def take_snapshot(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, int]:
    """Adds a customer's camera effects to uint8 RGB; returns the picture and a JPEG quality.

    Light and its color, exposure, contrast, blur and noise.
    """
    height, width = image.shape[:2]
    picture = image.astype(np.float32)
    warmth, tint = rng.normal(0, 0.12), rng.normal(0, 0.04)
    exposure = float(np.clip(rng.normal(-0.03, 0.18), -0.45, 0.28))
    gains = np.exp(np.array([warmth, tint, -warmth], np.float32) + exposure)
    field = _light_field(rng, height, width)
    picture *= field[..., None] * gains.astype(np.float32)
    contrast, lift = rng.uniform(0.72, 1.12), rng.uniform(-12, 22)
    picture = (picture - 110) * np.float32(contrast) + np.float32(110 + lift)
    gray = 0.3 * picture[..., 0] + 0.59 * picture[..., 1] + 0.11 * picture[..., 2]
    picture += np.float32(rng.uniform(-0.1, 0.4)) * (gray[..., None] - picture)
    if rng.random() < 0.5:
        cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.4, 0.9)), dst=picture)
    rows = (np.arange(height) + int(rng.integers(512))) & 511
    columns = (np.arange(width) + int(rng.integers(512))) & 511
    noise = _grain()[rows][:, columns]
    picture += noise * np.float32(rng.uniform(1, 7))
    return np.clip(picture, 0, 255).astype(np.uint8), int(rng.integers(38, 88))
