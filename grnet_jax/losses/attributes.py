"""The loss of attributes, most of which are absent from most images."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from grnet_jax.losses.arrays import at_least_float32, masked_mean


def attribute_weights(
    positives: np.ndarray, negatives: np.ndarray, most_frequent: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Computes weights of positives and of negatives of each attribute, float32 [a] twice.

    Liu et al. say only that the ratio of positive and negative samples in the training set
    determines them. Here w_pos = negatives / known and w_neg = positives / known: both kinds have
    the same total weight over the training set, no weight is above 1, and an attribute that every
    image has, or none, does not count. Up to a factor per attribute they are scikit-learn's
    "balanced" weights.

    Args:
      positives: int [a], training images that have the attribute.
      negatives: int [a], training images known not to have it.
      most_frequent: number of attributes that count, those with the most positives, of equal ones
        the first (FashionNet+100, +500); 0 for all.

    Raises:
      ValueError: most_frequent is negative or above the number of attributes.
    """
    positives, negatives = np.asarray(positives, np.int64), np.asarray(negatives, np.int64)
    if not 0 <= most_frequent <= len(positives):
        raise ValueError(f"most_frequent: expected 0 to {len(positives)}, got {most_frequent}")
    known = np.maximum(positives + negatives, 1)
    counts = np.ones(len(positives), bool)
    if most_frequent:
        counts[np.argsort(-positives, kind="stable")[most_frequent:]] = False
    positive, negative = (
        np.where(counts, part / known, 0).astype(np.float32) for part in (negatives, positives)
    )
    return positive, negative


def attribute_cross_entropy(
    logits: jax.Array,
    label: jax.Array,
    positive_weight: jax.Array,
    negative_weight: jax.Array,
) -> jax.Array:
    """Computes weighted binary cross-entropy in nats: the mean over known labels, 0 without any.

    -(w_pos a log p + w_neg (1 - a) log(1 - p)) with p the logit's sigmoid (Liu et al., 2016,
    Eq. 1, which lacks the minus sign: as printed, less would be worse).

    Args:
      logits: [n, a].
      label: int [n, a]: 1 present, 0 absent, -1 unknown, which does not count.
      positive_weight: [a], of `attribute_weights`.
      negative_weight: [a]; an attribute one of whose weights is 0 does not count either.

    Returns:
      A scalar of at least float32.
    """
    has = label > 0
    losses = optax.losses.sigmoid_binary_cross_entropy(at_least_float32(logits), has)
    weights = jnp.where(has, positive_weight, negative_weight)
    counts = (label >= 0) & (positive_weight > 0) & (negative_weight > 0)
    return masked_mean(weights * losses, counts)
