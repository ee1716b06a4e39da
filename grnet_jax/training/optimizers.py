"""Optimisers and learning-rate schedules from a config."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from grnet_jax.errors import InputError

Schedule = Callable[[Any], Any]


def make_schedule(optimizer: Any, steps: int, steps_per_epoch: int) -> Schedule:
    """Learning rate by step, for a run of `steps`.

    "step" divides by `1 / decay_factor` every `decay_epochs` epochs (GRNet's recipe), or after each
    of the epochs `decay_at` where there are any; "cosine" rises linearly over `warmup_steps` and
    falls to zero at the last step.

    Raises:
      InputError: for a schedule or a number that cannot be.
    """
    rate = optimizer.learning_rate
    if rate <= 0:
        raise InputError(f"optimizer.learning_rate: expected more than 0, got {rate}")
    if optimizer.schedule == "step":
        if epochs := optimizer.decay_at:
            if list(epochs) != sorted(set(epochs)) or epochs[0] <= 0:
                raise InputError(
                    f"optimizer.decay_at: expected rising epochs above 0, got {tuple(epochs)}"
                )
            drops = {max(round(e * steps_per_epoch), 1): optimizer.decay_factor for e in epochs}
            return optax.piecewise_constant_schedule(rate, drops)
        if optimizer.decay_epochs <= 0:
            raise InputError("optimizer.decay_epochs: expected more than 0")
        every = max(round(optimizer.decay_epochs * steps_per_epoch), 1)
        return optax.exponential_decay(rate, every, optimizer.decay_factor, staircase=True)
    if optimizer.schedule == "cosine":
        warmup = optimizer.warmup_steps
        if warmup >= steps:
            raise InputError(
                f"optimizer.warmup_steps: {warmup} must be less than the run's {steps} steps"
            )
        return optax.warmup_cosine_decay_schedule(0.0 if warmup else rate, rate, warmup, steps)
    raise InputError(f"optimizer.schedule: {optimizer.schedule!r} is neither 'step' nor 'cosine'")


def make_optimizer(optimizer: Any, schedule: Schedule) -> optax.GradientTransformation:
    """The optimiser that `config.optimizer` describes.

    "sgd" has momentum and L2 regularisation of every parameter, as Caffe and PyTorch do it;
    "adamw" decays matrices and kernels only, decoupled. Gradients are clipped to a global
    norm of `clip_norm` first; 0 leaves them. Where `trainable` names parts, all others stay as
    they are, undecayed too.

    Raises:
      InputError: for an optimiser that is not there; from `init`, as `trainable_mask` does.
    """
    clip = optax.clip_by_global_norm(optimizer.clip_norm)
    parts = [clip] if optimizer.clip_norm > 0 else []
    if optimizer.name == "sgd":
        parts += [
            optax.add_decayed_weights(optimizer.weight_decay),
            optax.sgd(schedule, momentum=optimizer.momentum),
        ]
    elif optimizer.name == "adamw":
        parts.append(
            optax.adamw(
                schedule,
                weight_decay=optimizer.weight_decay,
                mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
            )
        )
    else:
        raise InputError(f"optimizer.name: {optimizer.name!r} is neither 'sgd' nor 'adamw'")
    if optimizer.trainable:
        parts.append(optax.stateless(lambda updates, _: _only(updates, optimizer.trainable)))
    return optax.chain(*parts)


def _only(updates: Any, trainable: str) -> Any:
    """Updates of the parts that learn, zeros for all others."""
    mask = trainable_mask(updates, trainable)
    return jax.tree.map(
        lambda leaf, learns: leaf if learns else jnp.zeros_like(leaf), updates, mask
    )


def trainable_mask(params: Any, trainable: str) -> Any:
    """A tree of bools: which parameters learn.

    Args:
      params: all of them.
      trainable: `config.optimizer.trainable`, paths of parts joined by commas, as
        "projection,backbone/conv1"; "" for all.

    Raises:
      InputError: naming a part in which there is no parameter, and those there are.
    """
    paths = flatten_dict(params, sep="/")
    parts = [part.strip() for part in trainable.split(",")] if trainable else []
    chosen = {
        part: [path for path in paths if path == part or path.startswith(f"{part}/")]
        for part in parts
    }
    for part, found in chosen.items():
        if not found:
            raise InputError(
                f"optimizer.trainable: no parameter is in {part!r}; the model's parts are "
                f"{', '.join(sorted(params))}"
            )
    learns = {path for found in chosen.values() for path in found} if parts else set(paths)
    return unflatten_dict({path: path in learns for path in paths}, sep="/")
