"""Depthwise convolution, in another form on CPUs."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from grnet_jax.backbones.grouped import LAYOUT


def convolve_depthwise(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], *_: Any, **__: Any
) -> jax.Array:
    """Calls `depthwise_convolution` with the arguments that `nn.Conv` gives."""
    return depthwise_convolution(x, kernel, strides[0])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolution of each channel by itself, with "SAME" padding.

    `lax.conv_general_dilated` with `feature_group_count`, except on CPUs, where that takes many
    times as long as PyTorch's: there it is a sum over the window's cells, each the shifted map
    times one weight a channel. Lowering chooses between the two. Differentiable in reverse mode
    only.

    Args:
      x: [n, h, w, c].
      kernel: [k, k, 1, c].
      stride: step between windows.

    Returns:
      [n, ceil(h / stride), ceil(w / stride), c].
    """
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _shifted(x, kernel, stride),
        default=lambda x, kernel: _grouped(x, kernel, stride),
    )


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return depthwise_convolution(x, kernel, stride), (x, kernel)


def _backward(
    stride: int, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def default(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(lambda x, kernel: _grouped(x, kernel, stride), x, kernel)[1](dy)

    return lax.platform_dependent(
        *saved,
        dy,
        cpu=lambda x, kernel, dy: _shifted_backward(x, kernel, dy, stride),
        default=default,
    )


depthwise_convolution.defvjp(_forward, _backward)


def _grouped(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=LAYOUT,
        feature_group_count=x.shape[-1],
    )


def _shifted(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Computes the convolution cell by cell of its window."""
    pads = _same_padding(x, kernel, stride)
    return _sum_of_shifts(jnp.pad(x, ((0, 0), *pads, (0, 0))), kernel, stride)


def _shifted_backward(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, stride: int
) -> tuple[jax.Array, jax.Array]:
    """Computes the gradients of `_shifted`; XLA's own add maps of the padded size cell by cell."""
    side, wide = len(kernel), jnp.promote_types(x.dtype, jnp.float32)
    pads = _same_padding(x, kernel, stride)

    # The map's: dy, as sparse as the stride made it, convolved with the kernel turned around.
    edges = [
        (side - 1 - before, size - 1 + before - (steps - 1) * stride, stride - 1)
        for size, steps, (before, _) in zip(x.shape[1:3], dy.shape[1:3], pads, strict=True)
    ]
    sparse = lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    dx = _sum_of_shifts(sparse, jnp.flip(kernel, (0, 1)), 1)

    # The kernel's, one cell of the window after the other.
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    height, width = ((steps - 1) * stride + 1 for steps in dy.shape[1:3])

    def of_cell(cell: jax.Array) -> jax.Array:
        start = (0, cell // side, cell % side, 0)
        shifted = lax.dynamic_slice(padded, start, (len(x), height, width, x.shape[-1]))
        shifted = shifted[:, ::stride, ::stride].astype(wide)
        return jnp.sum(shifted * dy.astype(wide), axis=(0, 1, 2))

    dkernel = lax.map(of_cell, jnp.arange(side * side))
    return dx, dkernel.reshape(kernel.shape).astype(kernel.dtype)


def _sum_of_shifts(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves a map that is padded already; sums are at least float32."""
    side, wide = len(kernel), jnp.promote_types(x.dtype, jnp.float32)
    n, height, width, channels = x.shape
    total = jnp.zeros((), wide)
    for row in range(side):
        for column in range(side):
            stop = (n, height - side + row + 1, width - side + column + 1, channels)
            cells = lax.slice(x, (0, row, column, 0), stop, (1, stride, stride, 1))
            total += cells.astype(wide) * kernel[row, column, 0].astype(wide)
    return total.astype(x.dtype)


def _same_padding(x: jax.Array, kernel: jax.Array, stride: int) -> Sequence[tuple[int, int]]:
    """Returns the zeros before and after height and width that `lax` takes for "SAME"."""
    return lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (stride, stride), "SAME")
