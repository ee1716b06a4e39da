"""What every retrieval system here is: a matcher.

A matcher is a Linen module, of a class under `Matcher`, with two halves:

- `embed(images, train=False) -> Features`: computed once an image, and what a gallery stores.
- `score(query, gallery) -> [q, g]`: how alike each query is to each gallery image.

Training, evaluation, search and benchmarks know only this pair. What a matcher may have besides:

- `fuse(variables, dtype)` and `score_fused(fused, query, gallery)`, a faster way to the same scores
  once the parameters stay: the first runs once a model.
- `feature_map(images, train=False) -> [n, h, w, c]` and `pool(feature_map) -> Features`, `embed` in
  two parts, of matchers whose scores can be explained; where one reasons over a `graph`, also
  `global_edges(query, gallery) -> [q, g, nodes] twice`; where one aligns the maps' cells, with an
  `alignment` that is not None, `cell_weights(query, gallery) -> [q, g, cells, cells]`.
- `predict(images, train=False) -> (Features, Predictions)`, of matchers that recognize what they
  see; the first are `embed`'s.

A matcher whose score is nothing but the inner product of embeddings is an `EmbeddingModel`.
"""

from collections.abc import Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax.graph.reasoning import accumulation_dtype


@flax.struct.dataclass
class Features:
    """What is computed once per image; every leaf leads with the image axis.

    Attributes:
      embedding: [n, d], one unit vector an image, for matching by inner product.
      regions: [n, regions, c], for matchers that compare images region by region; else None.
    """

    embedding: jax.Array
    regions: jax.Array | None = None


@flax.struct.dataclass
class Predictions:
    """What a matcher recognises in images; every leaf leads with the image axis.

    Attributes:
      category: at least float32 [n, c], logits of which one holds.
      attributes: [n, a], logits of which any may hold; None of matchers without, like the others.
      landmarks: [n, p, 2], (x, y) as shares of the image's width and height; may lie outside 0..1.
      visibility: [n, p, v], logits in the order of `input_pipeline.VISIBILITIES`.
    """

    category: jax.Array
    attributes: jax.Array | None = None
    landmarks: jax.Array | None = None
    visibility: jax.Array | None = None


@flax.struct.dataclass
class ImagesWithKeypoints:
    """What a matcher with `needs_keypoints` embeds in the place of images alone.

    Attributes:
      images: uint8 [n, h, w, 3].
      points: float32 [n, p, 2], (x, y) as shares of the image's width and height.
      visible: bool [n, p], those there are.
    """

    images: jax.Array
    points: jax.Array
    visible: jax.Array


@flax.struct.dataclass
class ImagesWithDomain:
    """What a matcher with `needs_domain` embeds in the place of images alone.

    Attributes:
      images: uint8 [n, h, w, 3].
      domain: int32 [n], 0 customer, 1 shop.
    """

    images: jax.Array
    domain: jax.Array


@flax.struct.dataclass
class ImagesAsMaps:
    """What images are in training where the frozen layers were applied to them before.

    Attributes:
      maps: [n, h, w, c], of `backbone`; its last map where that stays as a whole.
      stride: of the map, behind which the backbone goes on; 0 where it does not.
    """

    maps: jax.Array
    stride: int = flax.struct.field(pytree_node=False, default=0)


def unit_vectors(x: jax.Array) -> jax.Array:
    """Vectors [..., d] scaled to length 1, in their dtype; zeros stay, with finite gradients."""
    wide = x.astype(accumulation_dtype(x))
    squared = jnp.sum(jnp.square(wide), axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(squared + 1e-12)).astype(x.dtype)


class Matcher(nn.Module):
    """The base of all matchers; subclasses have `embed` and `score`."""

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Scores the images against themselves; touches every parameter, for `init`."""
        features = self.embed(images, train)
        return self.score(features, features)

    def embed(self, images: Any, train: bool = False) -> Features:
        """Returns features of images uint8 [n, h, w, 3]; n in every leaf's first axis."""
        raise NotImplementedError

    def score(self, query: Features, gallery: Features) -> jax.Array:
        """Returns scores float32 [q, g]; higher is more alike."""
        raise NotImplementedError


class EmbeddingModel(Matcher):
    """A matcher whose score is the inner product of its embeddings; subclasses have `embed`."""

    def score(self, query: Features, gallery: Features) -> jax.Array:
        """Inner products of the embeddings, float32 [q, g]."""
        return inner_products(query, gallery)


def inner_products(query: Features, gallery: Features) -> jax.Array:
    """Of all embeddings of queries [q, d] and gallery images [g, d]: float32 [q, g], exact."""
    precision = jax.lax.Precision.HIGHEST
    return jnp.einsum("qd,gd->qg", query.embedding, gallery.embedding, precision=precision)


def embed(matcher: nn.Module, variables: Any, images: jax.Array) -> Features:
    """The matcher's `embed`, as evaluation and users run it."""
    features: Any = matcher.apply(variables, images, train=False, method="embed")
    return features


def score(matcher: nn.Module, variables: Any, query: Features, gallery: Features) -> jax.Array:
    """The matcher's `score`."""
    scores: Any = matcher.apply(variables, query, gallery, method="score")
    return scores


def fuse(matcher: nn.Module, variables: Any, dtype: str = "") -> Any:
    """Returns what `score_fused` takes; computed once a model, outside jit.

    Args:
      matcher: the Linen module.
      variables: the matcher's.
      dtype: that products are made in; "" the matcher's own.
    """
    found: Any = variables
    if hasattr(matcher, "fuse"):
        found = matcher.fuse(variables, dtype)
    return found


def score_fused(matcher: nn.Module, fused: Any, query: Features, gallery: Features) -> jax.Array:
    """The matcher's `score`, as evaluation and users run it."""
    if not hasattr(matcher, "fuse"):
        return score(matcher, fused, query, gallery)
    scores: Any = matcher.score_fused(fused, query, gallery)
    return scores


def is_embedding_model(matcher: nn.Module) -> bool:
    """Returns whether the matcher's score is the inner product of embeddings."""
    return isinstance(matcher, EmbeddingModel)


def has_predictions(matcher: nn.Module) -> bool:
    """Whether the matcher has `predict`, and a head to do so where one can be left out."""
    return hasattr(matcher, "predict") and getattr(matcher, "num_classes", 1) > 0


def predict(matcher: nn.Module, variables: Any, images: jax.Array) -> Predictions:
    """What the matcher recognises, of those with predictions, as evaluation runs it."""
    found: Any = matcher.apply(variables, images, train=False, method="predict")
    return found[1]


def model_inputs(matcher: nn.Module, batch: Mapping[str, Any]) -> Any:
    """What the matcher embeds of a batch: its images, with their points or domain if it takes them.

    A batch without points is its images; the matcher says what it lacks.
    """
    if needs_domain(matcher):
        return ImagesWithDomain(batch["image"], batch["domain"])
    if not getattr(matcher, "needs_keypoints", False) or "points" not in batch:
        return batch["image"]
    return ImagesWithKeypoints(batch["image"], batch["points"], batch["points_visible"])


def needs_domain(matcher: nn.Module) -> bool:
    """Whether `embed` and `predict` take `ImagesWithDomain`: one stream a kind of image."""
    return getattr(matcher, "needs_domain", False)


def has_feature_map(matcher: nn.Module) -> bool:
    """Whether the matcher has `feature_map` and `pool`."""
    return hasattr(matcher, "feature_map") and hasattr(matcher, "pool")


def feature_map(matcher: nn.Module, variables: Any, images: jax.Array) -> jax.Array:
    """The matcher's `feature_map`, of those that have one: [n, h, w, c]."""
    return matcher.apply(variables, images, train=False, method="feature_map")  # type: ignore


def score_maps(
    matcher: nn.Module, variables: Any, query_map: jax.Array, gallery_map: jax.Array
) -> jax.Array:
    """Scores float32 [q, g] of the images with those feature maps."""
    features: list[Any] = [
        matcher.apply(variables, one, method="pool") for one in (query_map, gallery_map)
    ]
    return score(matcher, variables, *features)


def global_edges(
    matcher: nn.Module, variables: Any, query: Features, gallery: Features
) -> tuple[jax.Array, jax.Array]:
    """The matcher's `global_edges`, of those with a graph: before and after reasoning."""
    return matcher.apply(variables, query, gallery, method="global_edges")  # type: ignore


def aligns_cells(matcher: nn.Module) -> bool:
    """Returns whether the matcher has `cell_weights`."""
    return getattr(matcher, "alignment", None) is not None


def cell_weights(
    matcher: nn.Module, variables: Any, query: Features, gallery: Features
) -> jax.Array:
    """The matcher's `cell_weights`, of those that align cells."""
    return matcher.apply(variables, query, gallery, method="cell_weights")  # type: ignore
