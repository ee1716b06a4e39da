"""EfficientNet-Lite: EfficientNet (Tan and Le, ICML 2019) without squeeze-and-excitation.

Layer by layer timm's `tf_efficientnet_lite0` to `tf_efficientnet_lite4`. Padding is TensorFlow's
"SAME": at stride 2 an even side gets no zeros before and one after. Stochastic depth is left out.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax.backbones.blocks import Dtype, batch_norm, convolution
from grnet_jax.backbones.depthwise import convolve_depthwise

_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_KERNELS = (3, 3, 5, 3, 5, 5, 3)
_EPSILON = 1e-3  # of every BatchNorm


class _ConvNorm(nn.Module):
    """Convolution with "SAME" padding, BatchNorm, ReLU6.

    Attributes:
      features: output channels.
      kernel: window side.
      stride: step between windows.
      depthwise: each channel is convolved by itself.
      activate: whether the ReLU6 follows.
      dtype: of the computation; parameters and statistics are float32.
    """

    features: int
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False
    activate: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[n, h, w, c] to [n, ceil(h / stride), ceil(w / stride), features]."""
        if self.kernel == 1:
            x = convolution(self.features, dtype=self.dtype, name="conv")(x)
        else:
            x = nn.Conv(
                self.features,
                (self.kernel, self.kernel),
                strides=self.stride,
                feature_group_count=self.features if self.depthwise else 1,
                use_bias=False,
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                name="conv",
                conv_general_dilated=convolve_depthwise if self.depthwise else None,
            )(x)
        x = batch_norm(train, _EPSILON, self.dtype, name="bn")(x)
        return nn.relu6(x) if self.activate else x


class InvertedResidual(nn.Module):
    """Widens by a 1x1 convolution, convolves each channel, narrows; added to its input if alike.

    Attributes:
      features: output channels.
      kernel: window side of the depthwise convolution.
      stride: of the depthwise convolution.
      expansion: how many times wider the middle is; 1 leaves the first convolution out.
      dtype: of the computation; parameters and statistics are float32.
    """

    features: int
    kernel: int
    stride: int
    expansion: int = 6
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[n, h, w, c] to [n, ceil(h / stride), ceil(w / stride), features]."""
        width, y = self.expansion * x.shape[-1], x
        if self.expansion > 1:
            y = _ConvNorm(width, dtype=self.dtype, name="expand")(y, train)
        y = _ConvNorm(width, self.kernel, self.stride, True, dtype=self.dtype, name="depthwise")(
            y, train
        )
        y = _ConvNorm(self.features, activate=False, dtype=self.dtype, name="project")(y, train)
        return x + y if self.stride == 1 and x.shape[-1] == self.features else y


class EfficientNetLite(nn.Module):
    """Maps normalized images [n, h, w, 3] to feature maps of stride 4, 8, 16 and 32.

    Those of stride 4 to 16 are the last of their size among the stages' outputs, narrow and not
    activated; that of stride 32 is what the ImageNet classifier averages, 1280 channels after the
    head's convolution.

    Attributes:
      depths: blocks of each stage.
      widths: channels of each stage.
      last_stride: of the last map; layers behind it are left out.
      dtype: of the computation; parameters and statistics are float32.
    """

    depths: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    widths: tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    last_stride: int = 32
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, stride: int = 0
    ) -> dict[int, jax.Array]:
        """Returns the feature maps by stride.

        Args:
          images: normalized [n, h, w, 3]; with `stride` the map of this stride in their place.
          train: whether BatchNorm takes the batch's statistics.
          stride: applies the layers behind this stride's map alone, 4 to 16; 0: all.
        """
        x = images.astype(self.dtype)
        if not stride:
            x = _ConvNorm(32, 3, 2, dtype=self.dtype, name="stem")(x, train)
        maps: dict[int, jax.Array] = {}
        total = 2
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            total *= _STRIDES[stage]
            if total > self.last_stride:
                return maps
            if total <= stride:
                continue
            for block in range(depth):
                stride = _STRIDES[stage] if block == 0 else 1
                x = InvertedResidual(
                    width,
                    _KERNELS[stage],
                    stride,
                    6 if stage else 1,
                    self.dtype,
                    name=f"stage{stage}_{block}",
                )(x, train)
            if stage:
                maps[total] = x
        maps[total] = _ConvNorm(1280, dtype=self.dtype, name="head")(x, train)
        return maps

    def layers_behind(self, stride: int) -> set[str]:
        """Returns the names of the layers that `__call__` applies to the map of this stride."""
        names, total = {"head"}, 2
        for stage, depth in enumerate(self.depths):
            total *= _STRIDES[stage]
            if total > stride:
                names |= {f"stage{stage}_{block}" for block in range(depth)}
        return names
