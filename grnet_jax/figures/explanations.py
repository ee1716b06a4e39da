"""Why a matcher scores a pair as it does: where it looks, and what its graph listens to."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from grnet_jax import models
from grnet_jax.errors import InputError
from grnet_jax.figures.grad_cam import pair_grad_cam
from grnet_jax.figures.strongest_nodes import StrongNode, strongest_nodes
from input_pipeline.images import Box, ImageTransform, crop_and_resize, pixel_box


@dataclasses.dataclass(frozen=True)
class SeenPhoto:
    """A photo, and what of it a matcher sees.

    Attributes:
      name: for captions.
      whole: uint8 [H, W, 3].
      cut: (left, top, right, bottom), the part that is seen, in pixels of `whole`.
      framed: uint8 [size, size, 3], the cut as the matcher gets it.
    """

    name: str
    whole: np.ndarray
    cut: tuple[int, int, int, int]
    framed: np.ndarray

    @property
    def is_cut(self) -> bool:
        """Whether anything of the photo is left out."""
        height, width, _ = self.whole.shape
        return self.cut != (0, 0, width, height)


def frame_photo(
    name: str, whole: np.ndarray, box: Box | None, framing: ImageTransform
) -> SeenPhoto:
    """A photo uint8 [H, W, 3], cut as the framing says."""
    cut = pixel_box(framing.box(box, *whole.shape[:2]), *whole.shape[:2])
    return SeenPhoto(name, whole, cut, crop_and_resize(whole, box, framing))


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What there is to say of one pair's score.

    Attributes:
      score: the matcher's.
      query_heat: Grad-CAM float32 [h, w] over what is seen of the query.
      gallery_heat: likewise of the gallery photo.
      before: the strongest nodes before reasoning; none for a matcher without edges.
      after: the strongest nodes after reasoning.
      equal_weight: weight of an edge, were all edges into the global node equal; 0 without edges.
    """

    score: float
    query_heat: np.ndarray
    gallery_heat: np.ndarray
    before: list[StrongNode]
    after: list[StrongNode]
    equal_weight: float


class Explainer:
    """Explains a matcher's scores, a pair at a time.

    Args:
      matcher: the Linen module.
      variables: its parameters and statistics.
      top: how many strongest nodes to name.

    Raises:
      InputError: for a matcher that has no feature map.
    """

    def __init__(self, matcher: nn.Module, variables: Any, top: int = 5):
        if not models.has_feature_map(matcher):
            raise InputError(
                f"{type(matcher).__name__} has no feature map: Grad-CAM cannot explain its scores"
            )
        graph = getattr(matcher, "graph", None)
        self._scales = graph.scales if graph is not None and graph.layers else None
        self._top = top
        self._variables = variables
        self._cams = jax.jit(lambda *given: pair_grad_cam(matcher, *given))
        self._edges = jax.jit(lambda *given: _pair_edges(matcher, *given))

    def explain(self, query: SeenPhoto, gallery: SeenPhoto) -> Explanation:
        """Explains the score of a pair."""
        given = self._variables, query.framed, gallery.framed
        score, query_heat, gallery_heat = (np.asarray(found) for found in self._cams(*given))
        before: list[StrongNode] = []
        after: list[StrongNode] = []
        equal = 0.0
        if self._scales:
            edges = [np.asarray(weights) for weights in self._edges(*given)]
            before, after = (
                strongest_nodes(weights, self._scales, query_heat.shape, self._top)
                for weights in edges
            )
            equal = 1 / len(edges[0])
        return Explanation(float(score), query_heat, gallery_heat, before, after, equal)


def _pair_edges(
    matcher: nn.Module, variables: Any, query: jax.Array, gallery: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Weights of the edges into one pair's global node, before and after reasoning, [n] each."""
    features = [models.embed(matcher, variables, photo[None]) for photo in (query, gallery)]
    before, after = models.global_edges(matcher, variables, *features)
    return before[0, 0], after[0, 0]
