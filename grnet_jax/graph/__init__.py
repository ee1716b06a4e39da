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
)

__all__ = [
    "PAPER_SCALES",
    "Scales",
    "SimilarityGraph",
    "check_scales",
    "in_chunks",
    "node_count",
    "node_regions",
    "pool_regions",
    "region_counts",
    "region_windows",
]
