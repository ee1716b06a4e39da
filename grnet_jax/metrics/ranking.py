"""Ranks of the positives in the gallery, by counting instead of sorting, and ranking metrics.

Ties count against the system: a negative that scores exactly as a positive ranks before it, so
that a matcher with one score for everything finds nothing.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def positive_ranks(
    scores: ArrayLike, positives: ArrayLike, valid: ArrayLike | None = None
) -> jax.Array:
    """Computes the ranks of each query's positives in the whole gallery, best first.

    A positive's rank is one, plus the negatives that score as high or higher, plus the
    positives before it. A NaN score ranks a positive last and a negative first.

    Args:
      scores: [q, g].
      positives: for each query the gallery rows of its positives, int [q, p], padded with -1.
      valid: bool [g] or [q, g]; gallery rows that are not padding, or that count for the query
        (Oxford's and Paris' "junk" does not). None for all.

    Returns:
      int32 [q, p]: ranks from 1, in the order of rank; 0 in the padding, which stands last.
    """
    scores = jnp.asarray(scores, jnp.float32)
    positives = jnp.asarray(positives)
    own = jnp.take_along_axis(scores, jnp.maximum(positives, 0), axis=1)
    own = sort_own(own, positives)
    return ranks_from_ahead(count_ahead(scores, own, positives, valid), positives)


def sort_own(own: ArrayLike, positives: ArrayLike) -> jax.Array:
    """Sorts the scores of each query's positives, [q, p], best first; NaN and padding are -inf."""
    own = jnp.asarray(own)
    known = (jnp.asarray(positives) >= 0) & ~jnp.isnan(own)
    return -jnp.sort(-jnp.where(known, own, -jnp.inf), axis=1)


def count_ahead(
    scores: ArrayLike, own: ArrayLike, positives: ArrayLike, valid: ArrayLike | None = None
) -> jax.Array:
    """Counts the negatives that score as high as each positive or higher, int32 [q, p].

    The counts over the parts of a gallery add up to those over the whole.

    Args:
      scores: [q, g], of a gallery or a part of it.
      own: [q, p], of `sort_own`.
      positives: int [q, p], columns of `scores`, in any order; other values are ignored.
      valid: bool [g] or [q, g], as for `positive_ranks`. None for all.
    """
    scores = jnp.asarray(scores)
    negative = ~positive_mask(positives, scores.shape[1])
    if valid is not None:
        negative &= jnp.asarray(valid)
    # One positive at a time: [q, p, g] would not fit into memory.
    return jax.lax.map(
        lambda score: jnp.sum(negative & ~(scores < score[:, None]), axis=1, dtype=jnp.int32),
        jnp.asarray(own).T,
    ).T


def ranks_from_ahead(ahead: ArrayLike, positives: ArrayLike) -> jax.Array:
    """Returns the ranks of `positive_ranks` from `count_ahead` over the whole gallery."""
    positives = jnp.asarray(positives)
    counts = (positives >= 0).sum(axis=1, keepdims=True)
    order = jnp.arange(1, positives.shape[1] + 1)[None, :]
    return jnp.where(order <= counts, order + jnp.asarray(ahead), 0).astype(jnp.int32)


def positive_mask(positives: ArrayLike, gallery: int) -> jax.Array:
    """Returns which of `gallery` rows are positives, bool [q, g], from int [q, p], -1 padding."""
    positives = jnp.asarray(positives)
    return jnp.any(positives[:, :, None] == jnp.arange(gallery)[None, None, :], axis=1)


def top_k_hits(ranks: ArrayLike, k: int) -> jax.Array:
    """Returns whether any positive is within the first k, bool [q]; the mean is top-k accuracy."""
    return jnp.any(_within(jnp.asarray(ranks), k), axis=1)


def recall_at_k(ranks: ArrayLike, k: int) -> jax.Array:
    """Computes the share of the query's positives within the first k.

    With one positive a query this equals `top_k_hits`, which papers of metric learning call
    recall@k however many positives there are.

    Args:
      ranks: of `positive_ranks`, [q, p].
      k: from 1.

    Returns:
      float32 [q]; zero for a query without positives.
    """
    ranks = jnp.asarray(ranks)
    return jnp.sum(_within(ranks, k), axis=1) / _positives(ranks)


def reciprocal_rank(ranks: ArrayLike) -> jax.Array:
    """Returns one over the rank of the first positive, float32 [q]; zero without positives."""
    first = jnp.asarray(ranks)[:, 0]  # padding is last
    return jnp.where(first > 0, 1 / jnp.maximum(first, 1), 0.0)


def average_precision(ranks: ArrayLike) -> jax.Array:
    """Computes average precision as the mean over positives of the precision at their rank.

    Args:
      ranks: of `positive_ranks`, [q, p].

    Returns:
      float32 [q]; zero for a query without positives.
    """
    ranks = jnp.asarray(ranks)
    return jnp.sum(_precision_at_ranks(ranks), axis=1) / _positives(ranks)


def average_precision_revisitop(ranks: ArrayLike) -> jax.Array:
    """Computes average precision as the revisited Oxford and Paris (Radenovic et al., 2018).

    The area under the precision-recall curve by the trapezoidal rule: at each positive the mean
    of the precision with it and of the precision just before it, which is one at rank 1. Never
    above `average_precision`.

    Args:
      ranks: of `positive_ranks`, [q, p].

    Returns:
      float32 [q]; zero for a query without positives.
    """
    ranks = jnp.asarray(ranks)
    count = jnp.arange(ranks.shape[1])[None, :]
    before = jnp.where(ranks > 1, count / jnp.maximum(ranks - 1, 1), jnp.where(ranks == 1, 1, 0))
    return jnp.sum((before + _precision_at_ranks(ranks)) / 2, axis=1) / _positives(ranks)


def average_precision_at_r(ranks: ArrayLike) -> jax.Array:
    """Computes each query's term of MAP@R (Musgrave et al., 2020).

    With R positives, the sum of the precisions at the positives within the first R ranks, over R.

    Args:
      ranks: of `positive_ranks`, [q, p].

    Returns:
      float32 [q]; zero for a query without positives.
    """
    ranks = jnp.asarray(ranks)
    r = _positives(ranks)
    counted = jnp.where(ranks <= r[:, None], _precision_at_ranks(ranks), 0.0)
    return jnp.sum(counted, axis=1) / r


def group_means(values: ArrayLike, members: ArrayLike) -> jax.Array:
    """Computes means over groups of queries, float32 [g, m]; NaN for a group without queries.

    Args:
      values: [q, m]; rows of queries of no group are ignored, NaN included.
      members: bool [g, q], the queries of each group; groups may overlap.
    """
    members = jnp.asarray(members, jnp.float32)
    counts = jnp.sum(members, axis=1)[:, None]
    values = jnp.where(jnp.any(members > 0, axis=0)[:, None], jnp.asarray(values), 0.0)
    # Highest: an accelerator's default would round the values to 8 or 11 bits.
    sums = jnp.einsum("gq,qm->gm", members, values, precision=jax.lax.Precision.HIGHEST)
    return jnp.where(counts > 0, sums / jnp.maximum(counts, 1), jnp.nan)


def _within(ranks: jax.Array, k: int) -> jax.Array:
    return (ranks > 0) & (ranks <= k)


def _positives(ranks: jax.Array) -> jax.Array:
    """Counts the positives of each query, at least 1 so that it can divide."""
    return jnp.maximum(jnp.sum(ranks > 0, axis=1), 1)


def _precision_at_ranks(ranks: jax.Array) -> jax.Array:
    """Computes the precision at each positive's rank, [q, p]; zero in the padding."""
    count = jnp.arange(1, ranks.shape[1] + 1)[None, :]
    return jnp.where(ranks > 0, count / jnp.maximum(ranks, 1), 0.0)
