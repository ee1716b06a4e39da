"""Networks from an image to feature maps, under one interface.

A backbone is a Linen module: `backbone(images, train)` takes normalized images [n, h, w, 3]
and returns its feature maps by stride, {stride: [n, h / stride, w / stride, c]}. With
`train` BatchNorm normalizes by the batch and updates its statistics (collection
"batch_stats"); otherwise it uses them. `build_classifier` puts the ImageNet head on one.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from grnet_jax.backbones.classifier import Classifier, NormedHead, PooledHead, VGGHead
from grnet_jax.backbones.convnext import ConvNeXt
from grnet_jax.backbones.densenet import DenseNet
from grnet_jax.backbones.efficientnet_lite import EfficientNetLite
from grnet_jax.backbones.googlenet import GoogLeNet
from grnet_jax.backbones.resnet import ResNet
from grnet_jax.backbones.small import SmallNet
from grnet_jax.backbones.transformer import ViT
from grnet_jax.backbones.vgg import SMALL_STAGES, VGG
from grnet_jax.errors import InputError

BACKBONES: Mapping[str, Callable[..., nn.Module]] = {
    "googlenet": GoogLeNet,
    "small": SmallNet,
    "small_deep": functools.partial(SmallNet, widths=(16, 32, 64, 96)),
    "vgg16": VGG,
    "vgg16_bn": functools.partial(VGG, norm=True),
    "vgg_small": functools.partial(VGG, stages=SMALL_STAGES, norm=True),
    "resnet50": ResNet,
    "resnext101_32x8d": functools.partial(ResNet, depths=(3, 4, 23, 3), groups=32, group_width=8),
    "seresnet50": functools.partial(ResNet, squeeze=True),
    "seresnext50_32x4d": functools.partial(ResNet, groups=32, group_width=4, squeeze=True),
    "legacy_seresnet50": functools.partial(
        ResNet, squeeze=True, caffe_pool=True, stride_first=True
    ),
    "legacy_seresnext50_32x4d": functools.partial(
        ResNet, groups=32, group_width=4, squeeze=True, caffe_pool=True
    ),
    "densenet121": DenseNet,
    "vit_small_patch14_dinov2": ViT,
    "vit_base_patch14_dinov2": functools.partial(ViT, width=768, heads=12),
    "vit_small_patch14_reg4_dinov2": functools.partial(ViT, registers=4),
    "vit_base_patch16_siglip_224": functools.partial(
        ViT, patch=16, width=768, heads=12, grid=14, class_token=False, layer_scale=False
    ),
    "convnext_tiny": ConvNeXt,
    "convnext_base": functools.partial(
        ConvNeXt, depths=(3, 3, 27, 3), widths=(128, 256, 512, 1024)
    ),
    "efficientnet_lite0": EfficientNetLite,
    "efficientnet_lite1": functools.partial(EfficientNetLite, depths=(1, 3, 3, 4, 4, 5, 1)),
    "efficientnet_lite2": functools.partial(
        EfficientNetLite, (1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352)
    ),
    "efficientnet_lite3": functools.partial(
        EfficientNetLite, (1, 3, 3, 5, 5, 6, 1), (24, 32, 48, 96, 136, 232, 384)
    ),
    "efficientnet_lite4": functools.partial(
        EfficientNetLite, (1, 4, 4, 6, 6, 8, 1), (24, 32, 56, 112, 160, 272, 448)
    ),
}

# Heads that are not channel means and one dense layer.
_HEADS: Mapping[str, Callable[..., nn.Module]] = {
    "googlenet": functools.partial(PooledHead, dropout=0.2),
    "vgg16": VGGHead,
    "vgg16_bn": VGGHead,
    "convnext_tiny": NormedHead,
    "convnext_base": NormedHead,
}


def build_backbone(name: str, dtype: Any = jnp.float32, stride: int = 0) -> nn.Module:
    """Builds the backbone of that name, computing in `dtype`.

    Args:
      name: of the backbone.
      dtype: of the computation.
      stride: of the last map; layers behind it are left out. 0 takes all.

    Raises:
      InputError: naming the backbones there are, or the strides that can be the last.
    """
    if name not in BACKBONES:
        raise InputError(f"model.backbone.name: {name!r} is none of {sorted(BACKBONES)}")
    backbone = BACKBONES[name](dtype=dtype)
    if not stride:
        return backbone
    if not isinstance(backbone, EfficientNetLite) or stride not in (4, 8, 16, 32):
        raise InputError(f"stride={stride}: expected 0, or with EfficientNet-Lite 4, 8, 16 or 32")
    return backbone.clone(last_stride=stride)


def build_classifier(name: str, classes: int = 1000, dtype: Any = jnp.float32) -> Classifier:
    """Builds the backbone of that name under its ImageNet head.

    Raises:
      InputError: naming the backbones there are.
    """
    backbone = build_backbone(name, dtype)
    return Classifier(backbone, _HEADS.get(name, PooledHead)(classes, dtype=dtype))
