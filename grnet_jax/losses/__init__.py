"""Losses: pure functions of arrays, jit-able, with masks."""

from grnet_jax.losses.pairs import (
    pair_cross_entropy,
    pair_labels,
    query_softmax_cross_entropy,
)

__all__ = ["pair_cross_entropy", "pair_labels", "query_softmax_cross_entropy"]
