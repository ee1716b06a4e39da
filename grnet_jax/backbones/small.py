"""A small residual network that two CPU cores train from scratch: demo and tests."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax.backbones.blocks import ConvNorm, Dtype


class SmallNet(nn.Module):
    """Maps normalized images [n, h, w, 3] to feature maps of stride 2, 4 and 8, one for each width.

    A 64x64 image gives an 8x8 map of `widths[-1]` channels at stride 8, which the pyramid's
    3x3 windows still divide finely.
    """

    widths: tuple[int, ...] = (32, 64, 128)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[int, jax.Array]:
        """Returns the feature maps by stride."""
        maps = {}
        x = images.astype(self.dtype)
        for number, width in enumerate(self.widths):
            x = ConvNorm(width, 3, 2, 1, dtype=self.dtype, name=f"down{number + 1}")(x, train)
            if number > 0:
                residual = ConvNorm(
                    width, 3, padding=1, dtype=self.dtype, name=f"residual{number + 1}_0"
                )(x, train)
                residual = ConvNorm(
                    width,
                    3,
                    padding=1,
                    activate=False,
                    dtype=self.dtype,
                    name=f"residual{number + 1}_1",
                )(residual, train)
                x = nn.relu(x + residual)
            maps[2 ** (number + 1)] = x
        return maps
