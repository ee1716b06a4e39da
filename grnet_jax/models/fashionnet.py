"""FashionNet (Liu et al., DeepFashion, CVPR 2016): landmarks, categories, attributes, retrieval.

VGG-16 whose first four stages are shared. The pose branch has its own fifth stage and estimates
where the landmarks are and which are visible; the local branch pools the fourth stage's map around
them; the global branch has its own fifth stage over the whole image. Both meet in one layer, from
which categories, attributes and the embedding are computed.
"""

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import pydantic

from grnet_jax.backbones import build_backbone
from grnet_jax.backbones.blocks import at_least_float32
from grnet_jax.backbones.pooling import max_pool
from grnet_jax.backbones.preprocessing import normalize
from grnet_jax.backbones.vgg import VGG, Stage, VGGStage
from grnet_jax.errors import InputError
from grnet_jax.models.config import BackboneConfig
from grnet_jax.models.feature_maps import backbone_fields
from grnet_jax.models.landmark_pooling import check_pooling, pool_landmarks
from grnet_jax.models.matcher import (
    EmbeddingModel,
    Features,
    ImagesWithKeypoints,
    Predictions,
    unit_vectors,
)
from grnet_jax.models.recognition import RecognitionConfig, hidden_layer
from input_pipeline import ANNOTATED, LANDMARKS, VISIBILITIES, field

_LAST = ("conv5_global", "conv5_pose")


class FashionNet(EmbeddingModel):
    """Compares embeddings by cosine; recognizes landmarks, category and attributes besides.

    Attributes:
      backbone: the shared stages; gives maps of the last one's stride and, pooled, of twice that.
      last_stage: the fifth stage; the global and the pose branch have one each.
      num_classes: number of categories, of which an image has one.
      num_attributes: number of attributes, of which an image has any; 0 for no head.
      hidden: width of each dense layer: fc6 of the branches, fc7_pose and fc7_fusion.
      embedding_dim: width of the embedding.
      pooling: around estimated "landmarks" or around "keypoints" that come with the images, or
        "none" for the same network without its local branch.
      num_keypoints: how many keypoints come with an image.
      window: side of the pooled window around a landmark, in cells of the last shared map.
      bins: that a window is pooled to, on each axis.
      dropout: share that training leaves out after each dense layer.
      preprocessing: name of the image normalization.
      frozen_batch_norm: BatchNorm keeps its statistics while training.
    """

    backbone: VGG
    last_stage: Stage
    num_classes: int
    num_attributes: int
    hidden: int = 4096
    embedding_dim: int = 4096
    pooling: str = "landmarks"
    num_keypoints: int = 0
    window: int = 7
    bins: int = 2
    dropout: float = 0.0
    preprocessing: str = "imagenet"
    frozen_batch_norm: bool = False

    def setup(self) -> None:
        """Makes the branches."""
        norm, dtype = self.backbone.norm, self.backbone.dtype
        self.conv5_global = VGGStage(self.last_stage, norm, dtype)
        self.conv5_pose = VGGStage(self.last_stage, norm, dtype)
        self.fc6_pose, self.fc7_pose = self._dense(self.hidden), self._dense(self.hidden)
        # Every landmark starts in the middle.
        self.landmarks = nn.Dense(
            2 * len(LANDMARKS),
            kernel_init=nn.initializers.zeros,
            bias_init=nn.initializers.constant(0.5),
            dtype=self.backbone.dtype,
        )
        self.visibility = self._dense(len(VISIBILITIES) * len(LANDMARKS))
        self.fc6_global, self.fc7_fusion = self._dense(self.hidden), self._dense(self.hidden)
        if self.pooling != "none":
            self.fc6_local = self._dense(self.hidden)
        self.category = self._dense(self.num_classes)
        if self.num_attributes:
            self.attribute = self._dense(self.num_attributes)
        self.descriptor = self._dense(self.embedding_dim)
        self.drop = nn.Dropout(self.dropout)

    @property
    def needs_keypoints(self) -> bool:
        """Whether `embed` and `predict` take `ImagesWithKeypoints`."""
        return self.pooling == "keypoints"

    def _dense(self, width: int) -> nn.Dense:
        return nn.Dense(width, kernel_init=nn.initializers.he_normal(), dtype=self.backbone.dtype)

    def embed(self, images: jax.Array | ImagesWithKeypoints, train: bool = False) -> Features:
        """Returns features of images uint8 [n, h, w, 3]: embeddings [n, embedding_dim]."""
        return self.predict(images, train)[0]

    def predict(
        self, images: jax.Array | ImagesWithKeypoints, train: bool = False
    ) -> tuple[Features, Predictions]:
        """Returns features and predictions of images uint8 [n, h, w, 3].

        In training, layers drop out where the call has a "dropout" key.

        Raises:
          InputError: keypoints are expected, and the images have none or another number.
        """
        pixels = images.images if isinstance(images, ImagesWithKeypoints) else images
        moving = train and not self.frozen_batch_norm
        maps = self.backbone(normalize(pixels, self.preprocessing), moving)
        shared, pooled = (maps[stride] for stride in sorted(maps)[-2:])
        pose = self._hidden(self.fc6_pose, self._last(self.conv5_pose, pooled, moving), train)
        pose = self._hidden(self.fc7_pose, pose, train)
        landmarks = at_least_float32(self.landmarks(pose)).reshape(-1, len(LANDMARKS), 2)
        visibility = at_least_float32(self.visibility(pose)).reshape(
            -1, len(LANDMARKS), len(VISIBILITIES)
        )
        whole = self._last(self.conv5_global, pooled, moving)
        branches = [self._hidden(self.fc6_global, whole, train)]
        if self.pooling != "none":
            points, visible = landmarks, jnp.argmax(visibility, axis=-1) == 0
            if self.needs_keypoints:
                points, visible = self._keypoints(images)
            local = pool_landmarks(
                shared, points, visible, window=self.window, bins=self.bins
            )  # [n, p, bins, bins, c]
            branches.append(self._hidden(self.fc6_local, _flat(local), train))
        fused = self._hidden(self.fc7_fusion, jnp.concatenate(branches, axis=1), train)
        predictions = Predictions(
            landmarks=landmarks,
            visibility=visibility,
            category=at_least_float32(self.category(fused)),
            attributes=at_least_float32(self.attribute(fused)) if self.num_attributes else None,
        )
        return Features(embedding=unit_vectors(self.descriptor(fused))), predictions

    def take_backbone(self, backbone: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a whole VGG's variables as this network's: its fifth stage starts both.

        Args:
          backbone: one collection of the VGG's variables, by stage.

        Returns:
          The same collection of this network, without what a VGG does not have.
        """
        shared = [f"stage{number + 1}" for number in range(len(self.backbone.stages))]
        last = f"stage{len(shared) + 1}"
        taken = {"backbone": {name: backbone[name] for name in shared if name in backbone}}
        return taken | {name: backbone[last] for name in _LAST if last in backbone}

    def _keypoints(self, images: jax.Array | ImagesWithKeypoints) -> tuple[jax.Array, jax.Array]:
        """Returns keypoints [n, p, 2] and which are visible; none while parameters are made."""
        if isinstance(images, ImagesWithKeypoints) and images.points.shape[1] == self.num_keypoints:
            return images.points, images.visible
        if isinstance(images, ImagesWithKeypoints):
            raise InputError(
                f"model.num_keypoints: {self.num_keypoints}, but image.keypoints has "
                f"{images.points.shape[1]} points"
            )
        if not self.is_initializing():
            raise InputError(
                "model.pooling=keypoints: images alone have no keypoints; evaluate with "
                "image.keypoints and without eval.search.store"
            )
        shape = (len(images), self.num_keypoints)
        return jnp.zeros((*shape, 2)), jnp.zeros(shape, bool)

    def _last(self, stage: VGGStage, pooled: jax.Array, moving: bool) -> jax.Array:
        return _flat(max_pool(stage(pooled, moving), 2, 2, ceil=False))

    def _hidden(self, layer: nn.Dense, x: jax.Array, train: bool) -> jax.Array:
        return hidden_layer(self, layer, self.drop, x, train)


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)


class Config(RecognitionConfig):
    """FashionNet, at the paper's size; widths it does not print are VGG-16's."""

    name: Literal["fashionnet"] = "fashionnet"
    backbone: BackboneConfig = BackboneConfig(name="vgg16")
    embedding_dim: int = field(
        4096, "width of the embedding", "parameters", "features", "scores", ge=1
    )
    pooling: Literal["landmarks", "keypoints", "none"] = field(
        "landmarks",
        "what the local branch pools around: landmarks as estimated, image.keypoints (joints, "
        "poselets, annotated landmarks), or none: no local branch",
        "parameters",
        "features",
    )
    num_keypoints: int = field(
        0, "of image.keypoints, with pooling=keypoints", "parameters", "features", ge=0
    )
    landmark_window: int = field(
        7,
        "side of the window around a landmark, in cells of the last shared map (28x28 for images "
        "of 224 pixels); ours",
        "parameters",
        "features",
        ge=1,
    )
    landmark_bins: int = field(
        2, "what it is max-pooled to on each axis; ours", "parameters", "features", ge=1
    )

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "Config":
        if not isinstance(build_backbone(self.backbone.name), VGG):
            raise ValueError(
                f"backbone.name={self.backbone.name!r}: FashionNet is made of a VGG's stages; "
                "expected vgg16, vgg16_bn or vgg_small"
            )
        if (self.pooling == "keypoints") != (self.num_keypoints > 0):
            raise ValueError(
                f"num_keypoints={self.num_keypoints} with pooling={self.pooling}: expected the "
                "number of keypoints with pooling=keypoints, and 0 otherwise"
            )
        check_pooling(self.landmark_window, self.landmark_bins)
        return self

    def check_config(self, config: Any) -> None:
        """Raises ValueError where image.keypoints does not fit `pooling`."""
        keypoints = config.image.keypoints
        if (self.pooling == "keypoints") != bool(keypoints):
            raise ValueError(
                f'image.keypoints={keypoints!r}: expected a file, or "{ANNOTATED}", with '
                "model.pooling=keypoints, and nothing otherwise"
            )
        if keypoints == ANNOTATED and self.num_keypoints != len(LANDMARKS):
            raise ValueError(
                f"model.num_keypoints={self.num_keypoints}: expected {len(LANDMARKS)} with "
                f"image.keypoints={ANNOTATED}"
            )


def build(config: Config) -> FashionNet:
    """Builds the matcher of this section."""
    whole: Any = build_backbone(config.backbone.name, jnp.dtype(config.dtype))
    fields = backbone_fields(config)
    return FashionNet(
        backbone=whole.clone(stages=whole.stages[:-1]),
        last_stage=whole.stages[-1],
        num_classes=config.num_classes,
        num_attributes=config.num_attributes,
        hidden=config.hidden,
        embedding_dim=config.embedding_dim,
        pooling=config.pooling,
        num_keypoints=config.num_keypoints,
        window=config.landmark_window,
        bins=config.landmark_bins,
        dropout=config.dropout,
        preprocessing=fields["preprocessing"],
        frozen_batch_norm=fields["frozen_batch_norm"],
    )
