"""The layers of a detector: feature pyramid, region proposals, and heads on boxes.

Each has torchvision's two versions: v1 as published (Lin et al. 2017, He et al. 2017), and v2 with
BatchNorm, a second layer of proposals, and convolutions before the boxes' dense layer.
"""

import functools
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax.backbones.blocks import ConvNorm, Dtype


def _layer(v2: bool, dtype: Dtype, activate: bool = True) -> functools.partial[ConvNorm]:
    """Returns a convolution with a bias, in v2 with BatchNorm instead."""
    return functools.partial(
        ConvNorm, bias=not v2, norm=v2, epsilon=1e-5, activate=activate, dtype=dtype
    )


class FeaturePyramid(nn.Module):
    """Adds to each map what coarser maps know (Lin et al., CVPR 2017).

    Attributes:
      channels: of every level.
      v2: torchvision's second version.
      dtype: of the computation; parameters are float32.
    """

    channels: int = 256
    v2: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: Mapping[int, jax.Array], train: bool) -> dict[int, jax.Array]:
        """Returns levels [n, h, w, channels] of maps [n, h, w, c], by stride."""
        layer = _layer(self.v2, self.dtype, activate=False)
        strides, levels = sorted(maps), {}
        above = None
        for number in reversed(range(len(strides))):
            x = layer(self.channels, name=f"inner{number}")(maps[strides[number]], train)
            if above is not None:
                x = x + jnp.repeat(jnp.repeat(above, 2, axis=1), 2, axis=2)
            above = x
            name = f"layer{number}"
            levels[strides[number]] = layer(self.channels, 3, padding=1, name=name)(x, train)
        return levels


class ProposalHead(nn.Module):
    """Says of each anchor whether it is an object, and how its box lies (Ren et al., 2015).

    Attributes:
      anchors: at each cell.
      v2: torchvision's second version.
      dtype: of the computation; parameters and results are float32.
    """

    anchors: int = 3
    v2: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, levels: Sequence[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
        """Returns logits [n, h * w * a] and deltas [n, h * w * a, 4] of levels [n, h, w, c]."""
        channels = levels[0].shape[-1]
        layer = _layer(False, self.dtype)
        hidden = [
            layer(channels, 3, padding=1, name=f"conv{number}") for number in range(1 + self.v2)
        ]
        small = functools.partial(
            nn.Conv, kernel_size=(1, 1), kernel_init=nn.initializers.normal(0.01), dtype=self.dtype
        )
        classify = small(self.anchors, name="cls_logits")
        regress = small(4 * self.anchors, name="bbox_pred")
        logits, deltas = [], []
        for x in levels:
            for layer_ in hidden:
                x = layer_(x, False)
            logits.append(classify(x).reshape(len(x), -1).astype(jnp.float32))
            deltas.append(regress(x).reshape(len(x), -1, 4).astype(jnp.float32))
        return logits, deltas


class BoxHead(nn.Module):
    """Features of a box from its cells: two dense layers; in v2 four convolutions and one.

    Attributes:
      hidden: width of the dense layers.
      v2: torchvision's second version.
      dtype: of the computation; parameters are float32.
    """

    hidden: int = 1024
    v2: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[..., 7, 7, c] to [..., hidden]."""
        if self.v2:
            for number in range(4):
                x = _layer(True, self.dtype)(x.shape[-1], 3, padding=1, name=f"conv{number}")(
                    x, train
                )
        x = x.reshape(*x.shape[:-3], -1)
        for name in ("fc6",) if self.v2 else ("fc6", "fc7"):
            init = nn.initializers.he_normal()
            x = nn.relu(nn.Dense(self.hidden, kernel_init=init, dtype=self.dtype, name=name)(x))
        return x


class BoxPredictor(nn.Module):
    """The class of a box, background first, and its deltas for each class.

    Attributes:
      classes: with the background.
      dtype: of the computation; parameters and results are float32.
    """

    classes: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[..., c] to logits [..., classes] and deltas [..., classes, 4]."""
        normal = nn.initializers.normal
        logits = nn.Dense(
            self.classes, kernel_init=normal(0.01), dtype=self.dtype, name="cls_score"
        )(x)
        deltas = nn.Dense(
            4 * self.classes, kernel_init=normal(0.001), dtype=self.dtype, name="bbox_pred"
        )(x)
        deltas = deltas.reshape(*deltas.shape[:-1], self.classes, 4)
        return logits.astype(jnp.float32), deltas.astype(jnp.float32)


class MaskHead(nn.Module):
    """Convolutions on the cells of a box.

    Attributes:
      channels: of each.
      layers: how many.
      v2: torchvision's second version.
      dtype: of the computation; parameters are float32.
    """

    channels: int = 256
    layers: int = 4
    v2: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[..., h, w, c] to [..., h, w, channels]."""
        for number in range(1, self.layers + 1):
            layer = _layer(self.v2, self.dtype)
            x = layer(self.channels, 3, padding=1, name=f"conv{number}")(x, train)
        return x


class MaskPredictor(nn.Module):
    """The mask of a box for each class, background first, at twice the resolution.

    Attributes:
      classes: with the background.
      dtype: of the computation; parameters and results are float32.
    """

    classes: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., h, w, c] to logits [..., 2 h, 2 w, classes]."""
        x = nn.relu(_Upsampling(x.shape[-1], self.dtype, name="conv5_mask")(x))
        init = nn.initializers.he_normal()
        logits = nn.Conv(self.classes, (1, 1), kernel_init=init, dtype=self.dtype, name="logits")
        return logits(x).astype(jnp.float32)


class _Upsampling(nn.Module):
    """Transposed 2x2 convolution of stride 2: each cell becomes four, by a dense layer of each."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., h, w, c] to [..., 2 h, 2 w, features]."""
        shape = (2, 2, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = (leaf.astype(self.dtype) for leaf in (x, kernel, bias))
        *batch, h, w, _ = x.shape
        x = jnp.einsum("...hwc,abcd->...hawbd", x, kernel) + bias
        return x.reshape(*batch, 2 * h, 2 * w, self.features)
