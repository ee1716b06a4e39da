"""What a training step minimises: from a batch of photos to a loss, for any matcher.

An objective is a function (params, batch_stats, batch, replicate) -> (loss, (batch_stats,
metrics)). `replicate` makes features whole on every device: with it a sharded batch gives
the loss over all pairs of the global batch, not of each device's part. The batch has the number
of the step as "step" beside what the input pipeline gives.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax import models
from grnet_jax.errors import InputError, check_at_least
from grnet_jax.losses import (
    best_scores,
    pair_cross_entropy,
    pair_labels,
    query_softmax_cross_entropy,
)
from grnet_jax.training.embedding_objectives import embed_batch, embedding_objective
from grnet_jax.training.optimizers import trainable_mask
from grnet_jax.training.recognition import fashionnet_objective

Objective = Callable[..., tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]]


def embed_pairs(
    matcher: nn.Module,
    params: Any,
    batch_stats: Any,
    batch: Mapping[str, jax.Array],
    chunk: int = 0,
) -> tuple[Any, Any, Any]:
    """Features of a batch's customer photos and shop photos, and the new batch statistics.

    Both go through the network as one batch, customer and shop photo of an item side by side,
    so that BatchNorm sees both and no device's rows move; with `chunk` so many photos at once.
    """
    photos = jnp.stack([batch["customer"], batch["shop"]], axis=1)  # [p, 2, h, w, 3]
    items = photos.shape[0]
    features, batch_stats = embed_batch(
        matcher,
        params,
        batch_stats,
        photos.reshape(2 * items, *photos.shape[2:]),
        chunk=chunk,
        group=2,
    )
    paired = jax.tree.map(lambda leaf: leaf.reshape(items, 2, *leaf.shape[1:]), features)
    customer = jax.tree.map(lambda leaf: leaf[:, 0], paired)
    shop = jax.tree.map(lambda leaf: leaf[:, 1], paired)
    return customer, shop, batch_stats


def pairs_objective(matcher: nn.Module, config: Any) -> Objective:
    """Same item or not, over all customer x shop pairs of the global batch (GRNet).

    `loss.leave_out_identical` leaves out negatives whose shop photo is byte for byte that of
    the customer's item in the batch; `loss.query_softmax_weight` adds the softmax over each
    customer's shop photos, `loss.descriptor_weight` the same over the inner products of
    descriptors, divided by `loss.descriptor_temperature`. With `loss.pair_weight` 0 no pair is
    scored, and descriptors learn alone.

    Raises:
      InputError: a negative weight, or a temperature that is not positive.
    """
    loss, chunk = config.loss, config.train.embed_chunk
    _check_pairs(loss)

    def objective(params, batch_stats, batch, replicate):
        customer, shop, batch_stats = embed_pairs(matcher, params, batch_stats, batch, chunk)
        shop, item, content = replicate((shop, batch["item"], batch["content"]))
        same = pair_labels(batch["item"], item)
        mask = None
        if loss.leave_out_identical:
            mask = same | (batch["content"][:, None] != content[None, :])
        value, metrics = jnp.zeros(()), {}
        if loss.pair_weight:
            variables = {"params": params, "batch_stats": batch_stats}
            logits = models.score(matcher, variables, customer, shop)  # [customers, shops]
            pairs = pair_cross_entropy(logits, same, mask)
            if loss.query_softmax_weight:
                ranking = query_softmax_cross_entropy(logits, same, mask)
                pairs = pairs + loss.query_softmax_weight * ranking
            value = loss.pair_weight * pairs
            own, best_negative = best_scores(logits, same, ~same)
            metrics = {
                "batch_top1": jnp.mean(own > best_negative),
                "positive_logit": jnp.mean(own),
                "best_negative_logit": jnp.mean(best_negative),
            }
        if loss.descriptor_weight:
            similarity = models.inner_products(customer, shop) / loss.descriptor_temperature
            auxiliary = query_softmax_cross_entropy(similarity, same, mask)
            value = value + loss.descriptor_weight * auxiliary
            own, best_negative = best_scores(similarity, same, ~same)
            metrics |= {
                "descriptor_loss": auxiliary,
                "descriptor_batch_top1": jnp.mean(own > best_negative),
            }
        return value, (batch_stats, {"loss": value, **metrics})

    return objective


def _check_pairs(loss: Any) -> None:
    """Raises InputError, naming the field, where the loss of pairs cannot be computed."""
    if "pair_weight" not in loss:
        raise InputError("loss.name: 'pairs' has the fields of configs/grnet.py's loss, not these")
    for field in ("pair_weight", "descriptor_weight"):
        check_at_least(f"loss.{field}", loss[field], 0)
    if not loss.pair_weight and not loss.descriptor_weight:
        raise InputError("loss.pair_weight and loss.descriptor_weight: nothing learns with both 0")
    if not 0 < loss.descriptor_temperature < math.inf:
        raise InputError(
            "loss.descriptor_temperature: expected a positive number, got "
            f"{loss.descriptor_temperature}"
        )


def _of_config(make: Callable[[nn.Module, Any], Objective]) -> Callable[..., Objective]:
    """The objective of a matcher and a config, which needs nothing of the run."""
    return lambda matcher, config, steps, index: make(matcher, config)


# (matcher, config, steps of the run, index of the split that is trained on) -> objective.
OBJECTIVES: Mapping[str, Callable[..., Objective]] = {
    "ap": _of_config(embedding_objective),
    "classification": _of_config(embedding_objective),
    "fashionnet": fashionnet_objective,
    "proxy_nca": _of_config(embedding_objective),
    "pairs": _of_config(pairs_objective),
    "triplet": _of_config(embedding_objective),
}
# What each trains on: data.sampler.
_SAMPLERS = {
    "ap": ("items",),
    "classification": ("items", "photos"),
    "fashionnet": ("items", "photos"),
    "proxy_nca": ("items", "photos"),
    "pairs": ("pairs",),
    "triplet": ("items",),
}


def make_objective(
    matcher: nn.Module, config: Any, *, steps: int = 1, index: Any = None
) -> Objective:
    """The objective that `config.loss` names, on the batches that `config.data.sampler` makes.

    Its gradient is zero, and costs nothing, where `config.optimizer.trainable` leaves parameters
    as they are.

    Args:
      matcher: to train.
      config: the whole config.
      steps: of the whole run.
      index: of the split that is trained on; None where the fields are checked alone.

    Raises:
      InputError: naming the objectives there are, the sampler that this one needs, or a field of
        it that cannot be.
    """
    loss, sampler = config.loss, config.data.sampler
    if loss.name not in OBJECTIVES:
        raise InputError(f"loss.name: {loss.name!r} is none of {sorted(OBJECTIVES)}")
    if sampler not in _SAMPLERS[loss.name]:
        raise InputError(
            f"data.sampler: {sampler!r}, but loss.name={loss.name} trains on "
            f"{' or '.join(map(repr, _SAMPLERS[loss.name]))}"
        )
    check_at_least("train.embed_chunk", config.train.embed_chunk, 0)
    objective = OBJECTIVES[loss.name](matcher, config, steps, index)
    trainable = config.optimizer.trainable
    return _hold_others(objective, trainable) if trainable else objective


def _hold_others(objective: Objective, trainable: str) -> Objective:
    """The objective as a function of the trainable parameters alone."""

    def held(params, *others):
        mask = trainable_mask(params, trainable)
        params = jax.tree.map(
            lambda leaf, learns: leaf if learns else jax.lax.stop_gradient(leaf), params, mask
        )
        return objective(params, *others)

    return held
