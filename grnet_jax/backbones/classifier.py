"""ImageNet heads: a backbone's last map to class logits."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from grnet_jax.backbones.blocks import Dtype, at_least_float32


class Classifier(nn.Module):
    """A backbone and a head on its map of the largest stride.

    Variables are {"params": {"backbone": ..., "head": ...}, "batch_stats": {"backbone": ...}},
    each part what the module alone would have.

    Attributes:
      backbone: images to feature maps by stride.
      head: a map [n, h, w, c] to logits [n, classes].
    """

    backbone: nn.Module
    head: nn.Module

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits float32 [n, classes] of normalized images [n, h, w, 3].

        With `train` and a "dropout" rng, the head's dropout is on.
        """
        maps = self.backbone(images, train)
        return self.head(maps[max(maps)], train)


class PooledHead(nn.Module):
    """Channel means and one dense layer.

    Attributes:
      classes: number of logits.
      dropout: rate between the two.
      dtype: of the dense layer's computation; means are float32.
    """

    classes: int
    dropout: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[n, h, w, c] to logits float32 [n, classes]."""
        x = jnp.mean(at_least_float32(x), axis=(1, 2))
        x = nn.Dropout(self.dropout)(x, deterministic=not (train and self.has_rng("dropout")))
        return at_least_float32(nn.Dense(self.classes, dtype=self.dtype, name="fc")(x))


class NormedHead(nn.Module):
    """Channel means, LayerNorm and one dense layer, as ConvNeXt's.

    Attributes:
      classes: number of logits.
      dtype: of the dense layer's computation; means and LayerNorm are float32.
    """

    classes: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[n, h, w, c] to logits float32 [n, classes]."""
        del train
        x = jnp.mean(at_least_float32(x), axis=(1, 2))
        x = nn.LayerNorm(1e-6, name="norm")(x)
        return at_least_float32(nn.Dense(self.classes, dtype=self.dtype, name="fc")(x))


class VGGHead(nn.Module):
    """Means over a 7x7 grid and three dense layers, dropout 0.5 after the first two.

    The grid's cells are flattened row by row with channels last, where PyTorch has them first.

    Attributes:
      classes: number of logits.
      dtype: of the dense layers' computation; means are float32.
    """

    classes: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[n, h, w, c] to logits float32 [n, classes]."""
        deterministic = not (train and self.has_rng("dropout"))
        x = adaptive_average_pool(at_least_float32(x), 7)
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        for name in ("fc6", "fc7"):
            x = nn.Dense(
                4096, kernel_init=nn.initializers.he_normal(), dtype=self.dtype, name=name
            )(x)
            x = nn.Dropout(0.5)(nn.relu(x), deterministic=deterministic)
        return at_least_float32(nn.Dense(self.classes, dtype=self.dtype, name="fc8")(x))


def adaptive_average_pool(x: jax.Array, side: int) -> jax.Array:
    """Returns the means of `side` x `side` windows that cover a map of any size, as PyTorch's.

    Window i of n cells is [floor(i * n / side), ceil((i + 1) * n / side)); windows overlap where
    `side` does not divide n and repeat cells where n is smaller.

    Args:
      x: [n, h, w, c].
      side: of the result.

    Returns:
      [n, side, side, c].
    """
    rows, columns = (_averaging(size, side).astype(x.dtype) for size in x.shape[1:3])
    # [side, h], [n, h, w, c], [side, w] to [n, side, side, c]
    return jnp.einsum("ih,nhwc,jw->nijc", rows, x, columns, precision=jax.lax.Precision.HIGHEST)


def _averaging(size: int, side: int) -> np.ndarray:
    """[side, size], each row the mean over its window."""
    weights = np.zeros((side, size))
    for i in range(side):
        start, stop = i * size // side, -(-(i + 1) * size // side)
        weights[i, start:stop] = 1 / (stop - start)
    return weights
