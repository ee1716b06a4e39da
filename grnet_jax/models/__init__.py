"""Matchers: a file each, found by its name, with `Config` and `build`."""

import importlib

import flax.linen as nn

from grnet_jax.models.augmentation import embed_augmented
from grnet_jax.models.config import ModelConfig
from grnet_jax.models.matcher import (
    DomainPhotos,
    Features,
    InnerProduct,
    Matcher,
    PointedPhotos,
    Predictions,
    embed,
    feature_map,
    global_edges,
    has_feature_map,
    has_predictions,
    inner_products,
    photos_of,
    predict,
    prepare,
    score,
    score_maps,
    score_prepared,
    scores_by_descriptor,
    takes_domain,
    unit_vectors,
)

__all__ = [
    "DomainPhotos",
    "Features",
    "InnerProduct",
    "Matcher",
    "PointedPhotos",
    "Predictions",
    "build_matcher",
    "embed",
    "embed_augmented",
    "feature_map",
    "global_edges",
    "has_feature_map",
    "has_predictions",
    "inner_products",
    "photos_of",
    "predict",
    "prepare",
    "score",
    "score_maps",
    "score_prepared",
    "scores_by_descriptor",
    "takes_domain",
    "unit_vectors",
]


def build_matcher(model: ModelConfig) -> nn.Module:
    """Builds the matcher of this section, a Linen module with `embed` and `score`."""
    return importlib.import_module(type(model).__module__).build(model)
