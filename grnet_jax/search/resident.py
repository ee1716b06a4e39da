"""Embeddings that stay on the devices, and the nearest of them to a query."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from grnet_jax.models import Features, inner_products
from grnet_jax.search.features import FeatureSource, pad_rows, read_embeddings
from grnet_jax.search.ranking import SearchResult
from grnet_jax.sharding import replicated, sharded, split_rows

_FEWEST_ROWS, _STEP_ROWS = 256, 1 << 16
_QUERIES = 16  # compared at once, at most


class ResidentEmbeddings:
    """Embeddings float32 [n, d], each device its share of them.

    They are padded to a power of two, from 65,536 on to a multiple of that: a set that grows a
    little is searched by what was compiled for it.

    Args:
      images: features of n images.
      mesh: the devices, all of this process.
    """

    def __init__(self, images: FeatureSource, mesh: Mesh):
        self._count, self._mesh = len(images), mesh
        rows = padded_rows(self._count)
        rows += -rows % mesh.size
        self._embeddings = jax.device_put(read_embeddings(images, rows), sharded(mesh))
        self._everything = np.arange(rows) < self._count

    def __len__(self) -> int:
        return self._count

    def nearest(self, query: np.ndarray, k: int, passing: np.ndarray | None = None) -> SearchResult:
        """Finds the images whose embeddings' inner products with each query's are the highest.

        Args:
          query: float32 [q, d].
          k: how many.
          passing: bool [n], which images count; None for all.

        Returns:
          int32 and float32 [q, k]; -1 and -inf where fewer images count.
        """
        rows = self._everything
        if passing is not None:
            rows = np.zeros_like(self._everything)
            rows[: self._count] = passing
        mask = jax.device_put(rows, sharded(self._mesh))
        parts = [
            self._nearest(query[start : start + _QUERIES], k, mask)
            for start in range(0, len(query), _QUERIES)
        ]
        indices, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
        return SearchResult(np.where(scores == -np.inf, -1, indices).astype(np.int32), scores)

    def _nearest(self, query: np.ndarray, k: int, mask: jax.Array) -> tuple[np.ndarray, np.ndarray]:
        block = 1 << (len(query) - 1).bit_length()
        own = self._embeddings.shape[0] // self._mesh.size
        each = min(k, own)
        features: Any = Features(query)  # type: ignore[arg-type]
        placed = jax.device_put(pad_rows(features, block), replicated(self._mesh))
        found = _make_nearest(self._mesh, each)(placed, (self._embeddings, mask))
        # [devices, q, k'] side by side: of equal scores the lower row stays the first.
        indices, scores = (
            np.asarray(part).reshape(self._mesh.size, block, each)[:, : len(query)]
            for part in found
        )
        indices = indices + own * np.arange(self._mesh.size)[:, None, None]
        indices, scores = (
            part.swapaxes(0, 1).reshape(len(query), -1) for part in (indices, scores)
        )
        missing = ((0, 0), (0, max(k - indices.shape[1], 0)))
        indices = np.pad(indices, missing, constant_values=-1)
        scores = np.pad(scores, missing, constant_values=-np.inf)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(indices, order, 1), np.take_along_axis(scores, order, 1)


def padded_rows(count: int) -> int:
    """Returns how many rows so many images take."""
    if count > _STEP_ROWS:
        return -(-count // _STEP_ROWS) * _STEP_ROWS
    return max(_FEWEST_ROWS, 1 << (count - 1).bit_length())


@functools.lru_cache(maxsize=32)
def _make_nearest(mesh: Mesh, k: int) -> Callable[..., tuple[jax.Array, jax.Array]]:
    def nearest(query: Features, part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        embeddings, passing = part
        scores = inner_products(query, Features(embeddings))
        scores, indices = jax.lax.top_k(jnp.where(passing, scores, -jnp.inf), k)
        return indices, scores

    return jax.jit(split_rows(nearest, mesh, rows=1))
