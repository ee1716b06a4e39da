"""The region pairs that flow most into the score (Fig. 5 of Kuang et al., ICCV 2019), or cells."""

import dataclasses

import numpy as np

from grnet_jax.graph import Scales, node_regions, region_windows

Window = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class StrongNode:
    """A node of the graph and its edge into the global node; or a pair of aligned cells.

    Attributes:
      weight: of the edge; of the pair in the alignment.
      scale: (rows, columns) of the pyramid's scale.
      query: the query's region, (x_1, y_1, x_2, y_2) as fractions of the matcher's input.
      gallery: the gallery image's region, likewise.
    """

    weight: float
    scale: tuple[int, int]
    query: Window
    gallery: Window


def strongest_nodes(
    weights: np.ndarray, scales: Scales, map_size: tuple[int, int], top: int
) -> list[StrongNode]:
    """Returns the local nodes with the heaviest edges into the global node, heaviest first.

    Args:
      weights: of every node's edge into the global node, [n]; node 0, the global
        node itself, is left out.
      scales: the pyramid's (rows, columns).
      map_size: (height, width) of the feature map that is pooled into regions.
      top: how many; fewer where there are fewer local nodes.
    """
    height, width = map_size
    windows = region_windows(scales, height, width) / (width, height, width, height)
    pairs = node_regions(scales)
    scale_of_region = [scale for scale in scales for _ in range(scale[0] * scale[1])]
    order = 1 + np.argsort(-weights[1:], kind="stable")[:top]
    return [
        StrongNode(
            weight=float(weights[node]),
            scale=scale_of_region[pairs[node, 0]],
            query=_window(windows[pairs[node, 0]]),
            gallery=_window(windows[pairs[node, 1]]),
        )
        for node in order
    ]


def strongest_cells(weights: np.ndarray, map_size: tuple[int, int], top: int) -> list[StrongNode]:
    """Returns the pairs of cells that weigh most in the alignment, the heaviest first.

    Args:
      weights: of each pair of a query's and a gallery image's cell, [cells, cells].
      map_size: (height, width) of the feature map.
      top: how many; fewer where there are fewer pairs.
    """
    no_global_node = np.append(0, weights)
    return strongest_nodes(no_global_node, ((1, 1), map_size), map_size, top)


def _window(edges: np.ndarray) -> Window:
    left, top, right, bottom = edges.tolist()
    return left, top, right, bottom
