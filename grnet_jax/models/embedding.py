"""One descriptor a photo, compared by inner product: any backbone, a pooling, one linear layer."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from grnet_jax.errors import InputError, check_at_least
from grnet_jax.models.mapped import last_map, map_fields
from grnet_jax.models.matcher import (
    Features,
    InnerProduct,
    Predictions,
    model_dtype,
    unit_vectors,
)

POOLINGS = ("gem", "average", "max")
PATHS = ("all", "classes")


class Pooling(nn.Module):
    """Feature maps to one vector a photo.

    "gem" is the generalised mean (Radenovic et al., 2018), (mean of max(x, 1e-6)^p)^(1/p) for each
    channel, with one learned p that starts at 3: p = 1 is the average, a very large p the maximum.

    Attributes:
      kind: "gem", "average" or "max".
    """

    kind: str = "gem"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, h, w, c] to at least float32 [n, c]."""
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.kind == "average":
            return jnp.mean(x, axis=(1, 2))
        if self.kind == "max":
            return jnp.max(x, axis=(1, 2))
        power = self.param("power", nn.initializers.constant(3.0), ())
        x = jnp.maximum(x, 1e-6)
        # Scaled by its largest value, which cancels: a large power leaves no float's range.
        largest = jax.lax.stop_gradient(jnp.max(x, axis=(1, 2), keepdims=True))
        mean = jnp.mean((x / largest) ** power, axis=(1, 2))
        return largest[:, 0, 0] * mean ** (1 / power)


class FeatureRelaxation(nn.Module):
    """Convolution, ReLU, dropout, convolution on a feature map (Park et al., 2019).

    Attributes:
      channels: of both convolutions.
      kernel: side of their windows.
      dropout: rate.
      dtype: of the computation.
    """

    channels: int
    kernel: int = 1
    dropout: float = 0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[n, h, w, c] to [n, h, w, channels]; with `train` it takes a "dropout" rng."""
        window = (self.kernel, self.kernel)
        x = nn.relu(nn.Conv(self.channels, window, dtype=self.dtype, name="first")(x))
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return nn.Conv(self.channels, window, dtype=self.dtype, name="second")(x)


def proxy_logits(descriptor: jax.Array, proxies: jax.Array) -> jax.Array:
    """-|x - p|^2 [n, k] of unit vectors x [n, d] with proxies p [k, d], scaled to length 1."""
    # [n, d], [k, d] to [n, k]
    cosines = jnp.einsum(
        "nd,kd->nk", descriptor, unit_vectors(proxies), precision=jax.lax.Precision.HIGHEST
    )
    return 2 * cosines - 2


class Embedding(InnerProduct):
    """A matcher whose descriptors are pooled, scaled to unit length, mapped and scaled again.

    Attributes:
      backbone: photos to feature maps; the map of the largest stride is used.
      pooling: "gem", "average" or "max".
      dim: dimensions of the descriptor; 0 leaves the linear layer out.
      classes: logits of the class head; 0 for none.
      proxies: the class head is a learned unit vector a class, whose logits are those of
        `proxy_logits` with the descriptor; else a linear layer on the pooled vector.
      relaxation: module on the map, or None.
      relaxed: what it stands before: the pooling, and so "all", or the "classes" alone, whose head
        then sees the relaxed map's mean, and the descriptor the map as it is.
      preprocessing: name of the photo normalisation.
      frozen_batch_norm: BatchNorm keeps its statistics while training.
      dtype: of the linear layers' computation.
    """

    backbone: nn.Module
    pooling: str = "gem"
    dim: int = 512
    classes: int = 0
    proxies: bool = False
    relaxation: FeatureRelaxation | None = None
    relaxed: str = "all"
    preprocessing: str = "imagenet"
    frozen_batch_norm: bool = False
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """The layers after the backbone."""
        self.pooled = Pooling(self.pooling)
        if self.dim:
            self.linear = nn.Dense(self.dim, dtype=self.dtype)
        if self.classes and self.proxies:
            shape = (self.classes, self.dim)
            self.proxy = self.param("proxy", nn.initializers.normal(1.0), shape)
        elif self.classes:
            self.head = nn.Dense(self.classes, dtype=self.dtype)

    def embed(self, photos: jax.Array, train: bool = False) -> Features:
        """Features of photos uint8 [n, h, w, 3]: descriptor [n, dim]."""
        return self.classify(photos, train)[0]

    def classify(self, photos: jax.Array, train: bool = False) -> tuple[Features, jax.Array | None]:
        """`embed`, and class logits [n, classes], None without the head."""
        return self._describe(self.feature_map(photos, train), train)

    def predict(self, photos: jax.Array, train: bool = False) -> tuple[Features, Predictions]:
        """`embed`, and the categories' logits; for matchers with the head."""
        features, logits = self.classify(photos, train)
        if logits is None:
            raise InputError("model.classes: 0, so that there are no categories to predict")
        return features, Predictions(category=logits)

    def feature_map(self, photos: jax.Array, train: bool = False) -> jax.Array:
        """The backbone's map of photos uint8 [n, h, w, 3], [n, h', w', c]."""
        return last_map(self, photos, train)

    def pool(self, feature_map: jax.Array) -> Features:
        """Features of feature maps [n, h', w', c]."""
        return self._describe(feature_map, train=False)[0]

    def _describe(self, x: jax.Array, train: bool) -> tuple[Features, jax.Array | None]:
        relaxed = x if self.relaxation is None else self.relaxation(x, train)
        apart = self.relaxation is not None and self.relaxed == "classes"
        pooled = self.pooled(x if apart else relaxed)
        x = unit_vectors(pooled)
        if self.dim:
            x = unit_vectors(self.linear(x).astype(pooled.dtype))
        features = Features(descriptor=x)
        if not self.classes:
            return features, None
        if self.proxies:
            return features, proxy_logits(x, self.proxy)
        seen = jnp.mean(relaxed.astype(pooled.dtype), axis=(1, 2)) if apart else pooled
        return features, self.head(seen).astype(pooled.dtype)


def build(model: Any) -> Embedding:
    """The matcher that `config.model` describes.

    Raises:
      InputError: naming the field that cannot be.
    """
    relaxation = model.relaxation
    for field, value, least in (
        ("dim", model.dim, 0),
        ("classes", model.classes, 0),
        ("relaxation.channels", relaxation.channels, 0),
        ("relaxation.kernel", relaxation.kernel, 1),
    ):
        check_at_least(f"model.{field}", value, least)
    if not 0 <= relaxation.dropout < 1:
        raise InputError(
            f"model.relaxation.dropout: expected from 0 to less than 1, got {relaxation.dropout}"
        )
    for field, value, choices in (
        ("pooling", model.pooling, POOLINGS),
        ("relaxation.path", relaxation.path, PATHS),
    ):
        if value not in choices:
            raise InputError(f"model.{field}: {value!r} is none of {list(choices)}")
    if relaxation.channels and relaxation.path == "classes" and not model.classes:
        raise InputError(
            "model.relaxation.path: 'classes', but model.classes is 0: there is no head"
        )
    if model.proxies and not (model.dim and model.classes > 1):
        raise InputError(
            "model.proxies: needs model.dim above 0 and model.classes above 1; they are "
            f"{model.dim} and {model.classes}"
        )
    dtype = model_dtype(model)
    return Embedding(
        **map_fields(model),
        pooling=model.pooling,
        dim=model.dim,
        classes=model.classes,
        proxies=model.proxies,
        relaxation=FeatureRelaxation(
            relaxation.channels, relaxation.kernel, relaxation.dropout, dtype
        )
        if relaxation.channels
        else None,
        relaxed=relaxation.path,
        dtype=dtype,
    )
