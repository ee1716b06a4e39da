"""Grouped 3x3 convolution, in another form on CPUs."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

# Images, kernels and maps as `lax` names their axes.
LAYOUT = ("NHWC", "HWIO", "NHWC")
# Channels of the dense convolutions that a grouped one becomes on a CPU: the fastest of 8 to
# 256, measured forward and backward at ResNeXt's shapes.
_BLOCK = 32


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
        dimension_numbers=LAYOUT,
        feature_group_count=groups,
    )


def _blocks(x: jax.Array, kernel: jax.Array, stride: int, groups: int) -> jax.Array:
    """Computes the grouped convolution, one block of groups after the other."""

    # A loop, because its one convolution compiles many times faster than one for each block.
    def one(block: tuple[jax.Array, jax.Array]) -> jax.Array:
        return lax.conv_general_dilated(
            *block, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=LAYOUT
        )

    kernels = _block_diagonal(kernel, groups)
    return _join(lax.map(one, (_split(x, len(kernels)), kernels)))


def _blocks_backward(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, stride: int, groups: int
) -> tuple[jax.Array, jax.Array]:
    """Computes the gradients of `_blocks`.

    XLA's own for a convolution in a loop is slow on a CPU unless its axes are in `LAYOUT`.
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
        return lax.conv_general_dilated(*block, (1, 1), "VALID", dimension_numbers=LAYOUT)

    dx = _join(lax.map(of_map, (_split(sparse, blocks), turned)))

    # The kernel's: the map convolved with dy, images in the place of channels.
    def of_kernel(block: tuple[jax.Array, jax.Array]) -> jax.Array:
        maps, dy = block
        found = lax.conv_general_dilated(
            maps.transpose(3, 1, 2, 0),  # [channels, h, w, n]
            dy.transpose(1, 2, 0, 3),  # [h', w', n, channels out]
            (1, 1),
            ((1, bottom + 2 - height), (1, right + 2 - width)),
            rhs_dilation=(stride, stride),
            dimension_numbers=LAYOUT,
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
