"""Max-pooling of a feature map around landmarks (Liu et al., DeepFashion, CVPR 2016, Section 3)."""

import jax
import jax.numpy as jnp

from grnet_jax.errors import InputError
from grnet_jax.graph import window_bounds


def pool_landmarks(
    feature_map: jax.Array,
    points: jax.Array,
    visible: jax.Array,
    *,
    window: int = 7,
    bins: int = 2,
) -> jax.Array:
    """Max-pools a window of the map around each point to a few bins.

    The window of `window` x `window` cells is centered on the cell that holds the point, or, of an
    even side, on the corner of cells that is nearest to it. Bin i of an axis spans the window's
    cells floor(i * window / bins) to ceil((i + 1) * window / bins), as RoI pooling has it: 7 cells
    give two bins of 4 that share the middle one. Cells outside the map do not count. A bin that has
    none inside is zero, and so is all of a point that is not visible, or no number; so windows at
    the border are smaller, and points far outside give zeros.

    The gradient goes to the cells that hold a bin's maximum, in equal parts where several do, and
    not to the points.

    Args:
      feature_map: [n, height, width, c].
      points: [n, p, 2], (x, y) as shares of the map's width and height.
      visible: bool [n, p]; the others are gated to zero.
      window: its side in cells.
      bins: on each axis.

    Returns:
      [n, p, bins, bins, c], rows first.

    Raises:
      InputError: there are more bins than cells, or fewer than one.
    """
    check_pooling(window, bins)
    size = jnp.array(feature_map.shape[1:3])  # height, width
    points = jax.lax.stop_gradient(points)[..., ::-1]  # [n, p, 2], (y, x)
    known = visible & jnp.all(jnp.isfinite(points), axis=-1)
    starts = jnp.floor(jnp.where(known[..., None], points, 0) * size - window / 2 + 0.5)
    # A window that begins `window` cells before the map or at its end is outside as any further is.
    starts = jnp.clip(starts, -window, size).astype(jnp.int32)
    pads = ((0, 0), (window, window), (window, window), (0, 0))
    padded = jnp.pad(feature_map, pads, constant_values=-jnp.inf)
    cells = _windows(padded, starts + window, window)  # [n, p, window, window, c]
    bounds = window_bounds(window, bins)
    rows = jnp.stack([cells[:, :, low:high].max(axis=2) for low, high in bounds], axis=2)
    pooled = jnp.stack([rows[:, :, :, low:high].max(axis=3) for low, high in bounds], axis=3)
    return jnp.where(known[:, :, None, None, None] & (pooled != -jnp.inf), pooled, 0)


def check_pooling(window: int, bins: int) -> None:
    """Raises InputError unless a window of so many cells can be cut into so many bins."""
    if not 1 <= bins <= window:
        raise InputError(
            f"landmark_bins: expected 1 to landmark_window={window}, a window's cells, got {bins}"
        )


def _windows(padded: jax.Array, starts: jax.Array, window: int) -> jax.Array:
    """Returns windows [n, p, window, window, c] of maps [n, h, w, c] from cells [n, p, 2] on."""

    def one(single: jax.Array, start: jax.Array) -> jax.Array:
        size = (window, window, single.shape[-1])
        return jax.lax.dynamic_slice(single, (*start, jnp.zeros_like(start[0])), size)

    # One gather for the batch; its transpose is one scatter.
    return jax.vmap(jax.vmap(one, (None, 0)))(padded, starts)
