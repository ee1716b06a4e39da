"""From a config to what training, evaluation and `load` share: one way to build a run."""

import dataclasses

import flax.linen as nn
import jax
import optax
from etils import epath
from jax.sharding import Mesh

from grnet_jax.config import Config, TrainConfig
from grnet_jax.errors import InputError
from grnet_jax.models import build_matcher
from grnet_jax.sharding import parameter_sharding
from grnet_jax.training.checkpoints import Checkpoints, open_workdir, read_config
from grnet_jax.training.optimizers import Schedule, build_optimizer, build_schedule
from grnet_jax.training.state import TrainState, create_state


@dataclasses.dataclass(frozen=True)
class Run:
    """A config's parts, built.

    Attributes:
      config: the whole config.
      mesh: all devices.
      matcher: the Linen module.
      steps: training steps in all; 0 where there is nothing to train.
      schedule: learning rate by step.
      tx: the optimizer.
    """

    config: Config
    mesh: Mesh
    matcher: nn.Module
    steps: int
    schedule: Schedule
    tx: optax.GradientTransformation

    def create_state(self) -> TrainState:
        """Returns the state before the first step, on the devices."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state())
        return jax.jit(self._create_state, out_shardings=shardings)()

    def abstract_state(self) -> TrainState:
        """Returns its shapes and shardings, as a checkpoint is restored into, not computed."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=parameter_sharding(leaf, self.mesh)
            ),
            jax.eval_shape(self._create_state),
        )

    def _create_state(self) -> TrainState:
        return create_state(self.matcher, self.tx, self.config.image.size, self.config.seed)


def build_run(config: Config, mesh: Mesh, steps_per_epoch: int = 1_000_000) -> Run:
    """Builds the parts of the run that `config` describes.

    Args:
      config: the whole config.
      mesh: all devices.
      steps_per_epoch: of the training set. Only the number of steps and the schedule depend on
        it: to read a checkpoint any number does.

    Raises:
      InputError: the schedule does not fit the number of steps.
    """
    steps, schedule, tx = 0, optax.constant_schedule(0.0), optax.identity()
    if config.loss is not None:
        steps = count_steps(config.train, steps_per_epoch)
        schedule = build_schedule(config.optimizer, steps, steps_per_epoch)
        every = config.train.accumulate_steps
        tx = build_optimizer(config.optimizer, lambda update: schedule(update * every))
        if every > 1:
            tx = optax.MultiSteps(tx, every).gradient_transformation()
    return Run(config, mesh, build_matcher(config.model), steps, schedule, tx)


def restore_run(workdir: epath.PathLike, mesh: Mesh) -> tuple[Run, TrainState]:
    """Returns the run in `workdir`, built from its own config, and its best checkpoint.

    Raises:
      CheckpointError: if there is no run, or no checkpoint that is whole.
    """
    directory = open_workdir(workdir)
    run = build_run(read_config(directory), mesh)
    with Checkpoints(directory) as saved:
        return run, saved.restore_best(run.abstract_state())


def restore_matcher(workdir: epath.PathLike, mesh: Mesh) -> tuple[Run, TrainState]:
    """Returns the run in `workdir` and its best checkpoint, of a run that embeds photos.

    Raises:
      CheckpointError: if there is no run, or no checkpoint that is whole.
      InputError: the run is a detector's.
    """
    run, state = restore_run(workdir, mesh)
    if run.config.model.name == "detector":
        raise InputError(
            f"{workdir}: a detector, which embeds nothing; python -m grnet_jax.detect and "
            "grnet_jax.load_detector use it"
        )
    return run, state


def count_steps(train: TrainConfig, steps_per_epoch: int) -> int:
    """Returns `train.steps`, or where that is 0 `train.epochs` in steps."""
    return train.steps or max(round(train.epochs * steps_per_epoch), 1)
