"""The evaluators of a data set's split: what a matcher can be measured by."""

from collections.abc import Mapping
from typing import Any, Protocol

import flax.linen as nn
from absl import logging
from etils import epath
from jax.sharding import Mesh

from grnet_jax.config import Config
from grnet_jax.evaluation.detection import DetectionEvaluator, as_seen
from grnet_jax.evaluation.protocols import build_protocol, has_both_domains, sample_protocol
from grnet_jax.evaluation.recognition import (
    RecognitionEvaluator,
    labels_in_common,
    recognizes_categories,
)
from grnet_jax.evaluation.retrieval import RetrievalEvaluator
from input_pipeline import ObjectSplit

_RESAMPLES = 200  # of a split's photos, for the interval of a detector's AP50


class EvaluationResult(Protocol):
    """What an evaluator measured."""

    @property
    def values(self) -> Mapping[str, float]:
        """Returns metrics by name, as logs have them."""
        ...

    def format(self) -> str:
        """Returns the metrics for the terminal."""
        ...

    def write(
        self, directory: epath.Path, model: str, step: int, provenance: Mapping[str, Any]
    ) -> list[str]:
        """Writes the metrics to files, with where they come from, and returns the paths."""
        ...


class Evaluator(Protocol):
    """Measures a matcher by one split; compiled once, for any number of calls."""

    def run(self, variables: Any, step: int = 0) -> EvaluationResult:
        """Measures the matcher with these variables, of a checkpoint of this step."""
        ...


def build_evaluators(
    config: Config,
    matcher: nn.Module,
    mesh: Mesh,
    dataset: Any,
    split: str,
    *,
    validation: bool = False,
    learned: Any = None,
    scratch: str = "",
) -> dict[str, Evaluator]:
    """Builds the evaluators that fit a matcher and a split, by name.

    Args:
      config: the whole config.
      matcher: the Linen module.
      mesh: the devices.
      dataset: an `input_pipeline.Dataset`.
      split: the name of one of its splits.
      validation: whether it is measured while training: on a sample of the split's queries and of
        its own gallery, in memory.
      scratch: of `RetrievalEvaluator`.
      learned: the `categories` and `attributes` that the matcher learned; None: the data set's.

    Returns:
      "detection" of a detector; else
      "retrieval" where the split has queries and a gallery, or the matcher does nothing else;
      "recognition" where the matcher recognizes categories, and the data set has any label of
      what it learned.
    """
    dataset = as_seen(config, dataset)
    if isinstance(dataset.split(split), ObjectSplit):
        resamples = 0 if validation else _RESAMPLES
        return {
            "detection": DetectionEvaluator(
                config, matcher, mesh, dataset, split, learned, resamples
            )
        }
    evaluators: dict[str, Evaluator] = {}
    recognizes = recognizes_categories(matcher, config)
    if recognizes and learned is not None:
        recognizes = labels_in_common(config, dataset.split(split).index, learned)
        if not recognizes:
            logging.warning(
                "Categories are not measured: %s has none that was learned.", dataset.name
            )
    # Images of one domain alone cannot be ranked, but what they show can be recognized.
    if not recognizes or has_both_domains(dataset.split(split)):
        options = config.eval.protocol.model_copy(update={"split": split})
        if validation:
            options = options.model_copy(update={"gallery": "", "queries": "", "rank_items": ""})
        protocol = build_protocol(
            dataset, config.image, options, whitening=config.eval.search.whitening
        )
        if validation and options.val_queries:
            protocol = sample_protocol(protocol, options.val_queries)
        if validation:
            logging.info("Validation: %s", protocol.describe())
        store = "" if validation else config.eval.search.store
        evaluators["retrieval"] = RetrievalEvaluator(
            config, matcher, mesh, protocol, store, scratch
        )
    if recognizes:
        evaluators["recognition"] = RecognitionEvaluator(
            config, matcher, mesh, dataset, split, learned
        )
    return evaluators
