"""Which photos a training step holds: a pure function of the seed and the step.

Nothing is drawn from a running stream, so training resumes at any step without replaying, and
every host works out its own share. (The orders come from NumPy's generators: another major
version of NumPy may order an epoch differently.)
"""

import abc
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from input_pipeline.config import SamplerConfig
from input_pipeline.errors import DatasetError
from input_pipeline.index import PhotoIndex

if TYPE_CHECKING:
    from input_pipeline.dataset import Split

# Independent streams of random numbers.
_ORDER, _CUSTOMER, _SHOP, _FLIP, _SHIFT, _DRAW, _CHANGE = range(7)


@dataclass(frozen=True)
class SampledBatch:
    """One host's share of a step: n groups of k photos.

    Attributes:
      rows: int32 [n, k], rows of the index; see the sampler.
      flip: bool [n, k], whether to mirror each photo.
      shift: float32 [n, k, 4] in -1..1, how far each edge (left, top, right, bottom) of each
        photo's cut moves, in units that the caller sets.
      change: float32 [n, k, 7] in -1..1, where in a photo's cut its square is, and what
        `pixel_changes.augment` takes.
    """

    rows: np.ndarray
    flip: np.ndarray
    shift: np.ndarray
    change: np.ndarray

    @property
    def transposed(self) -> "SampledBatch":
        """The photos of all groups that are first in theirs, then the second: [k, n]."""
        parts = (self.rows, self.flip, self.shift, self.change)
        return SampledBatch(*(part.swapaxes(0, 1) for part in parts))


class Sampler(abc.ABC):
    """Deals groups of k photos out to steps and hosts.

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
        # A batch may straddle epochs, and steps are planned in order: two orders suffice.
        self._order = functools.lru_cache(maxsize=2)(self._order_epoch)

    @abc.abstractmethod
    def _order_epoch(self, epoch: int) -> np.ndarray:
        """The groups of an epoch in its order, whatever `_rows` takes them as."""

    @abc.abstractmethod
    def _rows(self, epoch: int, groups: np.ndarray) -> np.ndarray:
        """int32 [n, k]: the photos of these groups of an epoch."""

    def plan(self, step: int, *, batch_size: int, host: int, hosts: int) -> SampledBatch:
        """The groups of one step that belong to one host."""
        share = batch_size // hosts
        positions = step * batch_size + host * share + np.arange(share, dtype=np.int64)
        epochs, places = np.divmod(positions, self.epoch_length)
        rows = np.empty((share, self.group_size), np.int32)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            groups = self._order(int(epoch))[places[chosen]]
            rows[chosen] = self._rows(int(epoch), groups)
        photos = self.group_size * positions[:, None] + np.arange(self.group_size)
        return SampledBatch(
            rows,
            flip=_uniform(self._seed, _FLIP, photos) < 0.5,
            shift=self._either_way(_SHIFT, photos, 4),
            change=self._either_way(_CHANGE, photos, 7),
        )

    def _either_way(self, stream: int, photos: np.ndarray, count: int) -> np.ndarray:
        """float32 [..., count] in -1..1 for each photo."""
        numbers = count * photos[..., None] + np.arange(count)
        return (2 * _uniform(self._seed, stream, numbers) - 1).astype(np.float32)

    def _generator(self, epoch: int, stream: int) -> np.random.Generator:
        key = np.array([self._seed, epoch * 8 + stream], np.uint64)
        return np.random.Generator(np.random.Philox(key=key))


class PairSampler(Sampler):
    """Groups are (customer, shop photo) of one item.

    An epoch is all pairs ("pairs"), or all items that have both kinds of photos, with one photo
    of each kind drawn ("items").
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
        for stream, photos in (
            (_CUSTOMER, self._index.customers),
            (_SHOP, self._index.shops),
        ):
            drawn = self._generator(epoch, stream).integers(photos.counts[items])
            columns.append(photos.rows[photos.starts[items] + drawn])
        return np.stack(columns, axis=1)

    def _rows(self, epoch: int, groups: np.ndarray) -> np.ndarray:
        return groups


class ItemSampler(Sampler):
    """Groups are K photos of one item (P x K batches).

    An epoch is all items that have enough photos. An item's photos are drawn anew in every
    epoch, each once before any is repeated.

    Args:
      index: of the split.
      images_per_item: K, at least 2.
      cross_domain: the first K // 2 are customer photos and the others shop photos, of items
        that have both; false: all of an item's photos alike, of items that have two.
      seed: of the orders.
    """

    def __init__(self, index: PhotoIndex, images_per_item: int, cross_domain: bool, seed: int):
        if cross_domain:
            half = images_per_item // 2
            self._parts = [(index.customers, half), (index.shops, images_per_item - half)]
            self._items = index.paired_items
        else:
            photos = index.photos
            self._parts = [(photos, images_per_item)]
            self._items = np.flatnonzero(photos.counts >= 2).astype(np.int32)
        self._photos = len(index)
        super().__init__(len(self._items), images_per_item, seed)

    def _order_epoch(self, epoch: int) -> np.ndarray:
        return self._items[self._generator(epoch, _ORDER).permutation(self.epoch_length)]

    def _rows(self, epoch: int, groups: np.ndarray) -> np.ndarray:
        return np.array([self._draw(epoch, item) for item in groups], np.int32)

    def _draw(self, epoch: int, item: int) -> np.ndarray:
        """int32 [K]: every photo has a random key; the photos with the smallest are drawn."""
        drawn = []
        for photos, count in self._parts:
            rows = photos.rows[photos.starts[item] :][: photos.counts[item]]
            keys = _uniform(self._seed, _DRAW, epoch * self._photos + rows.astype(np.int64))
            drawn.append(np.resize(rows[np.argsort(keys, kind="stable")], count))
        return np.concatenate(drawn)


class ImageSampler(Sampler):
    """Groups are single photos of a split, of which there are `photos`."""

    def __init__(self, photos: int, seed: int):
        super().__init__(photos, 1, seed)

    def _order_epoch(self, epoch: int) -> np.ndarray:
        return self._generator(epoch, _ORDER).permutation(self.epoch_length)

    def _rows(self, epoch: int, groups: np.ndarray) -> np.ndarray:
        return groups[:, None]


def steps_per_epoch(split: "Split", sampler: SamplerConfig, batch_size: int) -> int:
    """Steps of `batch_size` groups that reach every group of an epoch at least once; at least 1.

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
    """A number in 0..1 for each counter: 53 bits of a 64-bit mix (splitmix64's finaliser)."""
    key = _mix(np.array([seed], np.uint64)) + np.uint64(stream)
    mixed = _mix(counters.astype(np.uint64) + _mix(key))
    return (mixed >> np.uint64(11)) * 2.0**-53


def _mix(values: np.ndarray) -> np.ndarray:
    values = (values + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
