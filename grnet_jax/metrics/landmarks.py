"""Landmark metrics over distances that are normalized by a length of each image."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def normalized_distances(
    points: ArrayLike, target: ArrayLike, normalizer: ArrayLike = 1.0
) -> jax.Array:
    """Computes Euclidean distances of landmarks over each image's normalizer, float [n, p].

    Args:
      points: [n, p, 2].
      target: [n, p, 2], in the same unit.
      normalizer: a positive length in that unit, [n] or one for all. For points in fractions of
        an image's width and height, 1 is the side of the network's square input. The PDJ of poses
        is normalized by the torso, for which images of clothes have no landmarks.
    """
    distances = jnp.linalg.norm(jnp.asarray(points) - jnp.asarray(target), axis=-1)
    return distances / jnp.broadcast_to(jnp.asarray(normalizer), distances.shape[:1])[:, None]


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
