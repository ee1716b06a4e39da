"""Queries pass a gallery, block by block: what scores as high as each positive is counted.

Ranks are counted, not sorted: first each query is scored against its own positives, then the
gallery passes by once for as many queries as the devices hold, so that memory does not grow with
it.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh

from grnet_jax.mesh import place_replicated, sharded
from grnet_jax.metrics import (
    CalibrationSums,
    add_sums,
    calibration_sums,
    count_ahead,
    positive_mask,
    sort_own,
)
from grnet_jax.models import Features
from grnet_jax.retrieval.journal import Journal
from grnet_jax.retrieval.sources import FeatureSource, HeldFeatures, pad_rows, read_blocks

Score = Callable[[Any, Features, Features], jax.Array]
NO_ROW = np.iinfo(np.int32).max


class Counts(NamedTuple):
    """What is known of a block of queries after a part of the gallery, for s sets of positives.

    Attributes:
      own: float32 [s, q, p], scores of the positives, best first (`metrics.sort_own`).
      placed: float32 [s, q, p], the same in the order of the positives.
      ahead: int32 [s, q, p], negatives so far that score as high as `own` or higher.
      wobble: float32 [s, q, p], how far a positive's score was off when the gallery passed by.
      top_scores: float32 [q, k].
      top_rows: int32 [q, k]; NO_ROW where there were fewer photos so far.
    """

    own: Any
    placed: Any
    ahead: Any
    wobble: Any
    top_scores: Any
    top_rows: Any


class Stream:
    """Passes a gallery by blocks of queries.

    Args:
      score: (prepared, query, gallery) -> scores [q, g], jitted.
      prepared: what `score` takes first.
      gallery: features of g > 0 photos.
      query_block: queries scored at once.
      gallery_block: gallery photos scored at once.
      top: how many of the best gallery rows to keep for each query, at most g.
      mesh: the devices.
      calibration_edges: between bins, [b - 1]; None for no sums over pairs.
      journal: keeps what was counted.
      progress: told after every block how many pairs were scored, and whether that was earlier.
      recall: of the best rows, the share that is aimed at; 1 for all, exactly.
    """

    def __init__(
        self,
        score: Score,
        prepared: Any,
        gallery: FeatureSource,
        query_block: int,
        gallery_block: int,
        top: int,
        mesh: Mesh,
        calibration_edges: np.ndarray | None,
        journal: Journal,
        progress: Callable[[int, bool], object],
        recall: float = 1.0,
    ):
        self._score = score
        self._prepared = prepared
        self._gallery = gallery
        self._query_block = query_block
        self._gallery_block = gallery_block
        self._top = top
        self._mesh = mesh
        self._edges = calibration_edges
        self._journal = journal
        self._progress = progress
        self._add = functools.partial(_add, recall=recall)

    def count(
        self, query: Features, positives: np.ndarray, name: str
    ) -> tuple[dict[str, np.ndarray], CalibrationSums]:
        """The fields of `Counts`, and the sums over all pairs, after all photos.

        Args:
          query: features of q queries.
          positives: int [s, q, p].
          name: in the journal.
        """
        total = len(query.descriptor)
        read = list(read_blocks(HeldFeatures(query), self._query_block))
        blocks = [place_rows(block, self._mesh) for _, _, block in read]
        wanted = [
            place_replicated(_pad_positives(positives[:, start : start + n], self._query_block),
                             self._mesh)
            for start, n, _ in read
        ]  # fmt: skip
        kept = self._journal.find(name)
        if kept is None:
            first, counts = 0, list(map(self._start, blocks, wanted))
            pairs = _PairSums(self._edges)
        else:
            first = int(kept["position"])
            counts = self._place(kept, len(blocks))
            pairs = _PairSums(self._edges, kept["calibration"])
            self._progress(first * total, True)
        sizes = [n for _, n, _ in read]
        del read, query
        for start, there, photos in read_blocks(self._gallery, self._gallery_block, first):
            block = place_replicated(photos, self._mesh)
            before = counts
            counts = []
            found = []
            of_block = np.int32(start), np.int32(there)
            for n, rows, own_rows, count in zip(sizes, blocks, wanted, before, strict=True):
                scores = self._score(self._prepared, rows, block)
                counts.append(self._add(count, scores, own_rows, *of_block))
                if self._edges is not None:
                    found.append(
                        _block_calibration(scores, own_rows[0], self._edges, np.int32(n), *of_block)
                    )
            # One block at a time is on its way: else all of the gallery would be.
            jax.block_until_ready(before)
            pairs.add(found)
            self._progress(there * total, False)
            position = start + there
            self._journal.keep(
                name,
                functools.partial(self._fetch, counts, pairs, position),
                last=position == len(self._gallery),
            )
        fetched = self._fetch(counts, pairs, len(self._gallery))
        of_queries = {key: fetched[key][..., :total, :] for key in Counts._fields}
        return of_queries, CalibrationSums(*fetched["calibration"])

    def _start(self, rows: Features, wanted: jax.Array) -> Counts:
        """The counts before the first photo, with the scores of the positives."""
        positives = np.asarray(wanted)
        sets, queries, _ = positives.shape
        unique = np.unique(positives[positives >= 0])
        scores = np.zeros((queries, max(len(unique), 1)), np.float32)
        for start in range(0, len(unique), self._gallery_block):
            chosen = unique[start : start + self._gallery_block]
            photos = pad_rows(self._gallery.take(chosen), self._gallery_block)
            # The program that scores the gallery, at its shape: the same numbers to the last bit.
            found = self._score(self._prepared, rows, place_replicated(photos, self._mesh))
            scores[:, start : start + len(chosen)] = np.asarray(found)[:, : len(chosen)]
        places = np.minimum(np.searchsorted(unique, positives), max(len(unique) - 1, 0))
        placed = np.take_along_axis(np.broadcast_to(scores, (sets, *scores.shape)), places, axis=2)
        own = np.stack(
            [np.asarray(sort_own(*pair)) for pair in zip(placed, positives, strict=True)]
        )
        counts = Counts(
            own=own,
            placed=placed,
            ahead=np.zeros(positives.shape, np.int32),
            wobble=np.zeros(positives.shape, np.float32),
            top_scores=np.full((queries, self._top), -np.inf, np.float32),
            top_rows=np.full((queries, self._top), NO_ROW, np.int32),
        )
        return place_replicated(counts, self._mesh)

    def _fetch(
        self, counts: Sequence[Counts], pairs: "_PairSums", position: int
    ) -> dict[str, np.ndarray]:
        """The counts of all blocks side by side, and the sums, as the journal keeps them."""
        arrays = {
            key: np.concatenate([np.asarray(getattr(count, key)) for count in counts], axis=-2)
            for key in Counts._fields
        }
        return arrays | {"calibration": pairs.fetch(), "position": np.array(position)}

    def _place(self, kept: Any, blocks: int) -> list[Counts]:
        """Back from `_fetch`."""
        split = {key: np.split(kept[key], blocks, axis=-2) for key in Counts._fields}
        return [
            place_replicated(Counts(**{key: split[key][i] for key in split}), self._mesh)
            for i in range(blocks)
        ]


class _PairSums:
    """Sums over pairs, added up in float64 on the host: a gallery is too long for float32.

    Args:
      edges: of the bins; None for no bins.
      kept: of `fetch`, to go on from.
    """

    def __init__(self, edges: np.ndarray | None, kept: np.ndarray | None = None):
        bins = 0 if edges is None else len(edges) + 1
        self._sums = np.zeros((len(CalibrationSums._fields), bins)) if kept is None else kept
        self._waiting: list[CalibrationSums] = []

    def add(self, found: list[CalibrationSums]) -> None:
        """Adds what the devices may still be working on, and waits for what was added before."""
        self._sums, self._waiting = self.fetch(), found

    def fetch(self) -> np.ndarray:
        """float64 [5, b]: the fields of `CalibrationSums`, of all that was added."""
        return np.array(functools.reduce(add_sums, self._waiting, CalibrationSums(*self._sums)))


@functools.partial(jax.jit, static_argnames="recall")
def _add(
    counts: Counts,
    scores: jax.Array,
    positives: jax.Array,
    first: jax.Array,
    there: jax.Array,
    recall: float,
) -> Counts:
    """The counts after one more block.

    Args:
      counts: before it.
      scores: [q, g] of the block.
      positives: int32 [s, q, p], rows of the gallery.
      first: row of the block's first photo.
      there: photos in the block; padding follows.
      recall: of `Stream`.
    """
    scores = jnp.asarray(scores, jnp.float32)
    columns = jnp.arange(scores.shape[1], dtype=jnp.int32)
    places = jnp.where(positives >= first, positives - first, -1)
    ahead = jnp.stack(
        [
            count_ahead(scores, own, rows, columns < there)
            for own, rows in zip(counts.own, places, strict=True)
        ]
    )
    again = jnp.take_along_axis(scores[None], jnp.clip(places, 0, len(columns) - 1), axis=2)
    same = (again == counts.placed) | (jnp.isnan(again) & jnp.isnan(counts.placed))
    passed = (places >= 0) & (places < there) & ~same
    off = jnp.where(
        passed, jnp.nan_to_num(jnp.abs(again - counts.placed), nan=jnp.inf), counts.wobble
    )
    best = _best(counts, scores, first + columns, columns < there, recall)
    return counts._replace(ahead=counts.ahead + ahead, wobble=off, **best)


def _block_calibration(
    scores: jax.Array,
    positives: jax.Array,
    edges: np.ndarray,
    queries: np.int32,
    first: np.int32,
    there: np.int32,
) -> CalibrationSums:
    """Sums over the pairs of one block.

    Args:
      scores: [q, g] of the block.
      positives: int32 [q, p], rows of the gallery.
      edges: of the bins.
      queries: how many queries the block has; padding follows.
      first: row of the block's first photo.
      there: photos in the block; padding follows.
    """
    rows, columns = (np.arange(size) for size in scores.shape)
    real = (rows < queries)[:, None] & (columns < there)
    places = jnp.where(positives >= first, positives - first, -1)
    return calibration_sums(scores, positive_mask(places, len(columns)), edges, real)


def _best(
    counts: Counts, scores: jax.Array, rows: jax.Array, valid: jax.Array, recall: float
) -> dict[str, jax.Array]:
    """The best so far and these rows' scores, merged; no number comes first."""
    kept = counts.top_rows.shape[1]
    of = jnp.broadcast_to(jnp.where(valid, rows, NO_ROW), scores.shape)
    scores = jnp.where(valid, scores, -jnp.inf)
    if kept < scores.shape[1]:
        # Only the best of a block can be among the best. Of equal ones top_k takes the first.
        keys = jnp.where(jnp.isnan(scores), jnp.inf, scores)
        if recall < 1:
            _, places = jax.lax.approx_max_k(keys, kept, recall_target=recall)
        else:
            _, places = jax.lax.top_k(keys, kept)
        scores, of = (jnp.take_along_axis(array, places, axis=1) for array in (scores, of))
    together = jnp.concatenate([counts.top_scores, scores], axis=1)
    of = jnp.concatenate([counts.top_rows, of], axis=1)
    order = jnp.where(jnp.isnan(together), -jnp.inf, -together)
    _, of, together = jax.lax.sort((order, of, together), num_keys=2, dimension=1)
    return {"top_scores": together[:, :kept], "top_rows": of[:, :kept]}


def held_parts(queries: int, held: int, query_block: int) -> Iterator[np.ndarray]:
    """Numbers of queries that are on the devices at once, whole blocks of them, at least one."""
    held = max(held // query_block, 1) * query_block
    for first in range(0, queries, held):
        yield np.arange(first, min(first + held, queries))


def stack_positives(positives: np.ndarray, others: np.ndarray | None) -> np.ndarray:
    """int32 [s, q, p]: the sets of positives, padded with -1 to one width, at least 1."""
    sets = [positives] if others is None else [positives, others]
    width = max(1, *(rows.shape[1] for rows in sets))
    padded = [
        np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=-1) for rows in sets
    ]
    return np.stack(padded).astype(np.int32)


def _pad_positives(positives: np.ndarray, queries: int) -> np.ndarray:
    missing = queries - positives.shape[1]
    return np.pad(positives, ((0, 0), (0, missing), (0, 0)), constant_values=-1)


def warn_of_wobble(found: dict[str, np.ndarray], positives: np.ndarray) -> None:
    """Ranks by counting need a pair's score to be the same wherever the pair stands in a block."""
    off = found["wobble"] != 0
    if off.any():
        logging.warning(
            "%d of %d matches scored differently, by up to %.2g, at another place of a block: a "
            "gallery photo that scores within that of a match may be counted on either side of it.",
            off.sum(),
            (positives >= 0).sum(),
            found["wobble"].max(),
        )


def place_rows(features: Features, mesh: Mesh) -> Features:
    """Whole numpy features, the same on every host, shared over the mesh by their rows."""

    def place(leaf: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(leaf.shape, sharded(mesh), lambda index: leaf[index])

    return jax.tree.map(place, features)
