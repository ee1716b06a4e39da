"""Where features are read from, in memory or stored: one way to read them in any order."""

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import jax
import numpy as np

from grnet_jax.models import Features, Scoring, keep


class FeatureSource(Protocol):
    """Features of photos that are numbered from 0."""

    def __len__(self) -> int:
        """How many photos there are."""
        ...

    def take(self, rows: np.ndarray) -> Features:
        """Features of these photos, int [n], in the order asked, as numpy leaves."""
        ...

    def descriptors(self) -> "FeatureSource":
        """The same photos with their descriptors alone, read without the rest."""
        ...


@dataclasses.dataclass(frozen=True)
class HeldFeatures:
    """Features in memory, numpy leaves."""

    features: Features

    def __len__(self) -> int:
        return len(self.features.descriptor)

    def take(self, rows: np.ndarray) -> Features:
        """Copies of these rows."""
        return jax.tree.map(lambda leaf: leaf[rows], self.features)

    def descriptors(self) -> "HeldFeatures":
        """Their descriptors alone."""
        return HeldFeatures(Features(self.features.descriptor))


@dataclasses.dataclass(frozen=True)
class Part:
    """Some photos of a source, int [n], numbered anew."""

    source: FeatureSource
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: np.ndarray) -> Features:
        """These rows of the part."""
        return self.source.take(self.rows[rows])

    def descriptors(self) -> "Part":
        """Their descriptors alone."""
        return Part(self.source.descriptors(), self.rows)


@dataclasses.dataclass(frozen=True)
class Kept:
    """A gallery's source, with features in the form that they are kept in (`models.keep`)."""

    source: FeatureSource
    scoring: Scoring

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: np.ndarray) -> Features:
        """These rows, in that form."""
        return keep(self.source.take(rows), self.scoring)

    def descriptors(self) -> FeatureSource:
        """Their descriptors, which have one form."""
        return self.source.descriptors()


@dataclasses.dataclass(frozen=True)
class Distinct:
    """A source that is asked for each photo once, however often it is wanted, and in order."""

    source: FeatureSource

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: np.ndarray) -> Features:
        """These rows, in the order asked."""
        distinct, places = np.unique(rows, return_inverse=True)
        return jax.tree.map(lambda leaf: leaf[places], self.source.take(distinct))

    def descriptors(self) -> "Distinct":
        """Their descriptors alone."""
        return Distinct(self.source.descriptors())


def read_blocks(
    source: FeatureSource, size: int, first: int = 0
) -> Iterator[tuple[int, int, Features]]:
    """All photos from `first` on in blocks, each read by a thread while the one before is used.

    Yields:
      The number of the block's first photo, how many it has, and their features in `size` rows:
      the last block is filled up with zeros.
    """
    starts = range(first, len(source), size)

    def read(start: int) -> tuple[int, int, Features]:
        rows = np.arange(start, min(start + size, len(source)))
        return start, len(rows), pad_rows(source.take(rows), size)

    if not starts:
        return
    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(read, starts[0])
        for start in starts[1:]:
            block = ahead.result()
            ahead = thread.submit(read, start)
            yield block
        yield ahead.result()


def pad_rows(features: Features, size: int) -> Features:
    """Filled up with zeros to `size` rows."""

    def pad(leaf: np.ndarray) -> np.ndarray:
        missing = size - len(leaf)
        if not missing:
            return leaf
        return np.concatenate([leaf, np.zeros((missing, *leaf.shape[1:]), leaf.dtype)])

    return jax.tree.map(pad, features)
