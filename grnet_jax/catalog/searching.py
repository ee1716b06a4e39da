"""Searches a catalog by photo."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from grnet_jax.catalog.calibrating import read_calibration
from grnet_jax.catalog.filters import Filters, passing
from grnet_jax.catalog.generations import (
    COLOR_CELLS,
    Generation,
    StoreError,
    live_manifest,
    open_generation,
)
from grnet_jax.catalog.indexing import SHORTLIST
from grnet_jax.errors import check_at_least
from grnet_jax.inference import LoadedMatcher, load
from grnet_jax.models import Features
from grnet_jax.search.indexed import IndexedEmbeddings
from grnet_jax.search.ranking import SearchResult, query_block
from grnet_jax.search.reranking import score_lists
from grnet_jax.search.resident import ResidentEmbeddings, padded_rows
from input_pipeline import BOX, Box, ImageSource, to_path

_COLORS = 3 * COLOR_CELLS**2
_QUERIES = 16  # searched at once, at most
_DEEPER = 4  # times longer is the next list, where one is too short
# Of 255: two photos are copies where no cell's colors differ by more. Measured on recolorings and
# on photos encoded anew.
_COPY_DIFFERENCE = 12


@dataclasses.dataclass(frozen=True)
class Match:
    """An item that was found.

    Attributes:
      item: its item_id.
      score: of its best photo; higher is more alike.
      image: its best photo, as the catalog's source calls it.
      row: of that photo in the catalog's listing.
      box: the garment in it, in pixels, or None.
      fields: what else is known of it.
      images: its other photos that were found, the best first.
      copies: (item, image) of other items whose photo is a copy of this one's.
      image_rows, copy_rows: of these in the listing.
      probability: that it is the item in the photo; None where that is not known well enough.
    """

    item: str
    score: float
    image: str
    row: int
    box: Box | None
    fields: dict[str, str]
    images: list[str] = dataclasses.field(default_factory=list)
    copies: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    image_rows: list[int] = dataclasses.field(default_factory=list)
    copy_rows: list[int] = dataclasses.field(default_factory=list)
    probability: float | None = None


class Catalog:
    """A catalog, open for searching; what is indexed later is seen by opening it again.

    Attributes:
      manifest: the content of catalog.json.
      matcher: that it was indexed by.
      generation: the photos.
      calibration: what turns scores into probabilities; None where there is none.
    """

    def __init__(self, folder: epath.Path, matcher: LoadedMatcher):
        self.matcher = matcher
        self.generation: Generation = open_generation(folder, matcher.feature_shapes())
        self.manifest = self.generation.manifest
        model = self.manifest.model
        if model.fingerprint != matcher.fingerprint:
            raise StoreError(
                f"{folder}: was indexed by {model.run} at step {model.step}; it is at step "
                f"{matcher.step} now, or was trained anew: index with --rebuild"
            )
        self.calibration = read_calibration(folder, self.manifest)
        self._embeddings: ResidentEmbeddings | IndexedEmbeddings
        if self.manifest.probes:
            self._embeddings = self.generation.indexed()
        else:
            self._embeddings = ResidentEmbeddings(self.generation.features, matcher.mesh)
        listing = self.generation.listing
        self._items, self._images = (listing[n].to_numpy(object) for n in ("item_id", "image"))
        self._boxes = listing[BOX].to_numpy()

    def __len__(self) -> int:
        return len(self.generation)

    def count(self, filters: Filters) -> int:
        """Returns how many photos pass filters."""
        return int(passing(filters, self.generation.fields, len(self)).sum())

    def search(
        self,
        images: Sequence[ImageSource],
        boxes: Sequence[Box | None] | None = None,
        filters: Filters | None = None,
        top_k: int = 20,
        *,
        shortlist: int = SHORTLIST,
    ) -> list[list[Match]]:
        """Finds the items that are most alike to what photos show.

        Args:
          images: paths, encoded bytes, or uint8 arrays [h, w, 3].
          boxes: the garment in each, in pixels of the upright photo, or None.
          filters: which photos count; see `filters.passing`.
          top_k: items to find, at most.
          shortlist: photos nearest by embedding that a pairwise matcher scores.

        Returns:
          For each image its matches, the best first.
        """
        query = self.matcher.embed(images, boxes)
        return self.search_features(query, filters, top_k, shortlist=shortlist)

    def search_features(
        self,
        query: Features,
        filters: Filters | None = None,
        top_k: int = 20,
        *,
        shortlist: int = SHORTLIST,
        deepest: int | None = None,
    ) -> list[list[Match]]:
        """As `search`, of features that the catalog's matcher embedded.

        Args:
          query, filters, top_k, shortlist: as there.
          deepest: photos to compare at most, for items with many photos and for long lists; None
            for all.
        """
        check_at_least("top_k", top_k, 1)
        check_at_least("shortlist", shortlist, 1)
        rows = None
        if filters:
            rows = passing(filters, self.generation.fields, len(self))
        most = min(len(self) if rows is None else int(rows.sum()), deepest or len(self))
        results: list[list[Match]] = []
        for start in range(0, len(query.embedding), _QUERIES):
            part = _take(query, slice(start, start + _QUERIES))
            length, compared = shortlist, 4 * top_k
            while length < min(top_k, most):
                length *= _DEEPER
            while True:
                ranked = self._rank(part, rows, length, shortlist)
                matches = self._matches(ranked, top_k, shortlist, compared)
                if length >= most or all(len(one) == top_k for one in matches):
                    break
                # Items with many photos, and copies.
                length, compared = _DEEPER * length, max(_DEEPER * compared, length)
            results += matches
        return results

    def item_scores(self, query: Features, shortlist: int) -> list[dict[str, float]]:
        """Returns for each query the items of its shortlist with their best scores, in order."""
        found: list[dict[str, float]] = []
        for start in range(0, len(query.embedding), _QUERIES):
            for rows, scores in self._rank(
                _take(query, slice(start, start + _QUERIES)), None, shortlist, shortlist
            ):
                items: dict[str, float] = {}
                for item, score in zip(self._items[rows], scores.tolist(), strict=True):
                    items.setdefault(item, score)
                found.append(items)
        return found

    def _rank(
        self, query: Features, rows: np.ndarray | None, length: int, piece: int
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """The rows of the listing nearest to each query and their scores, the best first.

        Pairs are scored a piece of the list at a time, so that each length needs no compilation.
        """
        nearest = self._nearest(np.asarray(query.embedding), length, rows)
        lists, scores = nearest.indices, nearest.scores
        if self.matcher.pair_scores is not None:
            # Of one length always; what fills them up is the first row.
            missing = ((0, 0), (0, -lists.shape[1] % piece))
            lists = np.pad(
                np.where(lists < 0, len(self), lists), missing, constant_values=len(self)
            )
            lists = np.sort(lists, axis=1)
            block = query_block(len(lists), self.matcher.mesh)
            whole = np.where(lists == len(self), 0, lists)
            parts = [
                score_lists(
                    self.matcher.pair_scores, query, whole[:, start : start + piece],
                    self.generation.features, self.matcher.mesh, block,
                )
                for start in range(0, whole.shape[1], piece)
            ]  # fmt: skip
            scores = np.concatenate(parts, axis=1)
            lists = np.where(lists == len(self), -1, lists)
        order = np.argsort(-scores, axis=1, kind="stable")
        lists, scores = (np.take_along_axis(part, order, axis=1) for part in (lists, scores))
        return [(row[row >= 0], one[row >= 0]) for row, one in zip(lists, scores, strict=True)]

    def _nearest(self, query: np.ndarray, length: int, rows: np.ndarray | None) -> SearchResult:
        return self._embeddings.nearest(query, min(length, padded_rows(len(self))), rows)

    def warm_up(self, queries: int, shortlist: int) -> None:
        """Compiles what `search_features` of so many queries needs for a list that is longer."""
        size = self.matcher.feature_shapes().embedding.shape[1]
        self._nearest(np.zeros((queries, size), np.float32), _DEEPER * shortlist, None)

    def _matches(
        self,
        ranked: Sequence[tuple[np.ndarray, np.ndarray]],
        top_k: int,
        shortlist: int,
        compared: int,
    ) -> list[list[Match]]:
        """Groups photos by item, and folds items whose best photos are copies.

        Args:
          ranked: each query's rows and scores, the best first.
          top_k: items of each result.
          shortlist: rows that probabilities are of.
          compared: items whose best photos copies are looked for among.
        """
        groups = [self._group(rows) for rows, _ in ranked]
        best = [np.array([*group], int)[:compared] for group in groups]
        ends = np.cumsum([len(rows) for rows in best])
        colors = np.split(self._read_colors(np.concatenate(best)), ends[:-1])
        results = []
        for (rows, scores), group, firsts, cells in zip(ranked, groups, best, colors, strict=True):
            score_of = dict(zip(rows.tolist(), scores.tolist(), strict=True))
            short = [row for row in rows[:shortlist].tolist() if row in group]
            probability_of = self._probabilities({row: score_of[row] for row in short}, shortlist)
            folded = _fold(cells, top_k)
            results.append(
                [
                    dataclasses.replace(
                        self._match(row, score_of[row], group[row], firsts[copies].tolist()),
                        probability=probability_of.get(row),
                    )
                    for row, copies in zip(firsts[[*folded]].tolist(), folded.values(), strict=True)
                ]
            )
        return results

    def _group(self, rows: np.ndarray) -> dict[int, list[int]]:
        """Returns each item's best row, in order, with its other rows."""
        groups: dict[int, list[int]] = {}
        first: dict[str, int] = {}
        for row in rows.tolist():
            best = first.setdefault(self._items[row], row)
            if best == row:
                groups[row] = []
            else:
                groups[best].append(row)
        return groups

    def _probabilities(self, scores: dict[int, float], shortlist: int) -> dict[int, float]:
        """That each of the shortlist's items is the one, by the rows of their best photos."""
        fitted = self.calibration
        # They were fitted on lists of that length.
        if not (fitted and fitted.shows_probabilities and fitted.shortlist == shortlist and scores):
            return {}
        p, _ = fitted.listwise(np.array([[*scores.values()]]))
        return dict(zip(scores, p[0].tolist(), strict=True))

    def _read_colors(self, rows: np.ndarray) -> np.ndarray:
        """int16 [n, cells * cells * 3] of rows of the listing."""
        cells = self.generation.read(rows, "colors")
        return np.frombuffer(b"".join(cells), np.uint8).reshape(len(rows), _COLORS).astype(np.int16)

    def _match(self, row: int, score: float, others: list[int], copies: list[int]) -> Match:
        box: Any = tuple(self._boxes[row].tolist())
        fields = {
            name: str(cells.array[row])
            for name, cells in self.generation.fields.items()
            if name != "item_id" and cells.array[row]
        }
        images = self._images
        return Match(
            self._items[row],
            score,
            images[row],
            row,
            None if np.isnan(box[0]) else box,
            fields,
            [images[other] for other in others],
            [(self._items[copy], images[copy]) for copy in copies],
            others,
            copies,
        )

    def thumbnail(self, row: int) -> bytes:
        """Returns a photo of the catalog, small, as JPEG."""
        return self.generation.read(np.array([row]), "thumbnail")[0]


def open_catalog(folder: str | os.PathLike[str], matcher: LoadedMatcher | None = None) -> Catalog:
    """Opens a catalog that `python -m grnet_jax.search index` made.

    Args:
      folder: of the catalog.
      matcher: that it was indexed by; None loads it from where it was then.

    Raises:
      StoreError: there is no catalog, it is damaged, or of another model.
      CheckpointError: its model is not there.
    """
    path = to_path(folder, "CATALOG")
    if matcher is None:
        matcher = load(live_manifest(path).model.run)
    return Catalog(path, matcher)


def _take(features: Features, rows: slice) -> Features:
    regions = None if features.regions is None else features.regions[rows]
    return Features(features.embedding[rows], regions)


def _fold(colors: np.ndarray, top_k: int) -> dict[int, list[int]]:
    """Returns which of some photos are no copies, top_k at most, each with its copies.

    Args:
      colors: int16 [n, c] of the photos, the best first.
      top_k: how many.
    """
    kept: dict[int, list[int]] = {}
    for number, own in enumerate(colors):
        alike = np.abs(colors[[*kept]] - own).max(axis=1, initial=0) <= _COPY_DIFFERENCE
        if alike.any():
            kept[[*kept][int(np.argmax(alike))]].append(number)
        elif len(kept) < top_k:
            kept[number] = []
    return kept
