"""ConvNeXt (Liu et al., CVPR 2022). Layer by layer the networks of timm.

Stochastic depth is left out.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax.backbones.blocks import Dtype
from grnet_jax.backbones.pooling import check_window

_EPSILON = 1e-6  # of every LayerNorm


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7 convolution, LayerNorm, two dense layers, scaled and added to the input.

    Attributes:
      dtype: of the computation; parameters and LayerNorm's statistics are float32.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, h, w, c] to [n, h, w, c]."""
        c = x.shape[-1]
        y = nn.Conv(c, (7, 7), padding=3, feature_group_count=c, dtype=self.dtype, name="conv_dw")(
            x
        )
        y = nn.LayerNorm(_EPSILON, dtype=self.dtype, name="norm")(y)
        y = nn.Dense(4 * c, dtype=self.dtype, name="mlp_fc1")(y)
        y = nn.Dense(c, dtype=self.dtype, name="mlp_fc2")(nn.gelu(y, approximate=False))
        gamma = self.param("gamma", nn.initializers.constant(1e-6), (c,))
        return x + y * gamma.astype(self.dtype)


class ConvNeXt(nn.Module):
    """Maps normalized images [n, h, w, 3] to each stage's map: stride 4, 8, 16 and 32.

    Cells right and below the last whole window of a strided layer are dropped.

    Attributes:
      depths: blocks of each stage.
      widths: channels of each stage.
      dtype: of the computation; parameters are float32.
    """

    depths: tuple[int, int, int, int] = (3, 3, 9, 3)
    widths: tuple[int, int, int, int] = (96, 192, 384, 768)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[int, jax.Array]:
        """Returns the feature maps by stride; training and evaluation are the same."""
        del train
        check_window(images, 4)
        x = self._strided(self.widths[0], 4, "stem_conv")(images.astype(self.dtype))
        x = nn.LayerNorm(_EPSILON, dtype=self.dtype, name="stem_norm")(x)
        maps = {}
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            if stage:
                check_window(x, 2)
                name = f"stage{stage}_downsample"
                x = nn.LayerNorm(_EPSILON, dtype=self.dtype, name=f"{name}_norm")(x)
                x = self._strided(width, 2, f"{name}_conv")(x)
            for block in range(depth):
                x = ConvNeXtBlock(self.dtype, name=f"stage{stage}_block{block}")(x)
            maps[4 * 2**stage] = x
        return maps

    def _strided(self, features: int, side: int, name: str) -> nn.Conv:
        """Applies a convolution whose windows do not overlap."""
        return nn.Conv(
            features, (side, side), strides=side, padding="VALID", dtype=self.dtype, name=name
        )
