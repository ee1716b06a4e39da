"""Vision transformers (Dosovitskiy et al., ICLR 2021) whose patch grid is the feature map.

Layer by layer the networks of timm, for the weights of DINOv2 (Oquab et al., 2023; class token,
layer scale, optionally registers: Darcet et al., ICLR 2024) and SigLIP (Zhai et al., ICCV 2023;
patches alone). Dropout and stochastic depth are left out.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax.backbones.blocks import Dtype
from grnet_jax.backbones.pooling import check_window

_EPSILON = 1e-6  # of every LayerNorm
_embedding = nn.initializers.truncated_normal(0.02)


class LayerScale(nn.Module):
    """Each channel times a learned number.

    Attributes:
      start: where the numbers start.
      dtype: of the computation.
    """

    start: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., c] to [..., c]."""
        gamma = self.param("gamma", nn.initializers.constant(self.start), x.shape[-1:])
        return x * gamma.astype(self.dtype)


class Attention(nn.Module):
    """Self-attention of all tokens, with softmax in float32.

    Attributes:
      heads: divides the channels.
      dtype: of the products.
    """

    heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, t, c] to [n, t, c]."""
        n, t, c = x.shape
        qkv = nn.Dense(3 * c, dtype=self.dtype, name="qkv")(x)
        q, k, v = jnp.moveaxis(qkv.reshape(n, t, 3, self.heads, c // self.heads), 2, 0)
        x = jax.nn.dot_product_attention(q, k, v).reshape(n, t, c)
        return nn.Dense(c, dtype=self.dtype, name="proj")(x)


class Block(nn.Module):
    """Attention and a two-layer perceptron, each after a LayerNorm and added to its input.

    Attributes:
      heads: of the attention.
      layer_scale: whether both are scaled by channel before they are added.
      dtype: of the computation; parameters and LayerNorm's statistics are float32.
    """

    heads: int
    layer_scale: bool
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, t, c] to [n, t, c]."""
        c = x.shape[-1]
        y = nn.LayerNorm(_EPSILON, dtype=self.dtype, name="norm1")(x)
        y = Attention(self.heads, self.dtype, name="attn")(y)
        x = x + (LayerScale(dtype=self.dtype, name="ls1")(y) if self.layer_scale else y)
        y = nn.LayerNorm(_EPSILON, dtype=self.dtype, name="norm2")(x)
        y = nn.Dense(4 * c, dtype=self.dtype, name="mlp_fc1")(y)
        y = nn.Dense(c, dtype=self.dtype, name="mlp_fc2")(nn.gelu(y, approximate=False))
        return x + (LayerScale(dtype=self.dtype, name="ls2")(y) if self.layer_scale else y)


class ViT(nn.Module):
    """Maps normalized images [n, h, w, 3] to one map: the patches after the last LayerNorm.

    Its stride is the patch's side. Pixels right and below the last whole patch are not seen. Where
    the image has another grid than the weights were trained on, the position embeddings are resized
    to it (bicubic, antialiased), as timm does.

    Attributes:
      patch: side of a patch in pixels.
      width: channels.
      depth: blocks.
      heads: of each block's attention.
      grid: side of the position embeddings' grid, in patches.
      class_token: whether a learned token goes before the patches.
      registers: learned tokens beside it; with them the class token has no position.
      layer_scale: whether blocks scale what they add.
      dtype: of the computation; parameters are float32.
    """

    patch: int = 14
    width: int = 384
    depth: int = 12
    heads: int = 6
    grid: int = 37
    class_token: bool = True
    registers: int = 0
    layer_scale: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[int, jax.Array]:
        """Returns the feature maps by stride; training and evaluation are the same."""
        del train
        check_window(images, self.patch)
        x = nn.Conv(
            self.width,
            (self.patch, self.patch),
            strides=self.patch,
            padding="VALID",
            dtype=self.dtype,
            name="patch_embed",
        )(images.astype(self.dtype))
        n, height, width, c = x.shape
        prefix, positions = self._tokens(height, width)
        x = x.reshape(n, height * width, c) + positions.astype(self.dtype)
        prefix = jnp.broadcast_to(prefix.astype(self.dtype), (n, *prefix.shape[1:]))
        x = jnp.concatenate([prefix, x], axis=1)
        for number in range(self.depth):
            x = Block(self.heads, self.layer_scale, self.dtype, name=f"blocks_{number}")(x)
        x = nn.LayerNorm(_EPSILON, dtype=self.dtype, name="norm")(x)
        return {self.patch: x[:, prefix.shape[1] :].reshape(n, height, width, c)}

    def _tokens(self, height: int, width: int) -> tuple[jax.Array, jax.Array]:
        """Returns prefix tokens [1, p, c] and the patches' position embeddings [1, h * w, c]."""
        own = int(self.class_token and not self.registers)  # class token with a position
        cells = self.grid**2
        embedding = self.param("pos_embed", _embedding, (1, own + cells, self.width))
        prefix = jnp.zeros((1, 0, self.width), embedding.dtype)
        if self.class_token:
            prefix = self.param("cls_token", _embedding, (1, 1, self.width))
            prefix = prefix + embedding[:, :own].sum(axis=1, keepdims=True)
        if self.registers:
            registers = self.param("reg_token", _embedding, (1, self.registers, self.width))
            prefix = jnp.concatenate([prefix, registers], axis=1)
        return prefix, resize_positions(embedding[:, own:], height, width)


def resize_positions(positions: jax.Array, height: int, width: int) -> jax.Array:
    """Resizes position embeddings of a square grid [1, g * g, c] to [1, height * width, c]."""
    _, cells, c = positions.shape
    side = math.isqrt(cells)
    if (height, width) != (side, side):
        grid = positions.reshape(1, side, side, c)
        positions = jax.image.resize(grid, (1, height, width, c), "cubic", antialias=True)
    return positions.reshape(1, height * width, c)
