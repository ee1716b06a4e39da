"""Chooses which images of a batch are compared with which."""

import jax
import jax.numpy as jnp

from input_pipeline import CUSTOMER, SHOP


def comparison_masks(
    anchor_item: jax.Array,
    candidate_item: jax.Array,
    anchor_domain: jax.Array | None = None,
    candidate_domain: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns each image's positives and negatives among the images of the batch.

    Anchors and candidates are the same n images in the same order. They are two arguments so that
    a batch can be sharded: each device has its own anchors and all candidates.

    Args:
      anchor_item: item numbers, int [n]; an image with a negative number does not count.
      candidate_item: the same.
      anchor_domain: int [n], 0 customer and 1 shop: customer images are anchors, shop images
        candidates. None: every image is an anchor with all others as candidates.
      candidate_domain: the same.

    Returns:
      positive, bool [n, n]: same item; negative, bool [n, n]: another item.
    """
    counts = (anchor_item >= 0)[:, None] & (candidate_item >= 0)[None, :]
    if anchor_domain is None or candidate_domain is None:
        n = anchor_item.shape[0]
        counts &= jnp.arange(n)[:, None] != jnp.arange(n)[None, :]
    else:
        counts &= (anchor_domain == CUSTOMER)[:, None] & (candidate_domain == SHOP)[None, :]
    same = anchor_item[:, None] == candidate_item[None, :]
    return counts & same, counts & ~same


def best_scores(
    scores: jax.Array, positive: jax.Array, negative: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns each anchor's highest positive and negative score, [n] each; -inf without any."""
    own, other = (
        jnp.max(jnp.where(mask, scores, -jnp.inf), axis=1) for mask in (positive, negative)
    )
    return own, other
