"""Large batches in the memory of small ones: embed in chunks, back-propagate chunk by chunk.

The loss needs the embeddings of the whole batch, but not all of the network's activations at once
(Revaud et al., 2019): first all images are embedded and nothing else is kept, then the loss gives
the gradient of every embedding, then each chunk is embedded once more and its part of the gradient
is carried back and added. In JAX differentiating a loop over recomputed chunks does just that, so
`embed_in_chunks` is called instead of `embed` and the rest of an objective stays as it is.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax.errors import InputError

# (carried, images, number of the chunk) -> (features, carried)
EmbedChunk = Callable[[Any, Any, jax.Array], tuple[Any, Any]]


def embed_in_chunks(
    embed: EmbedChunk, carried: Any, images: Any, chunk: int, group: int = 1
) -> tuple[Any, Any]:
    """Returns features of all images, whose gradient is computed chunk by chunk.

    The gradient is exact: that of applying `embed` to each chunk and joining the features. That is
    the gradient of the whole batch at once where an image's features depend on that image alone:
    without BatchNorm, or with frozen statistics. Otherwise BatchNorm normalizes every chunk by the
    chunk's own statistics, in both passes the same, and its running statistics follow the chunks
    one after the other; that is a different network from one which normalizes by the whole batch.

    Chunk k holds the groups k, k + chunks, k + 2 chunks, ...: on several devices each has its
    equal share of every chunk and no image moves between them, and the chunks are the same on
    any number of devices. A group is an item's images, so that every chunk has customer images
    and shop images as the batch has, and BatchNorm does not normalize one kind apart.

    Args:
      embed: what embeds one chunk, differentiable in what it closes over.
      carried: a pytree passed from chunk to chunk, such as BatchNorm's running statistics; it
        has no gradient.
      images: a pytree whose leaves are [n, ...].
      chunk: images at once, which divides n; 0 for all.
      group: neighboring images that stay together.

    Returns:
      The features, leaves [n, ...] in the images' order, and what is carried after the last chunk.

    Raises:
      InputError: naming train.microbatch_size where it cannot be.
    """
    n = jax.tree.leaves(images)[0].shape[0]
    if chunk in (0, n):
        return embed(carried, images, jnp.zeros((), jnp.int32))
    check_chunk(chunk, n, group)
    chunks = n // chunk

    @jax.checkpoint
    def one(carried: Any, part: tuple[Any, jax.Array]) -> tuple[Any, Any]:
        features, carried = embed(carried, *part)
        return jax.lax.stop_gradient(carried), features

    def deal(leaf: jax.Array) -> jax.Array:
        """Returns [chunks, chunk, ...] of [n, ...]."""
        dealt = leaf.reshape(chunk // group, chunks, group, *leaf.shape[1:])
        return jnp.moveaxis(dealt, 1, 0).reshape(chunks, chunk, *leaf.shape[1:])

    dealt = jax.tree.map(deal, images)
    carried, features = jax.lax.scan(one, carried, (dealt, jnp.arange(chunks)))

    def undeal(leaf: jax.Array) -> jax.Array:
        """Returns [n, ...] in the images' order of [chunks, chunk, ...]."""
        groups = leaf.reshape(chunks, chunk // group, group, *leaf.shape[2:])
        return jnp.moveaxis(groups, 0, 1).reshape(n, *leaf.shape[2:])

    return jax.tree.map(undeal, features), carried


def check_chunk(chunk: int, images: int, group: int) -> None:
    """Raises InputError unless chunks of whole groups make up a batch of so many images."""
    if chunk <= 0 or images % chunk:
        raise InputError(
            f"train.microbatch_size: {chunk} does not divide a batch of {images} images"
        )
    if chunk % group:
        raise InputError(
            f"train.microbatch_size: {chunk} images are no whole items, of {group} images each"
        )


def embed_batch(
    matcher: nn.Module,
    params: Any,
    batch_stats: Any,
    images: Any,
    *,
    microbatch_size: int = 0,
    group: int = 1,
    method: str = "embed",
    key: jax.Array | None = None,
) -> tuple[Any, Any]:
    """Returns what a matcher's method gives in training, and the new statistics.

    Args:
      matcher: the module.
      params: its parameters.
      batch_stats: BatchNorm's running statistics.
      images: uint8 [n, h, w, 3], or what the matcher embeds in their place.
      microbatch_size: images at once, 0 for all; see `embed_in_chunks`.
      group: neighboring images that stay in one chunk.
      method: `embed` or another with its arguments.
      key: of dropout; None for matchers without.
    """

    def embed(batch_stats: Any, images: Any, number: jax.Array) -> tuple[Any, Any]:
        output, updated = matcher.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            method=method,
            mutable=["batch_stats"],
            rngs=None if key is None else {"dropout": jax.random.fold_in(key, number)},
        )
        return output, updated.get("batch_stats", batch_stats)

    return embed_in_chunks(embed, batch_stats, images, microbatch_size, group)
