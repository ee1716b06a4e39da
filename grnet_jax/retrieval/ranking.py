"""Every query against the whole gallery, in blocks over the mesh."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from grnet_jax import models
from grnet_jax.mesh import check_divisible, place_replicated, replicated, sharded
from grnet_jax.metrics import positive_ranks
from grnet_jax.models import Features

_positive_ranks = jax.jit(positive_ranks)


@dataclasses.dataclass(frozen=True)
class Ranking:
    """What ranking found, queries in the order given.

    Attributes:
      ranks: int32 [q, p], ranks of each query's positives from 1, padded with 0.
      top_rows: int32 [q, k], the gallery rows that score highest, best first.
      top_scores: float32 [q, k], their scores.
    """

    ranks: np.ndarray
    top_rows: np.ndarray
    top_scores: np.ndarray


def make_score(matcher: nn.Module, mesh: Mesh) -> Callable[[Any, Features, Features], jax.Array]:
    """The matcher's `score`, jitted: queries shared by the devices, gallery and result whole."""

    def score(variables: Any, query: Features, gallery: Features) -> jax.Array:
        return models.score(matcher, variables, query, gallery)

    return jax.jit(
        score,
        in_shardings=(replicated(mesh), sharded(mesh), replicated(mesh)),
        out_shardings=replicated(mesh),
    )


def positive_rows(query_items: np.ndarray, gallery_items: np.ndarray) -> np.ndarray:
    """For each query the gallery rows with its item, int32 [q, p], padded with -1; p >= 1."""
    order = np.argsort(gallery_items, kind="stable")
    ordered = gallery_items[order]
    first = np.searchsorted(ordered, query_items, side="left")
    last = np.searchsorted(ordered, query_items, side="right")
    width = max(int((last - first).max(initial=1)), 1)
    columns = first[:, None] + np.arange(width)[None, :]
    inside = columns < last[:, None]
    rows = order[np.minimum(columns, len(order) - 1)]
    return np.where(inside, rows, -1).astype(np.int32)


def score_blocks(
    score: Callable[[Any, Features, Features], jax.Array],
    variables: Any,
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
      variables: the matcher's.
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
        parts = [np.asarray(score(variables, rows, block)) for block in blocks]
        yield start, np.concatenate(parts, axis=1)[: q - start, :g]


def rank_all(
    score: Callable[[Any, Features, Features], jax.Array],
    variables: Any,
    query: Features,
    gallery: Features,
    positives: np.ndarray,
    *,
    query_block: int,
    gallery_block: int,
    top: int,
    mesh: Mesh,
    progress: Callable[[int], object] = lambda _: None,
) -> Ranking:
    """Ranks every query's positives among the whole gallery.

    Args:
      score: of `make_score`.
      variables: the matcher's.
      query: features of q queries (numpy leaves).
      gallery: features of g gallery photos.
      positives: of `positive_rows`.
      query_block: queries scored at once, a multiple of the number of devices.
      gallery_block: gallery photos scored at once.
      top: how many of the best gallery rows to keep.
      mesh: the devices.
      progress: told the number of queries after every block.
    """
    ranks, top_rows, top_scores = [], [], []
    blocks = score_blocks(
        score,
        variables,
        query,
        gallery,
        query_block=query_block,
        gallery_block=gallery_block,
        mesh=mesh,
    )
    for start, scores in blocks:
        count, found = scores.shape
        full = _pad(scores, query_block, 0)
        wanted = _pad(positives[start : start + query_block], query_block, -1)
        ranks.append(np.asarray(_positive_ranks(full, wanted))[:count])
        best_scores, best_rows = jax.lax.top_k(jnp.asarray(full), min(top, found))
        top_rows.append(np.asarray(best_rows)[:count])
        top_scores.append(np.asarray(best_scores)[:count])
        progress(count)
    return Ranking(np.concatenate(ranks), np.concatenate(top_rows), np.concatenate(top_scores))


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
