"""Optimizers and learning-rate schedules."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from grnet_jax.config import OptimizerConfig
from grnet_jax.errors import InputError

Schedule = Callable[[Any], Any]


def build_schedule(optimizer: OptimizerConfig, steps: int, steps_per_epoch: int) -> Schedule:
    """Returns the learning rate by step, for a run of `steps`.

    "step" multiplies by `lr_factor` after each of the epochs `lr_milestones` (GRNet's recipe: every
    20 of 60); "cosine" rises linearly over `warmup_steps`, or a tenth of a run that is not longer,
    and falls to zero at the last step.

    Raises:
      InputError: two milestones are one step.
    """
    rate = optimizer.learning_rate
    if optimizer.schedule == "step":
        epochs = optimizer.lr_milestones
        drops = {max(round(e * steps_per_epoch), 1): optimizer.lr_factor for e in epochs}
        if len(drops) < len(epochs):
            raise InputError(
                f"optimizer.lr_milestones: two of {epochs} are the same step, at "
                f"{steps_per_epoch} steps an epoch"
            )
        return optax.piecewise_constant_schedule(rate, drops)
    warmup = count_warmup_steps(optimizer, steps)
    return optax.warmup_cosine_decay_schedule(0.0 if warmup else rate, rate, warmup, steps)


def count_warmup_steps(optimizer: OptimizerConfig, steps: int) -> int:
    """Returns `warmup_steps`, or a tenth of a run that is not longer."""
    return optimizer.warmup_steps if optimizer.warmup_steps < steps else steps // 10


def build_optimizer(optimizer: OptimizerConfig, schedule: Schedule) -> optax.GradientTransformation:
    """Builds the optimizer.

    "sgd" has momentum and L2 regularization of every parameter, as Caffe and PyTorch do it;
    "adamw" decays matrices and kernels only, decoupled. Gradients are clipped to a global
    norm of `clip_norm` first; 0 leaves them. Where `trainable` names parts, all others stay as
    they are, undecayed too. Where `ema_decay` is not 0, its state has their average.

    Raises:
      InputError: from `update`, as `trainable_mask` does.
    """
    clip = optax.clip_by_global_norm(optimizer.clip_norm)
    parts = [clip] if optimizer.clip_norm > 0 else []
    if optimizer.name == "sgd":
        parts += [
            optax.add_decayed_weights(optimizer.weight_decay),
            optax.sgd(schedule, momentum=optimizer.momentum),
        ]
    else:
        parts.append(
            optax.adamw(
                schedule,
                weight_decay=optimizer.weight_decay,
                mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
            )
        )
    if optimizer.trainable:
        parts.append(optax.stateless(lambda updates, _: _only(updates, optimizer.trainable)))
    if optimizer.ema_decay:
        parts.append(_average_parameters(optimizer.ema_decay))
    return optax.chain(*parts)


class AverageState(NamedTuple):
    """Where `TrainState.variables` finds the average of the parameters."""

    averaged: Any


def _average_parameters(decay: float) -> optax.GradientTransformation:
    """Returns the last part of a chain: it averages the parameters that the updates give."""

    def init(params: Any) -> AverageState:
        return AverageState(jax.tree.map(jnp.array, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, AverageState]:
        moved = optax.apply_updates(params, updates)
        # Of frozen parameters the average is the same to the bit.
        averaged = jax.tree.map(
            lambda mean, one: mean + (1 - decay) * (one - mean), state.averaged, moved
        )
        return updates, AverageState(averaged)

    return optax.GradientTransformation(init, update)


def _only(updates: Any, trainable: str) -> Any:
    """Returns updates of the parts that learn, zeros for all others."""
    mask = trainable_mask(updates, trainable)
    return jax.tree.map(
        lambda leaf, learns: leaf if learns else jnp.zeros_like(leaf), updates, mask
    )


def trainable_mask(params: Any, trainable: str) -> Any:
    """Returns a tree of bools: which parameters learn.

    Args:
      params: all of them.
      trainable: `config.optimizer.trainable`, paths of parts joined by commas, as
        "projection,backbone/conv1", or each with "-" in front those that do not; "" for all.

    Raises:
      InputError: naming a part without parameters, and the parts that have any.
    """
    paths = flatten_dict(params, sep="/")
    parts = [part.strip() for part in trainable.split(",")] if trainable else []
    without = [part.startswith("-") for part in parts]
    if any(without) and not all(without):
        raise InputError(
            f"optimizer.trainable={trainable!r}: expected parts that learn, or each with - in "
            "front those that do not"
        )
    parts = [part.removeprefix("-") for part in parts]
    chosen = {
        part: [path for path in paths if path == part or path.startswith(f"{part}/")]
        for part in parts
    }
    for part, inside in chosen.items():
        if not inside:
            raise InputError(
                f"optimizer.trainable: no parameter is in {part!r}; the model's parts are "
                f"{', '.join(sorted(params))}"
            )
    named = {path for inside in chosen.values() for path in inside}
    learn_if_named = bool(parts) and not any(without)
    return unflatten_dict({path: (path in named) == learn_if_named for path in paths}, sep="/")
