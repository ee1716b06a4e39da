"""What all objectives share: their form, and the batches that they train on."""

from collections.abc import Callable
from typing import Any

import jax

# (params, batch_stats, batch, replicate) -> (loss, (batch_stats, metrics)).
Objective = Callable[..., tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]]


def check_sampler(config: Any, *names: str) -> None:
    """Raises ValueError unless the sampler of a whole config is one of these."""
    if config.sampler.name not in names:
        raise ValueError(
            f"sampler.name={config.sampler.name!r}: loss.name={config.loss.name} trains on "
            f"{' or '.join(names)}"
        )
