"""Metrics of categories.

A tie counts against us, as in ranking: a network that scores everything alike recognises nothing.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def category_hits(scores: ArrayLike, label: ArrayLike, k: int) -> jax.Array:
    """Whether the category is among the k highest scores, bool [n]; the mean is top-k accuracy.

    Args:
      scores: [n, c]; one that is not a number comes last where it is the category's own, else
        first.
      label: int [n]; a photo whose category is negative, unknown, is no hit: leave it out of means.
      k: from 1.
    """
    scores, label = jnp.asarray(scores), jnp.asarray(label)
    own = jnp.take_along_axis(scores, jnp.maximum(label, 0)[:, None], axis=1)
    ahead = jnp.sum(~(scores < own), axis=1) - 1  # its own score is not below itself
    return (label >= 0) & (ahead < k)
