"""Where features are read from, in memory or stored: one way to read them in any order."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from grnet_jax.models import Features, unit_vectors

_READ_ROWS = 1024


def machine_memory() -> int:
    """Returns the machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class FeatureSource(Protocol):
    """Features of images that are numbered from 0."""

    def __len__(self) -> int:
        """Returns how many images there are."""
        ...

    def take(self, rows: np.ndarray) -> Features:
        """Returns the features of these images, int [n], in the order asked, as numpy leaves."""
        ...

    def embeddings(self) -> "FeatureSource":
        """Returns the same images with their embeddings alone, read without the rest."""
        ...


@dataclasses.dataclass(frozen=True)
class InMemoryFeatures:
    """Features in memory, numpy leaves."""

    features: Features

    def __len__(self) -> int:
        return len(self.features.embedding)

    def take(self, rows: np.ndarray) -> Features:
        """Returns copies of these rows."""
        return jax.tree.map(lambda leaf: leaf[rows], self.features)

    def embeddings(self) -> "InMemoryFeatures":
        """Returns the embeddings alone."""
        return InMemoryFeatures(Features(self.features.embedding))


@dataclasses.dataclass(frozen=True)
class FeatureSubset:
    """Some images of a source, int [n], numbered anew."""

    source: FeatureSource
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: np.ndarray) -> Features:
        """Returns these rows of the subset."""
        return self.source.take(self.rows[rows])

    def embeddings(self) -> "FeatureSubset":
        """Returns the embeddings alone."""
        return FeatureSubset(self.source.embeddings(), self.rows)


@dataclasses.dataclass(frozen=True)
class WithEmbeddings:
    """A source with other embeddings, float32 [n, d]."""

    source: FeatureSource
    replaced: np.ndarray

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: np.ndarray) -> Features:
        """Returns these rows, with the other embeddings."""
        return dataclasses.replace(self.source.take(rows), embedding=self.replaced[rows])

    def embeddings(self) -> InMemoryFeatures:
        """Returns the other embeddings alone."""
        return InMemoryFeatures(Features(self.replaced))  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Concatenated:
    """Images whose embeddings are those of several sources side by side, scaled to length 1."""

    sources: tuple[FeatureSource, ...]

    def __len__(self) -> int:
        return len(self.sources[0])

    def take(self, rows: np.ndarray) -> Features:
        """Returns these rows: embedding [n, sum of the sources' dimensions]."""
        parts = [source.take(rows).embedding for source in self.sources]
        return jax.device_get(Features(unit_vectors(jnp.concatenate(parts, axis=1))))

    def embeddings(self) -> "Concatenated":
        """Returns itself: there is nothing else."""
        return self


def read_all(source: FeatureSource) -> Features:
    """Returns the features of all images of a source."""
    return source.take(np.arange(len(source)))


def read_embeddings(source: FeatureSource, rows: int = 0) -> np.ndarray:
    """Returns the embeddings of all n > 0 images of a source, float32 [n, d].

    Args:
      source: of the images.
      rows: if more than n, zeros follow until there are as many.
    """
    whole = None
    for start, count, features in read_blocks(source.embeddings(), min(_READ_ROWS, len(source))):
        if whole is None:  # all in one place from the start: joined later, they would take twice
            dim = features.embedding.shape[1]
            whole = np.zeros((max(rows, len(source)), dim), np.float32)
        whole[start : start + count] = features.embedding[:count]
    assert whole is not None  # noqa: S101
    return whole


def item_centroids(source: FeatureSource, rows: np.ndarray, starts: np.ndarray) -> InMemoryFeatures:
    """Returns each item's mean embedding, of length 1, as of `ItemImages`, float32 [m, d]."""
    sums = np.add.reduceat(read_embeddings(source)[rows], starts, axis=0)
    return InMemoryFeatures(jax.device_get(Features(unit_vectors(jnp.asarray(sums)))))


def read_blocks(source: FeatureSource, size: int) -> Iterator[tuple[int, int, Features]]:
    """Reads all images in blocks, the next one while the one before is used.

    Yields:
      The number of the block's first image, how many it has, and their features in `size` rows:
      the last block is filled up with zeros.
    """
    starts = range(0, len(source), size)
    blocks = read_ahead(source, (np.arange(s, min(s + size, len(source))) for s in starts))
    for start, features in zip(starts, blocks, strict=True):
        yield start, len(features.embedding), pad_rows(features, size)


def read_ahead(source: FeatureSource, rows: Iterable[np.ndarray]) -> Iterator[Features]:
    """Yields the features of each of these groups of rows, the next one read by a thread."""
    with ThreadPoolExecutor(1) as thread:
        ahead = None
        for group in rows:
            read, ahead = ahead, thread.submit(source.take, group)
            if read is not None:
                yield read.result()
        if ahead is not None:
            yield ahead.result()


def pad_rows(features: Features, size: int) -> Features:
    """Fills features up with zeros to `size` rows."""

    def pad(leaf: np.ndarray) -> np.ndarray:
        missing = size - len(leaf)
        if not missing:
            return leaf
        return np.concatenate([leaf, np.zeros((missing, *leaf.shape[1:]), leaf.dtype)])

    return jax.tree.map(pad, features)
