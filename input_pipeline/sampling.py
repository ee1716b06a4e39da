"""Which images a training step holds: a pure function of the seed and the step.

Nothing is drawn from a running stream, so training resumes at any step without replaying, and
every host computes its own part. (The orders come from NumPy's generators: another major
version of NumPy may order an epoch differently.)
"""

import abc
import dataclasses
import functools
from typing import TYPE_CHECKING

import numpy as np

from input_pipeline.config import SamplerConfig
from input_pipeline.errors import DatasetError
from input_pipeline.index import PhotoIndex

if TYPE_CHECKING:
    from input_pipeline.dataset import Split

# Independent streams of random numbers.
_ORDER, _CUSTOMER, _SHOP, _FLIP, _SHIFT, _IMAGE, _AUGMENT = range(7)


@dataclasses.dataclass(frozen=True)
class SampledBatch:
    """One host's part of a step: n groups of k images.

    Attributes:
      rows: int32 [n, k], rows of the index; see the sampler.
      flip: bool [n, k], whether to mirror each image.
      shift: float32 [n, k, 4] in -1..1, how far each edge (left, top, right, bottom) of each
        image's crop moves, in units that the caller sets.
      position: float32 [n, k] in -1..1, where in an image's crop its square is.
      draws: float32 [n, k, 6] in -1..1, what `augment_image` takes.
    """

    rows: np.ndarray
    flip: np.ndarray
    shift: np.ndarray
    position: np.ndarray
    draws: np.ndarray

    def flat(self, by_place: bool = False) -> "SampledBatch":
        """Returns the batch with one axis of n * k images in the place of two.

        Args:
          by_place: first each group's first image, then each group's second and so on; else group
            after group.
        """
        parts = (getattr(self, field.name) for field in dataclasses.fields(self))
        if by_place:
            parts = (part.swapaxes(0, 1) for part in parts)
        return SampledBatch(*(part.reshape(-1, *part.shape[2:]) for part in parts))


class Sampler(abc.ABC):
    """Deals out groups of k images to steps and hosts.

    Epoch e is one random order of all groups. The epochs are laid end to end and step s takes
    positions s*n to (s+1)*n - 1: no group is dropped at an epoch's end, a batch may straddle
    epochs, and a split with fewer groups than a batch repeats groups within it.

    Attributes:
      epoch_length: groups in an epoch.
      group_size: k.
    """

    def __init__(self, epoch_length: int, group_size: int, seed: int):
        self.epoch_length = epoch_length
        self.group_size = group_size
        self._seed = seed % 2**64
        # A batch may straddle epochs, and steps are asked for in order: two orders suffice.
        self._order = functools.lru_cache(maxsize=2)(self._order_epoch)

    @abc.abstractmethod
    def _order_epoch(self, epoch: int) -> np.ndarray:
        """Returns the groups of an epoch in its order, in the form that `_rows` takes."""

    @abc.abstractmethod
    def _rows(self, epoch: int, groups: np.ndarray) -> np.ndarray:
        """Returns the images of these groups of an epoch, int32 [n, k]."""

    def sample(self, step: int, *, batch_size: int, host: int = 0, hosts: int = 1) -> SampledBatch:
        """Returns one host's groups of one step.

        Args:
          step: counted from 0 over the whole training.
          batch_size: groups in the global batch.
          host: this process' number.
          hosts: number of processes.
        """
        size = batch_size // hosts
        numbers = step * batch_size + host * size + np.arange(size, dtype=np.int64)
        epochs, indices = np.divmod(numbers, self.epoch_length)
        rows = np.empty((size, self.group_size), np.int32)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            groups = self._order(int(epoch))[indices[chosen]]
            rows[chosen] = self._rows(int(epoch), groups)
        images = self.group_size * numbers[:, None] + np.arange(self.group_size)
        return _draw_changes(self._seed, rows, images)

    def _generator(self, epoch: int, stream: int) -> np.random.Generator:
        key = np.array([self._seed, epoch * 8 + stream], np.uint64)
        return np.random.Generator(np.random.Philox(key=key))


def _draw_changes(seed: int, rows: np.ndarray, images: np.ndarray) -> SampledBatch:
    """Returns these rows, [n, k], with the changes that each image's number draws, int [n, k]."""

    def signed(stream: int, count: int) -> np.ndarray:
        """Returns numbers in -1..1 for each image, float32 [n, k, count]."""
        numbers = count * images[..., None] + np.arange(count)
        return (2 * _uniform(seed, stream, numbers) - 1).astype(np.float32)

    draws = signed(_AUGMENT, 7)
    return SampledBatch(
        rows,
        flip=_uniform(seed, _FLIP, images) < 0.5,
        shift=signed(_SHIFT, 4),
        position=draws[..., 0],
        draws=draws[..., 1:],
    )


def draw_views(views: np.ndarray, count: int) -> SampledBatch:
    """Returns the rows and changes of views, int [n]: view v is of row v // count, in groups of 1.

    An image's views are the same whatever the run's seed, so that runs share what is made of them.
    """
    return _draw_changes(0, (views // count).astype(np.int32)[:, None], views[:, None])


class PairSampler(Sampler):
    """Groups are a customer and a shop image of one item.

    An epoch is all pairs ("pairs"), or all items that have both, with one image of each domain
    drawn ("items").
    """

    def __init__(self, index: PhotoIndex, epoch: str, seed: int):
        self._index = index
        self._by_items = epoch == "items"
        super().__init__(len(index.paired_items) if self._by_items else len(index.pairs), 2, seed)

    def _order_epoch(self, epoch: int) -> np.ndarray:
        order = self._generator(epoch, _ORDER).permutation(self.epoch_length)
        if not self._by_items:
            return self._index.pairs[order]
        items = self._index.paired_items[order]
        columns = []
        for stream, images in ((_CUSTOMER, self._index.customers), (_SHOP, self._index.shops)):
            drawn = self._generator(epoch, stream).integers(images.counts[items])
            columns.append(images.rows[images.starts[items] + drawn])
        return np.stack(columns, axis=1)

    def _rows(self, epoch: int, groups: np.ndarray) -> np.ndarray:
        return groups


class ItemSampler(Sampler):
    """Groups are K images of one item (P x K batches).

    An epoch is all items that have enough images. An item's images are drawn anew in every
    epoch, each once before any is repeated.

    Args:
      index: of the split.
      images_per_item: K, at least 2.
      cross_domain: the first K // 2 are customer images and the others shop images, of items
        that have both; false: all of an item's images alike, of items that have two.
      seed: of the orders.
    """

    def __init__(self, index: PhotoIndex, images_per_item: int, cross_domain: bool, seed: int):
        if cross_domain:
            half = images_per_item // 2
            self._parts = [(index.customers, half), (index.shops, images_per_item - half)]
            self._items = index.paired_items
        else:
            images = index.photos
            self._parts = [(images, images_per_item)]
            self._items = np.flatnonzero(images.counts >= 2).astype(np.int32)
        self._images = len(index)
        super().__init__(len(self._items), images_per_item, seed)

    def _order_epoch(self, epoch: int) -> np.ndarray:
        return self._items[self._generator(epoch, _ORDER).permutation(self.epoch_length)]

    def _rows(self, epoch: int, groups: np.ndarray) -> np.ndarray:
        return np.array([self._draw(epoch, item) for item in groups], np.int32)

    def _draw(self, epoch: int, item: int) -> np.ndarray:
        """Returns the images with the smallest of their random keys, int32 [K]."""
        drawn = []
        for images, count in self._parts:
            rows = images.rows[images.starts[item] :][: images.counts[item]]
            keys = _uniform(self._seed, _IMAGE, epoch * self._images + rows.astype(np.int64))
            drawn.append(np.resize(rows[np.argsort(keys, kind="stable")], count))
        return np.concatenate(drawn)


class ImageSampler(Sampler):
    """Groups are single images; an epoch is all `images` of a split."""

    def __init__(self, images: int, seed: int):
        super().__init__(images, 1, seed)

    def _order_epoch(self, epoch: int) -> np.ndarray:
        return self._generator(epoch, _ORDER).permutation(self.epoch_length)

    def _rows(self, epoch: int, groups: np.ndarray) -> np.ndarray:
        return groups[:, None]


def steps_per_epoch(split: "Split", sampler: SamplerConfig, batch_size: int) -> int:
    """Returns how many steps of `batch_size` groups reach every group of an epoch; at least 1.

    Args:
      split: to train on.
      sampler: what a batch holds.
      batch_size: groups in the global batch; see `build_sampler`.
    """
    return -(-build_sampler(split, sampler, seed=0).epoch_length // batch_size)


def build_sampler(split: "Split", config: SamplerConfig, seed: int) -> Sampler:
    """Builds the sampler of pairs, items (of K images each) or images.

    Raises:
      DatasetError: the split has nothing to train on.
    """
    if config.name == "images":
        return ImageSampler(len(split.index), seed)
    lack = "both a customer and a shop photo"
    sampler: Sampler
    if config.name == "pairs":
        sampler = PairSampler(split.index, config.epoch, seed)
    else:
        sampler = ItemSampler(split.index, config.images_per_item, config.cross_domain, seed)
        lack = "two photos" if not config.cross_domain else lack
    if not sampler.epoch_length:
        counts = split.index.counts()
        raise DatasetError(
            f"split {split.name!r} has no {config.name} to train on: no item has {lack} "
            f"({counts['customer_photos']} customer and {counts['shop_photos']} shop "
            f"photos of {counts['items']} items)"
        )
    return sampler


def _uniform(seed: int, stream: int, counters: np.ndarray) -> np.ndarray:
    """Returns a number in 0..1 for each counter: 53 bits of splitmix64's finalizer."""
    key = _mix(np.array([seed], np.uint64)) + np.uint64(stream)
    mixed = _mix(counters.astype(np.uint64) + _mix(key))
    return (mixed >> np.uint64(11)) * 2.0**-53


def _mix(values: np.ndarray) -> np.ndarray:
    values = (values + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
