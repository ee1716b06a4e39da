"""DARN: a stream for customer photos and one for shop photos, both of which learn attributes.

The dual attribute-aware ranking network (Huang et al., ICCV 2015) has two networks without shared
weights. Each tells the attributes of its own kind of photos, and descriptors of both are compared.
The paper was not at hand. Ours are: one dense layer for all attributes and one for categories in
the place of a branch for each type; dense layers on the last map's means; and the descriptor, the
unit vectors of these means and of both dense layers side by side.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax.backbones.preprocessing import normalize
from grnet_jax.errors import InputError
from grnet_jax.models.matcher import (
    DomainPhotos,
    Features,
    InnerProduct,
    Predictions,
    unit_vectors,
)
from grnet_jax.models.recognition import RecognitionConfig, hidden_layer
from grnet_jax.models.region_matcher import map_fields

_STREAMS = ("customer", "shop")  # in the order of a photo's domain


class DARN(InnerProduct):
    """A matcher by cosines, of which each photo's descriptor is that of its own stream.

    It takes `DomainPhotos`. Both streams see every photo and the other's outputs are left out: so
    batches have one shape whatever is in them. BatchNorm's statistics are those of all photos.

    Attributes:
      customer: backbone of the customer photos; the map of the largest stride is used.
      shop: that of the shop photos.
      num_classes: categories, of which a photo has one.
      num_attributes: of which a photo has any; 0 for no head of them.
      hidden: width of both dense layers.
      dropout: share that training leaves out after each of them.
      preprocessing: name of the photo normalization.
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

    takes_domain = True

    def setup(self) -> None:
        """The layers of both streams."""
        self.fc1, self.fc2 = self._of_each(self.hidden), self._of_each(self.hidden)
        self.category = self._of_each(self.num_classes)
        if self.num_attributes:
            self.attribute = self._of_each(self.num_attributes)
        self.drop = nn.Dropout(self.dropout)

    def _of_each(self, width: int) -> dict[str, nn.Dense]:
        initial = nn.initializers.he_normal()
        return {name: nn.Dense(width, kernel_init=initial, dtype=self.dtype) for name in _STREAMS}

    def embed(self, photos: DomainPhotos | jax.Array, train: bool = False) -> Features:
        """Features of photos uint8 [n, h, w, 3] of known domain: descriptor [n, c + 2 hidden]."""
        return self.predict(photos, train)[0]

    def predict(
        self, photos: DomainPhotos | jax.Array, train: bool = False
    ) -> tuple[Features, Predictions]:
        """Features and predictions of photos uint8 [n, h, w, 3], each by its own stream.

        In training, layers drop out where the call has a "dropout" key.

        Raises:
          InputError: photos whose domain is not given.
        """
        if not isinstance(photos, DomainPhotos):
            if not self.is_initializing():
                raise InputError(
                    "model.name=darn: photos alone do not tell which stream is theirs; expected "
                    "DomainPhotos"
                )
            photos = DomainPhotos(photos, jnp.zeros(len(photos), jnp.int32))
        seen = normalize(photos.photos, self.preprocessing)
        customer, shop = (self._stream(name, seen, train) for name in _STREAMS)
        return jax.tree.map(
            lambda one, other: jnp.where(photos.domain[:, None] == 0, one, other), customer, shop
        )

    def _stream(self, name: str, seen: jax.Array, train: bool) -> tuple[Features, Predictions]:
        """What one stream says of normalized photos."""
        maps = getattr(self, name)(seen, train and not self.frozen_batch_norm)
        wide = jnp.promote_types(self.dtype, jnp.float32)
        local = jnp.mean(maps[max(maps)].astype(wide), axis=(1, 2))  # [n, c]
        first = self._hidden(self.fc1[name], local, train)
        second = self._hidden(self.fc2[name], first, train)
        parts = [unit_vectors(part.astype(wide)) for part in (local, first, second)]
        attributes = self.attribute[name](second).astype(wide) if self.num_attributes else None
        predictions = Predictions(self.category[name](second).astype(wide), attributes)
        return Features(unit_vectors(jnp.concatenate(parts, axis=1))), predictions

    def _hidden(self, layer: nn.Dense, x: jax.Array, train: bool) -> jax.Array:
        return hidden_layer(self, layer, self.drop, x, train)

    def take_backbone(self, theirs: Any) -> dict[str, Any]:
        """One collection of a backbone's variables as this network's: both streams' start."""
        return dict.fromkeys(_STREAMS, theirs) if theirs else {}


class Config(RecognitionConfig):
    """DARN; its hidden is the width of both dense layers of a stream."""

    name: Literal["darn"] = "darn"


def build(config: Config) -> DARN:
    """Builds the matcher of this section."""
    fields = dict(map_fields(config))
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
