"""Draws predictions: landmarks on the image, and lines of text below."""

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from grnet_jax.visualization.drawing import COLORS, FINE, INK, PAPER, render_image
from grnet_jax.visualization.explanations import CroppedImage

_LINE = 20  # of text, in pixels
_RADIUS = 8  # of a landmark's disc
_WIDTH = 360  # at least, for the text


class Mark(NamedTuple):
    """A point to mark.

    Attributes:
      x: in pixels of the whole image.
      y: likewise; marks outside the image are left out.
      text: on its disc.
      filled: whether the disc is filled; else it is an outline.
    """

    x: float
    y: float
    text: str
    filled: bool


def draw_predictions(
    image: CroppedImage, marks: Sequence[Mark], lines: Sequence[str]
) -> Image.Image:
    """Draws marks on the image, which is pale outside the crop, and lines of text below."""
    picture = render_image(image)
    height, width, _ = image.pixels.shape
    font = ImageFont.load_default(13 * FINE)
    texts = [font.getlength(line) for line in lines]
    across = max([picture.width, _WIDTH * FINE, *(int(length) + 16 * FINE for length in texts)])
    below = (len(lines) * _LINE + 12) * FINE if lines else 0
    sheet = Image.new("RGB", (across, picture.height + below), PAPER)
    sheet.paste(picture, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for number, mark in enumerate(marks):
        if not (0 <= mark.x < width and 0 <= mark.y < height):
            continue
        center = (
            (mark.x + 0.5) * picture.width / width,
            (mark.y + 0.5) * picture.height / height,
        )
        _disc(draw, center, mark, COLORS[number % len(COLORS)], font)
    for number, line in enumerate(lines):
        y = picture.height + (8 + (number + 0.5) * _LINE) * FINE
        draw.text((8 * FINE, y), line, fill=INK, font=font, anchor="lm")
    return sheet.reduce(FINE)


def _disc(
    draw: ImageDraw.ImageDraw,
    center: tuple[float, float],
    mark: Mark,
    color: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    x, y = center
    radius = _RADIUS * FINE
    edges = (x - radius, y - radius, x + radius, y + radius)
    if mark.filled:
        draw.ellipse(edges, fill=color, outline=INK, width=FINE)
    else:
        draw.ellipse(edges, outline=INK, width=4 * FINE)
        draw.ellipse(edges, outline=color, width=3 * FINE)
    draw.text(center, mark.text, fill=(0, 0, 0), font=font, anchor="mm")
