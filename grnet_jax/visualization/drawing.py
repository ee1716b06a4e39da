"""Draws images with Pillow: their crops, heat maps and regions."""

import math

import cv2
import numpy as np
from PIL import Image, ImageDraw

from grnet_jax.visualization.explanations import CroppedImage
from grnet_jax.visualization.strongest_nodes import Window

# Okabe and Ito's colors, which most color-blind people tell apart.
COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (213, 94, 0), (204, 121, 167))
INK, PAPER = (38, 42, 48), (255, 255, 255)
FINE = 2  # images are drawn at so many pixels for one of a screen
_HEIGHT = 360  # of an image, in pixels of a screen
_REGION = 192  # pixels, the longer side of a region


def render_image(image: CroppedImage) -> Image.Image:
    """Returns the image at the drawing's height, pale outside the crop."""
    picture = Image.fromarray(image.pixels)
    if not image.is_cropped:
        return _scaled(picture)
    pale = Image.blend(picture, Image.new("RGB", picture.size, PAPER), 0.6)
    pale.paste(picture.crop(image.crop), image.crop[:2])
    return _outlined(_scaled(pale), image)


def render_heat(image: CroppedImage, heat: np.ndarray) -> Image.Image:
    """Returns the image in gray with Grad-CAM [h, w] over its crop.

    Black is zero, yellow the map's own maximum.
    """
    gray = Image.fromarray(image.pixels).convert("L").convert("RGB")
    pale = Image.blend(gray, Image.new("RGB", gray.size, PAPER), 0.6)
    cropped = gray.crop(image.crop)
    # The square input is the resized crop: the map's cells spread over the crop evenly.
    heat_image = Image.fromarray(heat.astype(np.float32))
    resized = heat_image.resize(cropped.size, Image.Resampling.BILINEAR)
    level = np.clip(np.asarray(resized) / max(float(heat.max()), 1e-30), 0, 1)
    colors = cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_INFERNO)
    cover = Image.fromarray((255 * (0.35 + 0.4 * level)).astype(np.uint8))
    blended = Image.composite(Image.fromarray(colors[..., ::-1]), cropped, cover)
    if not image.is_cropped:
        return _scaled(blended)
    pale.paste(blended, image.crop[:2])
    return _outlined(_scaled(pale), image)


def render_region(image: CroppedImage, window: Window) -> Image.Image:
    """Returns the part of the image in a window, given in fractions of the crop."""
    height, width, _ = image.pixels.shape
    left, top, right, bottom = _in_image(image, window)
    edges = (
        math.floor(left * width),
        math.floor(top * height),
        math.ceil(right * width),
        math.ceil(bottom * height),
    )
    picture = Image.fromarray(image.pixels).crop(edges)
    picture.thumbnail((_REGION, _REGION), Image.Resampling.LANCZOS)
    return picture


def _outlined(picture: Image.Image, image: CroppedImage) -> Image.Image:
    left, top, right, bottom = _in_image(image, (0, 0, 1, 1))
    width, height = picture.size
    edges = (left * width, top * height, right * width - 1, bottom * height - 1)
    ImageDraw.Draw(picture).rectangle(edges, outline=INK, width=FINE)
    return picture


def _scaled(picture: Image.Image) -> Image.Image:
    height = _HEIGHT * FINE
    width = max(round(picture.width * height / picture.height), 1)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _in_image(image: CroppedImage, window: Window) -> Window:
    """Converts fractions of the crop to fractions of the whole image."""
    height, width, _ = image.pixels.shape
    left, top, right, bottom = image.crop
    across, down = right - left, bottom - top
    return (
        (left + window[0] * across) / width,
        (top + window[1] * down) / height,
        (left + window[2] * across) / width,
        (top + window[3] * down) / height,
    )
