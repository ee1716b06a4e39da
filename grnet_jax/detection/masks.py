"""Masks of objects: cut to boxes for training, and pasted into the photo."""

import jax
import jax.numpy as jnp
import numpy as np

_THRESHOLD = 0.5


def crop_masks(masks: jax.Array, mask_boxes: jax.Array, boxes: jax.Array, size: int) -> jax.Array:
    """Returns the share of each cell of boxes that masks cover, float32 [n, size, size].

    Args:
      masks: [n, m, m] in 0..1, each in its own box.
      mask_boxes: [n, 4], the boxes that the masks fill.
      boxes: [n, 4], those to be cut out, divided into `size` x `size` cells.
      size: of the result.
    """
    side = masks.shape[-1]
    low, sides = mask_boxes[:, :2], mask_boxes[:, 2:] - mask_boxes[:, :2]
    scale = side / jnp.where(sides > 0, sides, 1)
    start, stop = (boxes[:, :2] - low) * scale, (boxes[:, 2:] - low) * scale
    down, across = (_shares(start[:, axis], stop[:, axis], side, size) for axis in (1, 0))
    return jnp.einsum("nim,nmk,njk->nij", down, masks.astype(jnp.float32), across)


def _shares(start: jax.Array, stop: jax.Array, side: int, size: int) -> jax.Array:
    """Returns which share of each cell of a box each row of a mask makes, [n, size, side]."""
    edges = start[:, None] + (stop - start)[:, None] * (np.arange(size + 1) / size)
    low, high = edges[:, :-1, None], edges[:, 1:, None]
    rows = np.arange(side)
    common = jnp.maximum(jnp.minimum(high, rows + 1) - jnp.maximum(low, rows), 0)
    return common / jnp.where(high > low, high - low, 1)


def paste_mask(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns a predicted mask in its photo, bool [height, width], as torchvision pastes it.

    Args:
      mask: float32 [m, m], probabilities within the box.
      box: (x_1, y_1, x_2, y_2) in pixels of the photo.
      height: of the photo.
      width: of the photo.
    """
    side = mask.shape[0]
    # A rim of zeros, so that the edge of the mask is interpolated too.
    box, grown = np.asarray(box, np.float32), np.float32((side + 2) / side)
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * grown
    x_1, y_1, x_2, y_2 = (int(edge) for edge in (*(middle - half), *(middle + half)))
    wide, high = max(x_2 - x_1 + 1, 1), max(y_2 - y_1 + 1, 1)
    result = np.zeros((height, width), bool)
    left, top = max(x_1, 0), max(y_1, 0)
    right, bottom = min(x_1 + wide, width), min(y_1 + high, height)
    if left < right and top < bottom:
        rows = _interpolation(side, high)[top - y_1 : bottom - y_1]
        columns = _interpolation(side, wide)[left - x_1 : right - x_1]
        result[top:bottom, left:right] = rows @ np.pad(mask, 1) @ columns.T >= _THRESHOLD
    return result


def _interpolation(side: int, length: int) -> np.ndarray:
    """Returns the weights of a padded mask's cells at each of `length` pixels, float32."""
    cells = side + 2
    place = np.clip((np.arange(length) + 0.5) * cells / length - 0.5, 0, cells - 1)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(cells))).astype(np.float32)
