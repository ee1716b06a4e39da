"""Losses of landmarks: where they are, and whether they can be seen (FashionNet's pose branch)."""

import jax
import jax.numpy as jnp

from grnet_jax.losses.arrays import at_least_float32, masked_mean
from grnet_jax.losses.classification import class_cross_entropy

# Of a landmark, by its class: what a batch calls 0, 1, 2 and, in a photo with others, -1.
VISIBILITIES = ("visible", "occluded", "truncated", "absent")


def landmark_regression(points: jax.Array, target: jax.Array, counts: jax.Array) -> jax.Array:
    """Mean over photos of the sum over landmarks of |v (l' - l)|^2 (Liu et al., 2016, Eq. 1).

    The mean where the paper sums, so that a batch's size does not matter; over the photos that have
    a landmark that counts, 0 where none has.

    Args:
      points: [n, p, 2].
      target: [n, p, 2], in the same unit; what stands in those that do not count, NaN too, is not
        looked at.
      counts: bool [n, p], v; the paper: the visible ones.

    Returns:
      A number of at least float32, in that unit's square.
    """
    wrong = jnp.where(counts[..., None], at_least_float32(points) - target, 0.0)
    return masked_mean(jnp.sum(jnp.square(wrong), axis=(1, 2)), jnp.any(counts, axis=1))


def visibility_classes(visibility: jax.Array) -> jax.Array:
    """Places in VISIBILITIES of a batch's landmarks, int [n, p]; -1 where nothing is known.

    The fourth class is not the paper's, which knows a photo's clothes type: with it the network
    itself tells which landmarks a garment has. A photo none of whose landmarks is known is taken
    for one without annotation.

    Args:
      visibility: int [n, p]: 0 visible, 1 occluded, 2 truncated, -1 absent.
    """
    annotated = jnp.any(visibility >= 0, axis=1, keepdims=True)
    return jnp.where(annotated & (visibility < 0), VISIBILITIES.index("absent"), visibility)


def visibility_cross_entropy(logits: jax.Array, visibility: jax.Array) -> jax.Array:
    """Mean softmax cross-entropy in nats of the landmarks of annotated photos; 0 without any.

    Args:
      logits: [n, p, 4], in the order of VISIBILITIES.
      visibility: int [n, p], as of `visibility_classes`.

    Returns:
      A number of at least float32.
    """
    classes = visibility_classes(visibility)
    return class_cross_entropy(logits.reshape(-1, logits.shape[-1]), classes.reshape(-1))
