"""Objectives on batches of single images: triplets, average precision, classification."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax import models
from grnet_jax.losses import (
    average_precision_loss,
    best_scores,
    class_cross_entropy,
    comparison_masks,
    proxy_nca,
    random_meta_classes,
    triplet_loss,
)
from grnet_jax.losses.arrays import masked_mean
from grnet_jax.training.gradient_cache import embed_batch
from grnet_jax.training.objectives.base import Objective, check_sampler
from input_pipeline import Section, field

# (anchors, candidates, positive, negative, config.loss) -> (loss, metrics)
RankingLoss = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


class Config(Section):
    """A ranking loss and a class head's cross-entropy; docs/losses.md has the equations."""

    name: Literal["triplet", "ap", "classification", "proxy_nca"] = field(
        "triplet",
        "triplet or ap on batches of items; of classes alone classification or, with model.proxies,"
        " proxy_nca",
        "parameters",
    )
    similarity: Literal["item", "category"] = field(
        "item",
        "what makes two images alike for the ranking loss: the same item or category",
        "parameters",
    )
    margin: float = field(0.3, "triplet: m, in the distance's unit", "parameters", ge=0)
    distance: Literal["squared_l2", "l2"] = field("squared_l2", "triplet", "parameters")
    miner: Literal["all", "semi_hard", "hardest"] = field("all", "triplet", "parameters")
    reduction: Literal["mean", "mean_nonzero"] = field(
        "mean", "triplet: the mean over all that count, or over those with a loss", "parameters"
    )
    bins: int = field(20, "ap: of the histogram over cosines", "parameters", ge=2)
    label: Literal["category", "item", "meta_class"] = field(
        "category",
        "what the class head tells apart; meta_class: every item belongs at random to one of "
        "model.num_classes",
        "parameters",
    )
    group_seed: int = field(0, "of the meta-classes", "parameters", ge=0)
    weight: float = field(1.0, "of the ranking loss; Park et al.: 0.1", "parameters", ge=0)
    class_weight: float = field(
        0.0, "of the class head's cross-entropy; Park et al.: 1", "parameters", ge=0
    )
    label_smoothing: float = field(
        0.0, "share of a label that all labels have evenly", "parameters", ge=0, le=1
    )
    proxy_scale: float = field(
        1.0, "proxy_nca: factor on squared distances; its paper: 1", "parameters", gt=0
    )

    def check_config(self, config: Any) -> None:
        """Raises ValueError, naming the field, where the whole config does not fit the loss."""
        model, ranking = config.model, self.name in _RANKINGS
        if model.name not in ("embedding", "vam"):
            raise ValueError(f"loss.name={self.name!r}: trains model.name=embedding or vam")
        check_sampler(config, "items", *([] if ranking else ["images"]))
        if self.class_weight and not model.num_classes:
            raise ValueError(
                f"loss.class_weight={self.class_weight}: model.num_classes is 0, there is no head; "
                "training says how many there are where it is given too few"
            )
        proxies = getattr(model, "proxies", False)
        if (self.name == "proxy_nca") != proxies:
            raise ValueError(
                f"loss.name={self.name!r} with model.proxies={proxies}: expected proxy_nca "
                "with proxies, another loss without"
            )
        if not self.class_weight and not (ranking and self.weight):
            raise ValueError("loss.class_weight=0: nothing else to train on; expected above 0")
        if ranking and config.train.batch_size < 2:
            raise ValueError("train.batch_size=1: of one item alone there is no negative")


def build(matcher: nn.Module, config: Any, steps: int, index: Any) -> Objective:
    """Builds the ranking loss that `config.loss` names over the global batch, and cross-entropy.

    The loss is `loss.weight` times the ranking loss, where there is one, plus `loss.class_weight`
    times the cross-entropy of the class head, whose classes are the categories, or with
    `loss.label` "item" the items, with "meta_class" random groups of them. Park et al.
    (2019): weights 0.1 and 1. Photos are alike where they show the same item, or with
    `loss.similarity` "category" the same category; one whose category is unknown is then neither an
    anchor nor a candidate.
    """
    del steps, index
    loss, across = config.loss, config.sampler.cross_domain
    ranking = _RANKINGS.get(loss.name)

    def objective(params, batch_stats, batch, replicate):
        key = jax.random.fold_in(jax.random.key(config.seed), batch["step"])
        (features, logits), batch_stats = embed_batch(
            matcher, params, batch_stats, batch["image"],
            microbatch_size=config.train.microbatch_size, group=config.sampler.group_size,
            method="classify", key=key,
        )  # fmt: skip
        value = jnp.zeros(())
        metrics: dict[str, jax.Array] = {}
        if ranking:
            anchors, group, domain = features.embedding, batch[loss.similarity], batch["domain"]
            candidates, groups, domains = replicate((anchors, group, domain))
            domain_pair = (domain, domains) if across else ()
            positive, negative = comparison_masks(group, groups, *domain_pair)
            ranking_loss, metrics = ranking(anchors, candidates, positive, negative, loss)
            metrics |= {"batch_top1": _top1(_cosines(anchors, candidates), positive, negative)}
            value = loss.weight * ranking_loss
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
    """Returns int [n], the class of each image; -1 where it is unknown."""
    if loss.label == "meta_class":
        return random_meta_classes(batch["item"], matcher.num_classes, loss.group_seed)
    return batch[loss.label]


def _triplet(anchors, candidates, positive, negative, loss):
    result = triplet_loss(
        anchors, candidates, positive, negative,
        margin=loss.margin, distance=loss.distance, miner=loss.miner, reduction=loss.reduction,
    )  # fmt: skip
    metrics = {
        "triplet_loss": result.loss,
        "triplets": result.triplets,
        "active_triplets": result.active,
        "anchors_without_triplet": result.anchors_without,
    }
    return result.loss, metrics


def _ap(anchors, candidates, positive, negative, loss):
    cosines = _cosines(anchors, candidates)
    result = average_precision_loss(cosines, positive, negative, bins=loss.bins)
    return result.loss, {"ap_loss": result.loss, "queries_without_positive": result.queries_without}


_RANKINGS: Mapping[str, RankingLoss] = {"triplet": _triplet, "ap": _ap}


def _cosines(anchors: jax.Array, candidates: jax.Array) -> jax.Array:
    """Returns cosines [a, c] of unit vectors [a, d] and [c, d]."""
    return models.inner_products(models.Features(anchors), models.Features(candidates))


def _top1(scores: jax.Array, positive: jax.Array, negative: jax.Array) -> jax.Array:
    """Returns the share of anchors (with positives and negatives) whose best is a positive."""
    best_positive, best_negative = best_scores(scores, positive, negative)
    return masked_mean(
        best_positive > best_negative, jnp.any(positive, axis=1) & jnp.any(negative, axis=1)
    )
