"""Layers that several backbones are built from."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax.backbones.grouped import grouped_convolution
from grnet_jax.errors import InputError

Dtype = jnp.dtype


class Reduction(nn.Module):
    """Maps a feature map to fewer channels, with a look at each cell's neighbors (ours).

    A 1x1 convolution, then a 3x3 one added to it; LayerNorm behind both, so that frozen features
    need no statistics of their own.

    Attributes:
      channels: of its map.
      dtype: of the computation.
    """

    channels: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, h, w, c] to [n, h, w, channels]."""
        x = nn.Dense(self.channels, dtype=self.dtype, name="reduce")(x)
        x = nn.relu(nn.LayerNorm(dtype=self.dtype, name="reduce_norm")(x))
        around = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="around")(x)
        return nn.relu(x + nn.LayerNorm(dtype=self.dtype, name="around_norm")(around))


class ConvNorm(nn.Module):
    """Convolution, BatchNorm, ReLU.

    Padding is symmetric (`padding` cells on each side), as in PyTorch, so that strided layers
    see the same windows as the networks whose checkpoints they take.

    Attributes:
      features: output channels.
      kernel: window side.
      stride: step between windows.
      padding: zero cells added on each side.
      groups: of channels, convolved apart; more than one only with kernel 3 and padding 1.
      epsilon: BatchNorm's.
      bias: whether the convolution adds one.
      norm: whether there is a BatchNorm.
      activate: whether the ReLU follows.
      dtype: of the computation; parameters and statistics are float32.
    """

    features: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    groups: int = 1
    epsilon: float = 1e-3
    bias: bool = False
    norm: bool = True
    activate: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[n, h, w, c] to [n, h', w', features]."""
        if self.groups == 1:
            x = convolution(
                self.features,
                self.kernel,
                self.stride,
                self.padding,
                bias=self.bias,
                dtype=self.dtype,
                name="conv",
            )(x)
        else:
            if (self.kernel, self.padding, self.bias) != (3, 1, False):
                raise InputError("a grouped convolution is 3x3 with padding 1 and no bias")
            x = GroupedConv(self.features, self.groups, self.stride, self.dtype, name="conv")(x)
        if self.norm:
            x = batch_norm(train, self.epsilon, self.dtype, name="bn")(x)
        return nn.relu(x) if self.activate else x


class GroupedConv(nn.Module):
    """3x3 convolution without bias, padding 1, each group of channels apart.

    Attributes:
      features: output channels.
      groups: divides input and output channels.
      stride: step between windows.
      dtype: of the computation; the kernel [3, 3, c / groups, features] is float32.
    """

    features: int
    groups: int
    stride: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, h, w, c] to [n, ceil(h / stride), ceil(w / stride), features]."""
        channels = x.shape[-1]
        if channels % self.groups or self.features % self.groups:
            raise InputError(
                f"{self.groups} groups do not divide {channels} and {self.features} channels"
            )
        shape = (3, 3, channels // self.groups, self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        return grouped_convolution(
            x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.groups
        )


class SqueezeExcite(nn.Module):
    """Channels scaled by a gate on their means (Hu et al., CVPR 2018).

    Attributes:
      reduction: how many times narrower the gate's hidden layer is.
      dtype: of the computation; parameters are float32.
    """

    reduction: int = 16
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, h, w, c] to [n, h, w, c]."""
        channels = x.shape[-1]
        gate = jnp.mean(x, axis=(1, 2), keepdims=True)  # [n, 1, 1, c]
        gate = convolution(channels // self.reduction, bias=True, dtype=self.dtype, name="fc1")(
            gate
        )
        gate = convolution(channels, bias=True, dtype=self.dtype, name="fc2")(nn.relu(gate))
        return x * nn.sigmoid(gate)


def convolution(
    features: int,
    kernel: int = 1,
    stride: int = 1,
    padding: int = 0,
    *,
    bias: bool = False,
    dtype: Dtype = jnp.float32,
    name: str | None = None,
) -> nn.Conv:
    """A square convolution with symmetric padding and He initialization."""
    options: dict[str, Any] = (
        {"conv_general_dilated": _pointwise} if (kernel, padding) == (1, 0) else {}
    )
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=stride,
        padding=padding,
        use_bias=bias,
        kernel_init=nn.initializers.he_normal(),
        dtype=dtype,
        name=name,
        **options,
    )


def _pointwise(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], *_: Any, **__: Any
) -> jax.Array:
    """A 1x1 convolution as the matrix product that it is: XLA's own gradients of it are slower."""
    x = x[:, :: strides[0], :: strides[1]]
    return jnp.einsum("nhwc,cd->nhwd", x, kernel[0, 0])


def batch_norm(
    train: bool, epsilon: float = 1e-5, dtype: Dtype = jnp.float32, name: str | None = None
) -> nn.BatchNorm:
    """BatchNorm by the batch with `train`, by its statistics (float32) without."""
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=epsilon, dtype=dtype, name=name
    )


def at_least_float32(x: jax.Array) -> jax.Array:
    """Casts half precision to float32; float64 stays."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
