"""Every query against the whole gallery, in blocks over the mesh."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from grnet_jax import models
from grnet_jax.mesh import check_divisible, place_replicated, replicated, sharded, split_rows
from grnet_jax.metrics import positive_ranks
from grnet_jax.models import Features, Scoring

_PLAIN = Scoring()
_positive_ranks = jax.jit(positive_ranks)


@dataclasses.dataclass(frozen=True)
class Ranking:
    """What ranking found, queries in the order given.

    Attributes:
      ranks: int32 [q, p], ranks of each query's positives from 1, padded with 0.
      top_rows: int32 [q, k], the gallery rows that score highest, best first.
      top_scores: float32 [q, k], their scores.
      other_ranks: as `ranks`, of the other positives that were asked for; None for none.
    """

    ranks: np.ndarray
    top_rows: np.ndarray
    top_scores: np.ndarray
    other_ranks: np.ndarray | None = None


def make_score(
    matcher: nn.Module, mesh: Mesh, scoring: Scoring = _PLAIN
) -> Callable[[Any, Features, Features], jax.Array]:
    """(prepared, query, gallery) -> scores, jitted: each device scores its share of the queries.

    The gallery and the result are whole on every device.
    """

    def score(prepared: Any, query: Features, gallery: Features) -> jax.Array:
        return models.score_prepared(matcher, prepared, query, gallery, scoring)

    return jax.jit(
        split_rows(score, mesh, rows=1),
        in_shardings=(replicated(mesh), sharded(mesh), replicated(mesh)),
        out_shardings=replicated(mesh),
    )


def prepare_score(matcher: nn.Module, variables: Any, mesh: Mesh, scoring: Scoring = _PLAIN) -> Any:
    """What the function of `make_score` takes first, on every device; once a model."""
    return place_replicated(models.prepare(matcher, variables, scoring), mesh)


def score_blocks(
    score: Callable[[Any, Features, Features], jax.Array],
    prepared: Any,
    query: Features,
    gallery: Features,
    *,
    query_block: int,
    gallery_block: int,
    mesh: Mesh,
) -> Iterator[tuple[int, np.ndarray]]:
    """Scores of all pairs, one block of queries after the other.

    All blocks have one shape, so that one compiled program scores a query against a photo
    the same way wherever they stand; the padding is cut off.

    Args:
      score: of `make_score`.
      prepared: of `prepare_score`.
      query: features of q queries (numpy leaves).
      gallery: features of g gallery photos.
      query_block: queries scored at once, a multiple of the number of devices.
      gallery_block: gallery photos scored at once.
      mesh: the devices.

    Yields:
      The number of the block's first query, and float32 [up to query_block, g].
    """
    check_divisible(query_block, mesh, "eval.query_block")
    q, g = len(query.descriptor), len(gallery.descriptor)
    gallery_block = min(gallery_block, g)
    blocks = [
        place_replicated(_block(gallery, start, gallery_block), mesh)
        for start in range(0, g, gallery_block)
    ]
    for start in range(0, q, query_block):
        rows = _place_rows(_block(query, start, query_block), mesh)
        parts = [np.asarray(score(prepared, rows, block)) for block in blocks]
        yield start, np.concatenate(parts, axis=1)[: q - start, :g]


def rank_all(
    score: Callable[[Any, Features, Features], jax.Array],
    prepared: Any,
    query: Features,
    gallery: Features,
    positives: np.ndarray,
    *,
    query_block: int,
    gallery_block: int,
    top: int,
    mesh: Mesh,
    other_positives: np.ndarray | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> Ranking:
    """Ranks every query's positives among the whole gallery.

    Args:
      score: of `make_score`.
      prepared: of `prepare_score`.
      query: features of q queries (numpy leaves).
      gallery: features of g gallery photos.
      positives: int [q, p], the gallery rows of each query's positives, padded with -1.
      query_block: queries scored at once, a multiple of the number of devices.
      gallery_block: gallery photos scored at once.
      top: how many of the best gallery rows to keep.
      mesh: the devices.
      other_positives: as positives, to be ranked beside them.
      progress: told the number of queries after every block.
    """
    ranks: list[np.ndarray] = []
    other_ranks: list[np.ndarray] = []
    top_rows, top_scores = [], []
    blocks = score_blocks(
        score,
        prepared,
        query,
        gallery,
        query_block=query_block,
        gallery_block=gallery_block,
        mesh=mesh,
    )
    for start, scores in blocks:
        count, found = scores.shape
        full = _pad(scores, query_block, 0)
        for wanted, found_ranks in ((positives, ranks), (other_positives, other_ranks)):
            if wanted is not None:
                block = _pad(wanted[start : start + query_block], query_block, -1)
                found_ranks.append(np.asarray(_positive_ranks(full, block))[:count])
        best_scores, best_rows = jax.lax.top_k(jnp.asarray(full), min(top, found))
        top_rows.append(np.asarray(best_rows)[:count])
        top_scores.append(np.asarray(best_scores)[:count])
        progress(count)
    return Ranking(
        np.concatenate(ranks),
        np.concatenate(top_rows),
        np.concatenate(top_scores),
        np.concatenate(other_ranks) if other_ranks else None,
    )


def merge_rankings(parts: Sequence[tuple[Ranking, np.ndarray, np.ndarray]], q: int) -> Ranking:
    """One ranking of q queries from those of groups of queries, each against a part of a gallery.

    Args:
      parts: a ranking, int [q'] the places of its queries, int [g'] its gallery's rows.
      q: number of queries in all; each is in one part, or in none and has no positives.

    Returns:
      Ranks count within each query's part of the gallery. `top_rows` are rows of the whole
      gallery, -1 (score -inf) where a part has fewer photos than are kept.
    """

    def merge(arrays: Sequence[np.ndarray], fill: float) -> np.ndarray:
        width = max(array.shape[1] for array in arrays)
        merged = np.full((q, width), fill, arrays[0].dtype)
        for array, (_, queries, _) in zip(arrays, parts, strict=True):
            merged[queries, : array.shape[1]] = array
        return merged

    others = [part.other_ranks for part, _, _ in parts if part.other_ranks is not None]
    return Ranking(
        merge([part.ranks for part, _, _ in parts], 0),
        merge([gallery[part.top_rows] for part, _, gallery in parts], -1),
        merge([part.top_scores for part, _, _ in parts], -np.inf),
        merge(others, 0) if others else None,
    )


def _place_rows(features: Features, mesh: Mesh) -> Features:
    """Whole numpy features, the same on every host, shared over the mesh by their rows."""

    def place(leaf: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(leaf.shape, sharded(mesh), lambda index: leaf[index])

    return jax.tree.map(place, features)


def _block(features: Features, start: int, size: int) -> Features:
    """Rows from `start`, `size` of them, filled up with zeros at the end."""
    return jax.tree.map(lambda leaf: _pad(leaf[start : start + size], size, 0), features)


def _pad(rows: np.ndarray, size: int, value: int) -> np.ndarray:
    missing = size - len(rows)
    if not missing:
        return rows
    return np.concatenate([rows, np.full((missing, *rows.shape[1:]), value, rows.dtype)])
