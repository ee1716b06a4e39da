"""Explains a pair's score: Grad-CAM on both images, and the strongest nodes of the graph."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from grnet_jax import models
from grnet_jax.errors import InputError
from grnet_jax.visualization.grad_cam import pair_grad_cam
from grnet_jax.visualization.strongest_nodes import StrongNode, strongest_cells, strongest_nodes
from input_pipeline import Box, ImageTransform, crop_and_resize, pixel_box


@dataclasses.dataclass(frozen=True)
class CroppedImage:
    """An image and the crop of it that is a matcher's input.

    Attributes:
      name: for captions.
      pixels: uint8 [H, W, 3], of the whole image.
      crop: (x_1, y_1, x_2, y_2) in pixels.
      input: uint8 [size, size, 3], the crop, resized.
    """

    name: str
    pixels: np.ndarray
    crop: tuple[int, int, int, int]
    input: np.ndarray

    @property
    def is_cropped(self) -> bool:
        """Whether the crop is less than the whole image."""
        height, width, _ = self.pixels.shape
        return self.crop != (0, 0, width, height)


def crop_image(
    name: str, pixels: np.ndarray, box: Box | None, transform: ImageTransform
) -> CroppedImage:
    """Crops an image, uint8 [H, W, 3], as the transform does."""
    crop = pixel_box(transform.box(box, *pixels.shape[:2]), *pixels.shape[:2])
    return CroppedImage(name, pixels, crop, crop_and_resize(pixels, box, transform))


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What explains one pair's score.

    Attributes:
      score: the matcher's.
      query_heat: Grad-CAM, float32 [h, w] over the query's crop.
      gallery_heat: likewise of the gallery image.
      before: the strongest nodes before reasoning; none for a matcher without edges.
      after: the strongest nodes after reasoning.
      equal_weight: weight of an edge if all edges into the global node were equal; 0 without edges.
      attention: of the query and of the gallery image, float32 [h, w] over the crop, in 0..1; none
        for a matcher without an attention map.
      cells: the pairs of cells that weigh most; none for a matcher that aligns none.
      equal_cell_weight: of a pair of cells if all weighed the same; 0 without.
    """

    score: float
    query_heat: np.ndarray
    gallery_heat: np.ndarray
    before: list[StrongNode]
    after: list[StrongNode]
    equal_weight: float
    attention: tuple[np.ndarray, ...] = ()
    cells: list[StrongNode] = dataclasses.field(default_factory=list)
    equal_cell_weight: float = 0.0


class Explainer:
    """Explains a matcher's scores, a pair at a time.

    Args:
      matcher: the Linen module.
      variables: its parameters and statistics.
      top: how many of the strongest nodes to return.

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
        self._cams = jax.jit(lambda *inputs: pair_grad_cam(matcher, *inputs))
        self._edges = jax.jit(lambda *inputs: _pair_edges(matcher, *inputs))
        self._aligns = models.aligns_cells(matcher)
        self._cells = jax.jit(lambda *inputs: _pair_cells(matcher, *inputs))
        self._has_attention = hasattr(matcher, "attention_map")
        self._attention = jax.jit(lambda *inputs: _attention(matcher, *inputs))

    def explain(self, query: CroppedImage, gallery: CroppedImage) -> Explanation:
        """Explains the score of a pair."""
        inputs = self._variables, query.input, gallery.input
        score, query_heat, gallery_heat = map(np.asarray, self._cams(*inputs))
        before: list[StrongNode] = []
        after: list[StrongNode] = []
        equal = 0.0
        if self._scales:
            edges = [np.asarray(weights) for weights in self._edges(*inputs)]
            before, after = (
                strongest_nodes(weights, self._scales, query_heat.shape, self._top)
                for weights in edges
            )
            equal = 1 / len(edges[0])
        cells: list[StrongNode] = []
        equal_cell = 0.0
        if self._aligns:
            weights = np.asarray(self._cells(*inputs))
            cells = strongest_cells(weights, query_heat.shape, self._top)
            equal_cell = 1 / weights.size
        attention: tuple[np.ndarray, ...] = ()
        if self._has_attention:
            attention = tuple(np.asarray(self._attention(*inputs)))
        return Explanation(
            *(float(score), query_heat, gallery_heat, before, after, equal),
            *(attention, cells, equal_cell),
        )


def _attention(
    matcher: nn.Module, variables: Any, query: jax.Array, gallery: jax.Array
) -> jax.Array:
    """Returns both images' attention, [2, h, w]."""
    images = jnp.stack([query, gallery])
    return matcher.apply(variables, images, method="attention_map")  # type: ignore[return-value]


def _pair_edges(
    matcher: nn.Module, variables: Any, query: jax.Array, gallery: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns weights of edges into a pair's global node, before and after reasoning, [n] each."""
    before, after = models.global_edges(
        matcher, variables, *_pair_features(matcher, variables, query, gallery)
    )
    return before[0, 0], after[0, 0]


def _pair_cells(
    matcher: nn.Module, variables: Any, query: jax.Array, gallery: jax.Array
) -> jax.Array:
    """Returns what each pair of cells weighs in the score, [cells, cells]."""
    features = _pair_features(matcher, variables, query, gallery)
    return models.cell_weights(matcher, variables, *features)[0, 0]


def _pair_features(
    matcher: nn.Module, variables: Any, query: jax.Array, gallery: jax.Array
) -> list[models.Features]:
    return [models.embed(matcher, variables, image[None]) for image in (query, gallery)]
