"""A detector's losses: objectness and boxes of anchors; classes, boxes and masks of proposals."""

from typing import Any, Literal

import flax.linen as nn
import jax

from grnet_jax.training.objectives.base import Objective, check_sampler
from input_pipeline import Section


class Config(Section):
    """The sum of a detector's losses, each of weight 1."""

    name: Literal["detection"] = "detection"

    def check_config(self, config: Any) -> None:
        """Raises ValueError, naming the field, where the whole config does not fit the loss."""
        if config.model.name != "detector":
            raise ValueError(f"loss.name=detection: model.name={config.model.name} detects nothing")
        check_sampler(config, "images")
        for name in ("crop_jitter", "rotation_degrees", "shear"):
            if getattr(config.augment, name):
                raise ValueError(f"augment.{name}: photos with objects are not changed so")


def build(detector: nn.Module, config: Any, steps: int, index: Any) -> Objective:
    """Builds the sum of a detector's losses on batches of `object_train_batches`.

    Which anchors and proposals are trained on is drawn by the seed and the step.
    """
    del steps, index

    def objective(params, batch_stats, batch, replicate):
        del replicate
        key = jax.random.fold_in(jax.random.key(config.seed), batch["step"])
        values, changed = detector.apply(
            {"params": params, "batch_stats": batch_stats},
            *(batch, key),
            method="losses",
            mutable=["batch_stats"],
        )
        loss = sum(values.values())
        return loss, (changed.get("batch_stats", {}), {"loss": loss, **values})

    return objective
