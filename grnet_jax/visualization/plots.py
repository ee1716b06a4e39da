"""Small plots of shares against shares, as the page's SVG draws them."""

import dataclasses

import numpy as np

from grnet_jax.retrieval.evaluation import Evaluation
from grnet_jax.retrieval.report import reliability

_POINTS = 200  # of a curve; more cannot be told apart
_ENOUGH = 10  # queries a bin; shares of fewer are noise


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
