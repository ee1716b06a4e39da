"""How well the best score tells queries whose item is in the gallery from those whose is not.

Every query has one score, that of its best gallery photo; `present` says whether its item is
in the gallery, which is what a high score should mean. A score that is not a number counts
against us: as the lowest of a query whose item is there, as the highest of one whose is not.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


class RocCurve(NamedTuple):
    """Keypoints of the curve from (0, 0) to (1, 1), thresholds falling.

    Queries that score alike, and those masked out, repeat a point; the curve is the same.

    Attributes:
      false_positive_rate: [q + 1], share of queries without their item that reach the threshold.
      true_positive_rate: [q + 1], share of queries with their item that do.
      threshold: [q + 1], scores; infinite at the first point.
    """

    false_positive_rate: jax.Array
    true_positive_rate: jax.Array
    threshold: jax.Array


class _Sorted(NamedTuple):
    """Scores sorted, highest first, negated; and numbers of queries down to each place."""

    keys: jax.Array  # of the queries in their own order, [q]
    sorted_keys: jax.Array
    present: jax.Array  # [q + 1], the first is zero
    absent: jax.Array


def roc_curve(scores: ArrayLike, present: ArrayLike, mask: ArrayLike | None = None) -> RocCurve:
    """The receiver operating characteristic of "this query's item is in the gallery".

    Args:
      scores: [q].
      present: bool [q].
      mask: bool [q]; queries that count. None for all.

    Returns:
      Its points; NaN where no query, or every query, has its item in the gallery.
    """
    found = _sort(scores, present, mask)
    last = jnp.searchsorted(found.sorted_keys, found.sorted_keys, side="right")
    places = jnp.concatenate([jnp.zeros(1, last.dtype), last])
    return RocCurve(
        found.absent[places] / found.absent[-1],
        found.present[places] / found.present[-1],
        jnp.concatenate([jnp.full(1, jnp.inf), -found.sorted_keys]),
    )


def placements(scores: ArrayLike, present: ArrayLike, mask: ArrayLike | None = None) -> jax.Array:
    """For each query the share of the other kind's queries that stand on the right side of it.

    Below it for a query with its item in the gallery, above it for one without; a tie counts
    half. The mean over either kind is the area under the curve, and their spread its variance
    (DeLong et al., 1988).

    Args:
      scores: [q].
      present: bool [q].
      mask: bool [q]; queries that count. None for all.

    Returns:
      float32 [q], without meaning where the mask is False; NaN without queries of the other kind.
    """
    found = _sort(scores, present, mask)
    first = jnp.searchsorted(found.sorted_keys, found.keys, side="left")
    last = jnp.searchsorted(found.sorted_keys, found.keys, side="right")

    def above(counts: jax.Array) -> jax.Array:
        return (counts[first] + counts[last]) / 2 / counts[-1]

    return jnp.where(jnp.asarray(present), 1 - above(found.absent), above(found.present))


def auroc(scores: ArrayLike, present: ArrayLike, mask: ArrayLike | None = None) -> jax.Array:
    """Area under `roc_curve`: the chance that a query with its item scores above one without.

    Ties count half (Mann and Whitney). NaN where either kind is missing.
    """
    present = jnp.asarray(present)
    counted = present if mask is None else present & jnp.asarray(mask)
    share = placements(scores, present, mask)
    return jnp.sum(jnp.where(counted, share, 0.0)) / jnp.sum(counted)


def false_positive_rate_at(
    scores: ArrayLike,
    present: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    true_positive_rate: float = 0.95,
) -> jax.Array:
    """Share of queries without their item that pass a threshold which so many with it pass.

    The highest such threshold; who scores as high as it passes. NaN where either kind is missing.
    """
    curve = roc_curve(scores, present, mask)
    # Rates are float32 shares: 19 of 20 has to reach 0.95.
    reached = curve.true_positive_rate >= true_positive_rate * (1 - 1e-6)
    lowest = jnp.min(jnp.where(reached, curve.false_positive_rate, 1.0))
    known = jnp.isfinite(curve.true_positive_rate[-1] + curve.false_positive_rate[-1])
    return jnp.where(known, lowest, jnp.nan)


def _sort(scores: ArrayLike, present: ArrayLike, mask: ArrayLike | None) -> _Sorted:
    scores, present = jnp.asarray(scores, jnp.float32), jnp.asarray(present, bool)
    counted = jnp.ones_like(present) if mask is None else jnp.asarray(mask, bool)
    worst = jnp.where(present, -jnp.inf, jnp.inf)
    keys = -jnp.where(jnp.isnan(scores), worst, scores)
    order = jnp.argsort(keys)

    def down_to(kind: jax.Array) -> jax.Array:
        counts = jnp.cumsum((kind & counted)[order])
        return jnp.concatenate([jnp.zeros(1, counts.dtype), counts])

    return _Sorted(keys, keys[order], down_to(present), down_to(~present))
