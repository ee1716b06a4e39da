"""A cascade: embeddings choose each query's shortlist, the matcher's score orders it.

The first stage compares embeddings of the whole gallery by their inner products. The second scores
every query against its own shortlist, whose images are read at random, and lifts these scores above
the products of the rest: ranks are those of one order of the whole gallery, and compare with
exhaustive ones.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from grnet_jax import models
from grnet_jax.models import Features
from grnet_jax.search.features import FeatureSource, InMemoryFeatures, read_ahead, read_blocks
from grnet_jax.search.ranking import (
    Progress,
    Score,
    SearchResult,
    ignore_progress,
    jit_rows,
    place_fused,
    score_matrix,
    top_k,
)
from grnet_jax.sharding import replicated, sharded, split_rows

_LIST_ROWS = 64  # of each query's shortlist, that are scored at once, at most
# Above every inner product; whole numbers from here to 2 ** 24 are exact in float32.
_LIFT = 2.0**20


@dataclasses.dataclass(frozen=True)
class CascadeScores:
    """The two stages' scores, compiled.

    Attributes:
      products: inner products of embeddings, [q, g].
      pairs: (query [q, ...], gallery [q, n, ...]) -> the matcher's scores [q, n] of each query and
        its own gallery images.
    """

    products: Score
    pairs: Score


@functools.lru_cache(maxsize=8)
def make_cascade_scores(
    matcher: nn.Module, mesh: Mesh, dtype: str = ""
) -> Callable[[Any], CascadeScores]:
    """Returns what binds both stages to variables; as `make_score`."""

    def products(_: Any, query: Features, gallery: Features) -> jax.Array:
        return models.inner_products(query, gallery)

    def pairs(fused: Any, each: tuple[Features, Features]) -> jax.Array:
        def one(pair: tuple[Features, Features]) -> jax.Array:
            query = jax.tree.map(lambda leaf: leaf[None], pair[0])
            return models.score_fused(matcher, fused, query, pair[1])[0]

        return jax.lax.map(one, each)

    jitted = jax.jit(
        split_rows(pairs, mesh, rows=1),
        in_shardings=(replicated(mesh), sharded(mesh)),
        out_shardings=sharded(mesh),
    )
    first = functools.partial(jit_rows(products, mesh), ())

    def bind(variables: Any) -> CascadeScores:
        fused = place_fused(matcher, variables, mesh, dtype)
        return CascadeScores(first, lambda query, gallery: jitted(fused, (query, gallery)))

    return bind


@dataclasses.dataclass(frozen=True)
class CascadeSearch:
    """Scores each query's shortlist; a `GallerySearch`.

    Attributes:
      scores: of `make_cascade_scores`, bound to a model's variables.
      gallery: features of g > 0 images.
      mesh: the devices, all of this process.
      shortlist: images that are scored for a query, 1 or more; all where the gallery has fewer.
      top_k: how many of the best images are listed, at most the shortlist's.
      recall: of the images that embeddings rank highest, the share that is aimed at; 1 for all.
      compared: told how many pairs' embeddings were compared.
      progress: told how many pairs were scored.
    """

    scores: CascadeScores
    gallery: FeatureSource
    mesh: Mesh
    shortlist: int
    top_k: int
    recall: float = 1.0
    compared: Progress = ignore_progress
    progress: Progress = ignore_progress

    def __call__(self, query: Features, block: int) -> tuple[np.ndarray, SearchResult]:
        """Returns products with the shortlist's scores above them, and the best of the list."""
        embeddings = Features(query.embedding)
        matrix = score_matrix(
            self.scores.products, embeddings, self.gallery.embeddings(), self.mesh, block,
            self.compared,
        )  # fmt: skip
        chosen = top_k(matrix, self.shortlist, self.recall)
        lists = np.sort(chosen.indices, axis=1)  # so that of equal scores the lower row is first
        scores = score_lists(
            self.scores.pairs, query, lists, self.gallery, self.mesh, block, self.progress
        )
        best = top_k(scores, self.top_k)
        lift_scores(matrix, lists, scores)
        indices = np.take_along_axis(lists, best.indices, axis=1)
        return matrix, SearchResult(indices, best.scores)

    def skip(self, queries: int) -> None:
        """Tells the progress of so many queries."""
        self.compared(queries * len(self.gallery), True)
        self.progress(queries * min(self.shortlist, len(self.gallery)), True)


def score_lists(
    pairs: Score,
    query: Features,
    lists: np.ndarray,
    gallery: FeatureSource,
    mesh: Mesh,
    block: int,
    progress: Progress = ignore_progress,
) -> np.ndarray:
    """Scores each query with its own images, many queries and a part of each list at once.

    Args:
      pairs: of `CascadeScores`.
      query: features of q queries.
      lists: int [q, n], rows of the gallery.
      gallery: read at random.
      mesh: the devices, all of this process.
      block: queries scored at once, a multiple of the number of devices.
      progress: told how many pairs were scored.

    Returns:
      float32 [q, n].
    """
    q, n = lists.shape
    parts = -(-n // _LIST_ROWS)
    width = -(-n // parts)  # parts as full as their number allows
    # What fills up blocks and parts is the gallery's first row.
    padded = np.pad(lists, ((0, -q % block), (0, parts * width - n)))
    pieces = padded.reshape(-1, block, parts, width).swapaxes(1, 2)
    images = read_ahead(gallery, pieces.reshape(-1, block * width))
    found = np.empty(padded.shape, np.float32)
    for start, count, features in read_blocks(InMemoryFeatures(query), block):
        rows = jax.device_put(features, sharded(mesh))
        scored: list[jax.Array] = []
        for _ in range(parts):
            own = jax.tree.map(
                lambda leaf: leaf.reshape(block, width, *leaf.shape[1:]), next(images)
            )
            # One part at a time is on its way: else all of the shortlists would be.
            jax.block_until_ready(scored[-1:])
            scored.append(pairs(rows, jax.device_put(own, sharded(mesh))))
        found[start : start + block] = np.concatenate(list(map(np.asarray, scored)), axis=1)
        progress(count * n, False)
    return found[:q, :n]


def lift_scores(products: np.ndarray, lists: np.ndarray, scores: np.ndarray) -> None:
    """Writes each query's scores of its shortlist over its products, above all of them.

    Written is the place of a score among the query's different ones, for which float32 has digits
    enough beside the products; what is no number stays none.

    Args:
      products: float32 [q, g], changed in place.
      lists: int [q, n], rows of the gallery.
      scores: float32 [q, n] of these.
    """
    order = np.argsort(scores, axis=1)
    ordered = np.take_along_axis(scores, order, axis=1)
    places = np.zeros(scores.shape, np.float32)
    places[:, 1:] = np.cumsum(ordered[:, 1:] != ordered[:, :-1], axis=1)
    lifted = np.empty_like(places)
    np.put_along_axis(lifted, order, places + np.float32(_LIFT), axis=1)
    lifted[np.isnan(scores)] = np.nan
    np.put_along_axis(products, lists, lifted, axis=1)
