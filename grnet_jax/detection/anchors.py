"""Anchors: the reference boxes at every cell of every level, as NumPy constants."""

from collections.abc import Sequence

import numpy as np

RATIOS = (0.5, 1.0, 2.0)  # of height to width


def anchors(
    canvas: Sequence[int], levels: Sequence[tuple[int, int]], sizes: Sequence[float]
) -> list[np.ndarray]:
    """Returns each level's anchors, float32 [h * w * 3, 4], in the order y, x, ratio.

    Args:
      canvas: (height, width) of the padded image in pixels.
      levels: (h, w) of each level's map.
      sizes: of each level, the side of the square anchor in pixels.
    """
    return [_of_level(canvas, level, size) for level, size in zip(levels, sizes, strict=True)]


def _of_level(canvas: Sequence[int], level: tuple[int, int], size: float) -> np.ndarray:
    roots = np.sqrt(np.array(RATIOS, np.float32))
    width, height = np.float32(size) / roots, np.float32(size) * roots
    base = np.round(np.stack([-width, -height, width, height], axis=1) / 2)
    # Of 800 rows the last level has 13 cells: then they are 61 pixels apart, not 64.
    y = np.arange(level[0], dtype=np.float32) * (canvas[0] // level[0])
    x = np.arange(level[1], dtype=np.float32) * (canvas[1] // level[1])
    down, across = np.meshgrid(y, x, indexing="ij")
    shifts = np.stack([across, down, across, down], axis=-1)  # [h, w, 4]
    return (shifts[:, :, None] + base).reshape(-1, 4).astype(np.float32)
