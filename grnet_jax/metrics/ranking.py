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
    gallery = scores.shape[1]
    there = positives >= 0
    rows = jnp.where(there, positives, 0)
    own = jnp.take_along_axis(scores, rows, axis=1)  # [q, p]
    own = jnp.where(jnp.isnan(own), -jnp.inf, own)
    own = -jnp.sort(-jnp.where(there, own, -jnp.inf), axis=1)
    is_positive = jnp.any(
        (jnp.arange(gallery)[None, None, :] == rows[:, :, None]) & there[:, :, None], axis=1
    )
    negative = ~is_positive if valid is None else ~is_positive & jnp.asarray(valid)[None, :]
    # One positive at a time, so that nothing of size [q, p, g] is ever held.
    ahead = jax.lax.map(
        lambda score: jnp.sum(negative & ~(scores < score[:, None]), axis=1), own.T
    ).T  # [q, p]
    counts = there.sum(axis=1, keepdims=True)
    order = jnp.arange(1, positives.shape[1] + 1)[None, :]
    return jnp.where(order <= counts, order + ahead, 0).astype(jnp.int32)


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
