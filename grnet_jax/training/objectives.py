"""What a training step minimises: from a batch of photos to a loss, for any matcher.

An objective is a function (params, batch_stats, batch, replicate) -> (loss, (batch_stats,
metrics)). `replicate` makes features whole on every device: with it a sharded batch gives
the loss over all pairs of the global batch, not of each device's part.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax import models
from grnet_jax.errors import InputError, check_at_least
from grnet_jax.losses import pair_cross_entropy, pair_labels, query_softmax_cross_entropy

Objective = Callable[..., tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]]


def embed_pairs(
    matcher: nn.Module, params: Any, batch_stats: Any, batch: Mapping[str, jax.Array]
) -> tuple[Any, Any, Any]:
    """Features of a batch's customer photos and shop photos, and the new batch statistics.

    Both go through the network as one batch, customer and shop photo of an item side by side,
    so that BatchNorm sees both and no device's rows move.
    """
    photos = jnp.stack([batch["customer"], batch["shop"]], axis=1)  # [p, 2, h, w, 3]
    items = photos.shape[0]
    features, updated = matcher.apply(
        {"params": params, "batch_stats": batch_stats},
        photos.reshape(2 * items, *photos.shape[2:]),
        train=True,
        method="embed",
        mutable=["batch_stats"],
    )
    paired = jax.tree.map(lambda leaf: leaf.reshape(items, 2, *leaf.shape[1:]), features)
    customer = jax.tree.map(lambda leaf: leaf[:, 0], paired)
    shop = jax.tree.map(lambda leaf: leaf[:, 1], paired)
    return customer, shop, updated.get("batch_stats", batch_stats)


def pairs_objective(matcher: nn.Module, loss: Any) -> Objective:
    """Same item or not, over all customer x shop pairs of the global batch (GRNet).

    `loss.leave_out_identical` leaves out negatives whose shop photo is byte for byte that of
    the customer's item in the batch; `loss.query_softmax_weight` adds the softmax over each
    customer's shop photos, `loss.descriptor_weight` the same over the inner products of
    descriptors, divided by `loss.descriptor_temperature`.

    Raises:
      InputError: a negative weight, or a temperature that is not positive.
    """
    check_at_least("loss.descriptor_weight", loss.descriptor_weight, 0)
    if not 0 < loss.descriptor_temperature < math.inf:
        raise InputError(
            "loss.descriptor_temperature: expected a positive number, got "
            f"{loss.descriptor_temperature}"
        )

    def objective(params, batch_stats, batch, replicate):
        customer, shop, batch_stats = embed_pairs(matcher, params, batch_stats, batch)
        shop, item, content = replicate((shop, batch["item"], batch["content"]))
        variables = {"params": params, "batch_stats": batch_stats}
        logits = models.score(matcher, variables, customer, shop)  # [customers, shops]
        same = pair_labels(batch["item"], item)
        mask = None
        if loss.leave_out_identical:
            mask = same | (batch["content"][:, None] != content[None, :])
        value = pair_cross_entropy(logits, same, mask)
        if loss.query_softmax_weight:
            ranking = query_softmax_cross_entropy(logits, same, mask)
            value = value + loss.query_softmax_weight * ranking
        own, best_negative = _best_logits(logits, same)
        metrics = {
            "batch_top1": jnp.mean(own > best_negative),
            "positive_logit": jnp.mean(own),
            "best_negative_logit": jnp.mean(best_negative),
        }
        if loss.descriptor_weight:
            # [q, d] x [g, d] -> [q, g]
            products = jnp.einsum("qd,gd->qg", customer.descriptor, shop.descriptor)
            similarity = products / loss.descriptor_temperature
            auxiliary = query_softmax_cross_entropy(similarity, same, mask)
            value = value + loss.descriptor_weight * auxiliary
            own, best_negative = _best_logits(similarity, same)
            metrics |= {
                "descriptor_loss": auxiliary,
                "descriptor_batch_top1": jnp.mean(own > best_negative),
            }
        return value, (batch_stats, {"loss": value, **metrics})

    return objective


def _best_logits(logits: jax.Array, same: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Each query's highest logit of a positive and of a negative, [q] each."""
    own = jnp.max(jnp.where(same, logits, -jnp.inf), axis=1)
    return own, jnp.max(jnp.where(same, -jnp.inf, logits), axis=1)


OBJECTIVES: Mapping[str, Callable[[nn.Module, Any], Objective]] = {"pairs": pairs_objective}
# What each trains on: data.sampler.
_SAMPLERS = {"pairs": "pairs"}


def make_objective(matcher: nn.Module, config: Any) -> Objective:
    """The objective that `config.loss` names, on the batches that `config.data.sampler` makes.

    Raises:
      InputError: naming the objectives there are, or the sampler that this one needs.
    """
    loss, sampler = config.loss, config.data.sampler
    if loss.name not in OBJECTIVES:
        raise InputError(f"loss.name: {loss.name!r} is none of {sorted(OBJECTIVES)}")
    if sampler != _SAMPLERS[loss.name]:
        raise InputError(
            f"data.sampler: {sampler!r}, but loss.name={loss.name} trains on "
            f"{_SAMPLERS[loss.name]!r}"
        )
    return OBJECTIVES[loss.name](matcher, loss)
