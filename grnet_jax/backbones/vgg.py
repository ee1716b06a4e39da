"""VGG-16 (Simonyan and Zisserman, 2015), plain or with BatchNorm: the backbone of FashionNet.

Layer by layer the networks of torchvision's `vgg16` and `vgg16_bn`. A stage is its own module,
so that a network may share the first four and have several of the fifth.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax.backbones.blocks import ConvNorm, Dtype
from grnet_jax.backbones.pooling import max_pool


class Stage(NamedTuple):
    """Convolutions between two poolings."""

    features: int
    convolutions: int


# Stages by the stride of their maps; between two strides the map is max-pooled, 2x2.
STAGES: dict[int, Stage] = {
    1: Stage(64, 2),
    2: Stage(128, 2),
    4: Stage(256, 3),
    8: Stage(512, 3),
    16: Stage(512, 3),
}
# VGG-16 drawn small for two CPU cores, with BatchNorm: images of 64 pixels.
SMALL_STAGES = (Stage(16, 1), Stage(32, 1), Stage(64, 2), Stage(128, 2))


class VGGStage(nn.Module):
    """3x3 convolutions with bias and ReLU at one stride.

    Attributes:
      stage: channels and number of the convolutions.
      norm: whether each has a BatchNorm before its ReLU.
      dtype: of the computation; parameters and statistics are float32.
    """

    stage: Stage
    norm: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[n, h, w, c] to [n, h, w, stage.features]."""
        for number in range(self.stage.convolutions):
            x = ConvNorm(
                self.stage.features,
                3,
                padding=1,
                epsilon=1e-5,
                bias=True,
                norm=self.norm,
                dtype=self.dtype,
                name=f"conv{number + 1}",
            )(x, train)
        return x


class VGG(nn.Module):
    """Maps normalized images [n, h, w, 3] to maps of stride 1, 2, 4, ... twice the last stage's.

    VGG-16's channels are 64, 128, 256, 512, 512 and 512: conv1_2, conv2_2, conv3_3, conv4_3,
    conv5_3, each before its pooling, and pool5. Sides are rounded down at each pooling.

    Attributes:
      stages: from stride 1 on; VGG-16's by default.
      norm: whether each convolution has a BatchNorm before its ReLU.
      dtype: of the computation; parameters and statistics are float32.
    """

    stages: tuple[Stage, ...] = tuple(STAGES.values())
    norm: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[int, jax.Array]:
        """Returns the feature maps by stride."""
        maps = {}
        x = images.astype(self.dtype)
        for number, stage in enumerate(self.stages):
            x = VGGStage(stage, self.norm, self.dtype, name=f"stage{number + 1}")(x, train)
            maps[2**number] = x
            x = max_pool(x, 2, 2, ceil=False)
        maps[2 ** len(self.stages)] = x
        return maps
