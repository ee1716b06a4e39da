"""Small plots: shares against shares on the result page, and panels of lines as a file of SVG."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from grnet_jax.figures.templating import render
from grnet_jax.retrieval.evaluation import Evaluation
from grnet_jax.retrieval.report import reliability

_POINTS = 200  # of a curve; more cannot be told apart
_ENOUGH = 10  # queries a bin; shares of fewer are noise
# Okabe and Ito's colours, which most colour-blind people tell apart, those that white paper bears.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
_WIDTH, _HEIGHT, _ROOM = 160, 120, 240  # of a panel, without and with what stands around it


@dataclasses.dataclass(frozen=True)
class Plot:
    """A line in a square whose left lower corner is (0, 0) and right upper corner (1, 1).

    Attributes:
      title: heading.
      across: what the horizontal axis is.
      up: what the vertical axis is.
      line: [n, 2].
      dotted: whether every point is marked.
    """

    title: str
    across: str
    up: str
    line: np.ndarray
    dotted: bool = False

    @property
    def points(self) -> str:
        """For SVG's polyline, in a square of 100 whose first corner is the left upper one."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self._places())

    @property
    def dots(self) -> list[tuple[float, float]]:
        """Centres of the marks, as `points`."""
        places = self._places() if self.dotted else np.zeros((0, 2))
        return [(round(float(x), 1), round(float(y), 1)) for x, y in places]

    def _places(self) -> np.ndarray:
        kept = np.linspace(0, len(self.line) - 1, min(len(self.line), _POINTS)).round().astype(int)
        return np.array([0, 100]) + self.line[kept] * np.array([100, -100])


def score_plots(evaluation: Evaluation) -> list[Plot]:
    """Over all queries: how far best matches' probabilities hold, and the open-set curve."""
    figures = evaluation.figures["all"]
    plots = []
    best = figures.best_match
    if best and best.pairs >= _ENOUGH * len(best.equal_mass.counts):
        bins = np.array(reliability(best.equal_mass))[:, 1:]
        title = "Best matches: probability and how often it is right"
        plots.append(Plot(title, "mean probability", "share that is right", bins, dotted=True))
    if figures.open_set:
        title = "Is the item in the gallery? ROC of the best score"
        curve = figures.open_set.curve
        plots.append(Plot(title, "without a match that pass", "with a match that pass", curve))
    return plots


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a panel.

    Attributes:
      label: beside its last point; "" for none.
      points: [n, 2], across and up, in order; across above 0.
      dashed: drawn so and without marks: a level to compare with.
    """

    label: str
    points: np.ndarray
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class Panel:
    """Lines over one logarithmic axis.

    Attributes:
      title: heading.
      axis: what the horizontal axis is.
      lines: a dashed one has the colour of the line before it.
    """

    title: str
    axis: str
    lines: Sequence[Line]


def draw_panels(title: str, panels: Sequence[Panel]) -> str:
    """Panels side by side as SVG; values are named at the points of each panel's first line."""
    drawn = [_draw(panel, number) for number, panel in enumerate(panels)]
    return render("panels.svg", title=title, panels=drawn, width=_ROOM * len(panels))


def _draw(panel: Panel, number: int) -> dict[str, Any]:
    points = np.concatenate([line.points for line in panel.lines])
    low, high = np.log(points[:, 0].min()), np.log(points[:, 0].max())
    step = _nice_step(points[:, 1].min(), points[:, 1].max())
    bottom = math.floor(points[:, 1].min() / step) * step
    top = max(math.ceil(points[:, 1].max() / step) * step, bottom + step)

    def across(x: float) -> float:
        return round(_WIDTH * float((np.log(x) - low) / max(high - low, 1e-9)), 1)

    def up(y: float) -> float:
        return round(_HEIGHT * float((top - y) / (top - bottom)), 1)

    lines, colours = [], iter(_COLOURS)
    colour = ""
    for line in panel.lines:
        colour = colour if line.dashed else next(colours)
        places = [(across(x), up(y)) for x, y in line.points]
        lines.append(
            {
                "points": " ".join(f"{x},{y}" for x, y in places),
                "dots": [] if line.dashed else places,
                "colour": colour,
                "dashed": line.dashed,
                "label": line.label,
                "end": places[-1][1],
            }
        )
    levels = np.arange(bottom, top + step / 2, step)
    return {
        "left": 34 + number * _ROOM,
        "title": panel.title,
        "axis": panel.axis,
        "across": [(across(x), f"{x:g}") for x in panel.lines[0].points[:, 0]],
        "up": [(up(y), f"{y:g}") for y in levels],
        "lines": lines,
    }


def _nice_step(low: float, high: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that gives about five levels."""
    rough = max(high - low, 1e-9) / 5
    power = 10 ** math.floor(math.log10(rough))
    return float(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough))
