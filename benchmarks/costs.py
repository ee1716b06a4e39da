"""Counts parameters and multiply-adds of a backbone from shapes; nothing is computed."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax.backbones import build_backbone, build_classifier
from grnet_jax.backbones.blocks import GroupedConv


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
