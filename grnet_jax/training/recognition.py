"""FashionNet's objective: landmarks, visibility, category, attributes and triplets, by turns."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from grnet_jax import losses
from grnet_jax.errors import InputError, check_at_least
from grnet_jax.losses.arrays import masked_mean
from grnet_jax.models import Predictions, has_predictions, photos_of, takes_domain
from grnet_jax.training.embedding_objectives import embed_batch, photos_together
from grnet_jax.training.phases import largest_weight, make_weights

TERMS = ("landmarks", "visibility", "category", "attributes", "triplets")


def fashionnet_objective(matcher: nn.Module, config: Any, steps: int, index: Any) -> Any:
    """The weighted sum of FashionNet's losses on batches of photos (Liu et al., 2016).

    Landmarks by their squared distance where they are visible, visibility and category by softmax,
    attributes by weighted binary cross-entropy, and triplets of unit descriptors by squared
    distances. Weights change with the step (`phases.make_weights`). What is not known of a photo
    does not count; a term that nothing in the batch counts for is 0.

    Args:
      matcher: one with `predict`.
      config: the whole config.
      steps: of the whole run.
      index: of the split that is trained on, whose numbers of attributes give their weights; None
        to check the fields alone.

    Raises:
      InputError: naming the field that cannot be.
    """
    loss = config.loss
    _check(matcher, config)
    weights_at = make_weights(loss, TERMS, steps)
    triplets = largest_weight(loss, "triplets") > 0
    # Where there is no data set yet the fields are checked alone, and nothing is computed.
    counts = (np.zeros(0), np.zeros(0)) if index is None else index.attribute_counts()
    most = 0 if index is None else loss.most_frequent_attributes
    positive, negative = map(jnp.asarray, losses.attribute_weights(counts[0], counts[1], most))

    def objective(params, batch_stats, batch, replicate):
        key = jax.random.fold_in(jax.random.key(config.seed), batch["step"])
        (features, found), batch_stats = embed_batch(
            matcher, params, batch_stats, photos_of(matcher, batch),
            chunk=config.train.embed_chunk, group=photos_together(config.data),
            method="predict", key=key,
        )  # fmt: skip
        values = _recognition_losses(found, batch, positive, negative)
        if triplets:
            own = batch["item"], *([batch["domain"]] if takes_domain(matcher) else [])
            values["triplets"] = _triplets(features.descriptor, own, replicate, loss.margin)
        weights = weights_at(batch["step"])
        value = sum(weights[term] * values[term] for term in values)
        known = batch["category"] >= 0
        right = jnp.argmax(found.category, axis=1) == batch["category"]
        metrics = {
            "loss": value,
            "batch_accuracy": masked_mean(right, known),  # of categories
            **{f"loss_{term}": values[term] for term in values},
            **{f"weight_{term}": weights[term] for term in values},
        }
        return value, (batch_stats, metrics)

    return objective


def _recognition_losses(
    found: Predictions, batch: Any, positive: jax.Array, negative: jax.Array
) -> dict[str, jax.Array]:
    """By term the loss of each kind of prediction that there is.

    Args:
      found: predictions of the batch.
      batch: its labels.
      positive: [a], weights of having each attribute.
      negative: [a], of not having it.
    """
    values = {"category": losses.class_cross_entropy(found.category, batch["category"])}
    if found.landmarks is not None and found.visibility is not None:
        values["landmarks"] = losses.landmark_regression(
            found.landmarks, batch["landmarks"], batch["visibility"] == 0
        )
        values["visibility"] = losses.visibility_cross_entropy(
            found.visibility, batch["visibility"]
        )
    if found.attributes is not None:
        values["attributes"] = losses.attribute_cross_entropy(
            found.attributes, batch["attributes"], positive, negative
        )
    return values


def _triplets(
    descriptor: jax.Array, own: tuple[jax.Array, ...], replicate: Any, margin: float
) -> jax.Array:
    """The loss of all triplets of the batch: a photo, one of its item, one of another.

    `own` is the photos' items [n]; with their domains [n] besides, the first is a customer's photo
    and the others are shop photos; else they are any.
    """
    candidates, of_candidates = replicate((descriptor, own))
    of_each = (label for pair in zip(own, of_candidates, strict=True) for label in pair)
    positive, negative = losses.comparison_masks(*of_each)
    return losses.triplet_loss(descriptor, candidates, positive, negative, margin=margin).loss


def _check(matcher: nn.Module, config: Any) -> None:
    loss = config.loss
    if "attributes" not in config.model or not has_predictions(matcher):
        raise InputError(f"loss.name=fashionnet: model.name={config.model.name} recognises nothing")
    check_at_least("loss.margin", loss.margin, 0)
    most = config.model.attributes
    if not 0 <= loss.most_frequent_attributes <= most:
        raise InputError(
            f"loss.most_frequent_attributes: expected 0 to model.attributes={most}, got "
            f"{loss.most_frequent_attributes}"
        )
    make_weights(loss, TERMS, 1)
    for term in ("landmarks", "visibility"):
        if largest_weight(loss, term) > 0 and config.model.name != "fashionnet":
            raise InputError(
                f"loss.PHASE.{term}: model.name={config.model.name} finds no landmarks; expected 0"
            )
    if config.data.sampler == "photos" and largest_weight(loss, "triplets") > 0:
        raise InputError(
            "data.sampler=photos has no triplets: set data.sampler=items, or loss.PHASE.triplets=0 "
            "for each phase"
        )


def check_labels(model: Any, index: Any) -> None:
    """Raises InputError where a model with a number of labels has another than the data set."""
    for field in ("categories", "attributes"):
        there = len(getattr(index, field))
        if model.get(field, there) != there:
            raise InputError(
                f"model.{field}: {model[field]}, but the data set has {there}: set "
                f"--config.model.{field}={there}"
            )
