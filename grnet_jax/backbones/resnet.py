"""Residual networks of bottlenecks: ResNet, ResNeXt and their squeeze-and-excitation forms.

He et al. (CVPR 2016), Xie et al. (CVPR 2017), Hu et al. (CVPR 2018). Layer by layer the
networks of torchvision (`resnet50`, `resnext101_32x8d`) and of timm (`seresnet50`,
`seresnext50_32x4d`), and with `caffe_pool` and `stride_first` those of the older files of
Cadene, which timm calls `legacy_seresnet50` and `legacy_seresnext50_32x4d`.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax.backbones.blocks import ConvNorm, Dtype, SqueezeExcite
from grnet_jax.backbones.pooling import max_pool


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, added to their input.

    Attributes:
      width: channels of the 3x3 convolution.
      features: output channels.
      stride: of the block.
      groups: of the 3x3 convolution.
      squeeze: whether channels are gated before the sum.
      stride_first: the first convolution has the stride, not the 3x3.
      dtype: of the computation; parameters and statistics are float32.
    """

    width: int
    features: int
    stride: int = 1
    groups: int = 1
    squeeze: bool = False
    stride_first: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[n, h, w, c] to [n, ceil(h / stride), ceil(w / stride), features]."""
        layer = functools.partial(ConvNorm, epsilon=1e-5, dtype=self.dtype)
        first, second = (self.stride, 1) if self.stride_first else (1, self.stride)
        y = layer(self.width, 1, first, name="conv1")(x, train)
        y = layer(self.width, 3, second, 1, groups=self.groups, name="conv2")(y, train)
        y = layer(self.features, activate=False, name="conv3")(y, train)
        if self.squeeze:
            y = SqueezeExcite(dtype=self.dtype, name="se")(y)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = layer(self.features, 1, self.stride, activate=False, name="downsample")(x, train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Maps normalized images [n, h, w, 3] to feature maps of stride 4, 8, 16 and 32.

    Channels are 256, 512, 1024 and 2048: the outputs of layer1 to layer4.

    Attributes:
      depths: bottlenecks of each layer.
      groups: of the 3x3 convolutions.
      group_width: channels of a group in layer1, doubled from layer to layer.
      squeeze: whether bottlenecks are gated by squeeze-and-excitation.
      caffe_pool: the first pooling keeps a window that overhangs and pads nothing.
      stride_first: a strided bottleneck strides in its first convolution, not in the 3x3.
      dtype: of the computation; parameters and statistics are float32.
    """

    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    groups: int = 1
    group_width: int = 64
    squeeze: bool = False
    caffe_pool: bool = False
    stride_first: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[int, jax.Array]:
        """Returns the feature maps by stride."""
        x = images.astype(self.dtype)
        x = ConvNorm(64, 7, 2, 3, epsilon=1e-5, dtype=self.dtype, name="conv1")(x, train)
        x = max_pool(x, 3, 2) if self.caffe_pool else max_pool(x, 3, 2, 1, ceil=False)
        maps = {}
        for number, depth in enumerate(self.depths):
            for block in range(depth):
                x = Bottleneck(
                    width=2**number * self.group_width * self.groups,
                    features=2**number * 256,
                    stride=2 if number > 0 and block == 0 else 1,
                    groups=self.groups,
                    squeeze=self.squeeze,
                    stride_first=self.stride_first,
                    dtype=self.dtype,
                    name=f"layer{number + 1}_{block}",
                )(x, train)
            maps[4 * 2**number] = x
        return maps
