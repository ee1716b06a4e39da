"""Faster R-CNN and Mask R-CNN on a feature pyramid (Ren et al., He et al., Lin et al.).

Finds garments: boxes, classes and masks. It is no matcher, it embeds and scores nothing: what it
finds is what matchers crop (`image.detections`). Everything has a fixed shape: photos lie on a
canvas at its left and top, objects and detections are padded.
"""

import itertools
from collections.abc import Mapping
from typing import Any, Literal

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import pydantic

from grnet_jax.backbones import build_backbone
from grnet_jax.backbones.preprocessing import choose_preprocessing, normalize
from grnet_jax.detection import layers, losses, targets
from grnet_jax.detection.anchors import RATIOS, anchors
from grnet_jax.detection.masks import crop_masks
from grnet_jax.detection.proposals import Proposals, choose_detections, propose
from grnet_jax.detection.roi_align import roi_align
from grnet_jax.errors import InputError
from grnet_jax.models.config import NetworkConfig
from input_pipeline import field

_BOX_CELLS, _MASK_CELLS = 7, 14


@flax.struct.dataclass
class Detections:
    """What was found in n images, the best first.

    Attributes:
      box: float32 [n, d, 4], (x_1, y_1, x_2, y_2) in pixels of the canvas.
      score: float32 [n, d], probability of the category.
      category: int32 [n, d].
      objectness: float32 [n, d], probability of all classes together.
      valid: bool [n, d]; the others are padding.
      mask: float32 [n, d, 28, 28], probabilities within the box; None of detectors without masks.
    """

    box: jax.Array
    score: jax.Array
    category: jax.Array
    objectness: jax.Array
    valid: jax.Array
    mask: jax.Array | None = None


class Config(NetworkConfig):
    """Faster R-CNN, and with masks Mask R-CNN, on a feature pyramid."""

    name: Literal["detector"] = "detector"
    num_classes: int = field(13, "categories of the objects", "parameters", ge=1)
    canvas: tuple[int, int] = field(
        (1088, 1088),  # holds 800 pixels of the shorter side, torchvision's, of photos of 3:4
        "(height, width) in pixels that photos are scaled to fit; multiples of the last stride",
        "parameters",
        "features",
    )
    version: Literal["v1", "v2"] = field(
        "v1", "layers as published, or as torchvision's v2, with BatchNorm", "parameters"
    )
    strides: tuple[int, ...] = field(
        (4, 8, 16, 32), "of the backbone's maps that are used, each twice the last", "parameters"
    )
    anchor_sizes: tuple[float, ...] = field(
        (32.0, 64.0, 128.0, 256.0, 512.0),
        "side of the square anchor of each map in pixels; one more adds a map of twice the last "
        "stride",
        "parameters",
        "features",
    )
    canonical_size: float = field(
        224.0,
        "side of the boxes that the map of stride 16 is for, in pixels",
        "parameters",
        "features",
        gt=0,
    )
    pyramid_channels: int = field(256, "of every map of the pyramid", "parameters", ge=1)
    hidden: int = field(1024, "width of the box head", "parameters", ge=1)
    mask_channels: int = field(256, "width of the mask head; 0: boxes alone", "parameters", ge=0)
    mask_layers: int = field(4, "convolutions of the mask head", "parameters", ge=1)
    before_nms: tuple[int, int] = field(
        (2000, 1000), "proposals of each map in training and at test", "parameters", "features"
    )
    after_nms: tuple[int, int] = field(
        (2000, 1000), "of them, those of an image that are kept", "parameters", "features"
    )
    sampled_boxes: int = field(
        512, "proposals of an image that are trained on, a fourth objects", "parameters", ge=4
    )
    sampled_masks: int = field(
        0, "of an image's sampled objects, whose masks are trained on; 0: all", "parameters", ge=0
    )
    candidates: int = field(1000, "scored boxes that suppression looks at", "features", ge=1)
    detections: int = field(100, "of an image, at most", "features", ge=1)
    min_score: float = field(0.05, "detections have to score more", "features", ge=0, lt=1)

    @pydantic.model_validator(mode="after")
    def _fits(self) -> "Config":
        strides = self.strides
        if not strides or any(b != 2 * a for a, b in itertools.pairwise(strides)):
            raise ValueError(f"strides={strides}: expected each to be twice the one before")
        if any(side < 1 or side % strides[-1] for side in self.canvas):
            raise ValueError(f"canvas={self.canvas}: expected multiples of {strides[-1]}")
        if len(self.anchor_sizes) - len(strides) not in (0, 1):
            raise ValueError(
                f"anchor_sizes={self.anchor_sizes}: expected {len(strides)} or {len(strides) + 1}"
            )
        return self

    def check_config(self, config: Any) -> None:
        """Raises ValueError, naming the field, where the whole config does not fit the detector."""
        if config.loss is not None and config.loss.name != "detection":
            raise ValueError(f"loss.name={config.loss.name!r}: model.name=detector has detection")


class Detector(nn.Module):
    """Finds objects in images.

    Attributes:
      config: its section.
      backbone: images to feature maps.
    """

    config: Config
    backbone: nn.Module

    def setup(self) -> None:
        """Makes the layers; their names are torchvision's."""
        config = self.config
        common: dict[str, Any] = {"v2": config.version == "v2", "dtype": jnp.dtype(config.dtype)}
        classes = config.num_classes + 1
        self.fpn = layers.FeaturePyramid(config.pyramid_channels, **common)
        self.rpn = layers.ProposalHead(len(RATIOS), **common)
        self.box_head = layers.BoxHead(config.hidden, **common)
        self.box_predictor = layers.BoxPredictor(classes, common["dtype"])
        if config.mask_channels:
            self.mask_head = layers.MaskHead(config.mask_channels, config.mask_layers, **common)
            self.mask_predictor = layers.MaskPredictor(classes, common["dtype"])

    def __call__(
        self, images: jax.Array, size: jax.Array | None = None, train: bool = False
    ) -> Detections:
        """Finds the objects of images.

        Args:
          images: uint8 [n, H, W, 3].
          size: int32 [n, 2], (height, width) without the padding; None: there is none.
          train: whether BatchNorm takes the batch's statistics.
        """
        if size is None:
            size = jnp.broadcast_to(jnp.array(images.shape[1:3]), (len(images), 2))
        levels = self._levels(images, size, train)
        proposals = self._propose(*self._score_anchors(levels), images.shape[1:3], size, train)
        logits, deltas = self._score_boxes(levels, proposals.box, train)
        config = self.config
        chosen = jax.vmap(
            lambda *parts: choose_detections(
                *parts,
                candidates=config.candidates,
                most=config.detections,
                threshold=config.min_score,
            )
        )(logits, deltas, proposals, size)
        mask = None
        if config.mask_channels:
            mask = nn.sigmoid(self._masks(levels, chosen.box, chosen.label, train))
        return Detections(
            chosen.box, chosen.score, chosen.label - 1, chosen.objectness, chosen.valid, mask
        )

    def losses(
        self, batch: Mapping[str, jax.Array], key: jax.Array, train: bool = True
    ) -> dict[str, jax.Array]:
        """Returns the losses of a batch of `object_train_batches` by name, each a scalar.

        `key` draws the anchors and proposals; an image's depend on nothing but its place.
        """
        images, size = batch["image"], batch["size"]
        levels = self._levels(images, size, train)
        logits, deltas = self._score_anchors(levels)
        proposals = jax.lax.stop_gradient(
            self._propose(logits, deltas, images.shape[1:3], size, training=True)
        )
        names = ("box", "valid", "ignore", "category")
        objects = {name: batch[name] for name in names}
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(images)))
        keys = jax.vmap(jax.random.split)(keys)
        values = self._anchor_losses(keys[:, 0], logits, deltas, images.shape[1:3], objects)
        boxes, drawn = jax.vmap(targets.proposal_targets, (0, 0, 0, None))(
            keys[:, 1], proposals, objects, self.config.sampled_boxes
        )
        label = jnp.take_along_axis(objects["category"], drawn.object, axis=1) + 1
        label = jnp.where(drawn.positive, label, 0)  # 0 is the background
        class_logits, box_deltas = self._score_boxes(levels, boxes, train)
        own = jnp.take_along_axis(box_deltas, label[..., None, None], axis=2)[..., 0, :]
        values["loss_class"] = losses.class_loss(class_logits, label, drawn.drawn)
        values["loss_box"] = losses.box_loss(own, drawn.deltas, drawn.positive, drawn.drawn)
        if self.config.mask_channels:
            values["loss_mask"] = self._mask_loss(levels, batch, boxes, drawn, label, train)
        return values

    def _levels(self, images: jax.Array, size: jax.Array, train: bool) -> dict[int, jax.Array]:
        """Returns the pyramid's maps by stride."""
        config, sides = self.config, images.shape[1:3]
        pixels = normalize(images, config.backbone.preprocessing)
        down, across = (jnp.arange(sides[axis]) < size[:, axis, None] for axis in (0, 1))
        inside = down[:, :, None] & across[:, None, :]
        # The padding is black, which normalization makes anything but zero.
        pixels = jnp.where(inside[..., None], pixels, 0)
        maps = self.backbone(pixels, train and not config.backbone.frozen_batch_norm)
        if missing := set(config.strides) - set(maps):
            raise InputError(
                f"model.strides={config.strides}: {config.backbone.name} has no map of stride "
                f"{min(missing)}; it has those of {', '.join(map(str, sorted(maps)))}"
            )
        return self.fpn({stride: maps[stride] for stride in config.strides}, train)

    def _score_anchors(
        self, levels: Mapping[int, jax.Array]
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """Returns logits and deltas of each level's anchors."""
        maps = [levels[stride] for stride in self.config.strides]
        if len(self.config.anchor_sizes) > len(maps):
            maps.append(maps[-1][:, ::2, ::2])
        return self.rpn(maps)

    def _anchors(self, canvas: tuple[int, ...]) -> list[Any]:
        config, height, width = self.config, *canvas
        levels = [(height // stride, width // stride) for stride in config.strides]
        if len(config.anchor_sizes) > len(levels):
            levels.append((-(-levels[-1][0] // 2), -(-levels[-1][1] // 2)))
        return anchors(canvas, levels, config.anchor_sizes)

    def _propose(
        self,
        logits: list[jax.Array],
        deltas: list[jax.Array],
        canvas: tuple[int, ...],
        size: jax.Array,
        training: bool,
    ) -> Proposals:
        config, test = self.config, int(not training)
        before, after = config.before_nms[test], config.after_nms[test]
        return jax.vmap(propose, (0, 0, None, 0, None, None))(
            logits, deltas, self._anchors(canvas), size, before, after
        )

    def _score_boxes(
        self, levels: Mapping[int, jax.Array], boxes: jax.Array, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        return self.box_predictor(self.box_head(self._cells(levels, boxes, _BOX_CELLS), train))

    def _cells(self, levels: Mapping[int, jax.Array], boxes: jax.Array, size: int) -> jax.Array:
        """Returns the features [n, k, size, size, c] of boxes [n, k, 4]."""
        return jax.vmap(lambda maps, of: roi_align(maps, of, size, self.config.canonical_size))(
            levels, boxes
        )

    def _masks(
        self, levels: Mapping[int, jax.Array], boxes: jax.Array, label: jax.Array, train: bool
    ) -> jax.Array:
        """Returns the logits [n, k, 28, 28] of the masks of boxes, of their label's class."""
        cells = self._cells(levels, boxes, _MASK_CELLS)
        logits = self.mask_predictor(self.mask_head(cells, train))
        return jnp.take_along_axis(logits, label[:, :, None, None, None], axis=-1)[..., 0]

    def _anchor_losses(
        self,
        keys: jax.Array,
        logits: list[jax.Array],
        deltas: list[jax.Array],
        canvas: tuple[int, ...],
        objects: Mapping[str, jax.Array],
    ) -> dict[str, jax.Array]:
        every = jnp.concatenate([jnp.asarray(level) for level in self._anchors(canvas)])
        drawn = jax.vmap(targets.anchor_targets, (0, None, 0))(keys, every, objects)
        logit = jnp.take_along_axis(jnp.concatenate(logits, axis=1), drawn.box, axis=1)
        delta = jnp.take_along_axis(jnp.concatenate(deltas, axis=1), drawn.box[..., None], axis=1)
        return {
            "loss_objectness": losses.objectness_loss(logit, drawn.positive, drawn.drawn),
            "loss_rpn_box": losses.box_loss(delta, drawn.deltas, drawn.positive, drawn.drawn),
        }

    def _mask_loss(
        self,
        levels: Mapping[int, jax.Array],
        batch: Mapping[str, jax.Array],
        boxes: jax.Array,
        drawn: targets.Targets,
        label: jax.Array,
        train: bool,
    ) -> jax.Array:
        """Returns the loss of the positive boxes' masks, which stand first, in random order."""
        most = self.config.sampled_boxes // 4
        most = min(self.config.sampled_masks or most, most)
        boxes, label = boxes[:, :most], label[:, :most]
        owner, positive = drawn.object[:, :most], drawn.positive[:, :most]
        logits = self._masks(levels, boxes, label, train)

        def crop(mask: jax.Array, box: jax.Array, of: jax.Array, into: jax.Array) -> jax.Array:
            return crop_masks(mask[of] / 255.0, box[of], into, 2 * _MASK_CELLS)

        wanted = jax.vmap(crop)(batch["mask"], batch["box"], owner, boxes)
        has_mask = jnp.take_along_axis(batch["has_mask"], owner, axis=1)
        return losses.mask_loss(logits, wanted, positive & has_mask)


def build(config: Config) -> Detector:
    """Builds the detector of this section."""
    backbone = config.backbone
    preprocessing = choose_preprocessing(backbone.preprocessing, backbone.name)
    backbone = backbone.model_copy(update={"preprocessing": preprocessing})
    network = build_backbone(backbone.name, jnp.dtype(config.dtype), backbone.stride)
    return Detector(config.model_copy(update={"backbone": backbone}), network)
