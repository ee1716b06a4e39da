"""One training step, jitted over the mesh."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from grnet_jax.sharding import parameter_sharding, replicated, sharded
from grnet_jax.training.objectives import Objective
from grnet_jax.training.optimizers import Schedule
from grnet_jax.training.state import TrainState


def make_train_step(
    objective: Objective, tx: optax.GradientTransformation, schedule: Schedule, mesh: Mesh
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns a step (state, batch) -> (state, metrics), which uses up the state passed in.

    The state lies by `parameter_sharding`, the batch's leading axis is shared by the devices; the
    loss and its gradient are those of the global batch, whatever the number of devices. Metrics are
    the objective's, whose batch has the number of the `step` besides, with `gradient_norm` before
    clipping, `parameter_norm` before the step and `learning_rate`.
    """

    def replicate(tree: Any) -> Any:
        return jax.lax.with_sharding_constraint(tree, replicated(mesh))

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        gradient = jax.value_and_grad(objective, has_aux=True)
        (_, (batch_stats, metrics)), grads = gradient(
            state.params, state.batch_stats, {**batch, "step": state.step}, replicate
        )
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        metrics = metrics | {
            "gradient_norm": optax.tree.norm(grads),
            "parameter_norm": optax.tree.norm(state.params),
            "learning_rate": schedule(state.step),
        }
        state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        shardings = jax.tree.map(lambda leaf: parameter_sharding(leaf, mesh), state)
        return jax.lax.with_sharding_constraint(state, shardings), metrics

    return jax.jit(
        train_step,
        in_shardings=(None, sharded(mesh)),  # the state's are its own
        out_shardings=(None, replicated(mesh)),
        donate_argnums=0,
    )
