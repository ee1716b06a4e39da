"""GRNet's contribution: pyramid windows, similarity nodes, edges and reasoning."""

from grnet_jax.graph.modules import SimilarityGraph, in_chunks
from grnet_jax.graph.pyramid import (
    PAPER_SCALES,
    Scales,
    check_scales,
    node_count,
    node_regions,
    pool_regions,
    region_counts,
    region_windows,
    window_bounds,
)
from grnet_jax.graph.scoring import choose_tile, in_tiles

__all__ = [
    "PAPER_SCALES",
    "Scales",
    "SimilarityGraph",
    "check_scales",
    "choose_tile",
    "in_chunks",
    "in_tiles",
    "node_count",
    "node_regions",
    "pool_regions",
    "region_counts",
    "region_windows",
    "window_bounds",
]
