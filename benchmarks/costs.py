"""Counts parameters and operations of backbones and matchers from shapes; nothing is computed."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax.backbones import build_backbone, build_classifier
from grnet_jax.backbones.blocks import GroupedConv
from grnet_jax.config import Config
from grnet_jax.models import (
    ImagesWithDomain,
    build_matcher,
    embed,
    has_predictions,
    needs_domain,
    predict,
    score,
)
from grnet_jax.models.matcher import ImagesWithKeypoints
from grnet_jax.training.state import init_variables


class MatcherCosts(NamedTuple):
    """What a config's matcher costs.

    Attributes:
      parameters: trained ones, without BatchNorm's statistics.
      photo_gflop: floating-point operations, in 1e9, of embedding an image.
      pair_gflop: the same of comparing two images.
      feature_bytes: of an image's features as ranking holds them.
    """

    parameters: int
    photo_gflop: float
    pair_gflop: float
    feature_bytes: int


_COSTS: dict[str, MatcherCosts] = {}


def count_parameters(name: str, head: bool = True) -> int:
    """Counts trained parameters, without BatchNorm's statistics.

    Args:
      name: of the backbone.
      head: whether its 1000-class ImageNet head counts.

    Raises:
      InputError: naming the backbones there are.
    """
    variables = _shapes(name, 64, head)
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def multiply_adds(name: str, image_size: int = 224, head: bool = True) -> int:
    """Counts multiplications, each with an addition, for one image.

    Those of convolutions and dense layers; BatchNorm, pooling, gates and sums are not counted.

    Args:
      name: of the backbone.
      image_size: side of the image.
      head: whether its 1000-class ImageNet head counts.

    Raises:
      InputError: naming the backbones there are, or for images too small for this one.
    """
    total = 0

    def count(call: Callable, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        nonlocal total
        result = call(*args, **kwargs)
        module = context.module
        if context.method_name == "__call__" and isinstance(
            module, nn.Conv | nn.Dense | GroupedConv
        ):
            # [window..., inputs of one group, outputs]; each output takes one product for
            # each of the leading ones.
            kernel: jax.Array = module.get_variable("params", "kernel")
            total += result.size * math.prod(kernel.shape[:-1])
        return result

    with nn.intercept_methods(count):
        _shapes(name, image_size, head)
    return total


def _shapes(name: str, image_size: int, head: bool) -> Any:
    module = build_classifier(name) if head else build_backbone(name)
    return jax.eval_shape(
        module.init,
        jax.random.key(0),
        jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32),
    )


def matcher_costs(config: Config) -> MatcherCosts:
    """Returns what the matcher of a whole config costs, as XLA counts it before optimizing."""
    known = f"{config.model.model_dump_json()} {config.image.size}"
    if known not in _COSTS:  # an ensemble's members are one network
        _COSTS[known] = _matcher_costs(build_matcher(config.model), config.image.size)
    return _COSTS[known]


def _matcher_costs(matcher: nn.Module, side: int) -> MatcherCosts:
    variables = jax.eval_shape(lambda: init_variables(matcher, side, 0))
    shape: Any = jax.ShapeDtypeStruct
    images = shape((1, side, side, 3), jnp.uint8)
    if getattr(matcher, "needs_keypoints", False):
        points = (1, matcher.num_keypoints)
        images = ImagesWithKeypoints(images, shape((*points, 2), jnp.float32), shape(points, bool))
    if needs_domain(matcher):
        images = ImagesWithDomain(images, shape((1,), jnp.int32))
    features = jax.eval_shape(lambda *of: embed(matcher, *of), variables, images)
    whole = predict if has_predictions(matcher) else embed
    return MatcherCosts(
        sum(leaf.size for leaf in jax.tree.leaves(variables.get("params", {}))),
        _gflop(lambda *of: whole(matcher, *of), variables, images),
        _gflop(lambda *of: score(matcher, *of), variables, features, features),
        sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(features)),
    )


def _gflop(function: Callable, *shapes: Any) -> float:
    costs: Any = jax.jit(function).lower(*shapes).cost_analysis()
    return float(costs["flops"]) / 1e9
