"""DenseNet-121 (Huang et al., CVPR 2017): every layer sees all earlier ones of its block.

Layer by layer the network of torchvision's `densenet121`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax.backbones.blocks import ConvNorm, Dtype, batch_norm, convolution
from grnet_jax.backbones.pooling import check_window, max_pool


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, 1x1 convolution, and the same with 3x3; joined to the input's channels."""

    growth: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[n, h, w, c] to [n, h, w, c + growth]."""
        y = nn.relu(batch_norm(train, dtype=self.dtype, name="norm1")(x))
        y = convolution(4 * self.growth, dtype=self.dtype, name="conv1")(y)
        y = nn.relu(batch_norm(train, dtype=self.dtype, name="norm2")(y))
        y = convolution(self.growth, 3, 1, 1, dtype=self.dtype, name="conv2")(y)
        return jnp.concatenate([x, y], axis=-1)


class DenseBlock(nn.Module):
    """Dense layers one after the other."""

    layers: int
    growth: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[n, h, w, c] to [n, h, w, c + layers * growth]."""
        for number in range(self.layers):
            x = DenseLayer(self.growth, self.dtype, name=f"denselayer{number + 1}")(x, train)
        return x


class Transition(nn.Module):
    """Half the channels at half the resolution."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[n, h, w, c] to [n, floor(h / 2), floor(w / 2), c / 2]."""
        check_window(x, 2)
        x = nn.relu(batch_norm(train, dtype=self.dtype, name="norm")(x))
        x = convolution(x.shape[-1] // 2, dtype=self.dtype, name="conv")(x)
        return nn.avg_pool(x, (2, 2), strides=(2, 2))


class DenseNet(nn.Module):
    """Maps normalized images [n, h, w, 3] to feature maps of stride 4, 8, 16 and 32.

    Channels are 256, 512, 1024 and 1024: each dense block's output before its transition, the
    last after the final BatchNorm and ReLU.

    Attributes:
      layers: dense layers of each block.
      growth: channels that each adds.
      dtype: of the computation; parameters and statistics are float32.
    """

    layers: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 32
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[int, jax.Array]:
        """Returns the feature maps by stride."""
        dtype = self.dtype
        x = images.astype(dtype)
        x = ConvNorm(2 * self.growth, 7, 2, 3, epsilon=1e-5, dtype=dtype, name="conv0")(x, train)
        x = max_pool(x, 3, 2, 1, ceil=False)
        maps: dict[int, jax.Array] = {}
        for number, layers in enumerate(self.layers, 1):
            if number > 1:
                x = Transition(dtype, name=f"transition{number - 1}")(x, train)
            x = DenseBlock(layers, self.growth, dtype, name=f"denseblock{number}")(x, train)
            maps[2 ** (number + 1)] = x
        maps[max(maps)] = nn.relu(batch_norm(train, dtype=dtype, name="norm5")(x))
        return maps
