"""The evaluators of a data set's split: what a matcher can be measured by."""

from collections.abc import Mapping
from typing import Any, Protocol

import flax.linen as nn
from absl import logging
from etils import epath
from jax.sharding import Mesh

from grnet_jax.evaluation.protocols import build_protocol, has_both_domains, sample_protocol
from grnet_jax.evaluation.recognition import RecognitionEvaluator, recognises_categories
from grnet_jax.evaluation.retrieval import RetrievalEvaluator


class EvaluationResult(Protocol):
    """What an evaluator measured."""

    @property
    def values(self) -> Mapping[str, float]:
        """Returns metrics by name, as logs have them."""
        ...

    def format(self) -> str:
        """Returns the metrics for the terminal."""
        ...

    def write(self, directory: epath.Path, model: str, step: int) -> str:
        """Writes the metrics to a file and returns its path."""
        ...


class Evaluator(Protocol):
    """Measures a matcher by one split; compiled once, for any number of calls."""

    def run(self, variables: Any, step: int = 0) -> EvaluationResult:
        """Measures the matcher with these variables, of a checkpoint of this step."""
        ...


def build_evaluators(
    config: Any,
    matcher: nn.Module,
    mesh: Mesh,
    dataset: Any,
    split: str,
    *,
    validation: bool = False,
    recognition: bool = True,
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
      recognition: whether the data set's labels are those that the matcher learned.

    Returns:
      "retrieval" where the split has queries and a gallery, or the matcher does nothing else;
      "recognition" where the matcher recognizes categories.
    """
    evaluators: dict[str, Evaluator] = {}
    recognises = recognition and recognises_categories(matcher, config)
    # Images of one domain alone cannot be ranked, but what they show can be recognized.
    if not recognises or has_both_domains(dataset.split(split)):
        fields = config.eval
        choices: dict[str, Any] = {"same_category": fields.same_category}
        if not validation:
            choices |= {name: fields[name] for name in ("gallery", "queries", "query_seed")}
        protocol = build_protocol(
            dataset, split, config.data, whitening=fields.whitening, **choices
        )
        store = fields.store
        if validation:
            store = ""
            if fields.get("val_queries", 1000):
                protocol = sample_protocol(protocol, fields.get("val_queries", 1000))
            logging.info("Validation: %s", protocol.describe())
        evaluators["retrieval"] = RetrievalEvaluator(config, matcher, mesh, protocol, store)
    if recognises:
        evaluators["recognition"] = RecognitionEvaluator(config, matcher, mesh, dataset, split)
    return evaluators
