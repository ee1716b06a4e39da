"""Losses over all pairs of a batch's customer and shop images."""

import jax
import jax.numpy as jnp

from grnet_jax.losses.arrays import at_least_float32


def pair_labels(customer_item: jax.Array, shop_item: jax.Array) -> jax.Array:
    """Returns which pairs show the same item, bool [q, g], from item numbers [q] and [g].

    By items, not by position: a batch may hold an item twice.
    """
    return customer_item[:, None] == shop_item[None, :]


def pair_cross_entropy(
    logits: jax.Array, same: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Computes the mean cross-entropy of "same item or not" over pairs (GRNet, Section 3.2).

    The paper's two-class softmax cross-entropy is binary cross-entropy of the difference of the two
    logits, which is what `logits` are. Positives and negatives have the same weight.

    Args:
      logits: [q, g].
      same: bool [q, g].
      mask: bool [q, g]; pairs that count. None for all. At least one must.

    Returns:
      A float32 scalar.
    """
    logits = at_least_float32(logits)
    losses = jax.nn.softplus(logits) - jnp.where(same, logits, 0.0)
    if mask is None:
        return jnp.mean(losses)
    return jnp.sum(jnp.where(mask, losses, 0.0)) / jnp.sum(mask)


def query_softmax_cross_entropy(
    logits: jax.Array, same: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Computes the mean over queries of -log of the softmax probability of their positives.

    Unlike the pair loss it compares gallery images of one query with each other, as ranking does.
    Not in the paper.

    Args:
      logits: [q, g].
      same: bool [q, g], at least one in every row.
      mask: bool [q, g]; pairs that count, positives among them. None for all.

    Returns:
      A float32 scalar.
    """
    logits = at_least_float32(logits)
    counted = logits if mask is None else jnp.where(mask, logits, -jnp.inf)
    positive = jnp.where(same, logits, -jnp.inf)
    return jnp.mean(jax.nn.logsumexp(counted, axis=1) - jax.nn.logsumexp(positive, axis=1))
