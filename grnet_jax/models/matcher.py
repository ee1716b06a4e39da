"""What every retrieval system here is: a matcher.

A matcher is a Linen module with two halves:

- `embed(photos, train=False) -> Features`: computed once a photo, and what a gallery stores.
- `score(query, gallery) -> [q, g]`: how alike each query is to each gallery photo.

Training, evaluation, search and benchmarks know only this pair. A matcher whose scores can be
explained has `embed` in two parts besides: `feature_map(photos, train=False) -> [n, h, w, c]` and
`pool(feature_map) -> Features`; where it reasons over a `graph`, also
`global_edges(query, gallery) -> [q, g, nodes] twice`.
"""

from typing import Any, Protocol

import flax
import flax.linen as nn
import jax


@flax.struct.dataclass
class Features:
    """What is computed once per photo; every leaf leads with the photo axis.

    Attributes:
      descriptor: [n, d], one unit vector a photo, for matching by inner product.
      regions: [n, regions, c], for matchers that compare photos region by region; else None.
    """

    descriptor: jax.Array
    regions: jax.Array | None = None


class Matcher(Protocol):
    """The two halves; a Linen module gives them as methods for `apply(..., method=...)`."""

    def embed(self, photos: jax.Array, train: bool = False) -> Features:
        """Features of photos uint8 [n, h, w, 3]; n in every leaf's first axis."""
        ...

    def score(self, query: Features, gallery: Features) -> jax.Array:
        """float32 [q, g]; higher is more alike."""
        ...


def embed(matcher: nn.Module, variables: Any, photos: jax.Array) -> Features:
    """The matcher's `embed`, as evaluation and users run it."""
    features: Any = matcher.apply(variables, photos, train=False, method="embed")
    return features


def score(matcher: nn.Module, variables: Any, query: Features, gallery: Features) -> jax.Array:
    """The matcher's `score`."""
    scores: Any = matcher.apply(variables, query, gallery, method="score")
    return scores


def has_feature_map(matcher: nn.Module) -> bool:
    """Whether the matcher has `feature_map` and `pool`."""
    return hasattr(matcher, "feature_map") and hasattr(matcher, "pool")


def feature_map(matcher: nn.Module, variables: Any, photos: jax.Array) -> jax.Array:
    """The matcher's `feature_map`, of those that have one: [n, h, w, c]."""
    return matcher.apply(variables, photos, train=False, method="feature_map")  # type: ignore


def score_maps(
    matcher: nn.Module, variables: Any, query_map: jax.Array, gallery_map: jax.Array
) -> jax.Array:
    """Scores float32 [q, g] of the photos with those feature maps."""
    features: list[Any] = [
        matcher.apply(variables, one, method="pool") for one in (query_map, gallery_map)
    ]
    return score(matcher, variables, *features)


def global_edges(
    matcher: nn.Module, variables: Any, query: Features, gallery: Features
) -> tuple[jax.Array, jax.Array]:
    """The matcher's `global_edges`, of those with a graph: before and after reasoning."""
    return matcher.apply(variables, query, gallery, method="global_edges")  # type: ignore
