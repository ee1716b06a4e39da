"""What matchers that recognise categories and attributes share: FashionNet and DARN."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from grnet_jax.errors import InputError, check_at_least


def hidden_layer(
    module: nn.Module, layer: nn.Dense, drop: nn.Dropout, x: jax.Array, train: bool
) -> jax.Array:
    """A dense layer and ReLU; in training outputs drop out where the call has a "dropout" key.

    Args:
      module: bound, which both belong to.
      layer: the dense layer.
      drop: what leaves outputs out.
      x: [n, c].
      train: whether it is training.
    """
    fixed = not (train and module.has_rng("dropout"))
    # Changes no number. Without it XLA, on a CPU, fuses two such layers and the convolutions before
    # them into one kernel that takes three times as long (jax 0.10).
    hidden = nn.relu(layer(x))
    bits = jnp.finfo(hidden.dtype)
    hidden = lax.reduce_precision(hidden, bits.nexp, bits.nmant)
    return drop(hidden, deterministic=fixed)


def check_outputs(model: Any) -> None:
    """Raises InputError, naming the field of `config.model`, where a head or layer cannot be."""
    for field, least in (("categories", 1), ("hidden", 1), ("attributes", 0)):
        check_at_least(f"model.{field}", model[field], least)
    if not 0 <= model.dropout < 1:
        raise InputError(f"model.dropout: expected 0 to less than 1, got {model.dropout}")
