"""What a training step minimizes: from a batch of images to a loss, for any matcher.

An objective is a function (params, batch_stats, batch, replicate) -> (loss, (batch_stats,
metrics)). `replicate` makes features whole on every device: with it a sharded batch gives
the loss over all pairs of the global batch, not of each device's part. The batch has the number of
the step as "step" beside what the input pipeline gives.

Each is a file with the section `Config` of its fields and `build(matcher, config, steps, index)`.
"""

import importlib
from typing import Any

import flax.linen as nn
import jax

from grnet_jax.training.objectives.base import Objective
from grnet_jax.training.optimizers import trainable_mask

# Losses that share a file.
ALIASES = dict.fromkeys(("triplet", "ap", "classification", "proxy_nca"), "embedding")


def build_objective(
    matcher: nn.Module, config: Any, *, steps: int = 1, index: Any = None
) -> Objective:
    """Builds the objective of `config.loss`.

    Its gradient is zero, and costs nothing, where `config.optimizer.trainable` leaves parameters
    as they are.

    Args:
      matcher: to train.
      config: the whole config.
      steps: of the whole run.
      index: of the split that is trained on; None where nothing is computed.
    """
    objective = importlib.import_module(type(config.loss).__module__).build(
        matcher, config, steps, index
    )
    trainable = config.optimizer.trainable
    return _hold_others(objective, trainable) if trainable else objective


def _hold_others(objective: Objective, trainable: str) -> Objective:
    """Returns the objective as a function of the trainable parameters alone."""

    def held(params, *others):
        mask = trainable_mask(params, trainable)
        params = jax.tree.map(
            lambda leaf, learns: leaf if learns else jax.lax.stop_gradient(leaf), params, mask
        )
        return objective(params, *others)

    return held
