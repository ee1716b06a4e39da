"""Which photos a training step holds: a pure function of the seed and the step.

Nothing is drawn from a running stream, so training resumes at any step without replaying, and
every host works out its own share. (The orders come from NumPy's generators: another major
version of NumPy may order an epoch differently.)
"""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from input_pipeline.errors import DatasetError
from input_pipeline.index import PhotoIndex

if TYPE_CHECKING:
    from input_pipeline.dataset import Split

EPOCHS = ("pairs", "items")
_ORDER, _CUSTOMER, _SHOP, _FLIP, _SHIFT = range(5)  # independent streams of random numbers


@dataclass(frozen=True)
class StepPlan:
    """One host's share of a step.

    Attributes:
      rows: int32 [P, 2], (customer, shop) rows of the index.
      flip: bool [P, 2], whether to mirror each photo.
      shift: float32 [P, 2, 4] in -1..1, how far each edge (left, top, right, bottom) of each
        photo's cut moves, in units that the caller sets.
    """

    rows: np.ndarray
    flip: np.ndarray
    shift: np.ndarray


class Sampler:
    """Deals the pairs of a split out to steps and hosts.

    Epoch e is one random order of all pairs ("pairs"), or of all items that have both kinds of
    photos, with one photo of each kind drawn ("items"). The epochs are laid end to end and step
    s takes positions s*P to (s+1)*P - 1: no pair is dropped at an epoch's end, a batch may
    straddle epochs, and a split with fewer pairs than P repeats pairs within a batch.
    """

    def __init__(self, index: PhotoIndex, epoch: str, seed: int):
        if epoch not in EPOCHS:
            raise DatasetError(f"config.data.epoch={epoch!r}: expected one of {EPOCHS}")
        self._index = index
        self._by_items = epoch == "items"
        self._seed = seed % 2**64
        self.epoch_length = len(index.paired_items) if self._by_items else len(index.pairs)
        # A batch may straddle epochs, and steps are planned in order: two orders suffice.
        self._pairs_of_epoch = functools.lru_cache(maxsize=2)(self._order_epoch)

    def plan(self, step: int, *, batch_items: int, host: int, hosts: int) -> StepPlan:
        """The pairs of one step that belong to one host."""
        share = batch_items // hosts
        positions = step * batch_items + host * share + np.arange(share, dtype=np.int64)
        epochs, places = np.divmod(positions, self.epoch_length)
        rows = np.empty((share, 2), np.int32)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            rows[chosen] = self._pairs_of_epoch(int(epoch))[places[chosen]]
        photos = 2 * positions[:, None] + np.arange(2)
        edges = 4 * photos[..., None] + np.arange(4)
        return StepPlan(
            rows,
            flip=_uniform(self._seed, _FLIP, photos) < 0.5,
            shift=(2 * _uniform(self._seed, _SHIFT, edges) - 1).astype(np.float32),
        )

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

    def _generator(self, epoch: int, stream: int) -> np.random.Generator:
        key = np.array([self._seed, epoch * 8 + stream], np.uint64)
        return np.random.Generator(np.random.Philox(key=key))


def steps_per_epoch(split: "Split", batch_items: int, epoch: str = "pairs") -> int:
    """Steps of `batch_items` pairs that reach every pair or item at least once; at least 1.

    Args:
      split: to train on.
      batch_items: pairs in the global batch.
      epoch: "pairs" counts all pairs, "items" the items that have both kinds of photos.
    """
    return -(-make_sampler(split, epoch, seed=0).epoch_length // batch_items)


def make_sampler(split: "Split", epoch: str, seed: int) -> Sampler:
    """The sampler of a split.

    Raises:
      DatasetError: the split has no pairs to train on.
    """
    sampler = Sampler(split.index, epoch, seed)
    if not sampler.epoch_length:
        counts = split.index.counts()
        raise DatasetError(
            f"split {split.name!r} has no pairs to train on: no item has both a customer and a "
            f"shop photo ({counts['customer_photos']} customer and {counts['shop_photos']} shop "
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
