"""Losses: pure functions of arrays, jit-able, with masks. docs/losses.md has their equations."""

from grnet_jax.losses.attributes import attribute_cross_entropy, attribute_weights
from grnet_jax.losses.average_precision import ListwiseLoss, average_precision_loss
from grnet_jax.losses.candidates import best_scores, comparison_masks
from grnet_jax.losses.classification import class_cross_entropy, proxy_nca, random_meta_classes
from grnet_jax.losses.landmarks import (
    landmark_regression,
    visibility_classes,
    visibility_cross_entropy,
)
from grnet_jax.losses.pairs import (
    pair_cross_entropy,
    pair_labels,
    query_softmax_cross_entropy,
)
from grnet_jax.losses.triplets import DISTANCES, MINERS, REDUCTIONS, TripletLoss, triplet_loss

__all__ = [
    "DISTANCES",
    "MINERS",
    "REDUCTIONS",
    "ListwiseLoss",
    "TripletLoss",
    "attribute_cross_entropy",
    "attribute_weights",
    "average_precision_loss",
    "best_scores",
    "class_cross_entropy",
    "comparison_masks",
    "landmark_regression",
    "pair_cross_entropy",
    "pair_labels",
    "proxy_nca",
    "query_softmax_cross_entropy",
    "random_meta_classes",
    "triplet_loss",
    "visibility_classes",
    "visibility_cross_entropy",
]
