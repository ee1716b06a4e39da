"""Ranking metrics: pure functions of arrays, vectorised, with masks."""

from grnet_jax.metrics.intervals import clustered_interval
from grnet_jax.metrics.ranking import average_precision, positive_ranks, top_k_hits

__all__ = [
    "average_precision",
    "clustered_interval",
    "positive_ranks",
    "top_k_hits",
]
