"""From rows of a split to batches of pixels, with tf.data; needs TensorFlow."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np
import tensorflow as tf

from grnet_jax.photos import Framing, make_framing
from input_pipeline.augmentation import Augmentation, make_augmentation, move_landmarks
from input_pipeline.cuts import Cuts, cut_landmarks
from input_pipeline.dataset import Split
from input_pipeline.decoding import cut_photo, decode
from input_pipeline.errors import DatasetError
from input_pipeline.pixel_changes import augment
from input_pipeline.points import change_points
from input_pipeline.sampling import make_sampler
from input_pipeline.stored_split import StoredSplit

tf.config.set_visible_devices([], "GPU")  # the devices belong to JAX

Batch = dict[str, np.ndarray | int]
_UNCHANGED = Augmentation()
_READS_AT_ONCE = 2
_BATCHES_AHEAD = 2


class Photos(NamedTuple):
    """What to make a batch of n photos of.

    Attributes:
      rows: int [n], of the split's index.
      cut: int32 [n, 4] (left, top, right, bottom), what to cut out of each, in pixels.
      flip: bool [n], whether to mirror each.
      change: float32 [n, 6], what `augment` takes for each.
    """

    rows: np.ndarray
    cut: np.ndarray
    flip: np.ndarray
    change: np.ndarray


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

    Which photos a step holds depends on nothing but the seed and the step: see `Sampler`. What it
    holds n = batch_items / hosts of, config.data.sampler says: pairs, items or photos.

    Args:
      split: to train on.
      data_config: config.data.
      batch_items: in the global batch.
      start_step: first step, counted from 0 over the whole training.
      steps: number of steps.
      seed: of the order, the flips and the jitter.
      host: this process' number.
      hosts: number of processes.

    Yields:
      step, int, and for "pairs": customer and shop, uint8 [n, S, S, 3]; item, int32 [n], an
      index into split.index.items; content, int32 [n], of the shop photos, equal exactly where
      the files are.
      For "items" (m = n K photos, an item's side by side) and "photos" (m = n): photo, uint8
      [m, S, S, 3]; item, category, clothes_type and domain, int32 [m], as in the index;
      attributes, int8 [m, attributes] (`PhotoIndex.attribute_values`); landmarks, float32
      [m, 8, 2], and visibility, int32 [m, 8] (`cuts.cut_landmarks`); with data.points also what
      `given_points` yields.

    Raises:
      DatasetError: nothing to train on, or the batch cannot be divided among the hosts.
    """
    sampler = make_sampler(split, data_config, seed)
    cuts = Cuts(split, data_config)
    check_share(batch_items, data_config.sampler, host, hosts)
    paired = data_config.sampler == "pairs"

    def photos_of(step: int) -> Photos:
        plan = sampler.plan(step, batch_items=batch_items, host=host, hosts=hosts)
        if paired:  # customers, then shops
            plan = plan.transposed
        rows, flip = plan.rows.reshape(-1), plan.flip.reshape(-1)
        change = plan.change.reshape(len(rows), -1)
        cut = cuts.pixels(rows, plan.shift.reshape(-1, 4), change[:, 0])
        return Photos(rows, cut, flip & data_config.flip, change[:, 1:])

    numbers = range(start_step, start_step + steps)
    return _train_batches(split, data_config, photos_of, numbers, paired)


def _train_batches(
    split: Split,
    data_config: ml_collections.ConfigDict,
    photos_of: Callable[[int], Photos],
    steps: range,
    paired: bool,
) -> Iterator[Batch]:
    framing, augmentation = make_framing(data_config), make_augmentation(data_config)
    photos_read = _pixels(split, steps, photos_of, framing, augmentation)
    for step, pixels in zip(steps, photos_read, strict=True):
        photos = photos_of(step)
        if paired:
            customers, shops = np.split(photos.rows, 2)
            yield {
                "customer": pixels[: len(customers)],
                "shop": pixels[len(customers) :],
                "item": split.index.item[customers],
                "content": split.index.content[shops],
                "step": step,
            }
        else:
            labels = photo_labels(split, photos, augmentation)
            given = given_points(split, photos, data_config, augmentation)
            yield {"photo": pixels, **labels, **given, "step": step}


def photo_labels(
    split: Split, photos: Photos, augmentation: Augmentation = _UNCHANGED
) -> dict[str, np.ndarray]:
    """What is known of photos and of their landmarks in what is shown; see `train_batches`."""
    index, rows = split.index, photos.rows
    points, visibility = cut_landmarks(index.landmarks[rows], photos.cut, photos.flip)
    points, visibility = move_landmarks(points, visibility, photos.change, augmentation)
    return {
        **{
            name: getattr(index, name)[rows].astype(np.int32)
            for name in ("item", "category", "clothes_type", "domain")
        },
        "attributes": index.attribute_values(rows),
        "landmarks": points,
        "visibility": visibility,
    }


def given_points(
    split: Split, photos: Photos, data_config: ml_collections.ConfigDict, augmentation: Augmentation
) -> dict[str, np.ndarray]:
    """Of data.points, where it is not "", what `change_points` returns."""
    if not data_config.points:
        return {}
    places, seen = split.points(data_config.points).cut(photos.rows, photos.cut, photos.flip)
    return change_points(places, seen, photos.change, augmentation)


def unchanged_photos(rows: np.ndarray, cuts: Cuts) -> Photos:
    """Photos as evaluation sees them: cut, neither mirrored nor otherwise changed."""
    none = np.zeros((len(rows), 6), np.float32)
    return Photos(rows, cuts.pixels(rows), np.zeros(len(rows), bool), none)


def photo_batches(
    split: Split,
    rows: Sequence[int] | np.ndarray,
    data_config: ml_collections.ConfigDict,
    *,
    batch: int,
) -> Iterator[Batch]:
    """Yields photos in the order of `rows`, never flipped.

    Yields:
      photo, uint8 [batch, S, S, 3]; row and domain, int32 [batch]; mask, bool [batch]; with
      data.points also what `given_points` yields. The last batch is filled up with black photos of
      row and domain 0, whose mask is False and of which no point is visible.
    """
    cuts = Cuts(split, data_config)
    if batch < 1:
        raise DatasetError(f"a batch of {batch} photos: expected at least 1")
    rows = np.asarray(rows, np.int32)
    check_rows(split, rows)
    return _photo_batches(split, rows, data_config, cuts, batch)


def _photo_batches(
    split: Split,
    rows: np.ndarray,
    data_config: ml_collections.ConfigDict,
    cuts: Cuts,
    batch: int,
) -> Iterator[Batch]:
    starts, framing = range(0, len(rows), batch), make_framing(data_config)

    def photos_of(start: int) -> Photos:
        return unchanged_photos(rows[start : start + batch], cuts)

    photos_read = _pixels(split, starts, photos_of, framing, _UNCHANGED)
    for start, photos in zip(starts, photos_read, strict=True):
        count = len(photos)
        whole = {
            "photo": photos,
            "row": rows[start : start + count],
            "mask": np.ones(count, bool),
            "domain": split.index.domain[rows[start : start + count]].astype(np.int32),
            **given_points(split, photos_of(start), data_config, _UNCHANGED),
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
    photos_of: Callable[[int], Photos],
    framing: Framing,
    augmentation: Augmentation,
) -> Iterator[np.ndarray]:
    """Yields uint8 [n, S, S, 3] for each number in `batches`.

    Args:
      split: whose photos to read.
      batches: numbers of the batches. All but the last have equally many photos.
      photos_of: the photos of the batch of a number.
      framing: of the photos.
      augmentation: their largest changes.
    """
    return record_batches(
        split,
        batches,
        photos_of,
        lambda record, _, cut, flip, change: augment(
            cut_photo(record, cut, flip, framing), change, augmentation
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
