"""GoogLeNet (Szegedy et al., 2015) in its BatchNorm form, the backbone of GRNet.

Layer by layer the network of torchvision's `googlenet`, so that its ImageNet checkpoint
fits: BatchNorm with epsilon 1e-3 after every convolution, no convolution bias, a 3x3
convolution where the paper has 5x5, max-pooling in ceil mode. Modules carry the checkpoint's
names with dots inside a branch turned into underscores (`branch2.0` is `branch2_0`).
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax.backbones.blocks import ConvNorm, Dtype
from grnet_jax.backbones.pooling import max_pool


class Widths(NamedTuple):
    """Channels of one inception block's branches."""

    one: int
    three_reduce: int
    three: int
    five_reduce: int
    five: int
    pool: int


class Inception(nn.Module):
    """Four branches side by side, their channels concatenated."""

    widths: Widths
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[n, h, w, c] to [n, h, w, sum of the branches' channels]."""
        w, dtype = self.widths, self.dtype
        one = ConvNorm(w.one, dtype=dtype, name="branch1")(x, train)
        three = ConvNorm(w.three_reduce, dtype=dtype, name="branch2_0")(x, train)
        three = ConvNorm(w.three, 3, padding=1, dtype=dtype, name="branch2_1")(three, train)
        five = ConvNorm(w.five_reduce, dtype=dtype, name="branch3_0")(x, train)
        five = ConvNorm(w.five, 3, padding=1, dtype=dtype, name="branch3_1")(five, train)
        pool = ConvNorm(w.pool, dtype=dtype, name="branch4_1")(max_pool(x, 3, 1, 1), train)
        return jnp.concatenate([one, three, five, pool], axis=-1)


# Blocks by the stride of their maps; between two strides the map is max-pooled.
BLOCKS: dict[int, dict[str, Widths]] = {
    8: {
        "3a": Widths(64, 96, 128, 16, 32, 32),
        "3b": Widths(128, 128, 192, 32, 96, 64),
    },
    16: {
        "4a": Widths(192, 96, 208, 16, 48, 64),
        "4b": Widths(160, 112, 224, 24, 64, 64),
        "4c": Widths(128, 128, 256, 24, 64, 64),
        "4d": Widths(112, 144, 288, 32, 64, 64),
        "4e": Widths(256, 160, 320, 32, 128, 128),
    },
    32: {
        "5a": Widths(256, 160, 320, 32, 128, 128),
        "5b": Widths(384, 192, 384, 48, 128, 128),
    },
}


class GoogLeNet(nn.Module):
    """Maps normalized images [n, h, w, 3] to feature maps of stride 4, 8, 16 and 32.

    Channels are 192, 480, 832 and 1024; a 224x224 image gives a 7x7 map at stride 32.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[int, jax.Array]:
        """Returns the feature maps by stride."""
        dtype = self.dtype
        x = ConvNorm(64, 7, 2, 3, dtype=dtype, name="conv1")(images.astype(dtype), train)
        x = max_pool(x, 3, 2)
        x = ConvNorm(64, dtype=dtype, name="conv2")(x, train)
        maps = {4: ConvNorm(192, 3, padding=1, dtype=dtype, name="conv3")(x, train)}
        x = max_pool(maps[4], 3, 2)
        for stride, blocks in BLOCKS.items():
            for name, widths in blocks.items():
                x = Inception(widths, dtype, name=f"inception{name}")(x, train)
            maps[stride] = x
            if stride == 8:
                x = max_pool(x, 3, 2)
            elif stride == 16:
                x = max_pool(x, 2, 2)
        return maps
