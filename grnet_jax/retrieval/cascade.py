"""A cascade: descriptors choose each query's shortlist, the matcher's score orders it.

The first stage ranks the whole gallery by inner products of descriptors, as `rank_all` does with
scores. The second scores every query against its own shortlist, whose photos are read at random.
Behind the shortlist stands the rest of the gallery in the descriptors' order, so that ranks are
those of one order of the whole gallery, and compare with exhaustive ones.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from grnet_jax import models
from grnet_jax.errors import InputError, check_at_least
from grnet_jax.metrics import count_ahead, positive_ranks
from grnet_jax.models import Features, Scoring
from grnet_jax.retrieval.counting import (
    NO_ROW,
    Score,
    Stream,
    held_parts,
    place_rows,
    stack_positives,
    warn_of_wobble,
)
from grnet_jax.retrieval.journal import Journal
from grnet_jax.retrieval.ranking import Ranking
from grnet_jax.retrieval.sources import Distinct, FeatureSource, HeldFeatures, Part, read_blocks
from grnet_jax.sharding import check_divisible, place_batch, replicated, sharded, split_rows

# Gallery photos whose descriptors pass at once: a product is so little work that small blocks would
# mostly wait for the next one.
_DESCRIPTOR_BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class Shortlist:
    """How long a shortlist is, and how exactly it is chosen; fields of `config.eval`.

    Attributes:
      size: gallery photos that the matcher scores for a query; 0 for the whole gallery.
      recall: of the photos that descriptors rank highest, the share that is aimed at; 1 for all.
    """

    size: int = 0
    recall: float = 1.0


def make_shortlist(evaluation: Any, matcher: nn.Module) -> Shortlist:
    """The shortlist that `config.eval` describes, for this matcher.

    Raises:
      InputError: naming the field that cannot be, or where a shortlist changes nothing.
    """
    size, recall = evaluation.shortlist, evaluation.shortlist_recall
    check_at_least("eval.shortlist", size, 0)
    if not 0 < recall <= 1:
        raise InputError(f"eval.shortlist_recall: expected more than 0, up to 1, got {recall}")
    if recall < 1 and not size:
        raise InputError(f"eval.shortlist_recall={recall}: changes nothing without eval.shortlist")
    if size and models.scores_by_descriptor(matcher):
        raise InputError(
            f"eval.shortlist={size}: this matcher's score is the inner product of descriptors, so "
            "that both stages of the cascade are one and a shortlist changes nothing: set it to 0"
        )
    return Shortlist(size, recall)


@dataclasses.dataclass(frozen=True)
class CascadeScores:
    """The two stages' scores, jitted.

    Attributes:
      descriptors: inner products, as `make_score` makes the matcher's own.
      own: (prepared, (query [q, ...], gallery [q, n, ...])) -> the matcher's scores [q, n] of each
        query and its own gallery photos.
    """

    descriptors: Score
    own: Callable[[Any, tuple[Features, Features]], jax.Array]


def make_cascade_scores(matcher: nn.Module, mesh: Mesh, scoring: Scoring) -> CascadeScores:
    """Both stages' scores: each device computes its share of the queries."""

    def descriptors(_: Any, query: Features, gallery: Features) -> jax.Array:
        return models.inner_products(query, gallery)

    def own(prepared: Any, pairs: tuple[Features, Features]) -> jax.Array:
        def one(pair: tuple[Features, Features]) -> jax.Array:
            query = jax.tree.map(lambda leaf: leaf[None], pair[0])
            return models.score_prepared(matcher, prepared, query, pair[1], scoring)[0]

        return jax.lax.map(one, pairs)

    whole, shared = replicated(mesh), sharded(mesh)
    return CascadeScores(
        jax.jit(
            split_rows(descriptors, mesh, rows=1),
            in_shardings=(whole, shared, whole),
            out_shardings=whole,
        ),
        jax.jit(split_rows(own, mesh, rows=1), in_shardings=(whole, shared), out_shardings=whole),
    )


def rank_cascade(
    scores: CascadeScores,
    prepared: Any,
    query: FeatureSource,
    gallery: FeatureSource,
    positives: np.ndarray,
    *,
    shortlist: Shortlist,
    query_block: int,
    gallery_block: int,
    top: int,
    mesh: Mesh,
    other_positives: np.ndarray | None = None,
    held_queries: int = 1024,
    journal: Journal | None = None,
    name: str = "cascade",
    shortlisted: Callable[[int, bool], object] = lambda *_: None,
    progress: Callable[[int, bool], object] = lambda *_: None,
) -> Ranking:
    """Ranks every query's positives: its shortlist by score, behind it the rest by descriptors.

    Args:
      scores: of `make_cascade_scores`.
      prepared: of `prepare_score`.
      query: features of q queries.
      gallery: features of g > 0 gallery photos.
      positives: int [q, p], the gallery rows of each query's positives, padded with -1.
      shortlist: its size is positive; where the gallery has fewer photos, it is all of them.
      query_block: queries scored at once, a multiple of the number of devices.
      gallery_block: photos of each of these queries' shortlists scored at once, at most.
      top: how many of the best gallery rows to keep, at most the shortlist's size; of equal scores
        the lower row is the better.
      mesh: the devices.
      other_positives: as positives, to be ranked beside them.
      held_queries: queries on the devices at once; descriptors are read once for each so many.
      journal: keeps what was found, and has what an earlier call found.
      name: of this ranking in the journal.
      shortlisted: told how many pairs' descriptors were compared, and whether by an earlier call.
      progress: told how many pairs were scored, likewise.
    """
    check_divisible(query_block, mesh, "eval.query_block")
    journal = journal or Journal()
    wanted = stack_positives(positives, other_positives)
    size = min(shortlist.size, len(gallery))
    block = min(max(gallery_block, _DESCRIPTOR_BLOCK), len(gallery))
    stream = Stream(
        scores.descriptors, (), gallery.descriptors(), query_block, block, size, mesh,
        None, journal, shortlisted, shortlist.recall,
    )  # fmt: skip
    second = _SecondStage(
        scores.own, prepared, gallery, query_block, gallery_block, mesh, journal, progress
    )
    parts = []
    for rows in held_parts(len(query), held_queries, query_block):
        part = f"{name}-{rows[0]}"
        found = journal.find(part)
        if found is None:
            features = query.take(rows)
            chosen, _ = stream.count(
                Features(features.descriptor), wanted[:, rows], f"{part}-shortlist"
            )
            warn_of_wobble(chosen, wanted[:, rows])
            again = second.score(features, chosen["top_rows"], f"{part}-scores")
            found = _place(chosen, again, wanted[:, rows], top)
            for stage in ("shortlist", "scores"):
                journal.drop(f"{part}-{stage}")
            journal.keep(part, functools.partial(dict, found), last=True)
        else:
            shortlisted(len(rows) * len(gallery), True)
            progress(len(rows) * size, True)
        parts.append(found)
    ranks, rows, best = (
        np.concatenate([part[key] for part in parts], axis=-2)
        for key in ("ranks", "top_rows", "top_scores")
    )
    others = None if other_positives is None else ranks[1]
    return Ranking(ranks[0][:, : positives.shape[1]], rows, best, others)


class _SecondStage:
    """Scores each query against its own shortlist, many queries and a part of each list at once."""

    def __init__(
        self,
        score: Callable[[Any, tuple[Features, Features]], jax.Array],
        prepared: Any,
        gallery: FeatureSource,
        query_block: int,
        gallery_block: int,
        mesh: Mesh,
        journal: Journal,
        progress: Callable[[int, bool], object],
    ):
        self._score = score
        self._prepared = prepared
        self._gallery = Distinct(gallery)
        self._query_block = query_block
        self._gallery_block = gallery_block
        self._mesh = mesh
        self._journal = journal
        self._progress = progress

    def score(self, query: Features, lists: np.ndarray, name: str) -> np.ndarray:
        """Scores of each query's photos, float32 [q, n].

        Args:
          query: features of q queries.
          lists: int [q, n], rows of the gallery; NO_ROW for none, whose score means nothing.
          name: in the journal.
        """
        q, n = lists.shape
        kept = self._journal.find(name)
        scores = np.empty((0, n), np.float32) if kept is None else kept["scores"]
        self._progress(len(scores) * n, True)
        if len(scores) == q:  # a kill after the last block, before the part was written
            return scores
        width, order = self._reading_order(np.where(lists == NO_ROW, 0, lists), len(scores))
        share = self._query_block // jax.process_count()
        photos = read_blocks(Part(self._gallery, order), share * width)
        for start, count, block in read_blocks(HeldFeatures(query), self._query_block, len(scores)):
            rows = place_rows(block, self._mesh)
            parts: list[jax.Array] = []
            for _ in range(-(-n // width)):
                features = jax.tree.map(
                    lambda leaf: leaf.reshape(share, width, *leaf.shape[1:]), next(photos)[2]
                )
                # One part at a time is on its way: else all of the shortlists would be.
                jax.block_until_ready(parts[-1:])
                parts.append(self._score(self._prepared, (rows, place_batch(features, self._mesh))))
            of_block = np.concatenate([np.asarray(part) for part in parts], axis=1)
            scores = np.concatenate([scores, of_block[:count, :n]])
            self._progress(count * n, False)
            self._journal.keep(
                name, functools.partial(dict, scores=scores), last=start + count == q
            )
        return scores

    def _reading_order(self, lists: np.ndarray, first: int) -> tuple[int, np.ndarray]:
        """How many photos of a list are scored at once, and all rows in the order of reading.

        Blocks of queries from the one at `first` on; for each of them parts of the lists; for each
        of them this process's queries. What fills up blocks and parts is the gallery's first row.
        """
        q, n = lists.shape
        parts = -(-n // self._gallery_block)
        width = -(-n // parts)  # parts as full as their number allows
        blocks = -(-(q - first) // self._query_block)
        padded = np.zeros((blocks * self._query_block, parts * width), lists.dtype)
        padded[: q - first, :n] = lists[first:]
        shared = padded.reshape(blocks, jax.process_count(), -1, parts, width)
        return width, shared[:, jax.process_index()].swapaxes(1, 2).reshape(-1)


def _place(
    chosen: Mapping[str, np.ndarray], scores: np.ndarray, positives: np.ndarray, top: int
) -> dict[str, np.ndarray]:
    """Ranks and the best rows of the order that both stages give.

    Args:
      chosen: the fields of `Counts` by descriptors; `top_rows` are the shortlists.
      scores: [q, n] of the shortlists.
      positives: int [s, q, p].
      top: how many rows to keep.

    Returns:
      "ranks" int32 [s, q, p], in order with 0 behind them; "top_rows" and "top_scores".
    """
    listed = chosen["top_rows"]
    there = listed != NO_ROW
    ranks = [
        _ranks(listed, there, chosen["top_scores"], scores, rows, placed, ahead)
        for rows, placed, ahead in zip(positives, chosen["placed"], chosen["ahead"], strict=True)
    ]
    keys = np.where(there, np.where(np.isnan(scores), np.inf, scores), -np.inf)
    best = np.lexsort((listed, -keys), axis=1)[:, :top]
    rows, ours = (np.take_along_axis(array, best, axis=1) for array in (listed, scores))
    absent = rows == NO_ROW
    return {
        "ranks": np.stack(ranks),
        "top_rows": np.where(absent, -1, rows),
        "top_scores": np.where(absent, -np.inf, ours).astype(np.float32),
    }


def _ranks(
    listed: np.ndarray,
    there: np.ndarray,
    products: np.ndarray,
    scores: np.ndarray,
    positives: np.ndarray,
    placed: np.ndarray,
    ahead: np.ndarray,
) -> np.ndarray:
    """int32 [q, p], ranks of positives in order, 0 behind them.

    Args:
      listed: int [q, n], the shortlists.
      there: bool [q, n], which of them hold a row.
      products: [q, n], their descriptors' inner products.
      scores: [q, n], their scores.
      positives: int [q, p], padded with -1.
      placed: [q, p], the positives' inner products.
      ahead: int [q, p], negatives of the gallery whose product is as high as each positive's or
        higher, positives with the highest product first.
    """
    same = positives[:, :, None] == np.where(there, listed, -2)[:, None, :]  # [q, p, n]
    columns = np.where(same.any(axis=2), same.argmax(axis=2), -1)
    inside = np.asarray(positive_ranks(scores, columns, there))

    # As `sort_own`; positives that are listed or padding stand last here and are cut off.
    own = np.where((positives >= 0) & ~np.isnan(placed), placed, -np.inf)
    of_positive = np.empty_like(ahead)
    np.put_along_axis(of_positive, np.argsort(-own, axis=1, kind="stable"), ahead, axis=1)
    # Negatives that are not listed, and positives that are not and stand before it.
    behind = of_positive - np.asarray(count_ahead(products, own, columns, there))
    outside = (positives >= 0) & (columns < 0)
    order = np.lexsort((-own, ~outside), axis=1)
    before = np.empty_like(order)
    np.put_along_axis(before, order, np.arange(order.shape[1])[None, :], axis=1)
    rest = np.where(outside, there.sum(axis=1, keepdims=True) + 1 + behind + before, 0)

    ranks = np.concatenate([inside, rest], axis=1)
    ordered = np.sort(np.where(ranks > 0, ranks, NO_ROW), axis=1)[:, : positives.shape[1]]
    return np.where(ordered == NO_ROW, 0, ordered).astype(np.int32)
