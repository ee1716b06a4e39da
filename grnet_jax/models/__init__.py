"""Matchers: a file each, found by its name, with `Config` and `build`."""

import importlib

import flax.linen as nn

from grnet_jax.models.augmentation import embed_augmented
from grnet_jax.models.config import ModelConfig
from grnet_jax.models.matcher import (
    EmbeddingModel,
    Features,
    ImagesAsMaps,
    ImagesWithDomain,
    ImagesWithKeypoints,
    Matcher,
    Predictions,
    aligns_cells,
    cell_weights,
    embed,
    feature_map,
    fuse,
    global_edges,
    has_feature_map,
    has_predictions,
    inner_products,
    is_embedding_model,
    model_inputs,
    needs_domain,
    predict,
    score,
    score_fused,
    score_maps,
    unit_vectors,
)

__all__ = [
    "EmbeddingModel",
    "Features",
    "ImagesAsMaps",
    "ImagesWithDomain",
    "ImagesWithKeypoints",
    "Matcher",
    "Predictions",
    "aligns_cells",
    "build_matcher",
    "cell_weights",
    "embed",
    "embed_augmented",
    "feature_map",
    "fuse",
    "global_edges",
    "has_feature_map",
    "has_predictions",
    "inner_products",
    "is_embedding_model",
    "model_inputs",
    "needs_domain",
    "predict",
    "score",
    "score_fused",
    "score_maps",
    "unit_vectors",
]


def build_matcher(model: ModelConfig) -> nn.Module:
    """Builds the matcher of this section, a Linen module with `embed` and `score`."""
    return importlib.import_module(type(model).__module__).build(model)
