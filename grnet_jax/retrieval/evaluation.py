"""Evaluation of a matcher: embed, rank, measure per protocol."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from absl import logging
from etils import epath
from jax.sharding import Mesh
from tqdm import tqdm

from grnet_jax import metrics
from grnet_jax.errors import InputError
from grnet_jax.models import (
    Scoring,
    keep,
    make_scoring,
    make_views,
    photos_of,
    scores_by_descriptor,
)
from grnet_jax.retrieval.cascade import make_cascade_scores, make_shortlist, rank_cascade
from grnet_jax.retrieval.digests import digest, model_digest
from grnet_jax.retrieval.embedding import embed_rows, make_embed, read_photos
from grnet_jax.retrieval.journal import Journal
from grnet_jax.retrieval.measures import (
    BINS,
    Calibration,
    Figures,
    mean_of_categories,
    measure,
    pair_calibration,
)
from grnet_jax.retrieval.postprocessing import (
    Neighbours,
    Postprocessing,
    check_descriptors_used,
    make_postprocessing,
    postprocess,
)
from grnet_jax.retrieval.protocols import Protocol, make_protocols, query_choices
from grnet_jax.retrieval.ranking import (
    Ranking,
    make_score,
    merge_rankings,
    prepare_score,
    rank_all,
)
from grnet_jax.retrieval.sources import FeatureSource, HeldFeatures, Kept, Part
from grnet_jax.retrieval.tasks import WHITENED_BY_GALLERY, Group, Task, identical_rows


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The figures of a task, and the ranking behind them for pages and plots.

    Attributes:
      task: queries and gallery.
      figures: by protocol name.
      protocols: which queries each covers.
      ranking: of the task's queries; `top_rows` are places in its gallery_rows.
      calibration: of all pairs of queries and gallery photos; None where it is not asked for, or
        where not all pairs were scored.
      shortlist: gallery photos that a query was scored against at most; 0 for all.
      processing: the fields of config.eval that change features after the model, where set.
    """

    task: Task
    figures: dict[str, Figures]
    protocols: list[Protocol]
    ranking: Ranking
    calibration: Calibration | None = None
    shortlist: int = 0
    processing: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def share_scored(self) -> float:
        """Share of the pairs of a query and a photo of its gallery that were scored."""
        groups = self.task.groups
        scored = count_scored(groups, self.shortlist)
        return scored / max(count_scored(groups, 0), 1)

    def describe(self) -> str:
        """The protocol in words, what was done to features, and how it was searched."""
        said = [self.task.describe()]
        if self.processing:
            fields = (f"eval.{name}={value}" for name, value in self.processing.items())
            said.append(f"With {', '.join(fields)}.")
        if self.shortlist:
            said.append(
                f"Scored were each query's {self.shortlist:,} first by descriptors, "
                f"{100 * self.share_scored:.1f}% of all pairs; the others stand behind them in "
                "the descriptors' order."
            )
        return " ".join(said)


def count_scored(groups: Sequence[Group], shortlist: int) -> int:
    """Pairs of a query and a gallery photo that are scored; all of them where `shortlist` is 0."""
    return sum(
        len(group.queries) * min(len(group.gallery), shortlist or len(group.gallery))
        for group in groups
    )


class Evaluator:
    """Evaluates a matcher on splits of a data set; compiles once, for any number of calls.

    Args:
      matcher: the Linen module.
      config: the whole config; `eval` and `data` are read.
      mesh: the devices.

    Raises:
      InputError: naming a field that cannot be, or that would change nothing.
    """

    def __init__(self, matcher: nn.Module, config: Any, mesh: Mesh):
        self._config = config
        self._mesh = mesh
        self._digested: tuple[Any, str] | None = None
        self._views = make_views(config.eval)
        self._postprocessing = make_postprocessing(config.eval)
        if self._postprocessing.chosen() or self._views.five_crop_share:
            used = scores_by_descriptor(matcher) or config.eval.shortlist > 0
            check_descriptors_used(self._postprocessing, self._views.five_crop_share, used)
        self._embed = make_embed(matcher, mesh, self._views)
        self._matcher = matcher
        self._scoring = make_scoring(config.eval)
        self._score = make_score(matcher, mesh, self._scoring)
        self._shortlist = make_shortlist(config.eval, matcher)
        self._cascade = make_cascade_scores(matcher, mesh, self._scoring)

    def evaluate(self, variables: Any, task: Task, *, store: str = "", step: int = 0) -> Evaluation:
        """Embeds a task's queries and gallery, ranks all pairs and measures.

        Args:
          variables: the matcher's.
          task: of `make_task`.
          store: folder or URL for the features and for what was counted, so that the same call
            goes on after a kill and memory does not grow with the gallery; "" keeps all in memory.
          step: the checkpoint's, which the store names.

        Raises:
          StoreError: the store is another model's, of other photos, or damaged.
        """
        query, gallery = (
            self.features(variables, task, rows, what, store, step)
            for what, rows in (("queries", task.query_rows), ("gallery", task.gallery_rows))
        )
        journal = Journal()
        if store:
            model = self._digest(variables)
            key = self._ranking_digest(task, query, gallery, model)
            journal = Journal(epath.Path(store).expanduser() / "ranking.npz", key)
        learned_on = None
        if self._postprocessing.whitening not in ("", WHITENED_BY_GALLERY):
            what = f"whitening-{self._postprocessing.whitening}"
            learned_on = self.features(variables, *_learning(task), what, store, step)
        query, gallery = self._postprocess(query, gallery, task, learned_on)
        prepared = prepare_score(self._matcher, variables, self._mesh, self._scoring)
        ranking = self._rank(prepared, query, gallery, task, journal)
        journal.remove()
        protocols, figures = self._measure(task, ranking)
        unmatched = figures["all"].without_match
        if unmatched:
            logging.warning(
                "%d of %d queries show an item without a gallery photo: they are not measured.",
                unmatched,
                len(task.query_rows),
            )
        shortlist = self._shortlist.size if any(map(self._is_listed, task.groups)) else 0
        sums = ranking.calibration
        calibration = None if sums is None else pair_calibration(sums)
        changes = {
            "ensemble": self._config.eval.ensemble,
            **self._views._asdict(),
            **self._postprocessing._asdict(),
        }
        processing = {name: value for name, value in changes.items() if value}
        return Evaluation(task, figures, protocols, ranking, calibration, shortlist, processing)

    def _measure(self, task: Task, ranking: Ranking) -> tuple[list[Protocol], dict[str, Figures]]:
        """The task's protocols, and their figures and those of all categories by name."""
        index, rows = task.photos.index, task.query_rows
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
        return protocols, figures

    def features(
        self, variables: Any, task: Task, rows: np.ndarray, what: str, store: str, step: int
    ) -> FeatureSource:
        """The features of these photos: in memory, or stored and completed where some are missing.

        Args:
          variables: the matcher's.
          task: whose photos they are.
          rows: int [n], of the photos' index.
          what: "queries", "gallery" or "whitening".
          store: folder of the tables, or "".
          step: the checkpoint's.
        """
        config = self._config
        scoring = self._scoring if what == "gallery" else Scoring()
        with _bar(len(rows), f"embed {what}", "photo") as bar:
            how: Any = {
                "embed": self._embed,
                "variables": variables,
                "batches": lambda mine, batch: read_photos(
                    self._matcher, task.photos, mine, config.data, batch
                ),
                "rows": rows,
                "batch": config.eval.batch,
                "mesh": self._mesh,
                "progress": bar.update,
            }
            if not store:
                return HeldFeatures(keep(embed_rows(**how), scoring))
            # Lance is loaded only where it is used.
            from grnet_jax.retrieval.store import FeatureStore, Origin, store_rows

            model = self._digest(variables)
            stored = FeatureStore(
                f"{store}/{what}.lance",
                Origin(model, step, _photos_digest(task, rows, config.data)),
                task.photos.index.photo_id[rows],
                self._feature_shapes(variables),
                config.eval.store_dtype,
            )
            store_rows(stored, resumed=lambda count: _advance(bar, count, True), **how)
        return Kept(stored.reader(), scoring)

    def _digest(self, variables: Any) -> str:
        """`model_digest` of the variables, which reads them all, once for queries and gallery."""
        if self._digested is None or self._digested[0] is not variables:
            self._digested = variables, model_digest(self._config, variables)
        return self._digested[1]

    def _feature_shapes(self, variables: Any) -> Any:
        side, batch = self._config.data.image_size, self._config.eval.batch
        photos = jax.ShapeDtypeStruct((batch, side, side, 3), np.uint8)
        domain = jax.ShapeDtypeStruct((batch,), np.int32)
        seen = photos_of(self._matcher, {"photo": photos, "domain": domain})
        return jax.eval_shape(self._embed, variables, seen)

    def _postprocess(
        self, query: FeatureSource, gallery: FeatureSource, task: Task, learned_on: Any
    ) -> tuple[FeatureSource, FeatureSource]:
        config = self._config.eval
        search = Neighbours(
            self._mesh, config.query_block, config.gallery_block, config.held_queries
        )
        options = self._postprocessing
        return postprocess(query, gallery, options, task.groups, search, learned_on)

    @property
    def _calibration_edges(self) -> np.ndarray | None:
        return metrics.fine_edges(BINS) if self._config.eval.calibration else None

    def _rank(
        self,
        prepared: Any,
        query: FeatureSource,
        gallery: FeatureSource,
        task: Task,
        journal: Journal,
    ) -> Ranking:
        """Each group of queries against its part of the gallery, all of it or by the cascade."""
        config = self._config.eval
        others = None
        if config.count_identical:
            content = task.photos.index.content[task.gallery_rows]
            others = identical_rows(task.positives, content)
        groups = [group for group in task.groups if len(group.gallery)]  # the others have no match
        listed = [self._is_listed(group) for group in groups]
        edges = self._calibration_edges
        if edges is not None and any(listed):
            logging.info("eval.calibration: not of all pairs, for a shortlist's alone are scored")
            edges = None
        parts = []
        pairs = count_scored(groups, self._shortlist.size)
        compared = sum(
            len(g.queries) * len(g.gallery) for g, long in zip(groups, listed, strict=True) if long
        )
        with (
            _bar(compared, "compare descriptors", "pair") as first_bar,
            _bar(pairs, "rank", "pair") as bar,
        ):
            for number, (group, long) in enumerate(zip(groups, listed, strict=True)):
                how: Any = {
                    "prepared": prepared,
                    "query": Part(query, group.queries),
                    "gallery": Part(gallery, group.gallery),
                    "positives": _within(task.positives[group.queries], group.gallery),
                    "query_block": config.query_block,
                    "gallery_block": config.gallery_block,
                    "top": config.keep_top,
                    "mesh": self._mesh,
                    "other_positives": None
                    if others is None
                    else _within(others[group.queries], group.gallery),
                    "held_queries": config.held_queries,
                    "journal": journal,
                    "name": f"group-{number}",
                    "progress": functools.partial(_advance, bar),
                }
                if long:
                    ranking = rank_cascade(
                        self._cascade,
                        shortlist=self._shortlist,
                        shortlisted=functools.partial(_advance, first_bar),
                        **how,
                    )
                else:
                    ranking = rank_all(self._score, calibration_edges=edges, **how)
                parts.append((ranking, group.queries, group.gallery))
        return merge_rankings(parts, len(task.query_rows))

    def _is_listed(self, group: Group) -> bool:
        """Whether a group's gallery is longer than a shortlist; else all of it is scored."""
        return 0 < self._shortlist.size < len(group.gallery)

    def _ranking_digest(
        self, task: Task, query: FeatureSource, gallery: FeatureSource, model: str
    ) -> str:
        """Of all that the counts, and the order in which they are made, depend on."""
        config, edges = self._config, self._calibration_edges
        fields = (
            *("query_block", "gallery_block", "held_queries", "keep_top", "count_identical"),
            *("store_dtype", "gallery_dtype", "score_dtype", "score_tile"),
            *("shortlist", "shortlist_recall"),
        )
        return digest(
            [
                model,
                {name: config.eval[name] for name in (*fields, *Postprocessing._fields)},
                [jax.__version__, jax.default_backend(), self._mesh.size, len(query), len(gallery)],
                _photos_digest(task, task.query_rows, config.data),
                _photos_digest(task, task.gallery_rows, config.data),
                task.photos.index.content[task.gallery_rows],
                task.positives,
                *([] if task.learning is None else [_photos_digest(*_learning(task), config.data)]),
                *([] if edges is None else [edges]),
                *(part for group in task.groups for part in (group.queries, group.gallery)),
            ]
        )


def _learning(task: Task) -> tuple[Task, np.ndarray]:
    """A task with the photos that whitening is learned on, and the rows of all of them."""
    if task.learning is None:
        raise InputError(
            "eval.whitening names a split, and the task was made without: give it to make_task"
        )
    return dataclasses.replace(task, photos=task.learning), np.arange(len(task.learning))


def _photos_digest(task: Task, rows: np.ndarray, data: Any) -> str:
    """Of which photos these are, and of what is cut out of each."""
    from input_pipeline.crops import CropBoxes

    index = task.photos.index
    names = index.photo_id[rows].tolist()
    return digest(
        [task.dataset, names, index.size[rows], CropBoxes(task.photos, data).pixels(rows)]
    )


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
        unit_scale=unit == "pair",
        disable=jax.process_index() > 0,
        dynamic_ncols=True,
    )


def _advance(bar: tqdm, count: int, before: bool) -> None:
    """Moves a bar on; what was done before this process began tells nothing about its speed."""
    if before and not bar.disable:
        bar.initial += count
        bar.last_print_n += count
        bar.n += count
        bar.refresh()
    else:
        bar.update(count)
