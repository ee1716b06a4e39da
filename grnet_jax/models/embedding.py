"""One embedding an image, compared by inner product: any backbone, pooling, one linear layer."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import pydantic

from grnet_jax.backbones.blocks import at_least_float32
from grnet_jax.backbones.classifier import adaptive_average_pool
from grnet_jax.errors import InputError
from grnet_jax.models.color_histogram import ColorHistogram
from grnet_jax.models.config import NetworkConfig
from grnet_jax.models.feature_maps import final_feature_map, map_fields
from grnet_jax.models.matcher import (
    EmbeddingModel,
    Features,
    Predictions,
    unit_vectors,
)
from input_pipeline import Section, field


class Pooling(nn.Module):
    """Pools feature maps to one vector an image.

    "gem" is the generalized mean (Radenovic et al., 2018), (mean of max(x, 1e-6)^p)^(1/p) for each
    channel, with one learned p that starts at 3: p = 1 is the average, a very large p the maximum.
    "grid" is the averages of a grid's cells, each scaled to unit length, side by side.

    Attributes:
      kind: "gem", "average", "max" or "grid".
      cells: of the grid, on each side.
    """

    kind: str = "gem"
    cells: int = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns at least float32 [n, c] of maps [n, h, w, c]; of a grid [n, cells² * c]."""
        x = at_least_float32(x)
        if self.kind == "average":
            return jnp.mean(x, axis=(1, 2))
        if self.kind == "max":
            return jnp.max(x, axis=(1, 2))
        if self.kind == "grid":
            return unit_vectors(adaptive_average_pool(x, self.cells)).reshape(x.shape[0], -1)
        power = self.param("power", nn.initializers.constant(3.0), ())
        x = jnp.maximum(x, 1e-6)
        # Scaled by its largest value, which cancels: a large power leaves no float's range.
        largest = jax.lax.stop_gradient(jnp.max(x, axis=(1, 2), keepdims=True))
        mean = jnp.mean((x / largest) ** power, axis=(1, 2))
        return largest[:, 0, 0] * mean ** (1 / power)


class FeatureRelaxation(nn.Module):
    """Applies convolution, ReLU, dropout and convolution to a feature map (Park et al., 2019).

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
        """Returns [n, h, w, channels] of maps [n, h, w, c]; `train` takes a "dropout" rng."""
        window = (self.kernel, self.kernel)
        x = nn.relu(nn.Conv(self.channels, window, dtype=self.dtype, name="first")(x))
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return nn.Conv(self.channels, window, dtype=self.dtype, name="second")(x)


def proxy_logits(embeddings: jax.Array, proxies: jax.Array) -> jax.Array:
    """Returns -|x - p|^2 [n, k] of unit vectors x [n, d] and unit vectors along p [k, d]."""
    # [n, d], [k, d] to [n, k]
    cosines = jnp.einsum(
        "nd,kd->nk", embeddings, unit_vectors(proxies), precision=jax.lax.Precision.HIGHEST
    )
    return 2 * cosines - 2


class Embedding(EmbeddingModel):
    """Compares embeddings: pooled, scaled to unit length, mapped linearly and scaled again.

    Attributes:
      backbone: images to feature maps; the map of the largest stride is used.
      pooling: "gem", "average", "max" or "grid".
      grid_cells: of a grid, on each side.
      embedding_dim: dimensions of the embedding; 0 leaves the linear layer out.
      color_weight: length of a color histogram beside the embedding, whose own is 1 before the
        whole is scaled to 1; 0 for none.
      num_classes: logits of the class head; 0 for no head.
      proxies: the class head is a learned unit vector a class, whose logits are those of
        `proxy_logits` with the embedding; else a linear layer on the pooled vector.
      relaxation: module on the map, or None.
      relaxed: what it stands before: the pooling, and so "all", or the "classes" alone, whose head
        then sees the relaxed map's mean, and the embedding the map as it is.
      preprocessing: name of the image normalization.
      frozen_batch_norm: BatchNorm keeps its statistics while training.
      cell_color_weight: of `append_colors` to the map; 0 for none.
      reduction: module on the map, or None.
      dtype: of the linear layers' computation.
    """

    backbone: nn.Module
    pooling: str = "gem"
    grid_cells: int = 4
    embedding_dim: int = 512
    color_weight: float = 0.0
    num_classes: int = 0
    proxies: bool = False
    relaxation: FeatureRelaxation | None = None
    relaxed: str = "all"
    preprocessing: str = "imagenet"
    frozen_batch_norm: bool = False
    cell_color_weight: float = 0.0
    reduction: nn.Module | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Makes the layers after the backbone."""
        self.color = ColorHistogram()
        self.pooled = Pooling(self.pooling, self.grid_cells)
        if self.embedding_dim:
            self.linear = nn.Dense(self.embedding_dim, dtype=self.dtype)
        if self.num_classes and self.proxies:
            shape = (self.num_classes, self.embedding_dim)
            self.proxy = self.param("proxy", nn.initializers.normal(1.0), shape)
        elif self.num_classes:
            self.head = nn.Dense(self.num_classes, dtype=self.dtype)

    def embed(self, images: jax.Array, train: bool = False) -> Features:
        """Returns features of images uint8 [n, h, w, 3]: embeddings [n, embedding_dim]."""
        return self.classify(images, train)[0]

    def classify(self, images: jax.Array, train: bool = False) -> tuple[Features, jax.Array | None]:
        """Returns `embed`'s features and class logits [n, num_classes], None without the head."""
        features, logits = self._heads(self.feature_map(images, train), train)
        if self.color_weight:
            x = features.embedding
            color = self.color_weight * self.color.embed(images).embedding.astype(x.dtype)
            features = Features(embedding=unit_vectors(jnp.concatenate([x, color], axis=-1)))
        return features, logits

    def predict(self, images: jax.Array, train: bool = False) -> tuple[Features, Predictions]:
        """Returns `embed`'s features and the categories' logits; for matchers with the head."""
        features, logits = self.classify(images, train)
        if logits is None:
            raise InputError("model.num_classes: 0, so that there are no categories to predict")
        return features, Predictions(category=logits)

    def feature_map(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns the backbone's map [n, h', w', c] of images uint8 [n, h, w, 3]."""
        return final_feature_map(self, images, train)

    def pool(self, feature_map: jax.Array) -> Features:
        """Returns features of feature maps [n, h', w', c], without a color histogram."""
        return self._heads(feature_map, train=False)[0]

    def _heads(self, x: jax.Array, train: bool) -> tuple[Features, jax.Array | None]:
        relaxed = x if self.relaxation is None else self.relaxation(x, train)
        apart = self.relaxation is not None and self.relaxed == "classes"
        pooled = self.pooled(x if apart else relaxed)
        x = unit_vectors(pooled)
        if self.embedding_dim:
            x = unit_vectors(self.linear(x).astype(pooled.dtype))
        features = Features(embedding=x)
        if not self.num_classes:
            return features, None
        if self.proxies:
            return features, proxy_logits(x, self.proxy)
        classified = jnp.mean(relaxed.astype(pooled.dtype), axis=(1, 2)) if apart else pooled
        return features, self.head(classified).astype(pooled.dtype)


class RelaxationConfig(Section):
    """Park et al.'s feature relaxation after the backbone; its sizes are ours."""

    channels: int = field(0, "of its two convolutions; 0: none", "parameters", "features", ge=0)
    kernel: int = field(1, "side of their windows", "parameters", "features", ge=1)
    dropout: float = field(0.5, "dropout rate", "parameters", ge=0, lt=1)
    path: Literal["all", "classes"] = field(
        "all",
        "before the pooling, and so all, or before the classes alone",
        "parameters",
        "features",
    )


class Config(NetworkConfig):
    """One embedding an image, and a class head where it is asked for."""

    name: Literal["embedding"] = "embedding"
    pooling: Literal["gem", "average", "max", "grid"] = field(
        "gem",
        "gem: generalized mean, its power learned from 3; grid: averages of grid_cells x "
        "grid_cells cells, each of unit length, side by side",
        "parameters",
        "features",
    )
    grid_cells: int = field(4, "see pooling", "parameters", "features", ge=1)
    embedding_dim: int = field(
        512, "0: the pooled vector itself", "parameters", "features", "scores", ge=0
    )
    color_weight: float = field(
        0.0,
        "a color histogram stands beside the embedding, with so many times its length; 0: none",
        "parameters",
        "features",
        "scores",
        ge=0,
    )
    num_classes: int = field(
        0,
        "logits of the class head, at least as many as training has categories or items "
        "(loss.label); 0: no head",
        "parameters",
        ge=0,
    )
    proxies: bool = field(
        False,
        "the class head is a learned unit vector a class, near or far from embeddings; else a "
        "linear layer on the pooled vector",
        "parameters",
    )
    relaxation: RelaxationConfig = RelaxationConfig()

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "Config":
        if self.relaxation.channels and self.relaxation.path == "classes" and not self.num_classes:
            raise ValueError("relaxation.path=classes, but num_classes is 0: there is no head")
        if self.proxies and not (self.embedding_dim and self.num_classes > 1):
            raise ValueError(
                "proxies: needs embedding_dim above 0 and num_classes above 1; they are "
                f"{self.embedding_dim} and {self.num_classes}"
            )
        return self


def build(config: Config) -> Embedding:
    """Builds the matcher of this section."""
    dtype, relaxation = jnp.dtype(config.dtype), config.relaxation
    return Embedding(
        **map_fields(config),
        pooling=config.pooling,
        grid_cells=config.grid_cells,
        embedding_dim=config.embedding_dim,
        color_weight=config.color_weight,
        num_classes=config.num_classes,
        proxies=config.proxies,
        relaxation=FeatureRelaxation(
            relaxation.channels, relaxation.kernel, relaxation.dropout, dtype
        )
        if relaxation.channels
        else None,
        relaxed=relaxation.path,
        dtype=dtype,
    )
