"""Objectives on batches of single photos: triplets, average precision, classification."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax import models
from grnet_jax.errors import InputError, check_at_least
from grnet_jax.losses import (
    MINERS,
    average_precision_loss,
    best_scores,
    class_cross_entropy,
    comparison_masks,
    proxy_nca,
    random_meta_classes,
    triplet_loss,
)
from grnet_jax.losses.arrays import masked_mean
from grnet_jax.training.two_stage import embed_in_chunks

DOMAINS = ("both", "any")
SIMILARITIES = ("item", "category")
LABELS = ("category", "item", "meta_class")
# (anchors, candidates, positive, negative, config.loss) -> (loss, metrics)
RankingLoss = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


def embed_batch(
    matcher: nn.Module,
    params: Any,
    batch_stats: Any,
    photos: Any,
    *,
    chunk: int = 0,
    group: int = 1,
    method: str = "embed",
    key: jax.Array | None = None,
) -> tuple[Any, Any]:
    """What a matcher's method gives in training for photos [n, h, w, 3], and the new statistics.

    Args:
      matcher: the module.
      params: its parameters.
      batch_stats: BatchNorm's running statistics.
      photos: uint8, or what the matcher embeds in their place.
      chunk: photos at once, 0 for all; see `embed_in_chunks`.
      group: neighbouring photos that stay in one chunk.
      method: `embed` or another with its arguments.
      key: of dropout; None for matchers without.
    """

    def embed(batch_stats: Any, photos: Any, number: jax.Array) -> tuple[Any, Any]:
        found, updated = matcher.apply(
            {"params": params, "batch_stats": batch_stats},
            photos,
            train=True,
            method=method,
            mutable=["batch_stats"],
            rngs=None if key is None else {"dropout": jax.random.fold_in(key, number)},
        )
        return found, updated.get("batch_stats", batch_stats)

    return embed_in_chunks(embed, batch_stats, photos, chunk, group)


def photos_together(data: Any) -> int:
    """How many neighbouring photos of a batch are an item's, by `config.data`."""
    return {"pairs": 2, "items": data.photos_per_item, "photos": 1}[data.sampler]


def embedding_objective(matcher: nn.Module, config: Any) -> Any:
    """The ranking loss that `config.loss` names over the global batch, and cross-entropy.

    The loss is `loss.weight` times the ranking loss, where there is one, plus `loss.class_weight`
    times the cross-entropy of the class head, whose classes are the categories, or with
    `loss.label` "item" the items, with "meta_class" random groups of them. Park et al.
    (2019): weights 0.1 and 1. Photos are alike where they show the same item, or with
    `loss.similarity` "category" the same category; one whose category is unknown is then neither an
    anchor nor a candidate.

    Raises:
      InputError: naming the field that cannot be.
    """
    loss = config.loss
    _check(matcher, config.model, loss)
    ranking = _RANKINGS.get(loss.name)
    if ranking:  # of one item alone there is no negative
        check_at_least("train.batch_items", config.train.batch_items, 2)

    def objective(params, batch_stats, batch, replicate):
        key = jax.random.fold_in(jax.random.key(config.seed), batch["step"])
        (features, logits), batch_stats = embed_batch(
            matcher, params, batch_stats, batch["photo"],
            chunk=config.train.embed_chunk, group=photos_together(config.data),
            method="classify", key=key,
        )  # fmt: skip
        value = jnp.zeros(())
        metrics: dict[str, jax.Array] = {}
        if ranking:
            own = (features.descriptor, batch[loss.similarity], batch["domain"])
            anchors, group, domain = own
            candidates, *labels = replicate(own)
            if loss.domains == "both":
                positive, negative = comparison_masks(group, labels[0], domain, labels[1])
            else:
                positive, negative = comparison_masks(group, labels[0])
            found, metrics = ranking(anchors, candidates, positive, negative, loss)
            metrics |= {"batch_top1": _top1(_cosines(anchors, candidates), positive, negative)}
            value = loss.weight * found
        if loss.class_weight:
            label = _labels(batch, matcher, loss)
            if loss.name == "proxy_nca":
                cross_entropy = proxy_nca(logits, label, scale=loss.proxy_scale)
            else:
                cross_entropy = class_cross_entropy(logits, label, smoothing=loss.label_smoothing)
            value = value + loss.class_weight * cross_entropy
            right = jnp.argmax(logits, axis=1) == label
            metrics |= {
                "class_loss": cross_entropy,
                "batch_accuracy": masked_mean(right, label >= 0),
            }
        return value, (batch_stats, metrics | {"loss": value})

    return objective


def _labels(batch: Mapping[str, jax.Array], matcher: nn.Module, loss: Any) -> jax.Array:
    """int [n], what the class head is to tell of each photo; -1 where it is unknown."""
    if loss.label == "meta_class":
        return random_meta_classes(batch["item"], matcher.classes, loss.grouping)
    return batch[loss.label]


# The fields' values as `triplet_loss` names them.
_DISTANCES = {"squared": "squared_l2", "euclidean": "l2"}
_REDUCTIONS = {"triplets": "mean", "active": "mean_nonzero"}


def _triplet(anchors, candidates, positive, negative, loss):
    found = triplet_loss(
        anchors, candidates, positive, negative,
        margin=loss.margin, miner=loss.miner,
        distance=_DISTANCES[loss.form], reduction=_REDUCTIONS[loss.average],
    )  # fmt: skip
    metrics = {
        "triplet_loss": found.loss,
        "triplets": found.triplets,
        "active_triplets": found.active,
        "anchors_without_triplet": found.anchors_without,
    }
    return found.loss, metrics


def _ap(anchors, candidates, positive, negative, loss):
    cosines = _cosines(anchors, candidates)
    found = average_precision_loss(cosines, positive, negative, bins=loss.bins)
    return found.loss, {"ap_loss": found.loss, "queries_without_positive": found.queries_without}


_RANKINGS: Mapping[str, RankingLoss] = {"triplet": _triplet, "ap": _ap}


def _cosines(anchors: jax.Array, candidates: jax.Array) -> jax.Array:
    """Of unit vectors [a, d] and [c, d], [a, c]."""
    return models.inner_products(models.Features(anchors), models.Features(candidates))


def _top1(scores: jax.Array, positive: jax.Array, negative: jax.Array) -> jax.Array:
    """Share of the anchors with positives and negatives whose best candidate is a positive."""
    own, other = best_scores(scores, positive, negative)
    return masked_mean(own > other, jnp.any(positive, axis=1) & jnp.any(negative, axis=1))


def _check(matcher: nn.Module, model: Any, loss: Any) -> None:
    """Raises InputError, naming the field, where a loss cannot be computed."""
    if not hasattr(matcher, "classify"):
        raise InputError(f"loss.name: {loss.name!r} trains model.name=embedding alone")
    for field, choices in (
        ("domains", DOMAINS),
        ("similarity", SIMILARITIES),
        ("label", LABELS),
        ("form", _DISTANCES),
        ("miner", MINERS),
        ("average", _REDUCTIONS),
    ):
        if loss[field] not in choices:
            raise InputError(f"loss.{field}: {loss[field]!r} is none of {list(choices)}")
    check_at_least("loss.bins", loss.bins, 2)
    check_at_least("loss.grouping", loss.grouping, 0)
    for field in ("margin", "weight", "class_weight", "label_smoothing"):
        check_at_least(f"loss.{field}", loss[field], 0)
    if loss.label_smoothing > 1:
        raise InputError(f"loss.label_smoothing: expected 1 or less, got {loss.label_smoothing}")
    if loss.class_weight and not matcher.classes:
        raise InputError(
            f"loss.class_weight: {loss.class_weight}, but model.classes is 0: there is no head; "
            "training says how many there are where it is given too few"
        )
    if (loss.name == "proxy_nca") != model.proxies:
        raise InputError(
            f"loss.name: {loss.name!r} with model.proxies={model.proxies}; expected 'proxy_nca' "
            "with proxies, another loss without"
        )
    check_at_least("loss.proxy_scale", loss.proxy_scale, 1e-6)
    if not loss.class_weight and (loss.name not in _RANKINGS or not loss.weight):
        raise InputError("loss.class_weight: 0, and nothing else to train on; expected more than 0")
