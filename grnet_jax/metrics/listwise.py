"""Probabilities of a list of results: one of them is the item that was asked for, or none is.

    p_i = exp(a s_i) / (sum_j exp(a s_j) + e^b),    p_none = e^b / (sum_j exp(a s_j) + e^b)

for scores s, and two numbers a >= 0 and b fitted by maximum likelihood on queries whose item is
known. The sigmoid of a score is right for a pair chosen at random, and not for the best of many.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from grnet_jax.metrics.calibration import Calibration, measure_calibration

NONE = -1
SHOWN = 20  # results of a list that their calibration is measured on
MAX_ECE = 0.1  # of first results; probabilities that are worse are not shown
MAX_CHANGE = 0.2  # of the number of images, after which probabilities are of another gallery


class Listwise(NamedTuple):
    """The two numbers.

    Attributes:
      scale: a, that scores are multiplied by.
      none: b, the logit of none of them.
    """

    scale: float
    none: float

    def __call__(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns p [q, k] of each result and p_none [q].

        Args:
          scores: [q, k], -inf where a list has no more; a row of them alone is none.
        """
        logits = self._logits(np.asarray(scores, np.float64))
        p = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
        return p[:, :-1], p[:, -1]

    def none_of(self, score: float, probability: float) -> float:
        """Returns p_none, given one result's score and its probability."""
        return float(min(1.0, probability * np.exp(self.none - self.scale * score)))

    def _logits(self, scores: np.ndarray) -> np.ndarray:
        there = np.where(np.isfinite(scores), scores, 0.0)
        logits = np.where(np.isfinite(scores), self.scale * there, -np.inf)
        return np.append(logits, np.full((len(scores), 1), self.none), axis=1)


def fit_listwise(scores: np.ndarray, answers: np.ndarray) -> Listwise:
    """Fits the probabilities of lists, by maximum likelihood.

    Args:
      scores: [q, k], -inf where a list has no more.
      answers: int [q], which result is right; NONE where none is.
    """
    scores = np.asarray(scores, np.float64)
    there = np.isfinite(scores)
    middle = scores[there].mean() if there.any() else 0.0
    spread = (scores[there].std() if there.any() else 0.0) or 1.0
    known = np.where(there, (np.where(there, scores, middle) - middle) / spread, 0.0)
    rows = np.arange(len(scores))

    def loss(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        logits = np.where(there, numbers[0] * known, -np.inf)
        logits = np.append(logits, np.full((len(scores), 1), numbers[1]), axis=1)
        total = logsumexp(logits, axis=1)
        p = np.exp(logits - total[:, None])
        right = np.where(answers == NONE, 0.0, known[rows, answers])
        slope = (p[:, :-1] * known).sum(axis=1) - right
        gradient = np.array([slope.mean(), (p[:, -1] - (answers == NONE)).mean()])
        return float((total - logits[rows, answers]).mean()), gradient

    # Where the right ones are above all others, likelihood grows with the scale without end.
    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B",
                     bounds=[(0.0, 50.0), (-200.0, 200.0)])  # fmt: skip
    scale = float(found.x[0]) / spread
    return Listwise(scale, float(found.x[1]) + scale * middle)


def cross_fit(
    scores: np.ndarray, answers: np.ndarray, clusters: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the probabilities of lists by fits on others: in two halves, no item in both.

    Args:
      scores, answers: of `fit_listwise`.
      clusters: int [q], the item of each query.

    Returns:
      p [q, k] and p_none [q].
    """
    _, number = np.unique(clusters, return_inverse=True)
    half = np.random.default_rng(0).permutation(number.max() + 1)[number] % 2
    p, none = np.zeros(scores.shape), np.zeros(len(scores))
    for side in (0, 1):
        if (half == side).any():
            others = half != side if (half != side).any() else half == side
            fitted = fit_listwise(scores[others], answers[others])
            p[half == side], none[half == side] = fitted(scores[half == side])
    return p, none


class ListProbabilities(NamedTuple):
    """Lists of items with probabilities, each fitted on the other half of the items.

    Attributes:
      fitted: on all lists.
      p: [q, k], of each result; 0 where `there` is false.
      none: [q], that no result is right.
      there: bool [q, k], results that are the first of their item.
      right: bool [q, k], those that show the query's item.
      clusters: int [q], the item of each query.
    """

    fitted: Listwise
    p: np.ndarray
    none: np.ndarray
    there: np.ndarray
    right: np.ndarray
    clusters: np.ndarray

    def measure(self, queries: np.ndarray, results: int) -> Calibration | None:
        """Measures the first results of bool [q] queries; None where there is none."""
        chosen = self.there[:, :results] & queries[:, None]
        if not chosen.any():
            return None
        parts = self.p, self.right, np.broadcast_to(self.clusters[:, None], self.p.shape)
        return measure_calibration(*(part[:, :results][chosen] for part in parts))


def list_probabilities(
    scores: np.ndarray, items: np.ndarray, clusters: np.ndarray
) -> ListProbabilities:
    """Fits and measures probabilities of lists of images, of which several may show one item.

    Args:
      scores: [q, k], best first, -inf where a list has no more.
      items: int [q, k], of each image.
      clusters: int [q], the item of each query.
    """
    again = np.array([~np.isin(np.arange(len(row)), np.unique(row, return_index=True)[1])
                      for row in items]).reshape(items.shape)  # fmt: skip
    there = np.isfinite(scores) & ~again
    right = there & (items == clusters[:, None])
    answers = np.where(right.any(axis=1), right.argmax(axis=1), NONE)
    scores = np.where(there, scores, -np.inf)
    p, none = cross_fit(scores, answers, clusters)
    return ListProbabilities(fit_listwise(scores, answers), p, none, there, right, clusters)
