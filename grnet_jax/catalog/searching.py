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
    open_generation,
    read_manifest,
)
from grnet_jax.catalog.indexing import SHORTLIST
from grnet_jax.errors import check_at_least
from grnet_jax.inference import LoadedMatcher, load
from grnet_jax.models import Features
from grnet_jax.search.features import read_embeddings
from grnet_jax.search.indexed import IndexedEmbeddings
from grnet_jax.search.ranking import query_block
from grnet_jax.search.reranking import score_lists
from grnet_jax.search.resident import ResidentEmbeddings, padded_rows
from input_pipeline import Box, ImageSource, to_path

_COLORS = 3 * COLOR_CELLS**2
_QUERIES = 16  # searched at once, at most
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
            embeddings = read_embeddings(self.generation.features)
            self._embeddings = ResidentEmbeddings(embeddings, matcher.mesh)
        self._items = self.generation.listing["item_id"].to_numpy(object)

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
    ) -> list[list[Match]]:
        """As `search`, of features that the catalog's matcher embedded."""
        check_at_least("top_k", top_k, 1)
        check_at_least("shortlist", shortlist, 1)
        rows = None
        if filters:
            rows = passing(filters, self.generation.fields, len(self))
        most = len(self) if rows is None else int(rows.sum())
        results: list[list[Match]] = []
        for start in range(0, len(query.embedding), _QUERIES):
            part = _take(query, slice(start, start + _QUERIES))
            length = max(shortlist, top_k)
            while True:
                ranked = self._rank(part, rows, length)
                matches = [self._matches(*one, top_k, shortlist) for one in ranked]
                if length >= most or all(len(one) == top_k for one in matches):
                    break
                length *= 4  # items with many photos, and copies
            results += matches
        return results

    def item_scores(self, query: Features, shortlist: int) -> list[dict[str, float]]:
        """Returns for each query the items of its shortlist with their best scores, in order."""
        found: list[dict[str, float]] = []
        for start in range(0, len(query.embedding), _QUERIES):
            for rows, scores in self._rank(
                _take(query, slice(start, start + _QUERIES)), None, shortlist
            ):
                items: dict[str, float] = {}
                for item, score in zip(self._items[rows], scores.tolist(), strict=True):
                    items.setdefault(item, score)
                found.append(items)
        return found

    def _rank(
        self, query: Features, rows: np.ndarray | None, length: int
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """The rows of the listing nearest to each query and their scores, the best first."""
        length = min(length, padded_rows(len(self)))
        nearest = self._embeddings.nearest(np.asarray(query.embedding), length, rows)
        lists, scores = nearest.indices, nearest.scores
        if self.matcher.pair_scores is not None:
            # Of one length always; what fills them up is the first row.
            lists = np.sort(np.where(lists < 0, len(self), lists), axis=1)
            block = query_block(len(lists), self.matcher.mesh)
            whole = np.where(lists == len(self), 0, lists)
            scores = score_lists(
                self.matcher.pair_scores, query, whole, self.generation.features,
                self.matcher.mesh, block,
            )  # fmt: skip
            lists = np.where(lists == len(self), -1, lists)
        order = np.argsort(-scores, axis=1, kind="stable")
        lists, scores = (np.take_along_axis(part, order, axis=1) for part in (lists, scores))
        return [(row[row >= 0], one[row >= 0]) for row, one in zip(lists, scores, strict=True)]

    def _matches(
        self, rows: np.ndarray, scores: np.ndarray, top_k: int, shortlist: int
    ) -> list[Match]:
        """Groups photos by item, and folds items whose best photos are copies."""
        images = self.generation.listing["image"]
        others: dict[str, list[str]] = {}
        best = []
        for place, row in enumerate(rows.tolist()):
            if (item := self._items[row]) in others:
                others[item].append(images[row])
            else:
                others[item] = []
                best.append(place)
        probabilities = self._probabilities(scores, [place for place in best if place < shortlist])
        best = best[: 4 * top_k]  # among which copies are looked for
        colors = self._read_colors(rows[best])
        kept: list[int] = []
        copies: dict[int, list[tuple[str, str]]] = {}
        for number, place in enumerate(best):
            row = int(rows[place])
            near = np.abs(colors[kept] - colors[number]).max(axis=1) if kept else np.empty(0)
            if len(near) and near.min() <= _COPY_DIFFERENCE:
                first = kept[int(np.argmax(near <= _COPY_DIFFERENCE))]
                copies[first].append((self._items[row], images[row]))
            elif len(kept) < top_k:
                kept.append(number)
                copies[number] = []
        chosen = [(best[number], copies[number]) for number in kept]
        return [
            dataclasses.replace(
                self._match(
                    int(rows[place]), float(scores[place]), others[self._items[rows[place]]], own
                ),
                probability=probabilities.get(place),
            )
            for place, own in chosen
        ]

    def _probabilities(self, scores: np.ndarray, best: list[int]) -> dict[int, float]:
        """That each of the shortlist's items is the one, by the places of their best scores."""
        if self.calibration is None or not self.calibration.shows_probabilities or not best:
            return {}
        p, _ = self.calibration.listwise(scores[best][None])
        return dict(zip(best, p[0].tolist(), strict=True))

    def _read_colors(self, rows: np.ndarray) -> np.ndarray:
        """int16 [n, cells * cells * 3] of rows of the listing."""
        cells = self.generation.read(rows, "colors")
        return np.frombuffer(b"".join(cells), np.uint8).reshape(len(rows), _COLORS).astype(np.int16)

    def _match(
        self, row: int, score: float, others: list[str], copies: list[tuple[str, str]]
    ) -> Match:
        listed = self.generation.listing.iloc[row]
        box = tuple(float(listed[name]) for name in ("x_1", "y_1", "x_2", "y_2"))
        fields = {
            name: str(cells[row])
            for name, cells in self.generation.fields.items()
            if name != "item_id" and cells[row]
        }
        known: Any = None if np.isnan(box[0]) else box
        return Match(listed["item_id"], score, listed["image"], row, known, fields, others, copies)

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
        manifest = read_manifest(path)
        if manifest is None:
            raise StoreError(
                f"{path}: no catalog: python -m grnet_jax.search index {path} --from=PHOTOS"
            )
        matcher = load(manifest.model.run)
    return Catalog(path, matcher)


def _take(features: Features, rows: slice) -> Features:
    regions = None if features.regions is None else features.regions[rows]
    return Features(features.embedding[rows], regions)
