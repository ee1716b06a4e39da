"""Max-pooling of maps, as PyTorch's."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from grnet_jax.errors import InputError


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
