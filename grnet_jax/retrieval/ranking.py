"""Every query against the whole gallery, in blocks over the mesh.

The gallery is read once for as many queries as the devices hold, so that memory does not grow
with it, and ranks are counted, not sorted: first each query is scored against its own positives,
then the gallery passes by, and the photos that score as high as each positive are counted.

The queries of a block are shared by the devices, and every process reads the whole gallery: no
sums cross the machines, a pair's score does not depend on how many there are beside the size of a
device's share, and reading is cheap beside scoring (a photo of the paper's size is 48 KB in
float16, and takes 0.24 GFLOP for every query).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from grnet_jax import models
from grnet_jax.metrics import CalibrationSums, add_sums, ranks_from_ahead
from grnet_jax.models import Features, Scoring
from grnet_jax.retrieval.counting import (
    Score,
    Stream,
    held_parts,
    place_rows,
    stack_positives,
    warn_of_wobble,
)
from grnet_jax.retrieval.journal import Journal
from grnet_jax.retrieval.sources import FeatureSource, HeldFeatures, read_blocks
from grnet_jax.sharding import check_divisible, place_replicated, replicated, sharded, split_rows

_PLAIN = Scoring()


@dataclasses.dataclass(frozen=True)
class Ranking:
    """What ranking found, queries in the order given.

    Attributes:
      ranks: int32 [q, p], ranks of each query's positives from 1, padded with 0.
      top_rows: int32 [q, k], the gallery rows that score highest, best first; -1 where there
        are no more.
      top_scores: float32 [q, k], their scores.
      other_ranks: as `ranks`, of the other positives that were asked for; None for none.
      calibration: sums over all pairs of queries and gallery photos; None unless asked for.
    """

    ranks: np.ndarray
    top_rows: np.ndarray
    top_scores: np.ndarray
    other_ranks: np.ndarray | None = None
    calibration: CalibrationSums | None = None


def make_score(matcher: nn.Module, mesh: Mesh, scoring: Scoring = _PLAIN) -> Score:
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
    score: Score,
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
    gallery_block = min(gallery_block, len(gallery.descriptor))
    blocks = [
        (place_replicated(block, mesh), count)
        for _, count, block in read_blocks(HeldFeatures(gallery), gallery_block)
    ]
    for start, count, block in read_blocks(HeldFeatures(query), query_block):
        rows = place_rows(block, mesh)
        parts = [np.asarray(score(prepared, rows, block))[:, :there] for block, there in blocks]
        yield start, np.concatenate(parts, axis=1)[:count]


def rank_all(
    score: Score,
    prepared: Any,
    query: FeatureSource,
    gallery: FeatureSource,
    positives: np.ndarray,
    *,
    query_block: int,
    gallery_block: int,
    top: int,
    mesh: Mesh,
    other_positives: np.ndarray | None = None,
    calibration_edges: np.ndarray | None = None,
    held_queries: int = 1024,
    journal: Journal | None = None,
    name: str = "ranking",
    progress: Callable[[int, bool], object] = lambda *_: None,
) -> Ranking:
    """Ranks every query's positives among the whole gallery.

    Args:
      score: of `make_score`.
      prepared: of `prepare_score`.
      query: features of q queries.
      gallery: features of g > 0 gallery photos.
      positives: int [q, p], the gallery rows of each query's positives, padded with -1.
      query_block: queries scored at once, a multiple of the number of devices.
      gallery_block: gallery photos scored at once.
      top: how many of the best gallery rows to keep; of equal scores the lower row is the better.
      mesh: the devices.
      other_positives: as positives, to be ranked beside them.
      calibration_edges: scores between bins, [b - 1], for the sums of `metrics.calibration_sums`
        with `positives` as the pairs that show the same item; None for none.
      held_queries: queries on the devices at once; the gallery is read once for each so many.
      journal: keeps what was counted, and has what an earlier call counted.
      name: of this ranking in the journal.
      progress: told after every block of the gallery how many pairs were scored, and whether that
        was in the earlier call.
    """
    check_divisible(query_block, mesh, "eval.query_block")
    wanted = stack_positives(positives, other_positives)
    gallery_block = min(gallery_block, len(gallery))
    stream = Stream(
        score, prepared, gallery, query_block, gallery_block, min(top, len(gallery)), mesh,
        calibration_edges, journal or Journal(), progress,
    )  # fmt: skip
    parts = []
    sums = []
    for rows in held_parts(len(query), held_queries, query_block):
        part, pairs = stream.count(query.take(rows), wanted[:, rows], f"{name}-{rows[0]}")
        parts.append(part)
        sums.append(pairs)
    found = {key: np.concatenate([part[key] for part in parts], axis=-2) for key in parts[0]}
    warn_of_wobble(found, wanted)
    ranks = [
        np.asarray(ranks_from_ahead(*pair)) for pair in zip(found["ahead"], wanted, strict=True)
    ]
    return Ranking(
        ranks[0][:, : positives.shape[1]],
        found["top_rows"],
        found["top_scores"],
        None if other_positives is None else ranks[1],
        None if calibration_edges is None else functools.reduce(add_sums, sums),
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

    sums = [part.calibration for part, _, _ in parts if part.calibration is not None]
    others = [part.other_ranks for part, _, _ in parts if part.other_ranks is not None]
    return Ranking(
        merge([part.ranks for part, _, _ in parts], 0),
        merge(
            [np.where(part.top_rows < 0, -1, gallery[part.top_rows]) for part, _, gallery in parts],
            -1,
        ),
        merge([part.top_scores for part, _, _ in parts], -np.inf),
        merge(others, 0) if others else None,
        functools.reduce(add_sums, sums) if sums else None,
    )
