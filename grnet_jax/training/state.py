"""What training carries from step to step."""

import dataclasses
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
    """All that a checkpoint restores.

    Attributes:
      step: steps done, int32.
      params: float32 parameters.
      batch_stats: BatchNorm's running statistics; empty for models without.
      opt_state: the optimizer's.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """Returns parameters, averaged if they are, and statistics, as `apply` takes them."""
        params = optax.tree.get(self.opt_state, "averaged", self.params)
        return {"params": params, "batch_stats": self.batch_stats}

    def started_from(self, params: Any, batch_stats: Any) -> "TrainState":
        """Returns the state with these parameters, from which their average starts too."""
        opt_state = self.opt_state
        if optax.tree.get(opt_state, "averaged") is not None:
            opt_state = optax.tree.set(opt_state, averaged=jax.tree.map(jnp.copy, params))
        return dataclasses.replace(
            self, params=params, batch_stats=batch_stats, opt_state=opt_state
        )


def init_variables(matcher: nn.Module, image_size: int, seed: int) -> dict[str, Any]:
    """Returns fresh parameters and statistics of a matcher for square images of that size."""
    images = jnp.zeros((2, image_size, image_size, 3), jnp.uint8)
    return jax.jit(matcher.init)(jax.random.key(seed), images)


def create_state(
    matcher: nn.Module, tx: optax.GradientTransformation, image_size: int, seed: int
) -> TrainState:
    """Returns the state before the first step, a function of the seed alone."""
    variables = init_variables(matcher, image_size, seed)
    params = variables.get("params", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=tx.init(params),
    )
