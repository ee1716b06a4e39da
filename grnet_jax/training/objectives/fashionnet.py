"""FashionNet's objective: landmarks, visibility, category, attributes and triplets, by turns."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pydantic

from grnet_jax import losses
from grnet_jax.losses.arrays import masked_mean
from grnet_jax.models import Predictions, model_inputs, needs_domain
from grnet_jax.training.gradient_cache import embed_batch
from grnet_jax.training.loss_schedule import build_loss_weights
from grnet_jax.training.objectives.base import Objective, check_sampler
from input_pipeline import Section, field


class PhaseConfig(Section):
    """A phase's part of a cycle, and the weights of its losses."""

    fraction: float = field(0.0, "of a cycle's steps; 1 in all", "parameters", ge=0, le=1)
    # Landmarks are shares of an image's sides, whose squares are small; of attributes it is a mean
    # over all of them, whose two kinds are weighted below 1.
    landmarks: float = field(100.0, "weight", "parameters", ge=0)
    visibility: float = field(1.0, "weight", "parameters", ge=0)
    category: float = field(1.0, "weight", "parameters", ge=0)
    attributes: float = field(10.0, "weight", "parameters", ge=0)
    triplets: float = field(1.0, "weight", "parameters", ge=0)


class Config(Section):
    """FashionNet's losses by turns: the paper has two phases and prints no weights."""

    name: Literal["fashionnet"] = "fashionnet"
    cycles: int = field(2, "how often the phases follow each other", "parameters", ge=1, le=1000)
    # A phase's other losses weigh a tenth of what they weigh in their own.
    pose: PhaseConfig = PhaseConfig(fraction=0.3, category=0.1, attributes=1.0, triplets=0.1)
    recognition: PhaseConfig = PhaseConfig(fraction=0.7, landmarks=10.0, visibility=0.1)
    margin: float = field(
        0.3, "of the triplets, in squared distances of unit vectors (0 to 4)", "parameters", ge=0
    )
    most_frequent_attributes: int = field(
        0, "as many are learned: FashionNet+100, +500; 0: all", "parameters", ge=0
    )

    @property
    def phases(self) -> tuple[PhaseConfig, ...]:
        """The phases that have steps, in order."""
        return tuple(phase for phase in (self.pose, self.recognition) if phase.fraction > 0)

    def largest_weight(self, term: str) -> float:
        """The term's largest weight in any phase that has steps."""
        return max(getattr(phase, term) for phase in self.phases)

    @pydantic.model_validator(mode="after")
    def _whole(self) -> "Config":
        total = self.pose.fraction + self.recognition.fraction
        if abs(total - 1) > 1e-6:
            raise ValueError(f"pose.fraction + recognition.fraction = {total:g}: expected 1")
        return self

    def check_config(self, config: Any) -> None:
        """Raises ValueError, naming the field, where the whole config does not fit the loss."""
        model = config.model
        if not hasattr(model, "num_attributes"):
            raise ValueError(f"loss.name=fashionnet: model.name={model.name} recognizes nothing")
        check_sampler(config, "items", "images")
        if self.most_frequent_attributes > model.num_attributes:
            raise ValueError(
                f"loss.most_frequent_attributes={self.most_frequent_attributes}: expected 0 to "
                f"model.num_attributes={model.num_attributes}"
            )
        for term in ("landmarks", "visibility"):
            if self.largest_weight(term) > 0 and model.name != "fashionnet":
                raise ValueError(
                    f"loss.PHASE.{term}: model.name={model.name} finds no landmarks; expected 0"
                )
        if config.sampler.name == "images" and self.largest_weight("triplets") > 0:
            raise ValueError(
                "sampler.name=images has no triplets: set sampler.name=items, or "
                "loss.PHASE.triplets=0 for each phase"
            )


def build(matcher: nn.Module, config: Any, steps: int, index: Any) -> Objective:
    """Builds the weighted sum of FashionNet's losses on batches of images (Liu et al., 2016).

    Landmarks by their squared distance where they are visible, visibility and category by softmax,
    attributes by weighted binary cross-entropy, and triplets of embeddings by squared distances.
    Weights change with the step (`build_loss_weights`). What is unknown of an image does not count;
    a term that nothing in the batch counts for is 0.

    Args:
      matcher: one with `predict`.
      config: the whole config.
      steps: of the whole run.
      index: of the split that is trained on, whose numbers of attributes give their weights.
    """
    loss = config.loss
    weights_at = build_loss_weights(loss.phases, loss.cycles, steps)
    triplets = loss.largest_weight("triplets") > 0
    counts = (np.zeros(0), np.zeros(0)) if index is None else index.attribute_counts()
    most = 0 if index is None else loss.most_frequent_attributes
    positive, negative = map(jnp.asarray, losses.attribute_weights(counts[0], counts[1], most))

    def objective(params, batch_stats, batch, replicate):
        key = jax.random.fold_in(jax.random.key(config.seed), batch["step"])
        (features, predictions), batch_stats = embed_batch(
            matcher, params, batch_stats, model_inputs(matcher, batch),
            microbatch_size=config.train.microbatch_size, group=config.sampler.group_size,
            method="predict", key=key,
        )  # fmt: skip
        values = _recognition_losses(predictions, batch, positive, negative)
        if triplets:
            labels = batch["item"], *([batch["domain"]] if needs_domain(matcher) else [])
            values["triplets"] = _triplets(features.embedding, labels, replicate, loss.margin)
        weights = weights_at(batch["step"])
        value = sum(weights[term] * values[term] for term in values)
        known = batch["category"] >= 0
        right = jnp.argmax(predictions.category, axis=1) == batch["category"]
        metrics = {
            "loss": value,
            "batch_accuracy": masked_mean(right, known),  # of categories
            **{f"loss_{term}": values[term] for term in values},
            **{f"weight_{term}": weights[term] for term in values},
        }
        return value, (batch_stats, metrics)

    return objective


def _recognition_losses(
    predictions: Predictions, batch: Any, positive: jax.Array, negative: jax.Array
) -> dict[str, jax.Array]:
    """Returns by term the loss of each kind of prediction.

    Args:
      predictions: of the batch.
      batch: the labels.
      positive: [a], weights of having each attribute.
      negative: [a], of not having it.
    """
    values = {"category": losses.class_cross_entropy(predictions.category, batch["category"])}
    if predictions.landmarks is not None and predictions.visibility is not None:
        values["landmarks"] = losses.landmark_regression(
            predictions.landmarks, batch["landmarks"], batch["visibility"] == 0
        )
        values["visibility"] = losses.visibility_cross_entropy(
            predictions.visibility, batch["visibility"]
        )
    if predictions.attributes is not None:
        values["attributes"] = losses.attribute_cross_entropy(
            predictions.attributes, batch["attributes"], positive, negative
        )
    return values


def _triplets(
    embeddings: jax.Array, labels: tuple[jax.Array, ...], replicate: Any, margin: float
) -> jax.Array:
    """Returns the loss of all triplets of the batch: an image, one of its item, one of another.

    `labels` are the images' items [n]; with their domains [n] besides, the first image is a
    customer's and the others are shop images; else they are any.
    """
    candidates, candidate_labels = replicate((embeddings, labels))
    pairs = (label for pair in zip(labels, candidate_labels, strict=True) for label in pair)
    positive, negative = losses.comparison_masks(*pairs)
    return losses.triplet_loss(embeddings, candidates, positive, negative, margin=margin).loss
