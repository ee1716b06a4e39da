"""From rows of a split to batches of pixels, with tf.data; needs TensorFlow."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from input_pipeline.config import AugmentConfig, ImageConfig, SamplerConfig
from input_pipeline.dataset import Split
from input_pipeline.errors import DatasetError
from input_pipeline.images import ImageTransform, build_transform
from input_pipeline.sampling import SampledBatch, build_sampler, draw_views
from input_pipeline.stored_split import StoredSplit
from input_pipeline.tf_transforms import augment_image, crop_image, decode
from input_pipeline.transforms import CropBoxes, augment_landmarks, transform_landmarks
from input_pipeline.vocabulary import UNKNOWN, VISIBLE

tf.config.set_visible_devices([], "GPU")  # the devices belong to JAX

Batch = dict[str, np.ndarray | int]
_UNCHANGED = AugmentConfig(flip=False)
_PARALLEL_READS = 2
_BATCHES_AHEAD = 2


class BatchSpec(NamedTuple):
    """Which n images are in a batch, and how each is cropped and changed.

    Attributes:
      rows: int [n], of the split's index.
      crop: int32 [n, 4] (left, top, right, bottom), in pixels.
      flip: bool [n], whether to mirror each.
      draws: float32 [n, 6], what `augment_image` takes for each.
    """

    rows: np.ndarray
    crop: np.ndarray
    flip: np.ndarray
    draws: np.ndarray


def train_batches(
    split: Split,
    image: ImageConfig,
    augment: AugmentConfig,
    sampler: SamplerConfig,
    *,
    batch_size: int,
    start_step: int,
    steps: int,
    seed: int,
    host: int = 0,
    hosts: int = 1,
    views: int = 0,
    read_views: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Iterator[Batch]:
    """Yields one host's part of the training batches of `steps` steps from `start_step` on.

    Which images a step holds depends on nothing but the seed and the step: see `Sampler`. A batch
    holds n = batch_size / hosts pairs, items or images, as `sampler.name` says.

    Args:
      split: to train on.
      image: how images are cropped and resized.
      augment: how they are changed at random.
      sampler: what a batch holds.
      batch_size: of the global batch.
      start_step: first step, counted from 0 over the whole training.
      steps: number of steps.
      seed: of the order and of all random changes.
      host: this process' number.
      hosts: number of processes.
      views: crops and changes of each image that are drawn once for all runs, one of which every
        use of it takes; 0 draws anew for each use.
      read_views: returns what stands in the place of pixels for views, int [n], as `view_batches`
        numbers them; with `views` alone.

    Yields:
      step, int, and for "pairs": customer and shop, uint8 [n, S, S, 3]; item, int32 [n], an
      index into split.index.items; content, int32 [n], of the shop images, equal exactly where
      the files are.
      For "items" (m = n K images, an item's side by side) and "images" (m = n): image, uint8
      [m, S, S, 3]; item, category, clothes_type and domain, int32 [m], as in the index;
      attributes, int8 [m, attributes] (`PhotoIndex.attribute_values`); landmarks, float32
      [m, 8, 2], and visibility, int32 [m, 8] (`transform_landmarks`); with image.keypoints
      also what `batch_keypoints` returns.

    Raises:
      DatasetError: nothing to train on, or the batch cannot be divided among the hosts.
    """
    batch_sampler = build_sampler(split, sampler, seed)
    boxes = CropBoxes(split, image, augment.crop_jitter)
    check_hosts(batch_size, sampler.name, host, hosts)
    paired = sampler.name == "pairs"

    def sample(step: int) -> SampledBatch:
        sampled = batch_sampler.sample(step, batch_size=batch_size, host=host, hosts=hosts)
        return sampled.flat(by_place=paired)  # pairs: customers, then shops

    def views_of(step: int) -> np.ndarray:
        sampled = sample(step)
        drawn = (sampled.position.astype(np.float64) + 1) / 2 * views  # 0 to views
        return sampled.rows.astype(np.int64) * views + np.minimum(drawn.astype(np.int64), views - 1)

    def spec_of(step: int) -> BatchSpec:
        drawn = draw_views(views_of(step), views).flat() if views else sample(step)
        return _train_spec(drawn, boxes, augment)

    steps_to_make = range(start_step, start_step + steps)
    if read_views is None:
        pixels = _pixels(split, steps_to_make, spec_of, build_transform(image), augment)
    else:
        pixels = (read_views(views_of(step)) for step in steps_to_make)
    return _train_batches(
        split, image, augment, spec_of, zip(steps_to_make, pixels, strict=True), paired
    )


def _train_spec(drawn: SampledBatch, boxes: CropBoxes, augment: AugmentConfig) -> BatchSpec:
    crop = boxes.pixels(drawn.rows, drawn.shift, drawn.position)
    return BatchSpec(drawn.rows, crop, drawn.flip & augment.flip, drawn.draws)


def view_batches(
    split: Split,
    views: np.ndarray,
    image: ImageConfig,
    augment: AugmentConfig,
    *,
    count: int,
    batch: int,
) -> Iterator[Batch]:
    """Yields views of images in their order: the crops and changes that `train_batches` takes.

    Args:
      split: whose images.
      views: int [n]; view v is the (v % count)th of row v // count.
      image: how images are cropped and resized.
      augment: how they are changed at random.
      count: views an image.
      batch: views a batch.

    Yields:
      image, uint8 [batch, S, S, 3]; the last batch may be smaller.
    """
    boxes = CropBoxes(split, image, augment.crop_jitter)

    def spec_of(start: int) -> BatchSpec:
        return _train_spec(draw_views(views[start : start + batch], count).flat(), boxes, augment)

    starts = range(0, len(views), batch)
    for pixels in _pixels(split, starts, spec_of, build_transform(image), augment):
        yield {"image": pixels}


def _train_batches(
    split: Split,
    image: ImageConfig,
    augment: AugmentConfig,
    spec_of: Callable[[int], BatchSpec],
    batches: Iterable[tuple[int, np.ndarray]],
    paired: bool,
) -> Iterator[Batch]:
    for step, pixels in batches:
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
            labels = image_labels(split, spec, augment)
            keypoints = batch_keypoints(split, spec, image, augment)
            yield {"image": pixels, **labels, **keypoints, "step": step}


def image_labels(
    split: Split, spec: BatchSpec, augment: AugmentConfig = _UNCHANGED
) -> dict[str, np.ndarray]:
    """Returns a batch's labels, its landmarks where the crops show them; see `train_batches`."""
    index, rows = split.index, spec.rows
    points, visibility = transform_landmarks(index.landmarks[rows], spec.crop, spec.flip)
    points, visibility = augment_landmarks(points, visibility, spec.draws, augment)
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
    split: Split, spec: BatchSpec, image: ImageConfig, augment: AugmentConfig = _UNCHANGED
) -> dict[str, np.ndarray]:
    """Returns the keypoints of image.keypoints where the crops show them; {} without the field.

    Returns:
      points, float32 [n, P, 2], and points_visible, bool [n, P]; see `Keypoints.crop`.
    """
    if not image.keypoints:
        return {}
    points, visible = split.keypoints(image.keypoints).crop(spec.rows, spec.crop, spec.flip)
    visibility = np.where(visible, VISIBLE, UNKNOWN)
    points, visibility = augment_landmarks(points, visibility, spec.draws, augment)
    return {"points": points, "points_visible": visibility == VISIBLE}


def eval_batch_spec(rows: np.ndarray, boxes: CropBoxes) -> BatchSpec:
    """Returns the batch as evaluation sees it: cropped, neither mirrored nor augmented."""
    no_draws = np.zeros((len(rows), 6), np.float32)
    return BatchSpec(rows, boxes.pixels(rows), np.zeros(len(rows), bool), no_draws)


def image_batches(
    split: Split, rows: Sequence[int] | np.ndarray, image: ImageConfig, *, batch: int
) -> Iterator[Batch]:
    """Yields the images of `rows` in their order, never mirrored.

    Yields:
      image, uint8 [batch, S, S, 3]; row and domain, int32 [batch]; mask, bool [batch]; with
      image.keypoints also what `batch_keypoints` returns. The last batch is filled up with black
      images of row and domain 0, whose mask is False and whose keypoints are not visible.

    Raises:
      DatasetError: the batch is smaller than 1, or a row is outside the split.
    """
    boxes = CropBoxes(split, image)
    if batch < 1:
        raise DatasetError(f"a batch of {batch} photos: expected at least 1")
    rows = np.asarray(rows, np.int32)
    check_rows(split, rows)
    return _image_batches(split, rows, image, boxes, batch)


def _image_batches(
    split: Split, rows: np.ndarray, image: ImageConfig, boxes: CropBoxes, batch: int
) -> Iterator[Batch]:
    starts = range(0, len(rows), batch)

    def spec_of(start: int) -> BatchSpec:
        return eval_batch_spec(rows[start : start + batch], boxes)

    pixel_batches = _pixels(split, starts, spec_of, build_transform(image), _UNCHANGED)
    for start, pixels in zip(starts, pixel_batches, strict=True):
        spec = spec_of(start)
        count = len(pixels)
        unpadded = {
            "image": pixels,
            "row": spec.rows,
            "mask": np.ones(count, bool),
            "domain": split.index.domain[spec.rows].astype(np.int32),
            **batch_keypoints(split, spec, image),
        }
        yield {
            name: np.pad(values, [(0, batch - count), *((0, 0),) * (values.ndim - 1)])
            for name, values in unpadded.items()
        }


def check_hosts(batch_size: int, what: str, host: int, hosts: int) -> None:
    """Raises DatasetError unless hosts can divide a batch, and `host` is one of them."""
    if batch_size < 1 or batch_size % hosts:
        raise DatasetError(
            f"a batch of {batch_size} {what} cannot be divided among {hosts} hosts: choose a "
            "multiple"
        )
    if not 0 <= host < hosts:
        raise DatasetError(f"host {host} of {hosts}: expected 0 to {hosts - 1}")


def check_rows(split: StoredSplit, rows: np.ndarray) -> None:
    """Raises DatasetError if a row is outside the split."""
    if rows.size and (rows.min() < 0 or rows.max() >= len(split)):
        raise DatasetError(f"rows {rows.min()}..{rows.max()} of a split of {len(split)}")


def _pixels(
    split: Split,
    batches: range,
    spec_of: Callable[[int], BatchSpec],
    transform: ImageTransform,
    augment: AugmentConfig,
) -> Iterator[np.ndarray]:
    """Yields uint8 [n, S, S, 3] for each number in `batches`.

    Args:
      split: whose images to read.
      batches: numbers of the batches. All but the last have equally many images.
      spec_of: returns the images of a batch from its number.
      transform: size and interpolation of the images.
      augment: their largest changes.
    """
    return record_batches(
        split,
        batches,
        spec_of,
        lambda record, _, crop, flip, draws: augment_image(
            crop_image(record, crop, flip, transform), draws, augment
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
    """Yields a batch for each number: reads records, calls `make` on each, stacks the results.

    Args:
      split: whose records to read.
      numbers: of the batches. All but the last have equally many records.
      inputs_of: returns for a number the rows to read, int32 [n], and what else `make` takes,
        [n, ...].
      make: turns a record, its row and the rest into a tensor or a dict of tensors.
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
        parts = tf.numpy_function(read, [number], kinds)
        return tuple(map(tf.ensure_shape, parts, shapes))

    batches = (
        tf.data.Dataset.range(numbers.start, numbers.stop, numbers.step)
        .map(read_batch, num_parallel_calls=_PARALLEL_READS)
        .unbatch()
        .map(make, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(len(first[0]))
        .prefetch(_BATCHES_AHEAD)
    )
    done = 0
    try:
        for batch in batches.as_numpy_iterator():
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
    """Returns the names of the images of a failed batch that cannot be decoded."""
    names = []
    for row in rows:
        try:
            decode(tf.constant(split.record(row).image))
        except tf.errors.OpError:
            names.append(str(split.index.photo_id[row]))
    return ", ".join(names)
