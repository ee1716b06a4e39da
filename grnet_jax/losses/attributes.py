"""The loss of attributes, most of which most photos do not have."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from grnet_jax.losses.arrays import at_least_float32, masked_mean


def attribute_weights(
    positives: np.ndarray, negatives: np.ndarray, most_frequent: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of having and of not having each attribute, float32 [a] twice.

    Liu et al. say of them only that the ratio of positive and negative samples in the training set
    determines them. Ours are the other kind's share: w_pos = negatives / known and w_neg =
    positives / known. So both kinds weigh alike over the training set, no weight is above 1, and
    an attribute that every photo has, or none, does not count. They are, but for a factor of each
    attribute, the weights that scikit-learn calls balanced.

    Args:
      positives: int [a], training photos that have the attribute.
      negatives: int [a], those known not to have it.
      most_frequent: so many attributes alone count, those of the most positives, and of as many
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
    """Weighted binary cross-entropy in nats, a mean over what is known; 0 where nothing is.

    -(w_pos a log p + w_neg (1 - a) log(1 - p)) with p the logit's sigmoid (Liu et al., 2016,
    Eq. 3, which lacks the minus sign: as printed, less would be worse).

    Args:
      logits: [n, a].
      label: int [n, a]: 1 has it, 0 has it not, -1 not known, which does not count.
      positive_weight: [a], of `attribute_weights`.
      negative_weight: [a]; an attribute one of whose weights is 0 does not count either.

    Returns:
      A number of at least float32.
    """
    has = label > 0
    losses = optax.losses.sigmoid_binary_cross_entropy(at_least_float32(logits), has)
    weights = jnp.where(has, positive_weight, negative_weight)
    counts = (label >= 0) & (positive_weight > 0) & (negative_weight > 0)
    return masked_mean(weights * losses, counts)
