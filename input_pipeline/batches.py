"""From rows of a split to batches of pixels, with tf.data. The only module with TensorFlow."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import ml_collections
import numpy as np
import tensorflow as tf

from grnet_jax.photos import Framing, make_framing
from input_pipeline.dataset import Split
from input_pipeline.errors import DatasetError
from input_pipeline.sampling import StepPlan, make_sampler

tf.config.set_visible_devices([], "GPU")  # the devices belong to JAX

Batch = dict[str, np.ndarray | int]
_READS_AT_ONCE = 2
_BATCHES_AHEAD = 2


class Photos(NamedTuple):
    """What to make a batch of n photos of.

    Attributes:
      rows: int [n], of the split's index.
      flip: bool [n], whether to mirror each.
      shift: float32 [n, 4], how far to move each cut's edges (left, top, right, bottom), as
        shares of the cut's width and height.
    """

    rows: np.ndarray
    flip: np.ndarray
    shift: np.ndarray


def train_batches(
    split: Split,
    data_config: ml_collections.ConfigDict,
    *,
    batch_items: int,
    start_step: int,
    steps: int,
    seed: int,
    host: int = 0,
    hosts: int = 1,
) -> Iterator[Batch]:
    """Yields one host's share of the training batches of `steps` steps from `start_step` on.

    Which pairs a step holds depends on nothing but the seed and the step: see `Sampler`.

    Args:
      split: to train on.
      data_config: config.data.
      batch_items: pairs in the global batch.
      start_step: first step, counted from 0 over the whole training.
      steps: number of steps.
      seed: of the order and of the flips.
      host: this process' number.
      hosts: number of processes.

    Yields:
      customer and shop, uint8 [batch_items / hosts, S, S, 3]; item, int32
      [batch_items / hosts], an index into split.index.items; content, int32
      [batch_items / hosts], of the shop photos, equal exactly where the files are; step, int.

    Raises:
      DatasetError: the split has no pairs, or the batch cannot be divided among the hosts.
    """
    sampler = make_sampler(split, data_config.epoch, seed)
    framing = make_framing(data_config)
    if not 0 <= data_config.box_jitter < 0.5:
        raise DatasetError(
            f"config.data.box_jitter={data_config.box_jitter}: expected 0 to less than 0.5"
        )
    if batch_items < 1 or batch_items % hosts:
        raise DatasetError(
            f"a batch of {batch_items} pairs cannot be divided among {hosts} hosts: "
            "choose a multiple"
        )
    if not 0 <= host < hosts:
        raise DatasetError(f"host {host} of {hosts}: expected 0 to {hosts - 1}")

    def plan(step: int) -> StepPlan:
        return sampler.plan(step, batch_items=batch_items, host=host, hosts=hosts)

    return _train_batches(split, data_config, framing, plan, range(start_step, start_step + steps))


def _train_batches(
    split: Split,
    data_config: ml_collections.ConfigDict,
    framing: Framing,
    plan: Callable[[int], StepPlan],
    steps: range,
) -> Iterator[Batch]:
    def photos_of(step: int) -> Photos:
        chosen = plan(step)
        flip = chosen.flip if data_config.flip else np.zeros_like(chosen.flip)
        shift = np.float32(data_config.box_jitter) * chosen.shift
        # Customers, then shops.
        return Photos(
            chosen.rows.T.reshape(-1),
            flip.T.reshape(-1),
            shift.swapaxes(0, 1).reshape(-1, 4),
        )

    for step, photos in zip(steps, _pixels(split, steps, photos_of, framing), strict=True):
        rows = plan(step).rows
        yield {
            "customer": photos[: len(rows)],
            "shop": photos[len(rows) :],
            "item": split.index.item[rows[:, 0]],
            "content": split.index.content[rows[:, 1]],
            "step": step,
        }


def photo_batches(
    split: Split,
    rows: Sequence[int] | np.ndarray,
    data_config: ml_collections.ConfigDict,
    *,
    batch: int,
) -> Iterator[Batch]:
    """Yields photos in the order of `rows`, never flipped.

    Yields:
      photo, uint8 [batch, S, S, 3]; row, int32 [batch]; mask, bool [batch]. The last batch is
      filled up with black photos of row 0, whose mask is False.
    """
    framing = make_framing(data_config)
    if batch < 1:
        raise DatasetError(f"a batch of {batch} photos: expected at least 1")
    return _photo_batches(split, np.asarray(rows, np.int32), framing, batch)


def _photo_batches(split: Split, rows: np.ndarray, framing: Framing, batch: int) -> Iterator[Batch]:
    starts = range(0, len(rows), batch)

    def photos_of(start: int) -> Photos:
        chosen = rows[start : start + batch]
        return Photos(chosen, np.zeros(len(chosen), bool), np.zeros((len(chosen), 4), np.float32))

    for start, photos in zip(starts, _pixels(split, starts, photos_of, framing), strict=True):
        count = len(photos)
        missing = (0, batch - count)
        yield {
            "photo": np.pad(photos, (missing, (0, 0), (0, 0), (0, 0))),
            "row": np.pad(rows[start : start + count], missing),
            "mask": np.arange(batch) < count,
        }


def _pixels(
    split: Split,
    batches: range,
    photos_of: Callable[[int], Photos],
    framing: Framing,
) -> Iterator[np.ndarray]:
    """Yields uint8 [n, S, S, 3] for each number in `batches`.

    Args:
      split: whose photos to read.
      batches: numbers of the batches. All but the last have equally many photos.
      photos_of: the photos of the batch of a number.
      framing: of the photos.
    """
    if not batches:
        return
    failures: list[DatasetError] = []

    def read(number: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows, flip, shift = photos_of(int(number))
        try:
            return np.array(split.read(rows), dtype=object), flip, shift
        except DatasetError as error:  # TensorFlow would keep only its text
            failures.append(error)
            raise

    def read_batch(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        records, flip, shift = tf.numpy_function(read, [number], (tf.string, tf.bool, tf.float32))
        return (
            tf.ensure_shape(records, [None]),
            tf.ensure_shape(flip, [None]),
            tf.ensure_shape(shift, [None, 4]),
        )

    photos = (
        tf.data.Dataset.range(batches.start, batches.stop, batches.step)
        .map(read_batch, num_parallel_calls=_READS_AT_ONCE)
        .unbatch()
        .map(
            lambda record, flip, shift: _photo(record, flip, shift, framing),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        .batch(len(photos_of(batches.start).rows))
        .prefetch(_BATCHES_AHEAD)
    )
    done = 0
    try:
        for batch in photos.as_numpy_iterator():
            yield batch
            done += 1
    except tf.errors.OpError as error:
        if failures:
            raise failures[0] from error
        names = _undecodable(split, photos_of(batches[done]).rows)
        raise DatasetError(
            f"split {split.name!r}: TensorFlow cannot decode {names or 'a photo'}: {error.message}"
        ) from error


def _undecodable(split: Split, rows: np.ndarray) -> str:
    """The names of the photos of a failed batch that cannot be decoded."""
    names = []
    for row in rows:
        try:
            _decode(tf.constant(split.record(row).image))
        except tf.errors.OpError:
            names.append(str(split.index.photo_id[row]))
    return ", ".join(names)


def _photo(record: tf.Tensor, flip: tf.Tensor, shift: tf.Tensor, framing: Framing) -> tf.Tensor:
    """uint8 [size, size, 3] of a stored record."""
    stored = tf.io.parse_single_example(
        record,
        {
            "image": tf.io.FixedLenFeature([], tf.string),
            "orientation": tf.io.FixedLenFeature([], tf.int64),
            "box": tf.io.FixedLenFeature([4], tf.float32),
        },
    )
    image = _turn_upright(_decode(stored["image"]), stored["orientation"])
    box = stored["box"] if framing.crop == "box" else _frame(image, framing)
    sides = tf.stack([box[2] - box[0], box[3] - box[1]])
    image = _cut(image, box + shift * tf.tile(sides, [2]))
    image = tf.image.resize(image, [framing.size] * 2, framing.interpolation, antialias=True)
    image = tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.uint8)
    return tf.cond(flip, lambda: image[:, ::-1], lambda: image)


def _frame(image: tf.Tensor, framing: Framing) -> tf.Tensor:
    """`Framing.box` of a photo without a box, rounded as there: float64 until the end."""
    size = tf.cast(tf.shape(image)[1::-1], tf.float64)
    cut = framing.center_share * tf.reduce_min(size) if framing.crop == "center" else size
    corner = (size - cut) / 2
    return tf.cast(tf.concat([corner, corner + cut], axis=0), tf.float32)


def _decode(data: tf.Tensor) -> tf.Tensor:
    """uint8 [H, W, 3] of a JPEG or PNG, as Pillow decodes it."""
    return tf.cond(
        tf.io.is_jpeg(data),
        lambda: tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_png(data, channels=3),
    )


def _turn_upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Undoes an EXIF orientation: a transposition (5 to 8), then flips."""
    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    mirrored = tf.reduce_any(orientation == [2, 3, 6, 7])
    upside_down = tf.reduce_any(orientation == [3, 4, 7, 8])
    image = tf.cond(mirrored, lambda: image[:, ::-1], lambda: image)
    return tf.cond(upside_down, lambda: image[::-1], lambda: image)


def _cut(image: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """The box of a photo in whole pixels, as `grnet_jax.photos.pixel_box` rounds it."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    edges = tf.cast(tf.round(box), tf.int32)
    left = tf.clip_by_value(edges[0], 0, width - 1)
    top = tf.clip_by_value(edges[1], 0, height - 1)
    right = tf.clip_by_value(edges[2], left + 1, width)
    bottom = tf.clip_by_value(edges[3], top + 1, height)
    return image[top:bottom, left:right]
