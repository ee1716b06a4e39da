"""Metrics of landmarks, over distances that a length of each photo normalises."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def normalised_distances(
    points: ArrayLike, target: ArrayLike, normaliser: ArrayLike = 1.0
) -> jax.Array:
    """Euclidean distances of landmarks by each photo's normaliser, float [n, p].

    Args:
      points: [n, p, 2].
      target: [n, p, 2], in the same unit.
      normaliser: a positive length in that unit, [n] or one for all. Of points that are shares of
        a photo's width and height, 1 is the side of the square that the network sees. A pose's
        PDJ is normalised by the torso, which photos of clothes have no landmarks of.
    """
    apart = jnp.linalg.norm(jnp.asarray(points) - jnp.asarray(target), axis=-1)
    return apart / jnp.broadcast_to(jnp.asarray(normaliser), apart.shape[:1])[:, None]


def detection_rate(distances: ArrayLike, counts: ArrayLike, thresholds: ArrayLike) -> jax.Array:
    """Shares of landmarks within each normalised distance: the PDJ curve, float [t].

    Args:
      distances: [n, p]; one that is not a number is within none.
      counts: bool [n, p], landmarks that count, such as the visible ones; NaN without any.
      thresholds: [t]; a landmark just as far is detected.
    """
    counts = jnp.asarray(counts)
    within = jnp.asarray(distances)[..., None] <= jnp.asarray(thresholds)  # [n, p, t]
    found = jnp.sum(within & counts[..., None], axis=(0, 1))
    return found / jnp.where(jnp.any(counts), jnp.sum(counts), jnp.nan)


def normalised_error(distances: ArrayLike, counts: ArrayLike) -> jax.Array:
    """Mean normalised distance of the landmarks that count; NaN without any.

    Arguments as of `detection_rate`.
    """
    counts = jnp.asarray(counts)
    total = jnp.sum(jnp.where(counts, jnp.asarray(distances), 0.0))
    return total / jnp.where(jnp.any(counts), jnp.sum(counts), jnp.nan)
