"""From rows of a split to batches of pixels, with tf.data; needs TensorFlow."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from input_pipeline.augmentation import move_landmarks
from input_pipeline.config import AugmentConfig, ImageConfig, SamplerConfig
from input_pipeline.crops import CropBoxes, transform_landmarks
from input_pipeline.dataset import Split
from input_pipeline.decoding import crop_image, decode
from input_pipeline.errors import DatasetError
from input_pipeline.images import ImageTransform, build_transform
from input_pipeline.keypoints import augment_keypoints
from input_pipeline.pixel_changes import augment
from input_pipeline.sampling import build_sampler
from input_pipeline.stored_split import StoredSplit

tf.config.set_visible_devices([], "GPU")  # the devices belong to JAX

Batch = dict[str, np.ndarray | int]
_UNCHANGED = AugmentConfig(flip=False)
_READS_AT_ONCE = 2
_BATCHES_AHEAD = 2


class BatchSpec(NamedTuple):
    """What to make a batch of n images of.

    Attributes:
      rows: int [n], of the split's index.
      crop: int32 [n, 4] (left, top, right, bottom), what to cut out of each, in pixels.
      flip: bool [n], whether to mirror each.
      augment: float32 [n, 6], what `augment` takes for each.
    """

    rows: np.ndarray
    crop: np.ndarray
    flip: np.ndarray
    augment: np.ndarray


def train_batches(
    split: Split,
    image: ImageConfig,
    augment_config: AugmentConfig,
    sampler_config: SamplerConfig,
    *,
    batch_size: int,
    start_step: int,
    steps: int,
    seed: int,
    host: int = 0,
    hosts: int = 1,
) -> Iterator[Batch]:
    """Yields one host's share of the training batches of `steps` steps from `start_step` on.

    Which photos a step holds depends on nothing but the seed and the step: see `Sampler`. What it
    holds n = batch_size / hosts of, the sampler's name says: pairs, items or images.

    Args:
      split: to train on.
      image: how images are cropped and resized.
      augment_config: how they change.
      sampler_config: what a batch holds.
      batch_size: in the global batch.
      start_step: first step, counted from 0 over the whole training.
      steps: number of steps.
      seed: of the order, the flips and the jitter.
      host: this process' number.
      hosts: number of processes.

    Yields:
      step, int, and for "pairs": customer and shop, uint8 [n, S, S, 3]; item, int32 [n], an
      index into split.index.items; content, int32 [n], of the shop photos, equal exactly where
      the files are.
      For "items" (m = n K images, an item's side by side) and "images" (m = n): image, uint8
      [m, S, S, 3]; item, category, clothes_type and domain, int32 [m], as in the index;
      attributes, int8 [m, attributes] (`PhotoIndex.attribute_values`); landmarks, float32
      [m, 8, 2], and visibility, int32 [m, 8] (`cuts.transform_landmarks`); with image.keypoints also what
      `batch_keypoints` yields.

    Raises:
      DatasetError: nothing to train on, or the batch cannot be divided among the hosts.
    """
    sampler = build_sampler(split, sampler_config, seed)
    boxes = CropBoxes(split, image, augment_config.crop_jitter)
    check_share(batch_size, sampler_config.name, host, hosts)
    paired = sampler_config.name == "pairs"

    def spec_of(step: int) -> BatchSpec:
        plan = sampler.plan(step, batch_size=batch_size, host=host, hosts=hosts)
        if paired:  # customers, then shops
            plan = plan.transposed
        rows, flip = plan.rows.reshape(-1), plan.flip.reshape(-1)
        change = plan.change.reshape(len(rows), -1)
        crop = boxes.pixels(rows, plan.shift.reshape(-1, 4), change[:, 0])
        return BatchSpec(rows, crop, flip & augment_config.flip, change[:, 1:])

    numbers = range(start_step, start_step + steps)
    return _train_batches(split, image, augment_config, spec_of, numbers, paired)


def _train_batches(
    split: Split,
    image: ImageConfig,
    augment_config: AugmentConfig,
    spec_of: Callable[[int], BatchSpec],
    steps: range,
    paired: bool,
) -> Iterator[Batch]:
    read = _pixels(split, steps, spec_of, build_transform(image), augment_config)
    for step, pixels in zip(steps, read, strict=True):
        spec = spec_of(step)
        if paired:
            customers, shops = np.split(spec.rows, 2)
            yield {
                "customer": pixels[: len(customers)],
                "shop": pixels[len(customers) :],
                "item": split.index.item[customers],
                "content": split.index.content[shops],
                "step": step,
            }
        else:
            labels = image_labels(split, spec, augment_config)
            keypoints = batch_keypoints(split, spec, image, augment_config)
            yield {"image": pixels, **labels, **keypoints, "step": step}


def image_labels(
    split: Split, spec: BatchSpec, augment_config: AugmentConfig = _UNCHANGED
) -> dict[str, np.ndarray]:
    """What is known of photos and of their landmarks in what is shown; see `train_batches`."""
    index, rows = split.index, spec.rows
    points, visibility = transform_landmarks(index.landmarks[rows], spec.crop, spec.flip)
    points, visibility = move_landmarks(points, visibility, spec.augment, augment_config)
    return {
        **{
            name: getattr(index, name)[rows].astype(np.int32)
            for name in ("item", "category", "clothes_type", "domain")
        },
        "attributes": index.attribute_values(rows),
        "landmarks": points,
        "visibility": visibility,
    }


def batch_keypoints(
    split: Split, spec: BatchSpec, image: ImageConfig, augment_config: AugmentConfig
) -> dict[str, np.ndarray]:
    """Returns of image.keypoints, where there are any, what `augment_keypoints` returns."""
    if not image.keypoints:
        return {}
    points, visible = split.keypoints(image.keypoints).crop(spec.rows, spec.crop, spec.flip)
    return augment_keypoints(points, visible, spec.augment, augment_config)


def eval_batch_spec(rows: np.ndarray, boxes: CropBoxes) -> BatchSpec:
    """Returns the batch as evaluation sees it: cropped, neither mirrored nor augmented."""
    none = np.zeros((len(rows), 6), np.float32)
    return BatchSpec(rows, boxes.pixels(rows), np.zeros(len(rows), bool), none)


def image_batches(
    split: Split,
    rows: Sequence[int] | np.ndarray,
    image: ImageConfig,
    *,
    batch: int,
) -> Iterator[Batch]:
    """Yields photos in the order of `rows`, never flipped.

    Yields:
      image, uint8 [batch, S, S, 3]; row and domain, int32 [batch]; mask, bool [batch]; with
      image.keypoints also what `batch_keypoints` yields. The last batch is filled up with black photos of
      row and domain 0, whose mask is False and of which no point is visible.
    """
    boxes = CropBoxes(split, image)
    if batch < 1:
        raise DatasetError(f"a batch of {batch} photos: expected at least 1")
    rows = np.asarray(rows, np.int32)
    check_rows(split, rows)
    return _image_batches(split, rows, image, boxes, batch)


def _image_batches(
    split: Split,
    rows: np.ndarray,
    image: ImageConfig,
    boxes: CropBoxes,
    batch: int,
) -> Iterator[Batch]:
    starts = range(0, len(rows), batch)

    def spec_of(start: int) -> BatchSpec:
        return eval_batch_spec(rows[start : start + batch], boxes)

    read = _pixels(split, starts, spec_of, build_transform(image), _UNCHANGED)
    for start, pixels in zip(starts, read, strict=True):
        count = len(pixels)
        whole = {
            "image": pixels,
            "row": rows[start : start + count],
            "mask": np.ones(count, bool),
            "domain": split.index.domain[rows[start : start + count]].astype(np.int32),
            **batch_keypoints(split, spec_of(start), image, _UNCHANGED),
        }
        yield {
            name: np.pad(part, [(0, batch - count), *((0, 0),) * (part.ndim - 1)])
            for name, part in whole.items()
        }


def check_share(batch: int, what: str, host: int, hosts: int) -> None:
    """Raises DatasetError where a batch of so many cannot be shared, or there is no such host."""
    if batch < 1 or batch % hosts:
        raise DatasetError(
            f"a batch of {batch} {what} cannot be divided among {hosts} hosts: choose a multiple"
        )
    if not 0 <= host < hosts:
        raise DatasetError(f"host {host} of {hosts}: expected 0 to {hosts - 1}")


def check_rows(split: StoredSplit, rows: np.ndarray) -> None:
    """Raises DatasetError where a row is outside the split."""
    if rows.size and (rows.min() < 0 or rows.max() >= len(split)):
        raise DatasetError(f"rows {rows.min()}..{rows.max()} of a split of {len(split)}")


def _pixels(
    split: Split,
    batches: range,
    spec_of: Callable[[int], BatchSpec],
    transform: ImageTransform,
    augment_config: AugmentConfig,
) -> Iterator[np.ndarray]:
    """Yields uint8 [n, S, S, 3] for each number in `batches`.

    Args:
      split: whose photos to read.
      batches: numbers of the batches. All but the last have equally many photos.
      spec_of: the images of the batch of a number.
      transform: of the images.
      augment_config: their largest changes.
    """
    return record_batches(
        split,
        batches,
        spec_of,
        lambda record, _, crop, flip, drawn: augment(
            crop_image(record, crop, flip, transform), drawn, augment_config
        ),
        lambda rows: _undecodable(split, rows) or "a photo",
    )


def record_batches(
    split: StoredSplit,
    numbers: range,
    inputs_of: Callable[[int], Sequence[np.ndarray]],
    make: Callable[..., Any],
    suspects: Callable[[np.ndarray], str],
) -> Iterator[Any]:
    """Yields a batch for each number: records are read, made something of in parallel, and stacked.

    Args:
      split: whose records to read.
      numbers: of the batches. All but the last have equally many records.
      inputs_of: of a number the rows to read, int32 [n], and what else `make` takes, [n, ...].
      make: from a record, its row and the rest to a tensor or a dict of tensors.
      suspects: names what may be undecodable among the rows of a batch that failed.

    Raises:
      DatasetError: what reading raises, or a record that `make` fails on.
    """
    if not numbers:
        return
    failures: list[DatasetError] = []
    first = inputs_of(numbers.start)
    kinds = [tf.string, *(tf.as_dtype(part.dtype) for part in first)]
    shapes = [[None], *([None, *part.shape[1:]] for part in first)]

    def read(number: np.ndarray) -> tuple[np.ndarray, ...]:
        inputs = inputs_of(int(number))
        try:
            return np.array(split.read(inputs[0]), dtype=object), *inputs
        except DatasetError as error:  # TensorFlow would keep only its text
            failures.append(error)
            raise

    def read_batch(number: tf.Tensor) -> tuple[tf.Tensor, ...]:
        found = tf.numpy_function(read, [number], kinds)
        return tuple(map(tf.ensure_shape, found, shapes))

    made = (
        tf.data.Dataset.range(numbers.start, numbers.stop, numbers.step)
        .map(read_batch, num_parallel_calls=_READS_AT_ONCE)
        .unbatch()
        .map(make, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(len(first[0]))
        .prefetch(_BATCHES_AHEAD)
    )
    done = 0
    try:
        for batch in made.as_numpy_iterator():
            yield batch
            done += 1
    except tf.errors.OpError as error:
        if failures:
            raise failures[0] from error
        names = suspects(inputs_of(numbers[done])[0])
        raise DatasetError(
            f"split {split.name!r}: TensorFlow cannot decode {names}: {error.message}"
        ) from error


def _undecodable(split: Split, rows: np.ndarray) -> str:
    """The names of the photos of a failed batch that cannot be decoded."""
    names = []
    for row in rows:
        try:
            decode(tf.constant(split.record(row).image))
        except tf.errors.OpError:
            names.append(str(split.index.photo_id[row]))
    return ", ".join(names)
