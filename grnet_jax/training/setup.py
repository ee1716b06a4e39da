"""From a config to what training, evaluation and `load` share: one way to build a run."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import optax
from etils import epath
from jax.sharding import Mesh

from grnet_jax.errors import InputError
from grnet_jax.mesh import replicated
from grnet_jax.models import build_matcher
from grnet_jax.training.checkpoints import Checkpoints, read_config
from grnet_jax.training.optimizers import Schedule, make_optimizer, make_schedule
from grnet_jax.training.state import TrainState, create_state


@dataclasses.dataclass(frozen=True)
class Run:
    """A config's parts, built.

    Attributes:
      config: the whole config.
      mesh: all devices.
      matcher: the Linen module.
      steps: training steps in all.
      schedule: learning rate by step.
      tx: the optimiser.
    """

    config: Any
    mesh: Mesh
    matcher: nn.Module
    steps: int
    schedule: Schedule
    tx: optax.GradientTransformation

    @property
    def has_parameters(self) -> bool:
        """Whether there is anything to train, and so a checkpoint to look for."""
        return bool(jax.tree.leaves(jax.eval_shape(self._create_state).params))

    def create_state(self) -> TrainState:
        """The state before the first step, on every device."""
        return jax.jit(self._create_state, out_shardings=replicated(self.mesh))()

    def abstract_state(self) -> TrainState:
        """Its shapes, as a checkpoint is restored into, without computing it."""
        whole = replicated(self.mesh)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
            jax.eval_shape(self._create_state),
        )

    def _create_state(self) -> TrainState:
        config = self.config
        return create_state(self.matcher, self.tx, config.data.image_size, config.seed)


def build_run(config: Any, mesh: Mesh, steps_per_epoch: int = 1_000_000) -> Run:
    """Builds the parts of the run that `config` describes.

    Args:
      config: the whole config.
      mesh: all devices.
      steps_per_epoch: of the training set. Only the number of steps and the schedule depend on
        it: to read a checkpoint any number does.

    Raises:
      InputError: naming the field that cannot be.
    """
    check_fields(config)
    steps = count_steps(config.train, steps_per_epoch)
    schedule = make_schedule(config.optimizer, steps, steps_per_epoch)
    return Run(
        config=config,
        mesh=mesh,
        matcher=build_matcher(config.model),
        steps=steps,
        schedule=schedule,
        tx=make_optimizer(config.optimizer, schedule),
    )


def restore_run(workdir: epath.PathLike, mesh: Mesh) -> tuple[Run, TrainState]:
    """The run in `workdir`, built from its own config, and its best checkpoint.

    Raises:
      CheckpointError: if there is no run, or no checkpoint that is whole.
    """
    directory = epath.Path(workdir).expanduser()
    run = build_run(ml_collections.ConfigDict(read_config(directory)), mesh)
    with Checkpoints(directory) as saved:
        return run, saved.restore_best(run.abstract_state())


def start_state(run: Run) -> TrainState:
    """The state before the first step: fresh, or with the parameters of `train.init_from`.

    Raises:
      InputError: naming a parameter of that run that does not fit this model.
    """
    state = run.create_state()
    workdir = run.config.train.init_from
    if not workdir:
        return state
    _, other = restore_run(workdir, run.mesh)
    theirs, ours = (_shapes(one.variables) for one in (other, state))
    wrong = sorted(name for name in theirs | ours if theirs.get(name) != ours.get(name))
    if wrong:
        raise InputError(
            f"train.init_from={workdir}: {len(wrong)} parameters do not fit this model, such as "
            f"{wrong[0]}: {theirs.get(wrong[0], 'absent')} there, "
            f"{ours.get(wrong[0], 'absent')} here"
        )
    return dataclasses.replace(state, params=other.params, batch_stats=other.batch_stats)


def _shapes(variables: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in leaves}


def count_steps(train: Any, steps_per_epoch: int) -> int:
    """`train.steps`, or where that is 0 `train.epochs` in steps.

    Raises:
      InputError: unless one is positive and the other 0.
    """
    if min(train.steps, train.epochs) != 0 or max(train.steps, train.epochs) <= 0:
        raise InputError(
            f"train.steps and train.epochs: one must be positive, the other 0; got {train.steps} "
            f"and {train.epochs}"
        )
    return train.steps or max(round(train.epochs * steps_per_epoch), 1)


# Fields that count something, and the least each may be.
_LEAST = {
    "data.image_size": 1,
    "train.batch_items": 1,
    "train.log_every": 1,
    "train.eval_every": 0,
    "train.checkpoint_every": 1,
    "eval.batch": 1,
    "eval.query_block": 1,
    "eval.gallery_block": 1,
    "eval.keep_top": 1,
    "optimizer.warmup_steps": 0,
}


def check_fields(config: Any) -> None:
    """Raises InputError, naming the field, where a number is too small."""
    for field, least in _LEAST.items():
        section, name = field.split(".")
        if config[section][name] < least:
            raise InputError(f"{field}: expected {least} or more, got {config[section][name]}")
