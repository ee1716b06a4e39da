"""Metrics of categories and attributes.

A tie counts against us, as in ranking: a network that scores everything alike recognises nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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


def attribute_hits(
    scores: ArrayLike, label: ArrayLike, k: int, types: np.ndarray | None = None
) -> jax.Array:
    """Which of a photo's attributes are among its k highest scores, bool [n, a].

    Args:
      scores: [n, a].
      label: int [n, a]: 1 has it, 0 has it not, -1 not known: these take no place among the k.
      k: from 1.
      types: int [a], -1 for none; with it the k highest of each type count, else those of all.
    """
    scores, label = jnp.asarray(scores), jnp.asarray(label)
    has = label > 0
    hits = jnp.zeros(label.shape, bool)
    for kind in [None] if types is None else np.unique(types[types >= 0]):
        of_kind = True if kind is None else jnp.asarray(types == kind)
        # By score, at equal scores what a photo has not before what it has; the others last.
        order = jnp.lexsort((has, -scores, ~((label >= 0) & of_kind)), axis=-1)
        hits |= of_kind & (jnp.argsort(order, axis=-1) < k)
    return hits & has


class AttributeRecall(NamedTuple):
    """Shares of the attributes that photos have which were found.

    Attributes:
      overall: over all photos and attributes.
      mean: over the attributes that any photo has.
      attribute: float64 [a]; NaN where no photo has it.
      type: float64 [t], over all photos and a type's attributes; NaN where no photo has any.
    """

    overall: float
    mean: float
    attribute: np.ndarray
    type: np.ndarray


def attribute_recall(
    hits: np.ndarray, positives: np.ndarray, types: np.ndarray, type_count: int
) -> AttributeRecall:
    """Top-k recall as Gong et al. define it (Deep Convolutional Ranking for Multilabel Image
    Annotation, 2013, Section 4): the sum over attributes of those found by the sum of those there
    are ("overall"), and the mean of the attributes' own shares ("per-class").

    Args:
      hits: int [a], photos whose attribute is a hit (`attribute_hits`, summed over photos).
      positives: int [a], photos that have it.
      types: int [a], 0 to type_count - 1; -1 for an attribute of no type.
      type_count: number of types.
    """  # fmt: skip
    hits, positives = np.asarray(hits, np.float64), np.asarray(positives, np.float64)
    attribute = _share(hits, positives)
    found, there = (
        np.bincount(types[types >= 0], part[types >= 0], minlength=type_count)
        for part in (hits, positives)
    )
    some = positives > 0
    return AttributeRecall(
        overall=float(_share(hits.sum(), positives.sum())),
        mean=float(attribute[some].mean()) if some.any() else float("nan"),
        attribute=attribute,
        type=_share(found, there),
    )


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
