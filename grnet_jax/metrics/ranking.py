"""Ranks of the right gallery photos, by counting instead of sorting, and what follows.

A tie counts against us: a negative that scores exactly as a positive does stands before it,
so that a matcher which scores everything alike finds nothing.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def positive_ranks(
    scores: ArrayLike, positives: ArrayLike, valid: ArrayLike | None = None
) -> jax.Array:
    """Ranks of each query's positives among the whole gallery, best first.

    A positive's rank is one, plus the negatives that score as high or higher, plus the
    positives before it. A score that is not a number ranks a positive last and a negative first.

    Args:
      scores: [q, g].
      positives: for each query the gallery rows of its positives, int [q, p], padded with -1.
      valid: bool [g] or [q, g]; gallery rows that are there, or that count for the query
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
    """Scores of each query's positives, [q, p], best first; -inf for no number and as padding."""
    own = jnp.asarray(own)
    known = (jnp.asarray(positives) >= 0) & ~jnp.isnan(own)
    return -jnp.sort(-jnp.where(known, own, -jnp.inf), axis=1)


def count_ahead(
    scores: ArrayLike, own: ArrayLike, positives: ArrayLike, valid: ArrayLike | None = None
) -> jax.Array:
    """Negatives that score as high as each positive or higher, int32 [q, p].

    The counts over the parts of a gallery add up to those over the whole.

    Args:
      scores: [q, g], of a gallery or a part of it.
      own: [q, p], of `sort_own`.
      positives: int [q, p], columns of `scores`, in any order; others are of no consequence.
      valid: bool [g] or [q, g], as for `positive_ranks`. None for all.
    """
    scores = jnp.asarray(scores)
    negative = ~positive_mask(positives, scores.shape[1])
    if valid is not None:
        negative &= jnp.asarray(valid)
    # One positive at a time, so that nothing of size [q, p, g] is ever held.
    return jax.lax.map(
        lambda score: jnp.sum(negative & ~(scores < score[:, None]), axis=1, dtype=jnp.int32),
        jnp.asarray(own).T,
    ).T


def ranks_from_ahead(ahead: ArrayLike, positives: ArrayLike) -> jax.Array:
    """The ranks of `positive_ranks` from the counts of `count_ahead` over the whole gallery."""
    positives = jnp.asarray(positives)
    counts = (positives >= 0).sum(axis=1, keepdims=True)
    order = jnp.arange(1, positives.shape[1] + 1)[None, :]
    return jnp.where(order <= counts, order + jnp.asarray(ahead), 0).astype(jnp.int32)


def positive_mask(positives: ArrayLike, gallery: int) -> jax.Array:
    """Which of `gallery` rows are a query's positives, bool [q, g], from int [q, p], -1 padding."""
    positives = jnp.asarray(positives)
    return jnp.any(positives[:, :, None] == jnp.arange(gallery)[None, None, :], axis=1)


def top_k_hits(ranks: ArrayLike, k: int) -> jax.Array:
    """Whether any positive stands within the first k, bool [q]; their mean is top-k accuracy."""
    return jnp.any(_within(jnp.asarray(ranks), k), axis=1)


def recall_at_k(ranks: ArrayLike, k: int) -> jax.Array:
    """Share of the query's positives that stand within the first k.

    With one positive a query this is `top_k_hits`. Papers of metric learning call that one
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
    """One over the rank of the first positive, float32 [q]; zero without positives."""
    first = jnp.asarray(ranks)[:, 0]  # the padding stands last
    return jnp.where(first > 0, 1 / jnp.maximum(first, 1), 0.0)


def average_precision(ranks: ArrayLike) -> jax.Array:
    """Average precision as the finite sum: the mean over positives of precision at their rank.

    Args:
      ranks: of `positive_ranks`, [q, p].

    Returns:
      float32 [q]; zero for a query without positives.
    """
    ranks = jnp.asarray(ranks)
    return jnp.sum(_precision_at_ranks(ranks), axis=1) / _positives(ranks)


def average_precision_revisitop(ranks: ArrayLike) -> jax.Array:
    """Average precision of the revisited Oxford and Paris benchmarks (Radenovic et al., 2018).

    The area under the precision-recall curve by the trapezoidal rule: at each positive the mean
    of the precision with it and of the precision just before it, which is one at rank 1. Never
    above the finite sum.

    Args:
      ranks: of `positive_ranks`, [q, p].

    Returns:
      float32 [q]; zero for a query without positives.
    """
    ranks = jnp.asarray(ranks)
    found = jnp.arange(ranks.shape[1])[None, :]
    before = jnp.where(ranks > 1, found / jnp.maximum(ranks - 1, 1), jnp.where(ranks == 1, 1, 0))
    return jnp.sum((before + _precision_at_ranks(ranks)) / 2, axis=1) / _positives(ranks)


def average_precision_at_r(ranks: ArrayLike) -> jax.Array:
    """MAP@R's term of each query (Musgrave et al., A Metric Learning Reality Check, 2020).

    With R positives, the sum of the precisions at those of the first R ranks that hold one,
    over R: what stands further down counts nothing.

    Args:
      ranks: of `positive_ranks`, [q, p].

    Returns:
      float32 [q]; zero for a query without positives.
    """
    ranks = jnp.asarray(ranks)
    r = _positives(ranks)
    counted = jnp.where(ranks <= r[:, None], _precision_at_ranks(ranks), 0.0)
    return jnp.sum(counted, axis=1) / r


def _within(ranks: jax.Array, k: int) -> jax.Array:
    return (ranks > 0) & (ranks <= k)


def _positives(ranks: jax.Array) -> jax.Array:
    """Number of positives of each query, at least 1 so that it can divide."""
    return jnp.maximum(jnp.sum(ranks > 0, axis=1), 1)


def _precision_at_ranks(ranks: jax.Array) -> jax.Array:
    """Precision at each positive's rank, [q, p]; zero in the padding."""
    found = jnp.arange(1, ranks.shape[1] + 1)[None, :]
    return jnp.where(ranks > 0, found / jnp.maximum(ranks, 1), 0.0)
