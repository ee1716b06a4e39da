"""The loss over all pairs of a batch's customer and shop photos."""

import jax
import jax.numpy as jnp

from grnet_jax.losses.arrays import at_least_float32


def pair_labels(customer_item: jax.Array, shop_item: jax.Array) -> jax.Array:
    """Which pairs show the same item, bool [q, g], from item numbers [q] and [g].

    By the items and not by the position: a batch may hold an item twice.
    """
    return customer_item[:, None] == shop_item[None, :]


def pair_cross_entropy(
    logits: jax.Array, same: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Mean cross-entropy of "same item or not" over the pairs (Section 3.5 of GRNet).

    The paper's two-class softmax cross-entropy is the binary one on the difference of the two
    logits, which is what `logits` are. Positives and negatives weigh alike.

    Args:
      logits: [q, g].
      same: bool [q, g].
      mask: bool [q, g]; pairs that count. None for all. At least one must.

    Returns:
      A float32 number.
    """
    logits = at_least_float32(logits)
    losses = jax.nn.softplus(logits) - jnp.where(same, logits, 0.0)
    if mask is None:
        return jnp.mean(losses)
    return jnp.sum(jnp.where(mask, losses, 0.0)) / jnp.sum(mask)


def query_softmax_cross_entropy(
    logits: jax.Array, same: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Mean over queries of -log of the softmax share of the query's positives.

    Beside the pair loss it compares the gallery photos of one query with each other, which is
    what ranking does. Not in the paper.

    Args:
      logits: [q, g].
      same: bool [q, g], at least one in every row.
      mask: bool [q, g]; pairs that count, positives among them. None for all.

    Returns:
      A float32 number.
    """
    logits = at_least_float32(logits)
    counted = logits if mask is None else jnp.where(mask, logits, -jnp.inf)
    positive = jnp.where(same, logits, -jnp.inf)
    return jnp.mean(jax.nn.logsumexp(counted, axis=1) - jax.nn.logsumexp(positive, axis=1))
