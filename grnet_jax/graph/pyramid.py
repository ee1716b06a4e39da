"""The spatial pyramid: windows of the feature map as regions, region pairs as nodes.

GRNet (Kuang et al., ICCV 2019, Section 3.2) compares a query and a gallery image region by
region, each region only with regions of the same pyramid scale. A scale is written as
(rows, columns): the paper's seven scales have 24 regions and 124 region pairs.
"""

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from grnet_jax.errors import InputError

Scales: TypeAlias = Sequence[tuple[int, int]]

PAPER_SCALES: tuple[tuple[int, int], ...] = (
    (1, 1),
    (1, 2),
    (2, 1),
    (2, 2),
    (1, 3),
    (3, 1),
    (3, 3),
)


def check_scales(scales: Scales) -> tuple[tuple[int, int], ...]:
    """Returns the scales as a tuple of pairs.

    Raises:
      InputError: unless every scale is two positive whole numbers, none is listed twice and
        the first is (1, 1): the score is read from the global node, which is node 0.
    """
    checked = []
    for scale in scales:
        pair = tuple(scale)
        if len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
            raise InputError(f"expected scales of positive (rows, columns), got {scale!r}")
        checked.append((pair[0], pair[1]))
    if not checked or checked[0] != (1, 1):
        raise InputError(
            "expected (1, 1) as the first scale, the global node that the score is read from; "
            f"got {list(scales)!r}"
        )
    if len(set(checked)) != len(checked):
        raise InputError(f"expected each scale once, got {list(scales)!r}")
    return tuple(checked)


def region_counts(scales: Scales) -> tuple[int, ...]:
    """Returns the number of regions of each scale."""
    return tuple(rows * columns for rows, columns in scales)


def node_count(scales: Scales) -> int:
    """Returns the number of region pairs over all scales: 124 for the paper's seven."""
    return sum(count * count for count in region_counts(scales))


def node_scales(scales: Scales) -> np.ndarray:
    """Returns for each node the position of its scale in `scales`, int [nodes].

    Nodes stand scale by scale; within a scale of r regions, node i * r + j compares query
    region i with gallery region j, regions counted row by row.
    """
    counts = region_counts(scales)
    return np.repeat(np.arange(len(counts)), [count * count for count in counts])


def node_regions(scales: Scales) -> np.ndarray:
    """Returns for each node the query's and the gallery image's region, int [nodes, 2].

    Regions are counted over all scales, as `pool_regions` gives them.
    """
    pairs, start = [], 0
    for count in region_counts(scales):
        query, gallery = np.divmod(np.arange(count * count), count)
        pairs.append(start + np.stack([query, gallery], axis=1))
        start += count
    return np.concatenate(pairs)


def region_windows(scales: Scales, height: int, width: int) -> np.ndarray:
    """Returns the cells each region spans, int [regions, 4] (left, top, right, bottom)."""
    return np.array(
        [
            (left, top, right, bottom)
            for rows, columns in scales
            for top, bottom in window_bounds(height, rows)
            for left, right in window_bounds(width, columns)
        ]
    )


def window_bounds(size: int, parts: int) -> tuple[tuple[int, int], ...]:
    """Returns start and stop of each of `parts` windows over `size` cells.

    Window i spans floor(i * size / parts) to ceil((i + 1) * size / parts): neighbours overlap
    by one cell where the division leaves a rest, and no cell is left out.

    Raises:
      InputError: if there are fewer cells than windows.
    """
    if size < parts:
        raise InputError(
            f"a feature map of {size} cells cannot be cut into {parts} windows: use larger "
            "images (image.size) or coarser scales (model.scales)"
        )
    return tuple((i * size // parts, -(-(i + 1) * size // parts)) for i in range(parts))


def pool_regions(feature_map: jax.Array, scales: Scales) -> jax.Array:
    """Max-pools a feature map over every window of every scale.

    Args:
      feature_map: [n, height, width, c].
      scales: the pyramid's (rows, columns).

    Returns:
      [n, regions, c], scale by scale, windows row by row.
    """
    _, height, width, _ = feature_map.shape
    regions = [
        feature_map[:, top:bottom, left:right, :].max(axis=(1, 2))
        for left, top, right, bottom in region_windows(scales, height, width)
    ]
    return jnp.stack(regions, axis=1)
