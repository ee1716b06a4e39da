"""Landmark metrics over distances in sides of the square that a network sees."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def normalized_distances(points: ArrayLike, target: ArrayLike) -> jax.Array:
    """Computes Euclidean distances of landmarks in sides of the network's square input, [n, p].

    The PDJ of poses is normalized by the torso, for which images of clothes have no landmarks.

    Args:
      points: [n, p, 2], in fractions of each image's width and height.
      target: [n, p, 2], likewise.
    """
    return jnp.linalg.norm(jnp.asarray(points) - jnp.asarray(target), axis=-1)


def detection_rate(distances: ArrayLike, counts: ArrayLike, thresholds: ArrayLike) -> jax.Array:
    """Computes the share of landmarks within each normalized distance: the PDJ curve, float [t].

    Args:
      distances: [n, p]; NaN is within none.
      counts: bool [n, p], landmarks that count, such as the visible ones; NaN without any.
      thresholds: [t]; a landmark at exactly the threshold is detected.
    """
    counts = jnp.asarray(counts)
    within = jnp.asarray(distances)[..., None] <= jnp.asarray(thresholds)  # [n, p, t]
    hits = jnp.sum(within & counts[..., None], axis=(0, 1))
    return hits / jnp.where(jnp.any(counts), jnp.sum(counts), jnp.nan)


def normalized_error(distances: ArrayLike, counts: ArrayLike) -> jax.Array:
    """Computes the mean normalized distance of the landmarks that count; NaN without any.

    Arguments as of `detection_rate`.
    """
    counts = jnp.asarray(counts)
    total = jnp.sum(jnp.where(counts, jnp.asarray(distances), 0.0))
    return total / jnp.where(jnp.any(counts), jnp.sum(counts), jnp.nan)
