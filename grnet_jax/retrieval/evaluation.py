"""Evaluation of a matcher: embed, rank, measure per protocol."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from tqdm import tqdm

from grnet_jax import metrics
from grnet_jax.retrieval.embedding import embed_rows, make_embed
from grnet_jax.retrieval.measures import (
    BINS,
    Calibration,
    Figures,
    mean_of_categories,
    measure,
    pair_calibration,
)
from grnet_jax.retrieval.protocols import Protocol, make_protocols, query_choices
from grnet_jax.retrieval.ranking import Ranking, make_score, merge_rankings, rank_all
from grnet_jax.retrieval.tasks import Task, identical_rows


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The figures of a task, and the ranking behind them for pages and plots.

    Attributes:
      task: queries and gallery.
      figures: by protocol name.
      protocols: which queries each covers.
      ranking: of the task's queries; `top_rows` are places in its gallery_rows.
      calibration: of all pairs of queries and gallery photos; None where it is not asked for.
    """

    task: Task
    figures: dict[str, Figures]
    protocols: list[Protocol]
    ranking: Ranking
    calibration: Calibration | None = None


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

    def evaluate(self, variables: Any, task: Task) -> Evaluation:
        """Embeds a task's queries and gallery, ranks all pairs and measures.

        Args:
          variables: the matcher's.
          task: of `make_task`.
        """
        index, rows = task.photos.index, task.query_rows
        query = self._features(variables, task.photos, rows, "queries")
        gallery = self._features(variables, task.photos, task.gallery_rows, "gallery")
        ranking = self._rank(variables, query, gallery, task)
        categories = [
            (group.category, np.isin(np.arange(len(rows)), group.queries), len(group.gallery))
            for group in task.groups
            if group.category
        ]
        protocols = make_protocols(
            task.dataset,
            None if categories else len(task.gallery_rows),
            query_choices(index.view[rows], index.occluded[rows], index.cropped[rows]),
            categories,
        )
        items = index.item[rows]
        figures = measure(
            protocols,
            ranking.ranks,
            items,
            ranking.top_scores[:, 0],
            logits=self._config.eval.calibration,
        )
        if categories:
            parts = [figures[f"category:{name}"] for name, _, _ in categories]
            figures["category_mean"] = mean_of_categories(parts, task.dataset)
        if ranking.other_ranks is not None:
            title = f"All queries, identical files count ({task.dataset})"
            identical = dataclasses.replace(protocols[0], name="all_identical", title=title)
            figures |= measure([identical], ranking.other_ranks, items)
        unmatched = figures["all"].without_match
        if unmatched:
            logging.warning(
                "%d of %d queries show an item without a gallery photo: they are not measured.",
                unmatched,
                len(rows),
            )
        sums = ranking.calibration
        calibration = None if sums is None else pair_calibration(sums)
        return Evaluation(task, figures, protocols, ranking, calibration)

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

    def _rank(self, variables: Any, query: Any, gallery: Any, task: Task) -> Ranking:
        """Each group of queries against its part of the gallery."""
        config = self._config.eval
        edges = metrics.fine_edges(BINS) if config.calibration else None
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
                    variables,
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
                    calibration_edges=edges,
                    progress=bar.update,
                )
                parts.append((ranking, group.queries, group.gallery))
        return merge_rankings(parts, len(task.query_rows))


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
