"""Evaluation of a matcher on a split: embed, rank, measure per protocol."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from tqdm import tqdm

from grnet_jax import metrics
from grnet_jax.errors import InputError
from grnet_jax.retrieval.embedding import embed_rows, make_embed
from grnet_jax.retrieval.protocols import Protocol, make_protocols
from grnet_jax.retrieval.ranking import Ranking, make_score, positive_rows, rank_all

TOP_K = (1, 5, 10, 20, 30, 40, 50)


class EvaluationError(InputError):
    """A split that cannot be evaluated; the message says why."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """One protocol's figures.

    Attributes:
      title: heading, with the data set's name.
      values: "top1" ... "top50" and "map", each in 0..1; nan without queries.
      intervals: their 95% intervals.
      queries: queries measured, those with a match in the gallery.
      without_match: queries of the protocol whose item has no gallery photo; not measured.
      gallery: gallery photos.
    """

    title: str
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    queries: int
    without_match: int
    gallery: int


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A split's figures, and the ranking behind them for pages and plots.

    Attributes:
      dataset: its name.
      split: the split evaluated.
      figures: by protocol name.
      protocols: which queries each covers.
      query_rows: int [q], rows of the split's index.
      gallery_rows: int [g].
      ranking: over those; `top_rows` counts within `gallery_rows`.
    """

    dataset: str
    split: str
    figures: dict[str, Figures]
    protocols: list[Protocol]
    query_rows: np.ndarray
    gallery_rows: np.ndarray
    ranking: Ranking


class Evaluator:
    """Evaluates a matcher on splits of a data set; compiles once, for any number of calls.

    Args:
      matcher: the Linen module.
      config: the whole config; `eval` and `data` are read.
      mesh: the devices.
    """

    def __init__(self, matcher: nn.Module, config: Any, mesh: Mesh):
        self._config = config
        self._mesh = mesh
        self._embed = make_embed(matcher, mesh)
        self._score = make_score(matcher, mesh)

    def evaluate(self, variables: Any, split: Any, dataset: str) -> Evaluation:
        """Embeds a split's queries and gallery, ranks all pairs and measures.

        Args:
          variables: the matcher's.
          split: an `input_pipeline.Split`.
          dataset: name for headings.

        Raises:
          EvaluationError: if the split has no query, no gallery photo, or no query with a match.
        """
        query_rows, gallery_rows = split.query_rows(), split.gallery_rows()
        check_split(split)
        index = split.index
        query = self._features(variables, split, query_rows, "queries")
        gallery = self._features(variables, split, gallery_rows, "gallery")
        positives = positive_rows(index.item[query_rows], index.item[gallery_rows])
        ranking = self._rank(variables, query, gallery, positives)
        protocols = make_protocols(
            index.view[query_rows], index.occluded[query_rows], index.cropped[query_rows], dataset
        )
        figures = {
            protocol.name: measure(
                protocol, ranking.ranks, index.item[query_rows], len(gallery_rows)
            )
            for protocol in protocols
        }
        unmatched = figures["all"].without_match
        if unmatched:
            logging.warning(
                "%d of %d queries show an item without a gallery photo: they are not measured.",
                unmatched,
                len(query_rows),
            )
        return Evaluation(
            dataset, split.name, figures, protocols, query_rows, gallery_rows, ranking
        )

    def _features(self, variables: Any, split: Any, rows: np.ndarray, what: str) -> Any:
        from input_pipeline import photo_batches  # the pipeline is loaded only where it is used

        with _bar(len(rows), f"embed {what}", "photo") as bar:
            return embed_rows(
                self._embed,
                variables,
                lambda mine, batch: photo_batches(split, mine, self._config.data, batch=batch),
                rows,
                batch=self._config.eval.batch,
                mesh=self._mesh,
                progress=lambda done: bar.update(min(done, bar.total - bar.n)),
            )

    def _rank(self, variables: Any, query: Any, gallery: Any, positives: np.ndarray) -> Ranking:
        with _bar(len(positives), "rank", "query") as bar:
            return rank_all(
                self._score,
                variables,
                query,
                gallery,
                positives,
                query_block=self._config.eval.query_block,
                gallery_block=self._config.eval.gallery_block,
                top=self._config.eval.keep_top,
                mesh=self._mesh,
                progress=bar.update,
            )


def measure(protocol: Protocol, ranks: np.ndarray, items: np.ndarray, gallery: int) -> Figures:
    """One protocol's figures from the ranks [q, p] and item numbers [q] of all queries."""
    matched = (ranks > 0).any(axis=1)
    chosen = protocol.queries & matched
    ranks, items = ranks[chosen], items[chosen]
    values: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for k in TOP_K:
        hits = np.asarray(metrics.top_k_hits(ranks, k))
        values[f"top{k}"] = float(hits.mean()) if len(hits) else math.nan
        intervals[f"top{k}"] = metrics.clustered_interval(hits, items)
    precision = np.asarray(metrics.average_precision(ranks))
    values["map"] = float(precision.mean()) if len(precision) else math.nan
    intervals["map"] = metrics.clustered_interval(precision, items)
    return Figures(
        title=protocol.title,
        values=values,
        intervals=intervals,
        queries=int(chosen.sum()),
        without_match=int((protocol.queries & ~matched).sum()),
        gallery=gallery,
    )


def check_split(split: Any) -> None:
    """Raises EvaluationError where a split has no query, no gallery photo, or no match."""
    query_rows, gallery_rows = split.query_rows(), split.gallery_rows()
    for rows, what, domain in (
        (query_rows, "query", "customer"),
        (gallery_rows, "gallery", "shop"),
    ):
        if not len(rows):
            raise EvaluationError(
                f"split {split.name!r} has an empty {what} set: it holds no photo of domain "
                f"{domain!r}"
            )
    if not np.isin(split.index.item[query_rows], split.index.item[gallery_rows]).any():
        raise EvaluationError(
            f"split {split.name!r}: none of its {len(query_rows)} queries shows an item that the "
            f"gallery of {len(gallery_rows)} photos has; nothing can be measured"
        )


def _bar(total: int, description: str, unit: str) -> tqdm:
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        leave=False,
        disable=jax.process_index() > 0,
        dynamic_ncols=True,
    )
