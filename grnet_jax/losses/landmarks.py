"""Losses of landmarks: location and visibility (FashionNet's pose branch)."""

import jax
import jax.numpy as jnp

from grnet_jax.losses.arrays import at_least_float32, masked_mean
from grnet_jax.losses.classification import class_cross_entropy
from input_pipeline import VISIBILITIES


def landmark_regression(points: jax.Array, target: jax.Array, counts: jax.Array) -> jax.Array:
    """Computes the mean over images of the sum of |v (l' - l)|^2 (Liu et al., 2016, L_landmarks).

    The paper sums over images; the mean does not depend on the batch size. It is over images with a
    landmark that counts, 0 without any.

    Args:
      points: [n, p, 2].
      target: [n, p, 2], in the same unit; values of landmarks that do not count are ignored, NaN
        too.
      counts: bool [n, p], v; in the paper the visible ones.

    Returns:
      A scalar of at least float32, in that unit's square.
    """
    errors = jnp.where(counts[..., None], at_least_float32(points) - target, 0.0)
    return masked_mean(jnp.sum(jnp.square(errors), axis=(1, 2)), jnp.any(counts, axis=1))


def visibility_classes(visibility: jax.Array) -> jax.Array:
    """Returns indices into VISIBILITIES of a batch's landmarks, int [n, p]; -1 for unknown.

    The fourth class is not in the paper, where the clothes type is given: with it the network
    itself predicts which landmarks a garment has. An image without any is taken as not annotated.

    Args:
      visibility: int [n, p]: 0 visible, 1 occluded, 2 truncated, -1 absent.
    """
    annotated = jnp.any(visibility >= 0, axis=1, keepdims=True)
    return jnp.where(annotated & (visibility < 0), VISIBILITIES.index("absent"), visibility)


def visibility_cross_entropy(logits: jax.Array, visibility: jax.Array) -> jax.Array:
    """Computes mean softmax cross-entropy in nats over landmarks of annotated images.

    Args:
      logits: [n, p, 4], in the order of VISIBILITIES.
      visibility: int [n, p], as of `visibility_classes`.

    Returns:
      A scalar of at least float32; 0 without annotated images.
    """
    classes = visibility_classes(visibility)
    return class_cross_entropy(logits.reshape(-1, logits.shape[-1]), classes.reshape(-1))
