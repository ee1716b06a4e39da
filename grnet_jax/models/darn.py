"""DARN: a stream for customer images and one for shop images, both of which learn attributes.

The dual attribute-aware ranking network (Huang et al., ICCV 2015) has two networks without shared
weights. Each recognizes the attributes of its kind of images, and embeddings of both are compared.
Built from what the DeepFashion paper says of it (Liu et al., CVPR 2016). Ours are one dense layer
for all attributes and one for categories instead of a branch for each type; dense layers on the
last map's means; and the embedding, the unit vectors of these means and of both dense layers side
by side.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax.backbones.preprocessing import normalize
from grnet_jax.errors import InputError
from grnet_jax.models.feature_maps import backbone_fields
from grnet_jax.models.matcher import (
    EmbeddingModel,
    Features,
    ImagesWithDomain,
    Predictions,
    unit_vectors,
)
from grnet_jax.models.recognition import RecognitionConfig, hidden_layer
from input_pipeline import DOMAINS


class DARN(EmbeddingModel):
    """Compares by cosine the embeddings that each image gets from its domain's stream.

    It takes `ImagesWithDomain`. Both streams see every image and one's outputs are kept: so batches
    have one shape whatever is in them. BatchNorm's statistics are those of all images.

    Attributes:
      customer: backbone of the customer images; the map of the largest stride is used.
      shop: that of the shop images.
      num_classes: number of categories, of which an image has one.
      num_attributes: number of attributes, of which an image has any; 0 for no head.
      hidden: width of both dense layers.
      dropout: share that training leaves out after each of them.
      preprocessing: name of the image normalization.
      frozen_batch_norm: BatchNorm keeps its statistics while training.
      dtype: of the dense layers' computation.
    """

    customer: nn.Module
    shop: nn.Module
    num_classes: int
    num_attributes: int
    hidden: int = 4096
    dropout: float = 0.0
    preprocessing: str = "imagenet"
    frozen_batch_norm: bool = False
    dtype: Any = jnp.float32

    needs_domain = True

    def setup(self) -> None:
        """Makes the layers of both streams."""
        self.fc1, self.fc2 = self._per_stream(self.hidden), self._per_stream(self.hidden)
        self.category = self._per_stream(self.num_classes)
        if self.num_attributes:
            self.attribute = self._per_stream(self.num_attributes)
        self.drop = nn.Dropout(self.dropout)

    def _per_stream(self, width: int) -> dict[str, nn.Dense]:
        initial = nn.initializers.he_normal()
        return {name: nn.Dense(width, kernel_init=initial, dtype=self.dtype) for name in DOMAINS}

    def embed(self, images: ImagesWithDomain | jax.Array, train: bool = False) -> Features:
        """Returns features of images uint8 [n, h, w, 3]: embeddings [n, c + 2 hidden]."""
        return self.predict(images, train)[0]

    def predict(
        self, images: ImagesWithDomain | jax.Array, train: bool = False
    ) -> tuple[Features, Predictions]:
        """Returns features and predictions of images uint8 [n, h, w, 3], each by its stream.

        In training, layers drop out where the call has a "dropout" key.

        Raises:
          InputError: images come without domains.
        """
        if not isinstance(images, ImagesWithDomain):
            if not self.is_initializing():
                raise InputError(
                    "model.name=darn: images alone do not say which stream is theirs; expected "
                    "ImagesWithDomain"
                )
            images = ImagesWithDomain(images, jnp.zeros(len(images), jnp.int32))
        normal = normalize(images.images, self.preprocessing)
        customer, shop = (self._stream(name, normal, train) for name in DOMAINS)
        is_customer = images.domain[:, None] == 0
        return jax.tree.map(lambda one, other: jnp.where(is_customer, one, other), customer, shop)

    def _stream(self, name: str, normal: jax.Array, train: bool) -> tuple[Features, Predictions]:
        """Returns one stream's features and predictions of normalized images."""
        maps = getattr(self, name)(normal, train and not self.frozen_batch_norm)
        dtype = jnp.promote_types(self.dtype, jnp.float32)
        local = jnp.mean(maps[max(maps)].astype(dtype), axis=(1, 2))  # [n, c]
        first = self._hidden(self.fc1[name], local, train)
        second = self._hidden(self.fc2[name], first, train)
        parts = [unit_vectors(part.astype(dtype)) for part in (local, first, second)]
        attributes = self.attribute[name](second).astype(dtype) if self.num_attributes else None
        predictions = Predictions(self.category[name](second).astype(dtype), attributes)
        return Features(unit_vectors(jnp.concatenate(parts, axis=1))), predictions

    def _hidden(self, layer: nn.Dense, x: jax.Array, train: bool) -> jax.Array:
        return hidden_layer(self, layer, self.drop, x, train)

    def take_backbone(self, backbone: Any) -> dict[str, Any]:
        """Returns one collection of a backbone's variables for both streams to start from."""
        return dict.fromkeys(DOMAINS, backbone) if backbone else {}


class Config(RecognitionConfig):
    """DARN; its hidden is the width of both dense layers of a stream."""

    name: Literal["darn"] = "darn"


def build(config: Config) -> DARN:
    """Builds the matcher of this section."""
    fields = backbone_fields(config)
    backbone = fields.pop("backbone")
    return DARN(
        customer=backbone,
        shop=backbone.clone(),
        num_classes=config.num_classes,
        num_attributes=config.num_attributes,
        hidden=config.hidden,
        dropout=config.dropout,
        dtype=jnp.dtype(config.dtype),
        **fields,
    )
