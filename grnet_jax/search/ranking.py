"""One ranking: the scores of a chunk of queries against the whole gallery, and what follows.

A chunk's scores stand in one host matrix, float32 [q, g], of which the chunk is as long as
`_SCORE_BYTES` allows: memory does not grow with the number of queries, nor, until a single block
of queries fills it, with the gallery, which passes by block by block. Ranks and lists of the
best are computed from that matrix, whoever filled it: `ExhaustiveSearch` with the matcher's
scores, a cascade (reranking.py) with both of its stages'.

Each process ranks its share of the queries on its own devices and reads the whole gallery; only
results cross the machines. A device scores as many queries at once however many devices and chunks
there are, so that neither changes a score.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from grnet_jax import models
from grnet_jax.metrics import positive_ranks
from grnet_jax.models import Features
from grnet_jax.search.chunk_files import ChunkFiles
from grnet_jax.search.features import FeatureSource, InMemoryFeatures, read_blocks
from grnet_jax.sharding import make_mesh, replicated, sharded, split_rows

_SCORE_BYTES = 256 << 20  # of a chunk's scores on the host
_CHUNK_QUERIES = 512  # at most, so that a kill does not cost much
_QUERY_ROWS = 32  # queries that a device scores at once
_GALLERY_ROWS = 64  # gallery images with regions that they are scored against
_EMBEDDING_ROWS = 4096  # embeddings: products so small would mostly wait for the next block
_MATRIX_ROWS = 32  # of the matrix, that ranks and lists are computed of at once

Score = Callable[[Features, Features], jax.Array]
# Told how many pairs are done, and whether an earlier call did them.
Progress = Callable[[int, bool], object]


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The gallery images that score highest for each query, best first.

    Attributes:
      indices: int32 [q, k], rows of the gallery; of equal scores the lower row is first. -1 where
        there are no more.
      scores: float32 [q, k]; -inf where there are no more.
    """

    indices: np.ndarray
    scores: np.ndarray


@dataclasses.dataclass(frozen=True)
class RankingResult(SearchResult):
    """The best gallery images of each query, and where its right ones stand.

    Attributes:
      ranks: int32 [q, p], ranks of each query's positives from 1, in order, padded with 0.
      other_ranks: as `ranks`, of the other positives that were asked for; None for none.
      item_ranks: int32 [q, 1], rank of each query's item among the gallery's; None unless asked
        for.
    """

    ranks: np.ndarray
    other_ranks: np.ndarray | None = None
    item_ranks: np.ndarray | None = None


class ItemImages(NamedTuple):
    """A gallery's images by the items that they show.

    Attributes:
      rows: int [n], rows of the gallery, those of an item side by side.
      starts: int [m], where each item's begin in `rows`.
      own: int [q], each query's item among the m; -1 for none.
    """

    rows: np.ndarray
    starts: np.ndarray
    own: np.ndarray


class GallerySearch(Protocol):
    """How a chunk of queries is compared with a whole gallery."""

    @property
    def gallery(self) -> FeatureSource:
        """Returns what is searched."""
        ...

    @property
    def mesh(self) -> Mesh:
        """Returns the devices, all of this process."""
        ...

    def __call__(self, query: Features, block: int) -> tuple[np.ndarray, SearchResult]:
        """Returns float32 [q, g] that orders the whole gallery, and the best images.

        Args:
          query: features of the chunk's q queries.
          block: queries compared at once, a multiple of the number of devices.
        """
        ...

    def skip(self, queries: int) -> None:
        """Tells the progress of so many queries that an earlier call searched for."""
        ...


def ignore_progress(pairs: int, earlier: bool) -> None:
    """Takes a progress that nobody is told of."""


@dataclasses.dataclass(frozen=True)
class ExhaustiveSearch:
    """Scores all pairs.

    Attributes:
      score: of `make_score`, bound to a model's variables.
      gallery: features of g > 0 images.
      mesh: the devices, all of this process.
      top_k: how many of the best images are listed, at most.
      progress: told of every block of the gallery.
    """

    score: Score
    gallery: FeatureSource
    mesh: Mesh
    top_k: int
    progress: Progress = ignore_progress

    def __call__(self, query: Features, block: int) -> tuple[np.ndarray, SearchResult]:
        """Returns the scores, and the best images by them."""
        scores = score_matrix(self.score, query, self.gallery, self.mesh, block, self.progress)
        return scores, top_k(scores, self.top_k)

    def skip(self, queries: int) -> None:
        """Tells the progress of so many queries."""
        self.progress(queries * len(self.gallery), True)


@functools.lru_cache(maxsize=8)
def make_score(matcher: nn.Module, mesh: Mesh, dtype: str = "") -> Callable[[Any], Score]:
    """Returns what binds the matcher's score to variables; it is compiled once for all of them.

    Args:
      matcher: the Linen module.
      mesh: the devices, all of this process; each scores its share of the queries.
      dtype: that products are made in; "" the matcher's own.
    """

    def score(fused: Any, query: Features, gallery: Features) -> jax.Array:
        return models.score_fused(matcher, fused, query, gallery)

    jitted = jit_rows(score, mesh)

    def bind(variables: Any) -> Score:
        return functools.partial(jitted, place_fused(matcher, variables, mesh, dtype))

    return bind


def place_fused(matcher: nn.Module, variables: Any, mesh: Mesh, dtype: str) -> Any:
    """Returns what `models.score_fused` takes first, on every device."""
    fused = jax.tree.map(np.asarray, models.fuse(matcher, variables, dtype))
    return jax.device_put(fused, replicated(mesh))


def jit_rows(function: Callable[..., jax.Array], mesh: Mesh) -> Callable[..., jax.Array]:
    """Compiles a function of (fused parameters, queries, gallery) by the queries' rows.

    Devices exchange nothing: each computes the result's rows of its own queries.
    """
    return jax.jit(
        split_rows(function, mesh, rows=1),
        in_shardings=(replicated(mesh), sharded(mesh), replicated(mesh)),
        out_shardings=sharded(mesh),
    )


def local_mesh(mesh: Mesh) -> Mesh:
    """Returns those devices of a mesh that are this process's own."""
    return make_mesh(
        [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    )


def query_block(queries: int, mesh: Mesh) -> int:
    """Returns how many queries are compared at once: up to `_QUERY_ROWS` a device.

    Blocks are as full as their number allows.
    """
    share = -(-max(queries, 1) // mesh.size)
    blocks = -(-share // _QUERY_ROWS)
    return -(-share // blocks) * mesh.size


def score_matrix(
    score: Score,
    query: Features,
    gallery: FeatureSource,
    mesh: Mesh,
    block: int,
    progress: Progress = ignore_progress,
) -> np.ndarray:
    """Scores queries against a whole gallery, which is read once.

    Args:
      score: (query, gallery) -> scores, compiled by `jit_rows`.
      query: features of q queries (numpy leaves).
      gallery: features of g > 0 images.
      mesh: the devices, all of this process.
      block: queries scored at once, a multiple of the number of devices.
      progress: told of every block of the gallery.

    Returns:
      float32 [q, g].
    """
    count = len(query.embedding)
    rows = _GALLERY_ROWS if query.regions is not None else _EMBEDDING_ROWS
    queries = [
        (slice(start, start + n), jax.device_put(features, sharded(mesh)))
        for start, n, features in read_blocks(InMemoryFeatures(query), block)
    ]
    scores = np.empty((count, len(gallery)), np.float32)

    def collect(start: int, n: int, parts: Sequence[jax.Array]) -> None:
        for (places, _), part in zip(queries, parts, strict=True):
            there = scores[places]
            there[:, start : start + n] = np.asarray(part)[: len(there), :n]
        progress(count * n, False)

    ahead: tuple[int, int, list[jax.Array]] | None = None
    for start, n, features in read_blocks(gallery, min(rows, len(gallery))):
        placed = jax.device_put(features, replicated(mesh))
        # One block at a time is on its way: else all of the gallery would be.
        done, ahead = ahead, (start, n, [score(part, placed) for _, part in queries])
        if done:
            collect(*done)
    if ahead:
        collect(*ahead)
    return scores


def rank(
    search: GallerySearch,
    query: FeatureSource,
    positives: np.ndarray,
    other_positives: np.ndarray | None = None,
    *,
    items: ItemImages | None = None,
    files: ChunkFiles | None = None,
    name: str = "ranking",
) -> RankingResult:
    """Ranks every query's positives among the whole gallery.

    Args:
      search: how queries are compared with the gallery.
      query: features of q queries.
      positives: int [q, p], the gallery rows of each query's positives, padded with -1.
      other_positives: as positives, to be ranked beside them.
      items: for ranks of items by the score of their best image; None for none.
      files: keeps what is found of each chunk, and has what an earlier call found.
      name: of this ranking in the files.
    """
    files = files or ChunkFiles()
    sets = _stack_positives(positives, other_positives)
    found = []
    for first, rows, block in _chunks(len(query), search):
        chunk = f"{name}-{first}"
        arrays = files.load(chunk)
        if arrays is None:
            arrays = _rank_chunk(
                search,
                query.take(rows),
                block,
                sets[:, rows],
                items and items._replace(own=items.own[rows]),
            )
            files.save(chunk, arrays)
        else:
            search.skip(len(rows))
        found.append(arrays)
    ranks, indices, scores = (
        _gather_rows([part[key] for part in found], len(query))
        for key in ("ranks", "indices", "scores")
    )
    others = None if other_positives is None else ranks[:, 1, : other_positives.shape[1]]
    of_items = items and _gather_rows([part["item_ranks"] for part in found], len(query))
    return RankingResult(indices, scores, ranks[:, 0, : positives.shape[1]], others, of_items)


def find(search: GallerySearch, query: FeatureSource) -> SearchResult:
    """Finds the best gallery images of every query."""
    parts = [search(query.take(rows), block)[1] for _, rows, block in _chunks(len(query), search)]
    return SearchResult(
        _gather_rows([part.indices for part in parts], len(query)),
        _gather_rows([part.scores for part in parts], len(query)),
    )


def top_k(scores: np.ndarray, k: int, recall: float = 1.0) -> SearchResult:
    """Finds the k highest of each row of float32 [q, g], at most all; no number comes first.

    Args:
      scores: of the whole gallery.
      k: how many.
      recall: share of them that is aimed at, which may be faster on accelerators; 1 for all. With
        less the order of equal scores is open.
    """
    k = min(k, scores.shape[1])
    indices = _by_rows(functools.partial(_top_indices, k=k, recall=recall), scores)
    return SearchResult(indices, np.take_along_axis(scores, indices, axis=1))


@functools.partial(jax.jit, static_argnames=("k", "recall"))
def _top_indices(scores: jax.Array, k: int, recall: float) -> jax.Array:
    keys = jnp.where(jnp.isnan(scores), jnp.inf, scores)
    keys = jnp.where(keys == 0, 0.0, keys)  # else -0 would be less than 0
    if recall < 1:
        return jax.lax.approx_max_k(keys, k, recall_target=recall)[1]
    return jax.lax.top_k(keys, k)[1]  # of equal ones it takes the first


def _rank_chunk(
    search: GallerySearch,
    query: Features,
    block: int,
    positives: np.ndarray,
    items: ItemImages | None,
) -> dict[str, np.ndarray]:
    """Returns "ranks" int32 [q, s, p], "indices", "scores", and with items "item_ranks" [q, 1].

    Args:
      search: of `rank`.
      query: features of the chunk's queries.
      block: of `GallerySearch`.
      positives: int32 [s, q, p].
      items: of the chunk's queries, or None.
    """
    scores, top = search(query, block)
    ranks = [_by_rows(_positive_ranks, scores, rows) for rows in positives]
    found = {"ranks": np.stack(ranks, axis=1), "indices": top.indices, "scores": top.scores}
    if items:
        found["item_ranks"] = _item_ranks(scores, items)
    return found


def _item_ranks(scores: np.ndarray, items: ItemImages) -> np.ndarray:
    """Ranks each query's item by the items' best scores of [q, g], int32 [q, 1]; 0 for no item."""
    parts = []
    for start in range(0, len(scores), _MATRIX_ROWS):  # copies of some rows at a time
        piece = scores[start : start + _MATRIX_ROWS, items.rows]
        best = np.maximum.reduceat(piece, items.starts, axis=1)
        own = items.own[start : start + _MATRIX_ROWS, None].astype(np.int32)
        parts.append(_by_rows(_positive_ranks, best, own))
    return np.concatenate(parts)


_positive_ranks = jax.jit(positive_ranks)


def _by_rows(function: Callable[..., jax.Array], *arrays: np.ndarray) -> np.ndarray:
    """Applies a compiled function of rows to `_MATRIX_ROWS` at a time; the last row fills up."""
    parts = []
    for start in range(0, len(arrays[0]), _MATRIX_ROWS):
        pieces = [array[start : start + _MATRIX_ROWS] for array in arrays]
        missing = ((0, _MATRIX_ROWS - len(pieces[0])), (0, 0))
        padded = [np.pad(piece, missing, mode="edge") for piece in pieces]
        parts.append(np.asarray(function(*padded))[: len(pieces[0])])
    return np.concatenate(parts)


def _chunks(queries: int, search: GallerySearch) -> Iterator[tuple[int, np.ndarray, int]]:
    """This process's chunks: the place of the first query, rows int [q'], and queries at once.

    Places beyond the last query, of processes that have fewer, are that query again.
    """
    share = -(-queries // jax.process_count())
    first = jax.process_index() * share
    block = query_block(share, search.mesh)
    fitting = min(_SCORE_BYTES // (4 * len(search.gallery)), _CHUNK_QUERIES)
    size = max(fitting // block, 1) * block
    for start in range(first, first + share, size):
        places = np.arange(start, min(start + size, first + share))
        yield start, np.minimum(places, queries - 1), block


def _gather_rows(parts: Sequence[np.ndarray], count: int) -> np.ndarray:
    """The first `count` rows of all processes' parts, each its own in order, side by side."""
    rows = _gather(np.concatenate(parts))
    return rows.reshape(-1, *rows.shape[2:])[:count]


def _gather(array: np.ndarray) -> np.ndarray:
    """The arrays of all processes, [processes, ...], without losing digits."""
    if jax.process_count() == 1:
        return array[None]
    bits = np.ascontiguousarray(array).view(np.uint32)  # JAX would make float64 float32
    gathered = np.asarray(multihost_utils.process_allgather(bits))
    return gathered.view(array.dtype).reshape(-1, *array.shape)


def _stack_positives(positives: np.ndarray, others: np.ndarray | None) -> np.ndarray:
    """int32 [s, q, p]: the sets of positives, padded with -1 to one width, at least 1."""
    sets = [positives] if others is None else [positives, others]
    width = max(1, *(rows.shape[1] for rows in sets))
    padded = [
        np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=-1) for rows in sets
    ]
    return np.stack(padded).astype(np.int32)


def merge_rankings(
    parts: Sequence[tuple[RankingResult, np.ndarray, np.ndarray]], q: int
) -> RankingResult:
    """Merges the rankings of groups of queries, each against a part of a gallery.

    Args:
      parts: a ranking, int [q'] the places of its queries, int [g'] its gallery's rows.
      q: number of queries in all; each is in one part, or in none and has no positives.

    Returns:
      Ranks count within each query's part of the gallery. `indices` are rows of the whole
      gallery, -1 (score -inf) where a part has fewer images than are listed.
    """

    def merge(arrays: Sequence[np.ndarray], fill: float) -> np.ndarray:
        width = max(array.shape[1] for array in arrays)
        merged = np.full((q, width), fill, arrays[0].dtype)
        for array, (_, queries, _) in zip(arrays, parts, strict=True):
            merged[queries, : array.shape[1]] = array
        return merged

    others = [part.other_ranks for part, _, _ in parts if part.other_ranks is not None]
    of_items = [part.item_ranks for part, _, _ in parts if part.item_ranks is not None]
    return RankingResult(
        indices=merge([gallery[part.indices] for part, _, gallery in parts], -1),
        scores=merge([part.scores for part, _, _ in parts], -np.inf),
        ranks=merge([part.ranks for part, _, _ in parts], 0),
        other_ranks=merge(others, 0) if others else None,
        item_ranks=merge(of_items, 0) if of_items else None,
    )
