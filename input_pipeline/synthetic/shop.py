"""Shop photos: the garment alone, from the front, before a plain light background."""

from __future__ import annotations

import cv2
import numpy as np

from input_pipeline.synthetic import body, camera, dressing, tailoring
from input_pipeline.synthetic.items import Item
from input_pipeline.synthetic.photo import Photo, annotate

OVERSAMPLING = 1.5
ASPECT = 0.8


def render_shop(item: Item, rng: np.random.Generator, picture_size: int) -> Photo:
    """Renders the shop photo of an item, picture_size high and 0.8 times as wide; `rng` decides the
    nuisances only (scale, place, folds, light), never the garment."""
    garment = item.garment
    figure = body.laid_out(float(rng.uniform(0.16, 0.36)), float(rng.normal(0, 0.012)))
    extent = tailoring.extent(garment, figure)
    wide, high = extent[2] - extent[0], extent[3] - extent[1]
    margin, shift = rng.uniform(1.06, 1.25), rng.uniform(-0.4, 0.4, 2)
    frame_height = float(max(high, wide / ASPECT) * margin)
    frame_width = frame_height * ASPECT
    frame = camera.Frame(
        left=(extent[0] + extent[2] - frame_width) / 2 + shift[0] * (frame_width - wide),
        top=(extent[1] + extent[3] - frame_height) / 2 + shift[1] * (frame_height - high),
        height=frame_height,
        width=frame_width,
    )
    size = (round(picture_size * ASPECT), picture_size)
    canvas, window = camera.canvas_for(
        frame, extent, picture_size, OVERSAMPLING, int(rng.integers(1 << 20))
    )
    canvas.light = float(rng.uniform(-0.6, 0.6))
    _backdrop(canvas.image, rng)
    dressing.lay_out(canvas, garment, figure)
    _drop_shadow(canvas.image, canvas.whole, float(rng.uniform(0.1, 0.3)))
    landmarks = tailoring.landmark_points(garment, figure)
    exposure = camera.expose(canvas, window, size, landmarks, None)
    image = exposure.image.astype(np.float32) * float(rng.uniform(0.96, 1.04))
    image = np.clip(image, 0, 255).astype(np.uint8)
    return annotate(exposure, image, int(rng.integers(86, 96)), "shop", 0.0)


def _backdrop(image: np.ndarray, rng: np.random.Generator) -> None:
    level = rng.uniform(232, 255)
    tone = np.clip(level + rng.normal(0, 1.5, 3), 0, 255)
    fall = np.linspace(1.0, rng.uniform(0.93, 1.0), image.shape[0])[:, None, None]
    image[:] = (tone * fall).astype(np.uint8)


def _drop_shadow(image: np.ndarray, whole: np.ndarray, depth: float) -> None:
    """Draws a soft shadow below and beside the garment, on the background only."""
    height, width = whole.shape
    small = cv2.resize(whole, (width // 4, height // 4), None, 0, 0, cv2.INTER_AREA)
    small = cv2.GaussianBlur(np.roll(small, (2, 1), (0, 1)), (0, 0), 2.2)
    shadow = cv2.resize(small, (width, height), None, 0, 0, cv2.INTER_LINEAR)
    background = 255 - whole.astype(np.float32)
    factor = 1 - depth / 255**2 * shadow.astype(np.float32) * background
    image[:] = (image * factor[..., None]).astype(np.uint8)
