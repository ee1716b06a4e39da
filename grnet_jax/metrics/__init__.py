"""Ranking metrics: pure functions of arrays, vectorised, with masks."""

from grnet_jax.metrics.intervals import clustered_interval
from grnet_jax.metrics.ranking import (
    average_precision,
    count_ahead,
    positive_ranks,
    ranks_from_ahead,
    sort_own,
    top_k_hits,
)

__all__ = [
    "average_precision",
    "clustered_interval",
    "count_ahead",
    "positive_ranks",
    "ranks_from_ahead",
    "sort_own",
    "top_k_hits",
]
