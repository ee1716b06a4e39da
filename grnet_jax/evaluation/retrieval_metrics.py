"""Metrics of each subset of the queries from ranks and best scores, all subsets at once."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from grnet_jax import metrics
from grnet_jax.evaluation.protocols import QuerySubset
from grnet_jax.metrics import Calibration, ListProbabilities, OpenSet

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
        match; None without probabilities.
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
    probabilities: ListProbabilities | None = None,
) -> dict[str, RetrievalMetrics]:
    """Computes the metrics of each subset of the queries, by its name.

    Args:
      subsets: at least one; they may overlap.
      ranks: int [q, p], of all queries.
      items: int [q], their item numbers.
      best_scores: [q], each query's best score, -inf where it has no gallery, for `open_set`; None
        leaves it out.
      probabilities: of the queries' results, for `best_match`; None leaves it out.
    """
    matched = np.any(ranks > 0, axis=1)
    members = np.stack([subset.queries for subset in subsets]) & matched
    table = query_metrics(ranks)
    means = np.asarray(metrics.group_means(table, members))
    intervals = metrics.clustered_intervals(table, items, members)
    results = {}
    for g, subset in enumerate(subsets):
        chosen = subset.queries
        open_set = None
        if best_scores is not None:
            open_set = metrics.open_set_metrics(best_scores[chosen], matched[chosen], items[chosen])
        results[subset.name] = RetrievalMetrics(
            title=subset.title,
            values=dict(zip(_METRICS, means[g].tolist(), strict=True)),
            intervals=dict(zip(_METRICS, map(tuple, intervals[g].tolist()), strict=True)),
            queries=int(members[g].sum()),
            without_match=int((chosen & ~matched).sum()),
            gallery=subset.gallery,
            open_set=open_set,
            best_match=probabilities and probabilities.measure(chosen, 1),
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


def query_metrics(ranks: np.ndarray) -> np.ndarray:
    """Computes each of `METRIC_NAMES` for every query, float32 [q, m], of ranks int [q, p]."""
    return np.asarray(_query_metrics(ranks))


@jax.jit
def _query_metrics(ranks: jax.Array) -> jax.Array:
    columns = [metric(ranks) for metric in _METRICS.values()]
    return jnp.stack(columns, axis=1).astype(jnp.float32)
