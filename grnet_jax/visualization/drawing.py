"""Draws a pair of images with Pillow: their crops, heat maps, and joined regions."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from grnet_jax.visualization.explanations import CroppedImage
from grnet_jax.visualization.strongest_nodes import StrongNode, Window

# Okabe and Ito's colors, which most color-blind people tell apart.
COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (213, 94, 0), (204, 121, 167))
INK, PAPER = (38, 42, 48), (255, 255, 255)
FINE = 2  # drawn so much larger and then reduced: Pillow's lines are jagged
_HEIGHT = 360  # of an image, in pixels
_GAP = 44
_LINE = 22  # of text

_Edges = tuple[float, float, float, float]


def draw_images(query: CroppedImage, gallery: CroppedImage) -> Image.Image:
    """Draws two images side by side, pale outside their crops."""
    return _reduced(_Sheet(render_image(query), render_image(gallery)).image)


def draw_heat(
    query: CroppedImage, gallery: CroppedImage, query_heat: np.ndarray, gallery_heat: np.ndarray
) -> Image.Image:
    """Draws Grad-CAM [h, w] over each of two gray images: black is zero, yellow the maximum.

    Each heat map has its own scale, up to its own maximum.
    """
    heats = query_heat, gallery_heat
    left, right = _heated(query, query_heat), _heated(gallery, gallery_heat)
    cold = [
        f"{name}: nothing raises the score"
        for name, heat in zip(("query", "gallery"), heats, strict=True)
        if not heat.max() > 0
    ]
    sheet = _Sheet(left, right, lines=len(cold))
    for number, text in enumerate(cold):
        sheet.write(text, number)
    return _reduced(sheet.image)


def draw_nodes(
    query: CroppedImage, gallery: CroppedImage, nodes: Sequence[StrongNode], equal_weight: float
) -> Image.Image:
    """Draws region pairs as joined rectangles of one color, the strongest numbered 1.

    Lines below give each pair's scale, rows x columns, and its edge's weight beside `equal_weight`,
    in percent of all weights into the global node.
    """
    sheet = _Sheet(render_image(query), render_image(gallery), lines=len(nodes) + 1)
    ends: list[list[tuple[float, float]]] = [[], []]
    for number, node in enumerate(nodes):
        for side, (image, window) in enumerate(((query, node.query), (gallery, node.gallery))):
            edges = _inset(sheet.to_pixels(side, _in_image(image, window)), 1 + 2 * number)
            sheet.rectangle(edges, COLORS[number % len(COLORS)])
            ends[side].append(_free_corner(edges, ends[side]))
    for number in range(len(nodes)):
        sheet.join(ends[0][number], ends[1][number], COLORS[number % len(COLORS)])
    for number, node in enumerate(nodes):
        color = COLORS[number % len(COLORS)]
        for side in (0, 1):
            sheet.disc(ends[side][number], str(number + 1), color)
        rows, columns = node.scale
        text = f"{rows} x {columns} regions, weight {100 * node.weight:.2f}%"
        sheet.write(text, number, (str(number + 1), color))
    sheet.write(f"(equal weights: {100 * equal_weight:.2f}%)", len(nodes))
    return _reduced(sheet.image)


class _Sheet:
    """Two images side by side, and lines of text below; in fine pixels."""

    def __init__(self, left: Image.Image, right: Image.Image, lines: int = 0):
        width = left.width + right.width + _GAP * FINE
        below = (lines * _LINE + 8) * FINE if lines else 0
        self.image = Image.new("RGB", (width, _HEIGHT * FINE + below), PAPER)
        self._images = (left, right)
        self._starts = (0, left.width + _GAP * FINE)
        for start, image in zip(self._starts, self._images, strict=True):
            self.image.paste(image, (start, 0))
        self._draw = ImageDraw.Draw(self.image)
        self._font = ImageFont.load_default(14 * FINE)

    def to_pixels(self, side: int, window: Window) -> _Edges:
        """Converts fractions of an image to pixels of the sheet."""
        image, start = self._images[side], self._starts[side]
        left, top, right, bottom = window
        return (
            start + left * image.width,
            top * image.height,
            start + right * image.width,
            bottom * image.height,
        )

    def rectangle(self, edges: _Edges, color: tuple[int, int, int]) -> None:
        """Draws an outline with a dark rim, visible on any image."""
        self._draw.rectangle(_inset(edges, -0.5), outline=INK, width=3 * FINE)
        self._draw.rectangle(edges, outline=color, width=2 * FINE)

    def join(
        self, start: tuple[float, float], end: tuple[float, float], color: tuple[int, int, int]
    ) -> None:
        """Draws a thin line between two points."""
        self._draw.line([start, end], fill=INK, width=3 * FINE)
        self._draw.line([start, end], fill=color, width=2 * FINE)

    def disc(self, center: tuple[float, float], text: str, color: tuple[int, int, int]) -> None:
        """Draws a number on a disc."""
        radius = 9 * FINE
        x, y = center
        self._draw.ellipse(
            (x - radius, y - radius, x + radius, y + radius),
            fill=color,
            outline=INK,
            width=FINE,
        )
        self._draw.text(center, text, fill=(0, 0, 0), font=self._font, anchor="mm")

    def write(
        self, text: str, line: int, mark: tuple[str, tuple[int, int, int]] | None = None
    ) -> None:
        """Writes a line of text below the images, after a numbered disc."""
        y = (_HEIGHT + 8 + (line + 0.5) * _LINE) * FINE
        if mark:
            self.disc((10 * FINE, y), *mark)
        self._draw.text((26 * FINE, y), text, fill=INK, font=self._font, anchor="lm")


def render_image(image: CroppedImage) -> Image.Image:
    """Returns the image at the drawing's height, pale outside the crop."""
    picture = Image.fromarray(image.pixels)
    if not image.is_cropped:
        return _scaled(picture)
    pale = Image.blend(picture, Image.new("RGB", picture.size, PAPER), 0.6)
    pale.paste(picture.crop(image.crop), image.crop[:2])
    return _outlined(_scaled(pale), image)


def _heated(image: CroppedImage, heat: np.ndarray) -> Image.Image:
    """Returns the image in gray and pale, with the heat map over its crop."""
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


def _reduced(picture: Image.Image) -> Image.Image:
    return picture.reduce(FINE)


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


def _inset(edges: _Edges, by: float) -> _Edges:
    """Shrinks a rectangle by so many pixels on each side, but never inside out."""
    left, top, right, bottom = edges
    across = min(by * FINE, (right - left) / 2)
    down = min(by * FINE, (bottom - top) / 2)
    return left + across, top + down, right - across, bottom - down


def _free_corner(edges: _Edges, taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Returns a disc's center: the first point, row by row, of a rectangle without another disc."""
    step = 20 * FINE
    left, top, right, bottom = edges
    places = [
        (float(x), float(y))
        for y in np.arange(top + step / 2, max(bottom, top + step), step / 2)
        for x in np.arange(left + step / 2, max(right, left + step), step / 2)
    ]
    for x, y in places:
        if all(abs(x - a) >= step or abs(y - b) >= step for a, b in taken):
            return x, y
    return places[0]
