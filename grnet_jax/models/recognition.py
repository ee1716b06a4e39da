"""What matchers that recognize categories and attributes share: FashionNet and DARN."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from grnet_jax.models.config import NetworkConfig
from input_pipeline import field


def hidden_layer(
    module: nn.Module, layer: nn.Dense, drop: nn.Dropout, x: jax.Array, train: bool
) -> jax.Array:
    """Applies a dense layer and ReLU; outputs drop out in training with a "dropout" key.

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


class RecognitionConfig(NetworkConfig):
    """A matcher that recognizes categories and attributes."""

    num_classes: int = field(50, "categories", "parameters", ge=1)
    num_attributes: int = field(1000, "attributes; 0: no head of them", "parameters", ge=0)
    hidden: int = field(4096, "width of dense layers", "parameters", "features", ge=1)
    dropout: float = field(
        0.5, "share that training leaves out after each dense layer", "parameters", ge=0, lt=1
    )
