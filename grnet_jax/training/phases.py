"""A schedule of loss weights: phases after one another, round after round, as a config says.

FashionNet (Liu et al., CVPR 2016, Section 4.1) trains by turns: first landmarks and their
visibility with large weights and the other losses small, then the other way round, and again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from grnet_jax.errors import InputError, check_at_least

Weights = Callable[[Any], dict[str, jax.Array]]


def make_weights(loss: Any, terms: Sequence[str], steps: int) -> Weights:
    """Each term's weight at a step, counted from 0.

    Args:
      loss: config.loss, of which are read: rounds, how often the phases follow each other; phases,
        their names in order; and for each of them a section of that name with share, its part of a
        round's steps, and a weight for each term.
      terms: names of the terms.
      steps: of the whole run; rounds and phases divide them, to the nearest step.

    Raises:
      InputError: naming the field that cannot be.
    """
    check_at_least("loss.rounds", loss.rounds, 1)
    if not loss.phases:
        raise InputError("loss.phases: expected at least one phase")
    for phase in loss.phases:
        if phase not in loss:
            raise InputError(f"loss.phases: there is no section loss.{phase}")
        for field in ("share", *terms):
            check_at_least(f"loss.{phase}.{field}", loss[phase][field], 0)
    shares = [loss[phase].share for phase in loss.phases]
    if abs(sum(shares) - 1) > 1e-6:
        named = " + ".join(f"loss.{phase}.share" for phase in loss.phases)
        raise InputError(f"{named}: expected 1 in all, got {sum(shares):g}")
    first = np.array([0.0, *np.cumsum(shares)[:-1]]) / loss.rounds  # shares of the run
    starts = [first + number / loss.rounds for number in range(loss.rounds)]
    begins = np.rint(np.concatenate(starts) * steps).astype(np.int32)
    table = np.array(
        [[loss[phase][term] for term in terms] for phase in loss.phases], np.float32
    )  # [phases, terms]

    def weights(step: Any) -> dict[str, jax.Array]:
        turn = jnp.searchsorted(begins, step, side="right") - 1
        row = jnp.asarray(table)[turn % len(table)]
        return {term: row[place] for place, term in enumerate(terms)}

    return weights


def largest_weight(loss: Any, term: str) -> float:
    """The term's largest weight in any phase that has steps."""
    return max(loss[phase][term] for phase in loss.phases if loss[phase].share > 0)
