"""Visual attention model: an attention map, learned with the retrieval, gates the feature map.

Wang et al., "Clothing Retrieval with Visual Attention Model", VCIP 2017, in GRNet's and Kucer and
Murray's tables "VAM". Its abstract says: the attention map is learned by itself, without landmarks;
the attention network and the global network are one, trained end to end; they are connected by
Impdrop, which drops features at random by the probabilities that the attention map gives, or by
Product, the trivial way. GRNet's paper says that the attention needs segmented clothes to train on;
here it has none. Our reading:

- A fully convolutional network, 3x3, ReLU, 1x1, sigmoid, reads a middle map of the backbone and
  gives one number in (0, 1) a position, averaged down to the positions of the last map.
- "product" multiplies the last map by it. "impdrop" (GRNet's tables print "ImgDrop") keeps each
  position of an image, all channels alike, with that probability in training, and multiplies
  else: the expectation. What is drawn has no gradient, so that the attention takes the
  expectation's.
- "VAM+Nonshared": the attention reads the last map of a backbone of its own.
- The attended map is averaged, mapped linearly and scaled to unit length, as `Embedding` does, and
  the loss is triplets, the baseline that GRNet's tables quote from the paper.
"""

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax.backbones.classifier import adaptive_average_pool
from grnet_jax.backbones.preprocessing import normalize
from grnet_jax.errors import InputError
from grnet_jax.graph.reasoning import accumulation_dtype
from grnet_jax.models.config import NetworkConfig
from grnet_jax.models.embedding import Embedding
from grnet_jax.models.feature_maps import backbone_fields, final_feature_map, map_fields
from input_pipeline import field


class AttentionNetwork(nn.Module):
    """Gives every position of a feature map a number in (0, 1).

    Attributes:
      channels: of the 3x3 convolution.
      dtype: of the computation.
    """

    channels: int = 256
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns at least float32 [n, h, w] of feature maps [n, h, w, c]."""
        x = nn.relu(nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="first")(x))
        logits = nn.Conv(1, (1, 1), dtype=self.dtype, name="second")(x)[..., 0]
        return jax.nn.sigmoid(logits.astype(accumulation_dtype(logits)))


class VAM(Embedding):
    """Compares embeddings of feature maps that an attention map has gated.

    Attributes:
      attention: feature maps to attention maps.
      fusion: "product" or "impdrop".
      attention_stride: of the backbone's map that the attention reads; 0 for the one it gates.
      own_backbone: whose last map the attention reads instead; None to share the backbone.
    """

    attention: nn.Module = AttentionNetwork()
    fusion: str = "impdrop"
    attention_stride: int = 16
    own_backbone: nn.Module | None = None

    def feature_map(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns the gated map [n, h', w', c] of images; impdrop's `train` takes a "dropout" rng.

        Args:
          images: uint8 [n, h, w, 3].
          train: whether impdrop draws, and BatchNorm that is not frozen takes the batch's.
        """
        x, attention = self._maps(images, train)
        if train and self.fusion == "impdrop":
            return gate(x, drawn(self.make_rng("dropout"), attention))
        return gate(x, attention)

    def attention_map(self, images: jax.Array) -> jax.Array:
        """Returns the attention [n, h', w'], in (0, 1), at the positions of `feature_map`."""
        return self._maps(images, train=False)[1]

    def take_backbone(self, backbone: Any) -> Mapping[str, Any]:
        """Returns one collection of a backbone's variables for what starts from them."""
        names = ["backbone", *(["own_backbone"] if self.own_backbone is not None else [])]
        return dict.fromkeys(names, backbone) if backbone else {}

    def _maps(self, images: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Returns the backbone's last map, and the attention at its positions."""
        if not self.attention_stride and self.own_backbone is None:
            last = final_feature_map(self, images, train)
            return last, self.attention(last)
        pixels = normalize(images, self.preprocessing)
        train = train and not self.frozen_batch_norm
        maps = self.backbone(pixels, train)
        last = maps[max(maps)]
        if self.own_backbone is not None:
            own = self.own_backbone(pixels, train)
            read = own[max(own)]
        elif self.attention_stride in maps:
            read = maps[self.attention_stride]
        else:
            raise InputError(
                f"model.attention_stride={self.attention_stride}: the backbone's maps have the "
                f"strides {', '.join(map(str, maps))}"
            )
        attention = self.attention(read)[..., None]
        return last, adaptive_average_pool(attention, last.shape[1])[..., 0]


def drawn(key: jax.Array, attention: jax.Array) -> jax.Array:
    """Returns 1 with the probability `attention` and 0 else, with the gradient of that probability.

    Args:
      key: of the draw.
      attention: in (0, 1), any shape.
    """
    kept = jax.random.bernoulli(key, attention).astype(attention.dtype)
    return attention + jax.lax.stop_gradient(kept - attention)


def gate(x: jax.Array, attention: jax.Array) -> jax.Array:
    """Returns maps [n, h, w, c] multiplied by [n, h, w], in their dtype."""
    return x * attention[..., None].astype(x.dtype)


class Config(NetworkConfig):
    """An embedding of the feature map that attention gates."""

    name: Literal["vam"] = "vam"
    fusion: Literal["product", "impdrop"] = field(
        "impdrop",
        "of attention and features: their product, or features dropped at random by it in training "
        "and the product else",
        "parameters",
    )
    nonshared: bool = field(
        False, "the attention reads a backbone of its own", "parameters", "features"
    )
    attention_stride: int = field(
        16,
        "of the backbone's map that the attention reads; 0: the last, as the embedding sees it",
        *("parameters", "features"),
        ge=0,
    )
    attention_dim: int = field(
        256, "channels inside the attention network", "parameters", "features", ge=1
    )
    pooling: Literal["gem", "average", "max"] = field(
        "average", "of the gated map", "parameters", "features"
    )
    embedding_dim: int = field(
        512, "0: the pooled vector itself", "parameters", "features", "scores", ge=0
    )
    num_classes: int = field(
        0, "logits of the class head, as of model.name=embedding; 0: no head", "parameters", ge=0
    )


def build(config: Config) -> VAM:
    """Builds the matcher of this section."""
    dtype = jnp.dtype(config.dtype)
    one_map = not config.attention_stride and not config.nonshared
    return VAM(
        **(map_fields if one_map else backbone_fields)(config),
        attention=AttentionNetwork(config.attention_dim, dtype),
        fusion=config.fusion,
        attention_stride=config.attention_stride,
        own_backbone=backbone_fields(config)["backbone"] if config.nonshared else None,
        pooling=config.pooling,
        embedding_dim=config.embedding_dim,
        num_classes=config.num_classes,
        dtype=dtype,
    )
