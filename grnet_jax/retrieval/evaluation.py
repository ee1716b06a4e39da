"""Evaluation of a matcher: embed, rank, measure per protocol."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from tqdm import tqdm

from grnet_jax import metrics
from grnet_jax.models import keep, make_scoring
from grnet_jax.retrieval.embedding import embed_rows, make_embed
from grnet_jax.retrieval.protocols import Protocol, make_protocols, query_choices
from grnet_jax.retrieval.ranking import (
    Ranking,
    make_score,
    merge_rankings,
    prepare_score,
    rank_all,
)
from grnet_jax.retrieval.tasks import Task, identical_rows

TOP_K = (1, 5, 10, 20, 30, 40, 50)


@dataclasses.dataclass(frozen=True)
class Figures:
    """One protocol's figures.

    Attributes:
      title: heading, with the data set's name.
      values: "top1" ... "top50" and "map", each in 0..1; nan without queries.
      intervals: their 95% intervals.
      queries: queries measured, those with a match in the gallery.
      without_match: queries of the protocol whose item has no gallery photo; not measured.
      gallery: gallery photos that a query is ranked against.
    """

    title: str
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    queries: int
    without_match: int
    gallery: int


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The figures of a task, and the ranking behind them for pages and plots.

    Attributes:
      task: queries and gallery.
      figures: by protocol name.
      protocols: which queries each covers.
      ranking: of the task's queries; `top_rows` are places in its gallery_rows.
    """

    task: Task
    figures: dict[str, Figures]
    protocols: list[Protocol]
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
        self._matcher = matcher
        self._scoring = make_scoring(config.eval)
        self._score = make_score(matcher, mesh, self._scoring)

    def evaluate(self, variables: Any, task: Task) -> Evaluation:
        """Embeds a task's queries and gallery, ranks all pairs and measures.

        Args:
          variables: the matcher's.
          task: of `make_task`.
        """
        index, rows = task.photos.index, task.query_rows
        query = self._features(variables, task.photos, rows, "queries")
        gallery = self._features(variables, task.photos, task.gallery_rows, "gallery")
        prepared = prepare_score(self._matcher, variables, self._mesh, self._scoring)
        ranking = self._rank(prepared, query, keep(gallery, self._scoring), task)
        categories = [
            (group.category, np.isin(np.arange(len(rows)), group.queries), len(group.gallery))
            for group in task.groups
            if group.category
        ]
        protocols = make_protocols(
            task.dataset,
            len(task.gallery_rows),
            query_choices(index.view[rows], index.occluded[rows], index.cropped[rows]),
            categories,
        )
        figures = {
            protocol.name: measure(protocol, ranking.ranks, index.item[rows])
            for protocol in protocols
        }
        if categories:
            parts = [figures[f"category:{name}"] for name, _, _ in categories]
            figures["category_mean"] = mean_of_categories(parts, task.dataset)
        if ranking.other_ranks is not None:
            title = f"All queries, identical files count ({task.dataset})"
            protocol = dataclasses.replace(protocols[0], title=title)
            figures["all_identical"] = measure(protocol, ranking.other_ranks, index.item[rows])
        unmatched = figures["all"].without_match
        if unmatched:
            logging.warning(
                "%d of %d queries show an item without a gallery photo: they are not measured.",
                unmatched,
                len(rows),
            )
        return Evaluation(task, figures, protocols, ranking)

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

    def _rank(self, prepared: Any, query: Any, gallery: Any, task: Task) -> Ranking:
        """Each group of queries against its part of the gallery."""
        config = self._config.eval
        others = None
        if config.count_identical:
            content = task.photos.index.content[task.gallery_rows]
            others = identical_rows(task.positives, content)
        parts = []
        with _bar(len(task.query_rows), "rank", "query") as bar:
            for group in task.groups:
                if not len(group.gallery):  # none of its queries has a match
                    bar.update(len(group.queries))
                    continue
                ranking = rank_all(
                    self._score,
                    prepared,
                    _take(query, group.queries),
                    _take(gallery, group.gallery),
                    _within(task.positives[group.queries], group.gallery),
                    query_block=config.query_block,
                    gallery_block=config.gallery_block,
                    top=config.keep_top,
                    mesh=self._mesh,
                    other_positives=None
                    if others is None
                    else _within(others[group.queries], group.gallery),
                    progress=bar.update,
                )
                parts.append((ranking, group.queries, group.gallery))
        return merge_rankings(parts, len(task.query_rows))


def measure(protocol: Protocol, ranks: np.ndarray, items: np.ndarray) -> Figures:
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
        gallery=protocol.gallery,
    )


def mean_of_categories(parts: Sequence[Figures], dataset: str) -> Figures:
    """The unweighted mean over categories, as Street2Shop's tables have it.

    Its interval is that of a mean of independent figures, each with a normal error as wide as its
    own interval. Categories without a measured query are left out, and the title says how many
    there are.
    """
    there = [part for part in parts if part.queries]
    values, intervals = {}, {}
    for name in parts[0].values:
        mean = float(np.mean([part.values[name] for part in there])) if there else math.nan
        halves = [(part.intervals[name][1] - part.intervals[name][0]) / 2 for part in there]
        half = math.sqrt(sum(half**2 for half in halves)) / len(there) if there else math.nan
        values[name] = mean
        intervals[name] = max(mean - half, 0.0), min(mean + half, 1.0)
    return Figures(
        title=f"Mean over {len(there)} categories ({dataset})",
        values=values,
        intervals=intervals,
        queries=sum(part.queries for part in parts),
        without_match=sum(part.without_match for part in parts),
        gallery=sum(part.gallery for part in parts),
    )


def _take(features: Any, rows: np.ndarray) -> Any:
    """These rows, which are in order; all of them are not copied."""
    return jax.tree.map(lambda leaf: leaf if len(rows) == len(leaf) else leaf[rows], features)


def _within(positives: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Places of positives in a part of the gallery, int [g'] rows in order; -1 if not there."""
    places = np.searchsorted(gallery, positives)
    inside = gallery[np.minimum(places, len(gallery) - 1)] == positives
    return np.where(inside & (positives >= 0), places, -1).astype(np.int32)


def _bar(total: int, description: str, unit: str) -> tqdm:
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        leave=False,
        disable=jax.process_index() > 0,
        dynamic_ncols=True,
    )
