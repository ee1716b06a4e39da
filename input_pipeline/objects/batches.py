"""From images with objects to batches of padded images, boxes and masks, with tf.data."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from input_pipeline.batches import Batch, check_hosts, check_rows, record_batches
from input_pipeline.config import AugmentConfig
from input_pipeline.errors import DatasetError
from input_pipeline.objects.index import ObjectSplit
from input_pipeline.sampling import ImageSampler
from input_pipeline.tf_transforms import KERNELS, augment_image, decode, turn_upright

_FLIP, _UNCHANGED = AugmentConfig(), AugmentConfig(flip=False)
_LEAST_LEFT = 0.25  # share of an object's box; of what is cut to less nothing is learned
# The fields of a stored record: of its image, and of each object.
_IMAGE = {"image": tf.string, "orientation": tf.int64}
_OBJECTS = {"boxes": tf.float32, "categories": tf.int64, "crowd": tf.int64, "masks": tf.string}


class ObjectShape(NamedTuple):
    """The shape that every image of a batch gets.

    Attributes:
      height: H of the canvas, in pixels.
      width: W of the canvas, in pixels.
      max_objects: M, most objects of an image; 0: as many as an image of the split has.
      mask_size: m, side of an object's mask, in pixels; 0: no masks.
      interpolation: of the resizing, "bilinear" or "bicubic".
    """

    height: int
    width: int
    max_objects: int = 0
    mask_size: int = 28
    interpolation: str = "bilinear"

    def for_split(self, split: ObjectSplit) -> "ObjectShape":
        """Returns the shape with max_objects set.

        Raises:
          DatasetError: a number is wrong, or an image has more objects than max_objects.
        """
        for name, least in (("height", 1), ("width", 1), ("max_objects", 0), ("mask_size", 0)):
            if getattr(self, name) < least:
                raise DatasetError(f"{name}={getattr(self, name)}: expected at least {least}")
        needed = int(split.index.objects.max(initial=0))
        if 0 < self.max_objects < needed:
            photo = split.index.photo_id[split.index.objects.argmax()]
            raise DatasetError(
                f"max_objects={self.max_objects}: {photo} of split {split.name!r} has {needed} "
                f"objects; set it to {needed} or more, or to 0"
            )
        return self._replace(max_objects=self.max_objects or max(needed, 1))


def object_train_batches(
    split: ObjectSplit,
    shape: ObjectShape,
    *,
    augment: AugmentConfig = _FLIP,
    batch_size: int,
    start_step: int,
    steps: int,
    seed: int,
    host: int = 0,
    hosts: int = 1,
) -> Iterator[Batch]:
    """Yields one host's part of the training batches of `steps` steps from `start_step` on.

    Which images a step holds, and how they are changed, depends on nothing but the seed and the
    step: see `ImageSampler`.

    Args:
      split: to train on.
      shape: of every image.
      augment: flips, changes of color and of scale; the others are not for photos with objects.
      batch_size, start_step, steps, seed, host, hosts: see `train_batches`.

    Yields:
      step, int, and what `object_batches` yields, of batch_size / hosts images.

    Raises:
      DatasetError: a field is wrong, an image has too many objects, or the batch cannot be divided
        among the hosts.
    """
    check_hosts(batch_size, "photos", host, hosts)
    sampler = ImageSampler(len(split), seed)

    def rows_and_changes(step: int) -> tuple[np.ndarray, ...]:
        sampled = sampler.sample(step, batch_size=batch_size, host=host, hosts=hosts).flat()
        return sampled.rows, sampled.flip & augment.flip, sampled.draws, sampled.shift[:, :3]

    numbers = range(start_step, start_step + steps)
    batches = _batches(split, numbers, rows_and_changes, shape.for_split(split), augment)
    return ({**batch, "step": step} for step, batch in zip(numbers, batches, strict=True))


def object_batches(
    split: ObjectSplit, rows: Sequence[int] | np.ndarray, shape: ObjectShape, *, batch: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the images of `rows` in their order, never mirrored.

    An image keeps its aspect: it becomes as large as fits on the canvas, at its left and top, and
    the rest is black. M is max_objects, or with 0 the most objects that an image of the split has.

    Yields:
      Of the images: image, uint8 [batch, H, W, 3]; size, int32 [batch, 2], (height, width) without
      the padding; scale, float32 [batch], pixels of the canvas for each pixel of the upright image;
      row, int32 [batch].
      Of the objects, in the order of the record: valid, bool [batch, M], whether it is an object;
      box, float32 [batch, M, 4], (x_1, y_1, x_2, y_2) in pixels of the canvas; category, int32
      [batch, M], -1 where there is none; crowd, bool [batch, M]; ignore, bool [batch, M], whether
      it is neither to be found nor background: a crowd, or smaller than a pixel of the canvas; and
      with mask_size: has_mask, bool [batch, M], and mask, uint8 [batch, M, m, m], the object's mask
      cropped to its box and scaled, 0 to 255.
      The last batch is filled up with black images of row -1, without objects.

    Raises:
      DatasetError: a field is wrong, or an image has too many objects.
    """
    if batch < 1:
        raise DatasetError(f"a batch of {batch} photos: expected at least 1")
    rows = np.asarray(rows, np.int32).reshape(-1)
    check_rows(split, rows)

    def rows_and_changes(start: int) -> tuple[np.ndarray, ...]:
        part = rows[start : start + batch]
        zeros = np.zeros((len(part), 9), np.float32)
        return part, np.zeros(len(part), bool), zeros[:, :6], zeros[:, 6:]

    numbers = range(0, len(rows), batch)
    batches = _batches(split, numbers, rows_and_changes, shape.for_split(split), _UNCHANGED)
    return (
        {name: _pad_batch(name, values, batch) for name, values in made.items()} for made in batches
    )


def _pad_batch(name: str, values: np.ndarray, batch: int) -> np.ndarray:
    widths = [(0, batch - len(values)), *((0, 0),) * (values.ndim - 1)]
    return np.pad(values, widths, constant_values=-1 if name in ("row", "category") else 0)


def _batches(
    split: ObjectSplit,
    numbers: range,
    rows_and_changes: Callable[[int], tuple[np.ndarray, ...]],
    shape: ObjectShape,
    augment: AugmentConfig,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the batch of each number, of these rows and how each is changed."""

    def make(record: tf.Tensor, row: tf.Tensor, *changes: tf.Tensor) -> Any:
        return {**_image_and_objects(record, *changes, shape, augment), "row": row}

    return record_batches(
        split,
        numbers,
        rows_and_changes,
        make,
        lambda rows: f"a photo or mask among {', '.join(split.index.photo_id[rows])}",
    )


def _image_and_objects(
    record: tf.Tensor,
    flip: tf.Tensor,
    draws: tf.Tensor,
    place: tf.Tensor,
    shape: ObjectShape,
    augment: AugmentConfig,
) -> dict[str, tf.Tensor]:
    """Returns what `object_batches` yields, of one stored record.

    `place` says in -1..1 how much larger than to fit the canvas the image becomes, and how far to
    the left and top what the canvas does not hold of it is cut off.
    """
    one = {name: tf.io.FixedLenFeature([], kind) for name, kind in _IMAGE.items()}
    many = {
        name: tf.io.FixedLenSequenceFeature([], kind, allow_missing=True)
        for name, kind in _OBJECTS.items()
    }
    stored = tf.io.parse_single_example(record, one | many)
    image = _mirrored(turn_upright(decode(stored["image"]), stored["orientation"]), flip)
    image = augment_image(image, draws, augment)
    sides, canvas = tf.cast(tf.shape(image)[:2], tf.float32), [shape.height, shape.width]
    scale = tf.reduce_min(tf.cast(canvas, tf.float32) / sides)
    start, window = tf.zeros([2]), sides  # what is seen of the image
    if augment.scale_jitter:
        scale *= (1.0 + augment.scale_jitter) ** place[0]
        window = tf.minimum(tf.cast(canvas, tf.float32) / scale, sides)
        start = (place[1:] + 1.0) / 2.0 * (sides - window)
    boxes, crowd = tf.reshape(stored["boxes"], [-1, 4]), stored["crowd"] > 0
    whole = _mirrored_boxes(boxes, flip, sides[1])
    low, high = tf.tile(start[::-1], [2]), tf.tile((start + window)[::-1], [2])
    seen = tf.clip_by_value(whole, low, high)
    box = (seen - low) * scale
    left = _area(seen) / tf.maximum(_area(whole), 1e-6)
    ignore = crowd | tf.reduce_any(box[:, 2:] - box[:, :2] < 1.0, axis=1) | (left < _LEAST_LEFT)
    objects = {
        "valid": (tf.ones_like(crowd), False),
        "box": (box, 0.0),
        "category": (tf.cast(stored["categories"], tf.int32), -1),
        "crowd": (crowd, False),
        "ignore": (ignore, False),
    }
    if shape.mask_size:
        has_mask = tf.strings.length(stored["masks"]) > 0
        masks = tf.map_fn(
            lambda parts: _mask(parts, flip, shape.mask_size),
            (stored["masks"], has_mask, _mirrored_boxes(seen, flip, sides[1])),
            fn_output_signature=tf.TensorSpec([shape.mask_size] * 2, tf.uint8),
        )
        objects |= {"has_mask": (has_mask, False), "mask": (masks, 0)}
    return {
        # Not tf.image.resize, which rounds the size first and so scales the shorter side otherwise.
        "image": _scaled(image, canvas, [scale] * 2, -start * scale, KERNELS[shape.interpolation]),
        # As many pixels as have their center within the image.
        "size": tf.cast(tf.clip_by_value(tf.math.ceil(window * scale - 0.5), 1, canvas), tf.int32),
        "scale": scale,
        **{name: _padded(values, shape, fill) for name, (values, fill) in objects.items()},
    }


def _mirrored_boxes(boxes: tf.Tensor, flip: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    mirrored = [width, 0, width, 0] + tf.gather(boxes, [2, 1, 0, 3], axis=1) * [-1, 1, -1, 1]
    return tf.where(flip, mirrored, boxes)


def _area(boxes: tf.Tensor) -> tf.Tensor:
    return tf.reduce_prod(boxes[:, 2:] - boxes[:, :2], axis=1)


def _mask(parts: Sequence[tf.Tensor], flip: tf.Tensor, side: int) -> tf.Tensor:
    """Returns an object's mask within its box, uint8 [side, side]; black if it has none."""
    png, has_mask, box = parts

    def crop() -> tf.Tensor:
        mask = tf.io.decode_png(png, channels=1)
        scale = side / tf.maximum(box[2:] - box[:2], 1e-3)
        crop = _scaled(mask, [side] * 2, scale[::-1], (-box[:2] * scale)[::-1], "triangle")
        return _mirrored(crop, flip)[..., 0]

    return tf.cond(has_mask, crop, lambda: tf.zeros([side, side], tf.uint8))


def _scaled(
    image: tf.Tensor,
    size: Sequence[int],
    scale: Sequence[float] | tf.Tensor,
    shift: Sequence[float] | tf.Tensor,
    kernel: str,
) -> tf.Tensor:
    """Returns uint8 of (height, width) `size`: the image scaled and shifted, on black."""
    result = tf.raw_ops.ScaleAndTranslate(
        images=tf.cast(image, tf.float32)[None],
        size=size,
        scale=tf.cast(scale, tf.float32),
        translation=tf.cast(shift, tf.float32),
        kernel_type=kernel,
        antialias=True,
    )[0]
    result = tf.ensure_shape(result, [*size, image.shape[2]])
    return tf.cast(tf.clip_by_value(tf.round(result), 0.0, 255.0), tf.uint8)


def _mirrored(image: tf.Tensor, flip: tf.Tensor) -> tf.Tensor:
    return tf.cond(flip, lambda: tf.reverse(image, [1]), lambda: image)


def _padded(values: tf.Tensor, shape: ObjectShape, fill: float) -> tf.Tensor:
    widths = [[0, shape.max_objects - tf.shape(values)[0]], *([0, 0] for _ in values.shape[1:])]
    padded = tf.pad(values, widths, constant_values=tf.cast(fill, values.dtype))
    return tf.ensure_shape(padded, [shape.max_objects, *values.shape[1:]])
