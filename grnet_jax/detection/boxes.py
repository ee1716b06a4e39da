"""Boxes as (x_1, y_1, x_2, y_2) in pixels: areas, overlaps, and their coding by reference boxes."""

import math

import jax
import jax.numpy as jnp

# Of log width and height: a prediction may be this much larger than its reference box.
_LARGEST = math.log(1000 / 16)


def area(boxes: jax.Array) -> jax.Array:
    """Returns the areas [...] of boxes [..., 4]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the common areas [..., n, m] of boxes [..., n, 4] and [..., m, 4]."""
    low = jnp.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = jnp.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    sides = jnp.maximum(high - low, 0)
    return sides[..., 0] * sides[..., 1]


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns intersection over union [..., n, m] of boxes; 0 where both are empty."""
    common = intersection(a, b)
    union = area(a)[..., :, None] + area(b)[..., None, :] - common
    return common / jnp.where(union > 0, union, 1)


def encode(boxes: jax.Array, references: jax.Array, weights: tuple[float, ...]) -> jax.Array:
    """Returns the deltas [..., 4] that turn reference boxes into boxes [..., 4].

    They are the center's move by the reference's sides and the logs of the sides' ratios, times the
    weights. A box without area has sides of one pixel, so that no delta is infinite.
    """
    center, sides = _center_and_sides(boxes)
    reference_center, reference_sides = _center_and_sides(references)
    sides, reference_sides = (jnp.where(s > 0, s, 1) for s in (sides, reference_sides))
    moved = (center - reference_center) / reference_sides
    deltas = jnp.concatenate([moved, jnp.log(sides / reference_sides)], axis=-1)
    return deltas * jnp.asarray(weights, deltas.dtype)


def decode(deltas: jax.Array, references: jax.Array, weights: tuple[float, ...]) -> jax.Array:
    """Returns the boxes [..., 4] that `encode` gives these deltas for."""
    center, sides = _center_and_sides(references)
    deltas = deltas / jnp.asarray(weights, deltas.dtype)
    center = deltas[..., :2] * sides + center
    sides = jnp.exp(jnp.minimum(deltas[..., 2:], _LARGEST)) * sides
    return jnp.concatenate([center - sides / 2, center + sides / 2], axis=-1)


def clip(boxes: jax.Array, size: jax.Array) -> jax.Array:
    """Returns boxes [..., n, 4] within images of `size` [..., 2], (height, width)."""
    limits = jnp.concatenate([size[..., ::-1]] * 2, axis=-1).astype(boxes.dtype)
    return jnp.clip(boxes, 0, limits[..., None, :])


def is_larger(boxes: jax.Array, side: float) -> jax.Array:
    """Returns whether both sides of each box are at least so long, bool [...]."""
    return jnp.all(boxes[..., 2:] - boxes[..., :2] >= side, axis=-1)


def _center_and_sides(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
    sides = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + sides / 2, sides
