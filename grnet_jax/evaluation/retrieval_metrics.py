"""Metrics of each subset of the queries from ranks and best scores, all subsets at once."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from grnet_jax import metrics
from grnet_jax.evaluation.protocols import QuerySubset
from grnet_jax.metrics import CalibrationSums, OpenSet

TOP_K = (1, 5, 10, 20, 30, 40, 50)
_METRICS: dict[str, Callable[[jax.Array], jax.Array]] = {
    **{f"top{k}": functools.partial(metrics.top_k_hits, k=k) for k in TOP_K},
    **{f"recall{k}": functools.partial(metrics.recall_at_k, k=k) for k in TOP_K},
    "mrr": metrics.reciprocal_rank,
    "map": metrics.average_precision,
    "map_revisitop": metrics.average_precision_revisitop,
    "map_at_r": metrics.average_precision_at_r,
}
METRIC_NAMES = tuple(_METRICS)
BINS = 15  # of probabilities, as Guo et al. (2017) measure calibration


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How well the sigmoid of scores is the probability of "same item".

    Attributes:
      pairs: pairs measured.
      equal_width: sums in `BINS` equally wide bins of probability.
      equal_mass: sums in `BINS` bins of equally many pairs, up to ties.
      brier_interval: 95% interval of the Brier score, clustered by item; None if not known.
    """

    pairs: int
    equal_width: CalibrationSums
    equal_mass: CalibrationSums
    brier_interval: tuple[float, float] | None = None

    @property
    def values(self) -> dict[str, float]:
        """Both expected calibration errors, Brier score and log loss (nats)."""
        return {
            "ece": metrics.expected_calibration_error(self.equal_width),
            "ece_equal_mass": metrics.expected_calibration_error(self.equal_mass),
            "brier": float(self.equal_width.squared_error.sum() / self.pairs),
            "log_loss": float(self.equal_width.log_loss.sum() / self.pairs),
        }


@dataclasses.dataclass(frozen=True)
class RetrievalMetrics:
    """Metrics of one subset of a protocol's queries.

    Attributes:
      title: heading, with the data set's name.
      values: "top1" ... "top50", "recall1" ... "recall50", "mrr", "map", "map_revisitop" and
        "map_at_r", each in 0..1; nan without queries.
      intervals: their 95% intervals.
      queries: queries measured, those with a match in the gallery.
      without_match: queries of the subset whose item has no gallery image; not in `values`.
      gallery: gallery images that a query is ranked against; None where each category has its own.
      open_set: None unless there are queries with a match and queries without.
      best_match: calibration of each query's best gallery image, including queries without a
        match; None where scores are no logits.
    """

    title: str
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    queries: int
    without_match: int
    gallery: int | None
    open_set: OpenSet | None = None
    best_match: Calibration | None = None


def compute_metrics(
    subsets: Sequence[QuerySubset],
    ranks: np.ndarray,
    items: np.ndarray,
    best_scores: np.ndarray | None = None,
    *,
    logits: bool = False,
) -> dict[str, RetrievalMetrics]:
    """Computes the metrics of each subset of the queries, by its name.

    Args:
      subsets: at least one; they may overlap.
      ranks: int [q, p], of all queries.
      items: int [q], their item numbers.
      best_scores: [q], each query's best score, -inf where it has no gallery, for `open_set` and
        `best_match`; None leaves both out.
      logits: whether scores are logits of "same item"; else `best_match` is left out.
    """
    matched = np.any(ranks > 0, axis=1)
    members = np.stack([subset.queries for subset in subsets]) & matched
    table = query_metrics(ranks)
    means = np.asarray(metrics.group_means(table, members))
    intervals = metrics.clustered_intervals(table, items, members)
    results = {}
    for g, subset in enumerate(subsets):
        chosen = subset.queries
        open_set = best_match = None
        if best_scores is not None:
            open_set = metrics.open_set_metrics(best_scores[chosen], matched[chosen], items[chosen])
            if logits:
                scored = chosen & (best_scores > -np.inf)
                # A tie for the first place is a miss, as everywhere.
                hits = ranks[scored, 0] == 1
                best_match = _best_match_calibration(best_scores[scored], hits, items[scored])
        results[subset.name] = RetrievalMetrics(
            title=subset.title,
            values=dict(zip(_METRICS, means[g].tolist(), strict=True)),
            intervals=dict(zip(_METRICS, map(tuple, intervals[g].tolist()), strict=True)),
            queries=int(members[g].sum()),
            without_match=int((chosen & ~matched).sum()),
            gallery=subset.gallery,
            open_set=open_set,
            best_match=best_match,
        )
    return results


def macro_average(categories: Sequence[RetrievalMetrics], dataset: str) -> RetrievalMetrics:
    """Averages over categories, each with the same weight, as Street2Shop's tables do.

    Its interval is that of a mean of independent values, each with a normal error as wide as its
    own interval. Categories without a measured query are left out, and the title says how many
    there are.
    """
    measured = [category for category in categories if category.queries]
    values, intervals = {}, {}
    for name in categories[0].values:
        mean = float(np.mean([one.values[name] for one in measured])) if measured else math.nan
        halves = [(one.intervals[name][1] - one.intervals[name][0]) / 2 for one in measured]
        half = math.hypot(*halves) / len(measured) if measured else math.nan
        values[name] = mean
        intervals[name] = max(mean - half, 0.0), min(mean + half, 1.0)
    return RetrievalMetrics(
        title=f"Mean over {len(measured)} categories ({dataset})",
        values=values,
        intervals=intervals,
        queries=sum(category.queries for category in categories),
        without_match=sum(category.without_match for category in categories),
        gallery=None,
    )


def pair_calibration(sums: CalibrationSums) -> Calibration:
    """Returns the calibration of all pairs from sums in the bins of `metrics.fine_edges(BINS)`."""
    return Calibration(
        pairs=int(sums.counts.sum()),
        equal_width=metrics.merge_equal_width(sums, BINS),
        equal_mass=metrics.merge_equal_mass(sums, BINS),
    )


def query_metrics(ranks: np.ndarray) -> np.ndarray:
    """Computes each of `METRIC_NAMES` for every query, float32 [q, m], of ranks int [q, p]."""
    return np.asarray(_query_metrics(ranks))


@jax.jit
def _query_metrics(ranks: jax.Array) -> jax.Array:
    columns = [metric(ranks) for metric in _METRICS.values()]
    return jnp.stack(columns, axis=1).astype(jnp.float32)


def _best_match_calibration(
    scores: np.ndarray, hits: np.ndarray, items: np.ndarray
) -> Calibration | None:
    if not len(scores):
        return None
    width, mass = (
        metrics.calibration_sums(scores, hits, edges)
        for edges in (metrics.equal_width_edges(BINS), metrics.equal_mass_edges(scores, BINS))
    )
    errors = np.square(expit(scores) - hits)[:, None]
    ((low, high),) = metrics.clustered_intervals(errors, items, np.ones((1, len(items)), bool))[0]
    return Calibration(len(scores), width, mass, (float(low), float(high)))
