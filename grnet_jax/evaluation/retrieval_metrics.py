"""Figures of each protocol from what ranking found, all protocols at once."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from grnet_jax import metrics
from grnet_jax.evaluation.protocols import QuerySubset as Protocol
from grnet_jax.metrics import CalibrationSums

TOP_K = (1, 5, 10, 20, 30, 40, 50)
_FIGURES: dict[str, Callable[[jax.Array], jax.Array]] = {
    **{f"top{k}": functools.partial(metrics.top_k_hits, k=k) for k in TOP_K},
    **{f"recall{k}": functools.partial(metrics.recall_at_k, k=k) for k in TOP_K},
    "mrr": metrics.reciprocal_rank,
    "map": metrics.average_precision,
    "map_revisitop": metrics.average_precision_revisitop,
    "map_at_r": metrics.average_precision_at_r,
}
BINS = 15  # of probabilities, as Guo et al. (2017) measure calibration


@dataclasses.dataclass(frozen=True)
class OpenSet:
    """How well the best score says whether a query's item is in the gallery at all.

    Attributes:
      auroc: chance that a query with its item there scores above one without; a tie is half.
      interval: its 95% interval, clustered by item.
      fpr_at_95_tpr: share of the queries without their item that reach the highest threshold
        which 95% of those with it reach.
      curve: [n, 2], false and true positive rate at each distinct threshold, from (0, 0) to (1, 1).
    """

    auroc: float
    interval: tuple[float, float]
    fpr_at_95_tpr: float
    curve: np.ndarray


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How well the sigmoid of scores is the probability of "same item".

    Attributes:
      pairs: pairs measured.
      equal_width: sums in `BINS` equally wide bins of probability.
      equal_mass: sums in `BINS` bins of equally many pairs, as far as ties allow.
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
            "ece": float(metrics.expected_calibration_error(self.equal_width)),
            "ece_equal_mass": float(metrics.expected_calibration_error(self.equal_mass)),
            "brier": float(metrics.brier_score(self.equal_width)),
            "log_loss": float(metrics.mean_log_loss(self.equal_width)),
        }


@dataclasses.dataclass(frozen=True)
class Figures:
    """One protocol's figures.

    Attributes:
      title: heading, with the data set's name.
      values: "top1" ... "top50", "recall1" ... "recall50", "mrr", "map", "map_revisitop" and
        "map_at_r", each in 0..1; nan without queries.
      intervals: their 95% intervals.
      queries: queries measured, those with a match in the gallery.
      without_match: queries of the protocol whose item has no gallery photo; not in `values`.
      gallery: gallery photos that a query is ranked against; None where each category has its own.
      open_set: None unless there are queries with a match and queries without.
      best_match: calibration of each query's best gallery photo, queries without a match among
        them; None where scores are no logits.
    """

    title: str
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    queries: int
    without_match: int
    gallery: int | None
    open_set: OpenSet | None = None
    best_match: Calibration | None = None


def measure(
    protocols: Sequence[Protocol],
    ranks: np.ndarray,
    items: np.ndarray,
    best_scores: np.ndarray | None = None,
    *,
    logits: bool = False,
) -> dict[str, Figures]:
    """The figures of each protocol, by its name.

    Args:
      protocols: at least one; they may overlap.
      ranks: int [q, p], of all queries.
      items: int [q], their item numbers.
      best_scores: [q], each query's best score, -inf where it has no gallery, for `open_set` and
        `best_match`; None leaves both out.
      logits: whether scores are logits of "same item"; else `best_match` is left out.
    """
    matched = np.any(ranks > 0, axis=1)
    asked = np.stack([protocol.queries for protocol in protocols])
    members = asked & matched
    table = np.asarray(_query_figures(ranks))
    means = np.asarray(metrics.group_means(table, members))
    intervals = metrics.clustered_intervals(table, items, members)
    nothing = [None] * len(protocols)
    open_sets: Sequence[OpenSet | None] = nothing
    best_matches: Sequence[Calibration | None] = nothing
    if best_scores is not None:
        open_sets = _open_sets(best_scores, matched, asked, items)
        if logits:
            # A tie for the first place is a miss, as everywhere.
            best_matches = _best_matches(best_scores, ranks[:, 0] == 1, asked, items)
    return {
        protocol.name: Figures(
            title=protocol.title,
            values={name: float(mean) for name, mean in zip(_FIGURES, means[g], strict=True)},
            intervals={
                name: (float(low), float(high))
                for name, (low, high) in zip(_FIGURES, intervals[g], strict=True)
            },
            queries=int(members[g].sum()),
            without_match=int((asked[g] & ~matched).sum()),
            gallery=protocol.gallery,
            open_set=open_sets[g],
            best_match=best_matches[g],
        )
        for g, protocol in enumerate(protocols)
    }


def mean_of_categories(parts: Sequence[Figures], dataset: str) -> Figures:
    """The unweighted mean over categories, as Street2Shop's tables have it.

    Its interval is that of a mean of independent figures, each with a normal error as wide as its
    own interval. Categories without a measured query are left out, and the title says how many
    there are.
    """
    there = [part for part in parts if part.queries]
    values, intervals = {}, {}
    for name in parts[0].values:
        mean = float(np.mean([part.values[name] for part in there])) if there else math.nan
        halves = [(part.intervals[name][1] - part.intervals[name][0]) / 2 for part in there]
        half = math.sqrt(sum(half**2 for half in halves)) / len(there) if there else math.nan
        values[name] = mean
        intervals[name] = max(mean - half, 0.0), min(mean + half, 1.0)
    return Figures(
        title=f"Mean over {len(there)} categories ({dataset})",
        values=values,
        intervals=intervals,
        queries=sum(part.queries for part in parts),
        without_match=sum(part.without_match for part in parts),
        gallery=None,
    )


def pair_calibration(sums: CalibrationSums) -> Calibration:
    """The calibration of all pairs, from their sums in the bins of `metrics.fine_edges(BINS)`."""
    width = metrics.equal_width_owners(metrics.fine_edges(BINS), BINS)
    mass = metrics.equal_mass_owners(np.asarray(sums.counts), BINS)
    return Calibration(
        pairs=int(sums.counts.sum()),
        equal_width=metrics.merge_bins(sums, width, BINS),
        equal_mass=metrics.merge_bins(sums, mass, BINS),
    )


@jax.jit
def _query_figures(ranks: jax.Array) -> jax.Array:
    """Each of `_FIGURES` of every query, float32 [q, m]."""
    columns = [figure(ranks) for figure in _FIGURES.values()]
    return jnp.stack(columns, axis=1).astype(jnp.float32)


def _open_sets(
    scores: np.ndarray, matched: np.ndarray, asked: np.ndarray, items: np.ndarray
) -> list[OpenSet | None]:
    areas, rates, curves, shares = jax.tree.map(np.asarray, _roc(scores, matched, asked))
    found: list[OpenSet | None] = []
    for g, chosen in enumerate(asked):
        if matched[chosen].all() or not matched[chosen].any():
            found.append(None)
            continue
        found.append(
            OpenSet(
                auroc=float(areas[g]),
                interval=metrics.auroc_interval(shares[g][chosen], matched[chosen], items[chosen]),
                fpr_at_95_tpr=float(rates[g]),
                curve=np.unique(curves[g], axis=0),  # in order: both rates rise
            )
        )
    return found


@jax.jit
def _roc(scores: jax.Array, matched: jax.Array, asked: jax.Array) -> tuple[jax.Array, ...]:
    """For each protocol: area, false positive rate, curve [q + 1, 2] and placements [q]."""

    def one(mask: jax.Array) -> tuple[jax.Array, ...]:
        curve = metrics.roc_curve(scores, matched, mask)
        return (
            metrics.auroc(scores, matched, mask),
            metrics.false_positive_rate_at(scores, matched, mask),
            jnp.stack([curve.false_positive_rate, curve.true_positive_rate], axis=1),
            metrics.placements(scores, matched, mask),
        )

    return jax.vmap(one)(asked)


def _best_matches(
    scores: np.ndarray, hits: np.ndarray, asked: np.ndarray, items: np.ndarray
) -> list[Calibration | None]:
    asked = asked & (scores > -np.inf)
    width, mass = jax.tree.map(np.asarray, _best_match_sums(scores, hits, asked))
    errors = np.square(np.asarray(jax.nn.sigmoid(scores)) - hits)
    intervals = metrics.clustered_intervals(errors[:, None], items, asked)[:, 0]
    return [
        Calibration(
            pairs=int(chosen.sum()),
            equal_width=CalibrationSums(*(field[g] for field in width)),
            equal_mass=CalibrationSums(*(field[g] for field in mass)),
            brier_interval=(float(intervals[g, 0]), float(intervals[g, 1])),
        )
        if chosen.any()
        else None
        for g, chosen in enumerate(asked)
    ]


@jax.jit
def _best_match_sums(
    scores: jax.Array, hits: jax.Array, asked: jax.Array
) -> tuple[CalibrationSums, CalibrationSums]:
    """For each protocol the sums in bins of equal width and of equal mass, fields [g, BINS]."""

    def one(mask: jax.Array) -> tuple[CalibrationSums, CalibrationSums]:
        edges = metrics.equal_width_edges(BINS), metrics.equal_mass_edges(scores, BINS, mask)
        width, mass = (metrics.calibration_sums(scores, hits, inner, mask) for inner in edges)
        return width, mass

    return jax.vmap(one)(asked)
