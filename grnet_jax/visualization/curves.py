"""Shares against a number, such as top-k accuracy of several systems, as curves: an image."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from grnet_jax.errors import InputError
from grnet_jax.visualization.style import COLOURS, FINE, INK, PALE, PAPER

_WIDTH, _HEIGHT = 640, 420  # of the plot, in pixels
_LEFT, _TOP, _RIGHT, _BELOW = 60, 44, 16, 56  # around it
_LINE = 20  # of the legend
_RADIUS = 3


@dataclasses.dataclass(frozen=True)
class Curve:
    """A share by k, as a system's accuracy.

    Attributes:
      label: what it is of.
      ks: int [n], rising.
      values: [n], shares in 0..1.
      intervals: [n, 2], their lower and upper bounds, drawn as bars; None without.
    """

    label: str
    ks: np.ndarray
    values: np.ndarray
    intervals: np.ndarray | None = None


def draw_curves(curves: Sequence[Curve], title: str, axis: str = "k") -> Image.Image:
    """Shares in percent against what `axis` names; labels stand below the plot.

    Raises:
      InputError: there is no curve, or one has no points.
    """
    if not curves or not all(len(curve.ks) for curve in curves):
        raise InputError(f"{title}: expected curves of one point or more, got {len(curves)} curves")
    last = max(int(max(curve.ks)) for curve in curves)
    return _Plot(last, axis, len(curves)).draw(curves, title)


class _Plot:
    """Axes from (0, 0) to (last k, 100%) and room for labels; in fine pixels."""

    def __init__(self, last: int, axis: str, labels: int):
        self._last, self._axis = last, axis
        height = _TOP + _HEIGHT + _BELOW + labels * _LINE
        size = (_LEFT + _WIDTH + _RIGHT) * FINE, height * FINE
        self._image = Image.new("RGB", size, PAPER)
        self._draw = ImageDraw.Draw(self._image)
        self._font = ImageFont.load_default(13 * FINE)

    def draw(self, curves: Sequence[Curve], title: str) -> Image.Image:
        """The whole picture at its own size."""
        self._axes(sorted({int(k) for curve in curves for k in curve.ks}), title)
        for number, curve in enumerate(curves):
            self._curve(curve, COLOURS[number % len(COLOURS)])
            self._legend(curve.label, COLOURS[number % len(COLOURS)], number)
        return self._image.reduce(FINE)

    def _place(self, k: float, value: float) -> tuple[float, float]:
        x = _LEFT + _WIDTH * k / self._last
        y = _TOP + _HEIGHT * (1 - value)
        return x * FINE, y * FINE

    def _axes(self, ks: Sequence[int], title: str) -> None:
        for percent in range(0, 101, 20):
            start, end = self._place(0, percent / 100), self._place(self._last, percent / 100)
            self._draw.line([start, end], fill=PALE, width=FINE)
            self._write((start[0] - 8 * FINE, start[1]), f"{percent}%", "rm")
        for k in ks:
            x, y = self._place(k, 0)
            self._draw.line([(x, y), (x, y + 5 * FINE)], fill=INK, width=FINE)
            self._write((x, y + 16 * FINE), str(k), "mm")
        corner, origin, end = (self._place(*at) for at in ((0, 1.0), (0, 0.0), (self._last, 0.0)))
        self._draw.line([corner, origin, end], fill=INK, width=FINE)
        middle = self._place(self._last / 2, 0)
        self._write((middle[0], middle[1] + 40 * FINE), self._axis, "mm")
        self._write((_LEFT * FINE, _TOP * FINE / 2), title, "lm")

    def _curve(self, curve: Curve, colour: tuple[int, int, int]) -> None:
        points = [self._place(k, v) for k, v in zip(curve.ks, curve.values, strict=True)]
        self._draw.line(points, fill=colour, width=2 * FINE)
        radius = _RADIUS * FINE
        for x, y in points:
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        if curve.intervals is not None:
            for k, (low, high) in zip(curve.ks, curve.intervals, strict=True):
                self._draw.line(
                    [self._place(k, low), self._place(k, high)], fill=colour, width=2 * FINE
                )

    def _legend(self, label: str, colour: tuple[int, int, int], number: int) -> None:
        x = _LEFT * FINE
        y = (_TOP + _HEIGHT + _BELOW + (number + 0.25) * _LINE) * FINE
        self._draw.line([(x, y), (x + 24 * FINE, y)], fill=colour, width=2 * FINE)
        self._write((x + 32 * FINE, y), label, "lm")

    def _write(self, place: tuple[float, float], text: str, anchor: str) -> None:
        self._draw.text(place, text, fill=INK, font=self._font, anchor=anchor)
