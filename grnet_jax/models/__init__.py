"""Matchers, one a file, and the registry that builds them from a config."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from grnet_jax.errors import InputError
from grnet_jax.models import (
    colour_histogram,
    darn,
    embedding,
    fashionnet,
    grnet,
    kpm,
    local_matching,
    pair_metric,
)
from grnet_jax.models.matcher import (
    DomainPhotos,
    Features,
    InnerProduct,
    Matcher,
    PointedPhotos,
    Predictions,
    Scoring,
    embed,
    feature_map,
    global_edges,
    has_feature_map,
    has_predictions,
    inner_products,
    make_scoring,
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
from grnet_jax.models.views import embed_augmented

__all__ = [
    "MATCHERS",
    "DomainPhotos",
    "Features",
    "InnerProduct",
    "Matcher",
    "PointedPhotos",
    "Predictions",
    "Scoring",
    "build_matcher",
    "embed",
    "embed_augmented",
    "feature_map",
    "global_edges",
    "has_feature_map",
    "has_predictions",
    "inner_products",
    "make_scoring",
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

MATCHERS: Mapping[str, Callable[[Any], nn.Module]] = {
    "colour_histogram": colour_histogram.build,
    "darn": darn.build,
    "embedding": embedding.build,
    "fashionnet": fashionnet.build,
    "grnet": grnet.build,
    "kpm": kpm.build,
    "local_matching": local_matching.build,
    "pair_metric": pair_metric.build,
}


def build_matcher(model: Any) -> nn.Module:
    """The matcher that `config.model` describes, a Linen module with `embed` and `score`.

    Raises:
      InputError: naming the matchers there are, or the field that cannot be.
    """
    if model.name not in MATCHERS:
        raise InputError(f"model.name: {model.name!r} is none of {sorted(MATCHERS)}")
    return MATCHERS[model.name](model)
