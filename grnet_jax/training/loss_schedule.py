"""A schedule of loss weights: phases after one another, cycle after cycle.

FashionNet (Liu et al., CVPR 2016, Section 3) trains by turns: first landmarks and their
visibility with large weights and the other losses small, then the other way round, and again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Weights = Callable[[Any], dict[str, jax.Array]]


def build_loss_weights(phases: Sequence[Any], cycles: int, steps: int) -> Weights:
    """Returns each term's weight at a step, counted from 0.

    Args:
      phases: in order; sections with `fraction`, a phase's part of a cycle's steps, and a weight
        for each term.
      cycles: how often the phases follow each other.
      steps: of the whole run; cycles and phases divide them, to the nearest step.
    """
    terms = [name for name in type(phases[0]).model_fields if name != "fraction"]
    fractions = [phase.fraction for phase in phases]
    first = np.array([0.0, *np.cumsum(fractions)[:-1]]) / cycles  # fractions of the run
    starts = [first + number / cycles for number in range(cycles)]
    begins = np.rint(np.concatenate(starts) * steps).astype(np.int32)
    table = np.array(
        [[getattr(phase, term) for term in terms] for phase in phases], np.float32
    )  # [phases, terms]

    def weights(step: Any) -> dict[str, jax.Array]:
        turn = jnp.searchsorted(begins, step, side="right") - 1
        row = jnp.asarray(table)[turn % len(table)]
        return dict(zip(terms, row, strict=True))

    return weights
