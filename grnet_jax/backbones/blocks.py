"""Layers that several backbones are built from."""

import flax.linen as nn
import jax
import jax.numpy as jnp

Dtype = jnp.dtype


class ConvNorm(nn.Module):
    """Convolution without bias, BatchNorm, ReLU.

    Padding is symmetric (`padding` cells on each side), as in PyTorch, so that strided layers
    see the same windows as the networks whose checkpoints they take.

    Attributes:
      features: output channels.
      kernel: window side.
      stride: step between windows.
      padding: zero cells added on each side.
      epsilon: BatchNorm's.
      activate: whether the ReLU follows.
      dtype: of the computation; parameters and statistics are float32.
    """

    features: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    epsilon: float = 1e-3
    activate: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[n, h, w, c] to [n, h', w', features]."""
        x = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=self.padding,
            use_bias=False,
            kernel_init=nn.initializers.he_normal(),
            dtype=self.dtype,
            name="conv",
        )(x)
        x = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=self.epsilon,
            dtype=self.dtype,
            name="bn",
        )(x)
        return nn.relu(x) if self.activate else x


def max_pool(x: jax.Array, window: int, stride: int, padding: int = 0) -> jax.Array:
    """Max-pooling with PyTorch's ceil_mode: a last window that overhangs is kept.

    Args:
      x: [n, height, width, c].
      window: its side.
      stride: step between windows.
      padding: cells of minus infinity on each side, before the overhang.

    Returns:
      [n, ceil((height + 2 * padding - window) / stride) + 1, ..., c].
    """
    pads = []
    for size in x.shape[1:3]:
        steps = -(-max(size + 2 * padding - window, 0) // stride)
        # As PyTorch: a window that would start in the right padding is dropped.
        if padding and steps * stride >= size + padding:
            steps -= 1
        overhang = steps * stride + window - size - padding
        pads.append((padding, max(overhang, 0)))
    return nn.max_pool(x, (window, window), strides=(stride, stride), padding=pads)
