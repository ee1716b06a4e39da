"""Metrics of categories and attributes.

Ties count against the system, as in ranking: one score for everything recognizes nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def category_hits(scores: ArrayLike, label: ArrayLike, k: int) -> jax.Array:
    """Returns whether the category is among the k highest scores, bool [n].

    Args:
      scores: [n, c]; NaN ranks last for the labeled category, first for any other.
      label: int [n]; an unknown category is negative and no hit: leave it out of means.
      k: from 1.
    """
    scores, label = jnp.asarray(scores), jnp.asarray(label)
    labeled = jnp.take_along_axis(scores, jnp.maximum(label, 0)[:, None], axis=1)
    ahead = jnp.sum(~(scores < labeled), axis=1) - 1  # a score is not below itself
    return (label >= 0) & (ahead < k)


def attribute_hits(
    scores: ArrayLike, label: ArrayLike, k: int, types: np.ndarray | None = None
) -> jax.Array:
    """Returns which of an image's attributes are among its k highest scores, bool [n, a].

    Args:
      scores: [n, a].
      label: int [n, a]: 1 present, 0 absent, -1 unknown: these take no place among the k.
      k: from 1.
      types: int [a], -1 for none; with it the k highest of each type count, else those of all.
    """
    scores, label = jnp.asarray(scores), jnp.asarray(label)
    has = label > 0
    hits = jnp.zeros(label.shape, bool)
    for kind in [None] if types is None else np.unique(types[types >= 0]):
        of_kind = True if kind is None else jnp.asarray(types == kind)
        # By score; of equal scores absent attributes first; unknown ones last.
        order = jnp.lexsort((has, -scores, ~((label >= 0) & of_kind)), axis=-1)
        hits |= of_kind & (jnp.argsort(order, axis=-1) < k)
    return hits & has


class AttributeRecall(NamedTuple):
    """Recall of attributes.

    Attributes:
      overall: over all images and attributes.
      mean: over the attributes that any image has.
      attribute: float64 [a]; NaN where no image has it.
      type: float64 [t], over all images and a type's attributes; NaN where no image has any.
    """

    overall: float
    mean: float
    attribute: np.ndarray
    type: np.ndarray


def attribute_recall(
    hits: np.ndarray, positives: np.ndarray, types: np.ndarray, type_count: int
) -> AttributeRecall:
    """Computes top-k recall as Gong et al. (Deep Convolutional Ranking, 2013, Section 4).

    "Overall" recall is hits over positives of all attributes together, "per-class" recall the mean
    of the attributes' recalls.

    Args:
      hits: int [a], images whose attribute is a hit (`attribute_hits`, summed over images).
      positives: int [a], images that have it.
      types: int [a], 0 to type_count - 1; -1 for an attribute of no type.
      type_count: number of types.
    """
    hits, positives = np.asarray(hits, np.float64), np.asarray(positives, np.float64)
    attribute = _share(hits, positives)
    type_hits, type_positives = (
        np.bincount(types[types >= 0], part[types >= 0], minlength=type_count)
        for part in (hits, positives)
    )
    measured = positives > 0
    return AttributeRecall(
        overall=float(_share(hits.sum(), positives.sum())),
        mean=float(attribute[measured].mean()) if measured.any() else float("nan"),
        attribute=attribute,
        type=_share(type_hits, type_positives),
    )


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
