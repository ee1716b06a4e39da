"""RoIAlign: features of boxes, read off a pyramid of maps by bilinear interpolation."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_SAMPLES = 2  # in each bin, down and across
# Of the gathered cells of a chunk: within a core's cache, or one large gather of an accelerator.
_CHUNK_BYTES = {"cpu": 2**20}
_ACCELERATOR_BYTES = 2**28


def roi_align(
    maps: Mapping[int, jax.Array], boxes: jax.Array, size: int, canonical: float = 224.0
) -> jax.Array:
    """Returns the features of boxes, [n, size, size, c], as torchvision's MultiScaleRoIAlign.

    A box is read off the level floor(4 + log2(sqrt(area) / canonical)), where level k has stride
    2**k, or the nearest there is. Call it on one image at a time, under `jax.vmap` for several:
    with images and boxes in one axis, sharded maps would be gathered on every device.

    Args:
      maps: by stride, [h, w, c].
      boxes: float32 [n, 4], in pixels; no gradient flows to them.
      size: bins down and across.
      canonical: side of the boxes that level 4 is for, in pixels.
    """
    strides = sorted(maps)
    shapes = np.array([maps[stride].shape[:2] for stride in strides])
    cells = jnp.concatenate(
        [maps[stride].reshape(-1, maps[stride].shape[-1]) for stride in strides]
    )
    starts = np.cumsum([0, *shapes.prod(axis=1)])[:-1]
    boxes = jax.lax.stop_gradient(boxes.astype(jnp.float32))
    level = _level(boxes, strides, canonical)
    height, width = (jnp.asarray(shapes[:, axis])[level] for axis in (0, 1))
    boxes = boxes / jnp.asarray(strides, jnp.float32)[level, None]
    row, row_weight = _samples(boxes[:, 1], boxes[:, 3], height, size)
    column, column_weight = _samples(boxes[:, 0], boxes[:, 2], width, size)
    first = jnp.asarray(starts, jnp.int32)[level, None, None] + row * width[:, None, None]
    places = first, column, row_weight, column_weight
    chunk = _chunk(size, cells.shape[1] * cells.dtype.itemsize)
    return _gather(cells, places, min(chunk, max(len(boxes), 1)))


def _level(boxes: jax.Array, strides: list[int], canonical: float) -> jax.Array:
    """Returns the place of each box's level among the strides, int32 [n]."""
    low, high = (int(np.log2(stride)) for stride in (strides[0], strides[-1]))
    sides = jnp.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    root = jnp.sqrt(sides[:, 0] * sides[:, 1])
    exact = 4 + jnp.log2(root / canonical) + 1e-6
    return jnp.clip(jnp.floor(exact), low, high).astype(jnp.int32) - low


def _samples(
    low: jax.Array, high: jax.Array, length: jax.Array, size: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the cells that bins read along one axis, int32 [n, size, 4], and their weights.

    Each bin has two samples, each sample two cells. A box is at least one cell long; samples more
    than a cell outside count as zeros.
    """
    bin_length = jnp.maximum(high - low, 1) / size
    offset = (np.arange(size * _SAMPLES) + 0.5) / _SAMPLES
    place = low[:, None] + bin_length[:, None] * offset.astype(np.float32)  # [n, 2 * size]
    length = length[:, None]
    inside = (place >= -1) & (place <= length)
    place = jnp.clip(place, 0, length - 1)
    cell = jnp.minimum(place.astype(jnp.int32), length - 1)
    share = place - cell
    cells = jnp.stack([cell, jnp.minimum(cell + 1, length - 1)], axis=-1)
    weights = jnp.stack([1 - share, share], axis=-1) * (inside[..., None] / _SAMPLES)
    shape = (len(low), size, 2 * _SAMPLES)
    return cells.reshape(shape), weights.reshape(shape)


def _chunk(size: int, cell_bytes: int) -> int:
    """Returns how many boxes are read at once."""
    limit = _CHUNK_BYTES.get(jax.default_backend(), _ACCELERATOR_BYTES)
    return max(1, limit // ((size * 2 * _SAMPLES) ** 2 * cell_bytes))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _gather(cells: jax.Array, places: Any, chunk: int) -> jax.Array:
    """Returns the weighted sums of cells, [n, size, size, c], a chunk of boxes at a time."""

    def gather(one: Any) -> jax.Array:
        index, weight = _cells_of(one)
        return jnp.sum(cells[index] * weight[..., None].astype(cells.dtype), axis=(1, 3))

    return jax.lax.map(gather, places, batch_size=chunk)


def _cells_of(place: Any) -> tuple[jax.Array, jax.Array]:
    """Returns the indices and weights of one box's cells, [size, 4, size, 4]."""
    first, column, row_weight, column_weight = place
    index = first[:, :, None, None] + column
    return index, row_weight[:, :, None, None] * column_weight


def _gather_forward(cells: jax.Array, places: Any, chunk: int) -> tuple[jax.Array, Any]:
    return _gather(cells, places, chunk), (jnp.zeros_like(cells), places)


def _gather_backward(chunk: int, saved: Any, gradient: jax.Array) -> tuple[jax.Array, None]:
    """Adds each box's gradient to the cells that it read; the sums are linear in them."""
    zeros, places = saved
    count = -len(gradient) % chunk
    padded = [
        jnp.pad(leaf, [(0, count), *[(0, 0)] * (leaf.ndim - 1)]) for leaf in (*places, gradient)
    ]
    chunks = [leaf.reshape(-1, chunk, *leaf.shape[1:]) for leaf in padded]

    def add(total: jax.Array, part: Any) -> tuple[jax.Array, None]:
        *place, slope = part
        index, weight = jax.vmap(_cells_of)(place)
        spread = weight[..., None].astype(slope.dtype) * slope[:, :, None, :, None]
        return total.at[index].add(spread), None

    return jax.lax.scan(add, zeros, chunks)[0], None


_gather.defvjp(_gather_forward, _gather_backward)
