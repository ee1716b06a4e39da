"""Layers that several backbones are built from."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from grnet_jax.errors import InputError

Dtype = jnp.dtype

# Photos, kernels and maps as `lax` names their axes.
_LAYOUT = ("NHWC", "HWIO", "NHWC")
# Channels of the dense convolutions that a grouped one becomes on a CPU: the fastest of 8 to
# 256, measured forward and backward at ResNeXt's shapes.
_BLOCK = 32


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
    """A square convolution with symmetric padding and He initialisation."""
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


def max_pool(
    x: jax.Array, window: int, stride: int, padding: int = 0, *, ceil: bool = True
) -> jax.Array:
    """Max-pooling as PyTorch's.

    Args:
      x: [n, height, width, c].
      window: its side.
      stride: step between windows.
      padding: cells of minus infinity on each side, before the overhang.
      ceil: PyTorch's ceil_mode, a last window that overhangs is kept; otherwise dropped.

    Returns:
      [n, (height + 2 * padding - window) / stride + 1, ..., c], the quotient rounded up with
      `ceil` and down without.

    Raises:
      InputError: without `ceil`, where no window fits.
    """
    if not ceil:
        check_window(x, window - 2 * padding)
        if window == stride and not padding:
            return _pool_tiles(x, window)
        pads = [(padding, padding)] * 2
        return nn.max_pool(x, (window, window), strides=(stride, stride), padding=pads)
    pads = []
    for size in x.shape[1:3]:
        steps = -(-max(size + 2 * padding - window, 0) // stride)
        # As PyTorch: a window that would start in the right padding is dropped.
        if padding and steps * stride >= size + padding:
            steps -= 1
        overhang = steps * stride + window - size - padding
        pads.append((padding, max(overhang, 0)))
    return nn.max_pool(x, (window, window), strides=(stride, stride), padding=pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _pool_tiles(x: jax.Array, side: int) -> jax.Array:
    """Max-pooling of windows that do not overlap; what fills none is dropped.

    `nn.max_pool`, except that on CPUs its gradient, which takes a search and a scatter there, is a
    comparison of each cell with its window's maximum. Lowering chooses between the two.
    Differentiable in reverse mode only.
    """
    return nn.max_pool(x, (side, side), strides=(side, side))


def _tiles_forward(x: jax.Array, side: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = _pool_tiles(x, side)
    return y, (x, y)


def _tiles_backward(
    side: int, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array]:
    def default(x: jax.Array, _: jax.Array, dy: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: nn.max_pool(x, (side, side), strides=(side, side)), x)[1](dy)[0]

    return (
        lax.platform_dependent(
            *saved,
            dy,
            cpu=lambda x, y, dy: _tiles_backward_by_masks(x, y, dy, side),
            default=default,
        ),
    )


def _tiles_backward_by_masks(x: jax.Array, y: jax.Array, dy: jax.Array, side: int) -> jax.Array:
    """The gradient goes to each window's first maximum, rows first."""
    n, rows, columns, channels = y.shape
    whole = x[:, : rows * side, : columns * side]
    cells = whole.reshape(n, rows, side, columns, side, channels)
    found = cells == y[:, :, None, :, None]  # [n, rows, side, columns, side, channels]
    taken = jnp.zeros(y.shape, bool)
    first = []
    for place in range(side * side):
        here = found[:, :, place // side, :, place % side]
        first.append(here & ~taken)
        taken |= here
    firsts = jnp.stack(first, axis=2).reshape(n, rows, side, side, columns, channels)
    dx = jnp.where(firsts.swapaxes(3, 4), dy[:, :, None, :, None], 0).reshape(whole.shape)
    rest = [(0, there - used) for there, used in zip(x.shape, dx.shape, strict=True)]
    return jnp.pad(dx, rest)


_pool_tiles.defvjp(_tiles_forward, _tiles_backward)


def check_window(x: jax.Array, least: int) -> None:
    """Raises InputError where a map [n, h, w, c] has a side under `least` cells."""
    if min(x.shape[1:3]) < least:
        raise InputError(
            f"photos are too small for this backbone: a {x.shape[1]}x{x.shape[2]} map is left "
            f"where pooling needs {least}x{least}"
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def grouped_convolution(x: jax.Array, kernel: jax.Array, stride: int, groups: int) -> jax.Array:
    """3x3 convolution with padding 1 of each group of channels apart.

    `lax.conv_general_dilated` with `feature_group_count`, except on CPUs, where its gradients
    take hundreds of times as long as PyTorch's: there groups are gathered into blocks of some
    32 channels with block-diagonal kernels, which are convolved one after the other. Lowering
    chooses between the two. Differentiable in reverse mode only.

    Args:
      x: [n, h, w, c].
      kernel: [3, 3, c / groups, c_out].
      stride: step between windows.
      groups: divides c and c_out.

    Returns:
      [n, ceil(h / stride), ceil(w / stride), c_out].
    """
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _blocks(x, kernel, stride, groups),
        default=lambda x, kernel: _grouped(x, kernel, stride, groups),
    )


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int, groups: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return grouped_convolution(x, kernel, stride, groups), (x, kernel)


def _backward(
    stride: int, groups: int, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def default(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(lambda x, kernel: _grouped(x, kernel, stride, groups), x, kernel)[1](dy)

    return lax.platform_dependent(
        *saved,
        dy,
        cpu=lambda x, kernel, dy: _blocks_backward(x, kernel, dy, stride, groups),
        default=default,
    )


grouped_convolution.defvjp(_forward, _backward)


def _grouped(x: jax.Array, kernel: jax.Array, stride: int, groups: int) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=_LAYOUT,
        feature_group_count=groups,
    )


def _blocks(x: jax.Array, kernel: jax.Array, stride: int, groups: int) -> jax.Array:
    """The grouped convolution, block of groups by block of groups."""

    # A loop, because its one convolution compiles many times faster than one for each block.
    def one(block: tuple[jax.Array, jax.Array]) -> jax.Array:
        return lax.conv_general_dilated(
            *block, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=_LAYOUT
        )

    kernels = _block_diagonal(kernel, groups)
    return _join(lax.map(one, (_split(x, len(kernels)), kernels)))


def _blocks_backward(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, stride: int, groups: int
) -> tuple[jax.Array, jax.Array]:
    """Gradients of `_blocks`, written out.

    XLA's own for a convolution in a loop is slow on a CPU unless its axes are in `_LAYOUT`.
    """
    kernels = _block_diagonal(kernel, groups)
    blocks = len(kernels)
    height, width = x.shape[1:3]
    # Last row and column that a window starts from.
    bottom, right = ((size - 1) // stride * stride for size in (height, width))

    # The map's: dy, as sparse as the stride made it, convolved with the kernel turned around.
    sparse = lax.pad(
        dy,
        jnp.zeros((), dy.dtype),
        ((0, 0, 0), (1, height - bottom, stride - 1), (1, width - right, stride - 1), (0, 0, 0)),
    )
    turned = jnp.flip(kernels, (1, 2)).swapaxes(-1, -2)

    def of_map(block: tuple[jax.Array, jax.Array]) -> jax.Array:
        return lax.conv_general_dilated(*block, (1, 1), "VALID", dimension_numbers=_LAYOUT)

    dx = _join(lax.map(of_map, (_split(sparse, blocks), turned)))

    # The kernel's: the map convolved with dy, photos in the place of channels.
    def of_kernel(block: tuple[jax.Array, jax.Array]) -> jax.Array:
        maps, dy = block
        found = lax.conv_general_dilated(
            maps.transpose(3, 1, 2, 0),  # [channels, h, w, n]
            dy.transpose(1, 2, 0, 3),  # [h', w', n, channels out]
            (1, 1),
            ((1, bottom + 2 - height), (1, right + 2 - width)),
            rhs_dilation=(stride, stride),
            dimension_numbers=_LAYOUT,
        )
        return found.transpose(1, 2, 0, 3)  # [3, 3, channels, channels out]

    found = lax.map(of_kernel, (_split(x, blocks), _split(dy, blocks)))
    merged = groups // blocks
    inputs, outputs = kernel.shape[2], kernel.shape[3] // groups
    found = found.reshape(blocks, 3, 3, merged, inputs, merged, outputs)
    return dx, jnp.einsum("bhwgigo->hwibgo", found).reshape(kernel.shape)


def _block_diagonal(kernel: jax.Array, groups: int) -> jax.Array:
    """[3, 3, c / groups, c_out] to [blocks, 3, 3, c / blocks, c_out / blocks]."""
    inputs, outputs = kernel.shape[2], kernel.shape[3] // groups
    merged = max(
        (
            count
            for count in range(1, groups + 1)
            if not groups % count and count * inputs <= _BLOCK
        ),
        default=1,
    )
    blocks = groups // merged
    parts = kernel.reshape(3, 3, inputs, blocks, merged, outputs)
    eye = jnp.eye(merged, dtype=kernel.dtype)
    dense = jnp.einsum("hwibgo,gk->bhwkigo", parts, eye)
    return dense.reshape(blocks, 3, 3, merged * inputs, merged * outputs)


def _split(x: jax.Array, blocks: int) -> jax.Array:
    """[n, h, w, c] to [blocks, n, h, w, c / blocks]."""
    return jnp.moveaxis(x.reshape(*x.shape[:3], blocks, -1), 3, 0)


def _join(x: jax.Array) -> jax.Array:
    """[blocks, n, h, w, c] to [n, h, w, blocks * c]."""
    x = jnp.moveaxis(x, 0, 3)
    return x.reshape(*x.shape[:3], -1)
