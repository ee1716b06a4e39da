"""Evaluation of retrieval: embed, rank, measure per subset of the queries."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from absl import logging
from etils import epath
from jax.sharding import Mesh

from grnet_jax import metrics
from grnet_jax.config import Config, SearchConfig, fields_affecting
from grnet_jax.errors import InputError
from grnet_jax.evaluation.progress import advance, progress_bar
from grnet_jax.evaluation.protocols import (
    WHITENED_BY_GALLERY,
    Group,
    Protocol,
    QuerySubset,
    identical_rows,
    list_subsets,
    within_part,
)
from grnet_jax.evaluation.retrieval_metrics import (
    RetrievalMetrics,
    compute_metrics,
    macro_average,
)
from grnet_jax.metrics import ListProbabilities
from grnet_jax.models import is_embedding_model
from grnet_jax.search.chunk_files import ChunkFiles
from grnet_jax.search.embed import embed_rows, feature_shapes, make_embed, read_images
from grnet_jax.search.features import (
    FeatureSource,
    FeatureSubset,
    InMemoryFeatures,
    item_centroids,
    machine_memory,
)
from grnet_jax.search.fingerprints import Fingerprint, fingerprint, model_fingerprint
from grnet_jax.search.postprocessing import postprocess
from grnet_jax.search.ranking import (
    ExhaustiveSearch,
    GallerySearch,
    RankingResult,
    local_mesh,
    make_score,
    merge_rankings,
    rank,
)
from grnet_jax.search.reranking import CascadeSearch, make_cascade_scores
from input_pipeline import CropBoxes, query_subsets


@dataclasses.dataclass(frozen=True)
class RetrievalResult:
    """The metrics of a protocol, and the ranking behind them for pages and plots.

    Attributes:
      protocol: queries and gallery.
      metrics: by the name of a subset of the queries.
      subsets: which queries each covers.
      ranking: of the protocol's queries; `indices` are places in its gallery_rows.
      probabilities: of the results that `ranking` lists.
      shortlist: gallery images that a query was scored against at most; 0 for all.
      processing: what changed features after the model, by field of the config.
    """

    protocol: Protocol
    metrics: dict[str, RetrievalMetrics]
    subsets: list[QuerySubset]
    ranking: RankingResult
    probabilities: ListProbabilities | None = None
    shortlist: int = 0
    processing: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def values(self) -> dict[str, float]:
        """Returns the metrics over all queries, as logs have them."""
        return self.metrics["all"].values

    @property
    def share_scored(self) -> float:
        """Returns the share of the pairs of a query and its gallery that were scored."""
        groups = self.protocol.groups
        scored = count_scored(groups, self.shortlist)
        return scored / max(count_scored(groups, 0), 1)

    def describe(self) -> str:
        """Returns the protocol in words, what was done to features, and how it was searched."""
        said = [self.protocol.describe()]
        if self.processing:
            fields = (f"{name}={value}" for name, value in self.processing.items())
            said.append(f"With {', '.join(fields)}.")
        if self.shortlist:
            said.append(
                f"Scored were each query's {self.shortlist:,} first by embeddings, "
                f"{100 * self.share_scored:.1f}% of all pairs; the others stand behind them in "
                "the embeddings' order."
            )
        return " ".join(said)

    def format(self) -> str:
        """Returns tables of the metrics, for the terminal."""
        from grnet_jax.evaluation import reports  # which knows this class

        return f"{reports.format_table(self)}\n\n{reports.format_breakdowns(self)}"

    def write(
        self, directory: epath.Path, model: str, step: int, provenance: Mapping[str, Any]
    ) -> list[str]:
        """Writes `results.json` and `ranks.parquet` and returns their paths."""
        from grnet_jax.evaluation import reports

        results = reports.results_dict(self, model, step, provenance)
        table = reports.query_table(self)
        return [reports.write_results(directory, results), reports.write_ranks(directory, table)]


# Fields of eval.search that change features after the model; the last ones embeddings alone.
_PROCESSING = (
    "flip_average",
    "whitening",
    "whitening_dim",
    "query_expansion",
    "query_expansion_alpha",
)


def count_scored(groups: Sequence[Group], shortlist: int) -> int:
    """Counts pairs of a query and a gallery image that are scored; all where `shortlist` is 0."""
    return sum(
        len(group.queries) * min(len(group.gallery), shortlist or len(group.gallery))
        for group in groups
    )


class RetrievalEvaluator:
    """Evaluates a matcher's retrieval by one protocol, for any variables.

    Args:
      config: the whole config.
      matcher: the Linen module.
      mesh: the devices.
      protocol: queries and gallery.
      store: folder or URL for the features and for what was found, so that the same call goes on
        after a kill and memory does not grow with the gallery; "" for none.
      scratch: folder that has, without a store, features that memory should not have until the
        end of `run`; "" keeps all in memory.

    Raises:
      InputError: naming a field that cannot be, or that would change nothing.
    """

    memory_share = 0.25  # of this machine's memory, that features may take

    def __init__(
        self,
        config: Config,
        matcher: nn.Module,
        mesh: Mesh,
        protocol: Protocol,
        store: str = "",
        scratch: str = "",
    ):
        self.protocol = protocol
        self._config = config
        self._search = config.eval.search
        self._matcher = matcher
        self._mesh = mesh
        self._store = store
        self._scratch = scratch
        self._embed = make_embed(matcher, mesh, self._search.flip_average)
        self._local_mesh = local_mesh(mesh)
        self._fingerprinted: tuple[Any, str] | None = None
        alone = is_embedding_model(matcher)
        _check_embeddings(self._search, alone)
        if config.eval.protocol.rank_items == "centroid" and not alone:
            raise InputError(
                "eval.protocol.rank_items=centroid: this matcher's score is no inner product of "
                "embeddings; expected best_image"
            )

    def run(self, variables: Any, step: int = 0) -> RetrievalResult:
        """Embeds the protocol's queries and gallery, ranks and measures.

        Args:
          variables: the matcher's.
          step: the checkpoint's, which the store names.

        Raises:
          StoreError: the store is another model's, of other images, or damaged.
        """
        protocol = self.protocol
        query, gallery = (
            self.features(variables, protocol.images, rows, what, step)
            for what, rows in (
                ("queries", protocol.query_rows),
                ("gallery", protocol.gallery_rows),
            )
        )
        files = ChunkFiles()
        if self._store:
            folder = epath.Path(self._store).expanduser() / "ranking"
            files = ChunkFiles(folder, self._ranking_fingerprint(variables))
        query, gallery = self._postprocess(variables, query, gallery, step)
        ranking = self._rank(variables, query, gallery, files)
        if jax.process_index() == 0:
            files.remove()
            self._remove_scratch()
        index, listed = protocol.images.index, protocol.gallery_rows[ranking.indices]
        asked = index.item[protocol.query_rows]
        probabilities = metrics.list_probabilities(ranking.scores, index.item[listed], asked)
        subsets, measured = self._measure(ranking, probabilities)
        unmatched = measured["all"].without_match
        if unmatched:
            logging.warning(
                "%d of %d queries show an item without a gallery photo: they are not measured.",
                unmatched,
                len(protocol.query_rows),
            )
        shortlist = self._search.shortlist if any(map(self._is_listed, protocol.groups)) else 0
        return RetrievalResult(
            protocol, measured, subsets, ranking, probabilities, shortlist, self._processing()
        )

    def features(
        self, variables: Any, images: Any, rows: np.ndarray, what: str, step: int = 0
    ) -> FeatureSource:
        """Embeds images, or completes what is stored of them.

        Args:
          variables: the matcher's.
          images: an `input_pipeline.Split`.
          rows: int [n], of its index.
          what: "queries", "gallery" or "whitening-SPLIT".
          step: the checkpoint's.
        """
        image = self._config.image
        with progress_bar(len(rows), f"embed {what}", "image") as bar:
            how: Any = {
                "embed": self._embed,
                "variables": variables,
                "batches": lambda mine, batch: read_images(
                    self._matcher, images, mine, image, batch
                ),
                "rows": rows,
                "batch": self._config.eval.batch_size,
                "mesh": self._mesh,
                "progress": functools.partial(advance, bar),
            }
            spilled = not self._store and self._is_too_large(variables, what)
            if not (self._store or spilled):
                return InMemoryFeatures(embed_rows(**how))
            # Lance is loaded only where it is used.
            from grnet_jax.search.store import FeatureStore, store_rows

            model, cropped = self._fingerprint(variables), self._image_fingerprint(images, rows)
            origin = Fingerprint(model, step, cropped)
            # What a killed evaluation left is of use to the same one alone.
            own = f"{self._scratch}/{what}-{fingerprint([model, step, cropped])}"
            stored = FeatureStore(
                f"{own if spilled else f'{self._store}/{what}'}.lance",
                origin,
                images.index.photo_id[rows],
                self._feature_shapes(variables),
                self._search.store_dtype,
            )
            store_rows(stored, **how)
        return stored.reader()

    def _is_too_large(self, variables: Any, what: str) -> bool:
        """Whether features of this protocol are more than memory should have.

        Never those of images with keypoints, which no store knows.
        """
        if not self._scratch or getattr(self._matcher, "needs_keypoints", False):
            return False
        leaves = jax.tree.leaves(self._feature_shapes(variables))
        each = sum(math.prod(leaf.shape[1:]) * leaf.dtype.itemsize for leaf in leaves)
        count = len(self.protocol.query_rows) + len(self.protocol.gallery_rows)
        size, limit = each * count, self.memory_share * machine_memory()
        if size <= limit:
            return False
        logging.info(
            "Features take %.3g GB, more than %.3g: %s are in %s until the end.",
            size / 1e9, limit / 1e9, what, self._scratch,
        )  # fmt: skip
        return True

    def _remove_scratch(self) -> None:
        """Removes features that were on the disk for want of memory, also a killed run's."""
        if self._scratch and epath.Path(self._scratch).exists():
            epath.Path(self._scratch).rmtree()

    def _processing(self) -> dict[str, Any]:
        """What changes features after the model, by field, where it is set."""
        fields = {f"eval.search.{name}": getattr(self._search, name) for name in _PROCESSING}
        return {name: value for name, value in fields.items() if value}

    def _measure(
        self, ranking: RankingResult, probabilities: ListProbabilities
    ) -> tuple[list[QuerySubset], dict[str, RetrievalMetrics]]:
        """The protocol's subsets, and the metrics of these and of all categories by name."""
        protocol = self.protocol
        index, rows = protocol.images.index, protocol.query_rows
        categories = [
            (group.category, np.isin(np.arange(len(rows)), group.queries), len(group.gallery))
            for group in protocol.groups
            if group.category
        ]
        subsets = list_subsets(
            protocol.dataset,
            None if categories else len(protocol.gallery_rows),
            query_subsets(index.view[rows], index.occluded[rows], index.cropped[rows]),
            categories,
        )
        items, best = index.item[rows], ranking.scores[:, 0]
        measured = compute_metrics(subsets, ranking.ranks, items, best, probabilities)
        if categories:
            parts = [measured[f"category:{name}"] for name, _, _ in categories]
            measured["category_mean"] = macro_average(parts, protocol.dataset)
        if ranking.other_ranks is not None:
            title = f"All queries, identical files count ({protocol.dataset})"
            identical = dataclasses.replace(subsets[0], name="all_identical", title=title)
            measured |= compute_metrics([identical], ranking.other_ranks, items)
        if ranking.item_ranks is not None:
            measured |= self._measure_items(subsets, ranking.item_ranks)
        return subsets, measured

    def _measure_items(
        self, subsets: Sequence[QuerySubset], ranks: np.ndarray
    ) -> dict[str, RetrievalMetrics]:
        """The metrics of each subset with items ranked in the place of images."""
        protocol = self.protocol
        how = {"best_image": "best photo", "centroid": "mean embedding"}
        by = f"items by their {how[self._config.eval.protocol.rank_items]}"
        counts = {
            f"category:{group.category}": len(protocol.items_of(group).starts)
            for group in protocol.groups
            if len(group.gallery)
        }
        alone = None if protocol.groups[0].category else counts["category:"]
        of_items = [
            dataclasses.replace(
                subset,
                name=f"{subset.name}_items",
                title=f"{subset.title}, {by}",
                gallery=counts.get(subset.name, alone),
            )
            for subset in subsets
        ]
        asked = protocol.images.index.item[protocol.query_rows]
        measured = compute_metrics(of_items, ranks, asked)
        if alone is None:
            parts = [one for name, one in measured.items() if name.startswith("category:")]
            mean = macro_average(parts, protocol.dataset)
            measured["category_mean_items"] = dataclasses.replace(mean, title=f"{mean.title}, {by}")
        return measured

    def _postprocess(
        self, variables: Any, query: FeatureSource, gallery: FeatureSource, step: int
    ) -> tuple[FeatureSource, FeatureSource]:
        whitening, learned = self._search.whitening, None
        if whitening not in ("", WHITENED_BY_GALLERY):
            split = self.protocol.whitening_split
            rows = np.arange(len(split))
            learned = self.features(variables, split, rows, f"whitening-{whitening}", step)
        groups = [(group.queries, group.gallery) for group in self.protocol.groups]
        return postprocess(query, gallery, self._search, groups, self._local_mesh, learned)

    def _rank(
        self, variables: Any, query: FeatureSource, gallery: FeatureSource, files: ChunkFiles
    ) -> RankingResult:
        """Each group of queries against its part of the gallery, all of it or by the cascade."""
        protocol = self.protocol
        others = None
        if self._config.eval.protocol.count_identical:
            content = protocol.images.index.content[protocol.gallery_rows]
            others = identical_rows(protocol.positives, content)
        ranked_by = self._config.eval.protocol.rank_items
        groups = [group for group in protocol.groups if len(group.gallery)]  # others have no match
        parts = []
        listed = [group for group in groups if self._is_listed(group)]
        with (
            progress_bar(count_scored(listed, 0), "compare embeddings", "pair") as first_bar,
            progress_bar(count_scored(groups, self._search.shortlist), "rank", "pair") as bar,
        ):
            searches = self._searches(variables, first_bar, bar)
            for number, group in enumerate(groups):
                own = FeatureSubset(query, group.queries)
                part = FeatureSubset(gallery, group.gallery)
                items = protocol.items_of(group) if ranked_by else None
                ranking = rank(
                    searches[self._is_listed(group)](part),
                    own,
                    within_part(protocol.positives[group.queries], group.gallery),
                    None if others is None else within_part(others[group.queries], group.gallery),
                    items=items if ranked_by == "best_image" else None,
                    files=files,
                    name=f"group-{number}",
                )
                if items and ranked_by == "centroid":
                    centers = searches[False](item_centroids(part, items.rows, items.starts))
                    ranks = rank(centers, own, items.own[:, None]).ranks
                    ranking = dataclasses.replace(ranking, item_ranks=ranks)
                parts.append((ranking, group.queries, group.gallery))
        return merge_rankings(parts, len(protocol.query_rows))

    def _searches(self, variables: Any, first_bar: Any, bar: Any) -> Any:
        """How a gallery is searched, exhaustively and by the cascade: gallery -> search."""
        matcher, mesh, options = self._matcher, self._local_mesh, self._search
        compared, told = (functools.partial(advance, one) for one in (first_bar, bar))

        def exhaustive(gallery: FeatureSource) -> GallerySearch:
            score = make_score(matcher, mesh, options.score_dtype)(variables)
            return ExhaustiveSearch(score, gallery, mesh, options.top_k, told)

        def cascade(gallery: FeatureSource) -> GallerySearch:
            scores = make_cascade_scores(matcher, mesh, options.score_dtype)(variables)
            return CascadeSearch(
                scores, gallery, mesh, options.shortlist, options.top_k,
                options.shortlist_recall, compared, told,
            )  # fmt: skip

        return exhaustive, cascade

    def _is_listed(self, group: Group) -> bool:
        """Whether a group's gallery is longer than a shortlist; else all of it is scored."""
        return 0 < self._search.shortlist < len(group.gallery)

    def _fingerprint(self, variables: Any) -> str:
        """`model_fingerprint` of the variables, which reads them all, once for all features."""
        if self._fingerprinted is None or self._fingerprinted[0] is not variables:
            self._fingerprinted = variables, model_fingerprint(self._config, variables)
        return self._fingerprinted[1]

    def _image_fingerprint(self, images: Any, rows: np.ndarray) -> str:
        """Of which images these are, and of what is cropped out of each."""
        index = images.index
        names = index.photo_id[rows].tolist()
        crops = CropBoxes(images, self._config.image).pixels(rows)
        return fingerprint([self.protocol.dataset, names, index.size[rows], crops])

    def _ranking_fingerprint(self, variables: Any) -> str:
        """Of all that ranks depend on, and what is found of one chunk."""
        config, protocol = self._config, self.protocol
        images, learned = protocol.images, protocol.whitening_split
        return fingerprint(
            [
                self._fingerprint(variables),
                fields_affecting(config, "scores"),
                [config.eval.search.top_k, config.eval.protocol.count_identical],
                config.eval.protocol.rank_items,
                protocol.listed,
                [jax.__version__, jax.default_backend(), self._mesh.size, jax.process_count()],
                self._image_fingerprint(images, protocol.query_rows),
                self._image_fingerprint(images, protocol.gallery_rows),
                images.index.content[protocol.gallery_rows],
                protocol.positives,
                ""
                if learned is None
                else self._image_fingerprint(learned, np.arange(len(learned))),
                *(part for group in protocol.groups for part in (group.queries, group.gallery)),
            ]
        )

    def _feature_shapes(self, variables: Any) -> Any:
        count, side = self._config.eval.batch_size, self._config.image.size
        return feature_shapes(self._embed, self._matcher, variables, count, side)


def _check_embeddings(search: SearchConfig, alone: bool) -> None:
    """Raises InputError for fields of embeddings that change nothing.

    Args:
      search: the fields.
      alone: whether the matcher's score is the inner product of embeddings.
    """
    if alone and search.shortlist:
        raise InputError(
            f"eval.search.shortlist={search.shortlist}: this matcher's score is the inner product "
            "of embeddings, so that both stages of the cascade are one and a shortlist changes "
            "nothing: set it to 0"
        )
    fields = [name for name in _PROCESSING[1:] if getattr(search, name)]
    if fields and not alone and not search.shortlist:
        names = ", ".join(f"eval.search.{name}" for name in fields)
        raise InputError(
            f"{names}: changes embeddings, and this matcher scores regions: its metrics would "
            "stay as they are. Leave it at its default (eval.search.flip_average works on regions)"
        )
