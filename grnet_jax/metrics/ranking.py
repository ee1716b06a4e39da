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
      valid: bool [g]; gallery rows that are there. None for all.

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
      valid: bool [g]; columns that are there. None for all.
    """
    scores, positives = jnp.asarray(scores), jnp.asarray(positives)
    columns = jnp.arange(scores.shape[1])
    negative = ~jnp.any(columns[None, None, :] == positives[:, :, None], axis=1)
    if valid is not None:
        negative &= jnp.asarray(valid)[None, :]
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


def top_k_hits(ranks: ArrayLike, k: int) -> jax.Array:
    """Whether any positive stands within the first k, bool [q], from `positive_ranks`."""
    ranks = jnp.asarray(ranks)
    return jnp.any((ranks > 0) & (ranks <= k), axis=1)


def average_precision(ranks: ArrayLike) -> jax.Array:
    """Average precision as the finite sum: the mean over positives of precision at their rank.

    Args:
      ranks: of `positive_ranks`, [q, p].

    Returns:
      float32 [q]; zero for a query without positives.
    """
    ranks = jnp.asarray(ranks)
    there = ranks > 0
    found = jnp.arange(1, ranks.shape[1] + 1)[None, :]
    precision = jnp.where(there, found / jnp.maximum(ranks, 1), 0.0)
    return jnp.sum(precision, axis=1) / jnp.maximum(there.sum(axis=1), 1)
