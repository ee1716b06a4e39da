"""How sure a catalog's results are: fitted on photos whose item is known, stored beside it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
import pydantic
from etils import epath

from grnet_jax import metrics
from grnet_jax.catalog.generations import Manifest, StoreError
from grnet_jax.errors import InputError
from grnet_jax.evaluation.progress import progress_bar
from grnet_jax.inference import LoadedMatcher
from grnet_jax.metrics import NONE, Listwise
from grnet_jax.models import Features
from grnet_jax.search.features import InMemoryFeatures
from grnet_jax.search.ranking import query_block
from grnet_jax.search.reranking import score_lists
from input_pipeline import (
    BOX,
    ImageError,
    PhotoList,
    list_photos,
    load_crop,
    read_object,
    write_file,
)

if TYPE_CHECKING:
    from grnet_jax.catalog.searching import Catalog

_FILE = "calibration.json"
_FEWEST = 100  # queries
_MIN_AUROC = 0.7  # of 'not in this catalog', else it is not said
_BATCH = 64


class Calibration(pydantic.BaseModel):
    """The content of calibration.json.

    Attributes:
      scale, none: of `Listwise`.
      fingerprint: of the model.
      rows: of the catalog then.
      shortlist: photos that results were chosen from.
      queries: that it was fitted on, each with its item in the catalog and without.
      source: of them.
      ece_first: expected calibration error of first results, measured in two halves by item.
      ece_shown: of the first twenty.
      auroc: chance that a query with its item in the catalog seems likelier so than one without.
      threshold: of the probability to be in the catalog, which 95% of the former reach.
      fpr: share of the latter that reach it.
      fitted_at: when, in UTC.
      state: "stale" where the catalog's photos have become many more or fewer; not stored.
    """

    format: Literal[1] = 1
    scale: float
    none: float
    fingerprint: str
    rows: int
    shortlist: int
    queries: int
    source: str
    ece_first: float
    ece_shown: float
    auroc: float
    threshold: float
    fpr: float
    fitted_at: str
    state: Literal["fresh", "stale"] = pydantic.Field("fresh", exclude=True)

    @property
    def listwise(self) -> Listwise:
        """Returns what computes probabilities."""
        return Listwise(self.scale, self.none)

    @property
    def shows_probabilities(self) -> bool:
        """Returns whether probabilities are good enough to be shown."""
        return self.ece_first <= metrics.MAX_ECE

    def in_catalog(self, score: float | None, probability: float | None) -> float | None:
        """Returns the probability that the item is in the catalog, of the first match's.

        None where the scores cannot tell or have no probability, 0 where nothing was found.
        """
        if self.auroc < _MIN_AUROC or not self.shows_probabilities:
            return None
        if score is None:
            return 0.0
        if probability is None:
            return None
        return 1 - self.listwise.none_of(score, probability)


def read_calibration(folder: epath.Path, manifest: Manifest) -> Calibration | None:
    """Reads a catalog's calibration; None where there is none, or it is of another model.

    Raises:
      StoreError: it is damaged.
    """
    path = folder / _FILE
    if not path.exists():
        return None
    try:
        found = Calibration.model_validate(read_object(path, "what calibrate writes"))
    except (InputError, pydantic.ValidationError) as error:
        raise StoreError(f"{path}: is damaged; calibrate again, or delete it") from error
    if found.fingerprint != manifest.model.fingerprint:
        return None
    if abs(manifest.rows - found.rows) > metrics.MAX_CHANGE * found.rows:
        found.state = "stale"
    return found


def calibrate_catalog(
    folder: epath.Path, catalog: "Catalog", source: str, splits: Sequence[str], shortlist: int
) -> Calibration:
    """Fits probabilities on customers' photos, stores and returns them.

    Each photo is asked twice: with its item in the catalog, and with its item left out. Where the
    catalog lacks an item whose shop photos the source has, these are scored beside the catalog's.

    Args:
      folder: of the catalog.
      catalog: open.
      source: CSV, folder or prepared data set with photos whose item is known.
      splits: of the latter.
      shortlist: photos that results are chosen from.

    Raises:
      InputError: there are too few photos, or none but the catalog's own.
    """
    names, own, others = _ask(catalog, source, tuple(splits), shortlist)
    if len(names) < _FEWEST:
        raise InputError(
            f"{source}: {len(names)} customer photos of known items, and {_FEWEST} or more are "
            "needed to say how sure results are"
        )
    width = max(map(len, others)) + 1
    scores = np.full((2 * len(names), width), -np.inf)
    answers = np.full(len(scores), NONE)
    for number, (mine, rest) in enumerate(zip(own, others, strict=True)):
        both = rest if mine is None else sorted([mine, *rest], reverse=True)
        scores[number, : len(both)] = both
        scores[len(names) + number, : len(rest)] = rest
        if mine is not None:
            answers[number] = both.index(mine)
    clusters = np.unique(names, return_inverse=True)[1]
    found = _cross_fitted(scores, answers, np.concatenate([clusters, clusters]))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    calibration = Calibration(
        scale=found.fitted.scale,
        none=found.fitted.none,
        fingerprint=catalog.matcher.fingerprint,
        rows=len(catalog),
        shortlist=shortlist,
        queries=len(names),
        source=" ".join([source, *splits]),
        fitted_at=now,
        **_measure(found),
    )
    write_file(folder / _FILE, calibration.model_dump_json(indent=2) + "\n")
    return calibration


def _cross_fitted(
    scores: np.ndarray, answers: np.ndarray, clusters: np.ndarray
) -> metrics.ListProbabilities:
    right = np.arange(scores.shape[1]) == answers[:, None]
    fitted = metrics.fit_listwise(scores, answers)
    p, none = metrics.cross_fit(scores, answers, clusters)
    return metrics.ListProbabilities(fitted, p, none, np.isfinite(scores), right, clusters)


def _measure(found: metrics.ListProbabilities) -> dict[str, Any]:
    """How good probabilities are, of queries with their item, and then of the same without."""
    everyone = np.ones(len(found.none), bool)
    present = np.arange(len(everyone)) < len(everyone) // 2
    first, shown = (found.measure(everyone, count) for count in (1, metrics.SHOWN))
    told = metrics.open_set_metrics(1 - found.none, present, found.clusters)
    assert first and shown  # noqa: S101, PT018, there are lists
    assert told  # noqa: S101, of both kinds
    return {
        "ece_first": first.values["ece"],
        "ece_shown": shown.values["ece"],
        "auroc": told.auroc,
        "threshold": float(np.quantile(1 - found.none[present], 0.05, method="lower")),
        "fpr": told.fpr_at_95_tpr,
    }


def _ask(
    catalog: "Catalog", source: str, splits: tuple[str, ...], shortlist: int
) -> tuple[list[str], list[float | None], list[list[float]]]:
    """The items of queries, each query's score of its own (None if not found), and of others."""
    queries = list_photos(source, splits, customers=True)
    if not queries.customers and source == catalog.manifest.source:  # each would find itself
        raise InputError(
            f"{source}: has no customers' photos, but the catalog's own alone: give photos whose "
            "item_id is known by --from"
        )
    inside = set(catalog.generation.listing["item_id"])
    shop: PhotoList | None = None
    items = queries.table["item_id"].tolist()
    # Of a source that has photos of the shop, too.
    if queries.customers and not inside.issuperset(items):
        shop = list_photos(source, splits)
    rows_of: dict[str, list[int]] = {}
    for row, item in enumerate(shop.table["item_id"] if shop else ()):
        rows_of.setdefault(item, []).append(row)
    chosen = [row for row, item in enumerate(items) if item in inside or item in rows_of]
    names: list[str] = []
    own: list[float | None] = []
    others: list[list[float]] = []
    with progress_bar(len(chosen), "calibrate", "photo") as bar:
        for start in range(0, len(chosen), _BATCH):
            part = chosen[start : start + _BATCH]
            bar.update(len(part))
            part, query = _embed(catalog.matcher, queries, part, shop=False)
            if query is None:
                continue
            listed = catalog.item_scores(query, shortlist)
            for place, (row, found) in enumerate(zip(part, listed, strict=True)):
                item = items[row]
                mine = found.pop(item, None)
                if item not in inside and shop is not None:
                    _, gallery = _embed(catalog.matcher, shop, rows_of[item], shop=True)
                    if gallery is None:
                        continue
                    one = jax.tree.map(lambda leaf: leaf[place : place + 1], query)  # noqa: B023
                    mine = _best_score(catalog.matcher, one, gallery)
                names.append(item)
                own.append(mine)
                others.append(list(found.values()))
    return names, own, others


def _embed(
    matcher: LoadedMatcher, photos: PhotoList, rows: list[int], shop: bool
) -> tuple[list[int], Features | None]:
    """The rows whose photos can be read, and their features."""
    boxes = photos.table[BOX].to_numpy(np.float64)
    kept, crops = [], []
    for row in rows:
        known = matcher.takes_boxes(shop) and not np.isnan(boxes[row]).any()
        box = tuple(boxes[row].tolist()) if known else None
        try:
            crop = load_crop(photos.read(row), box, matcher.transform(shop))
        except (ImageError, InputError):
            continue
        kept.append(row)
        crops.append(crop.pixels)
    return kept, matcher.embed_crops(np.stack(crops), shop=shop) if crops else None


def _best_score(matcher: LoadedMatcher, query: Features, gallery: Features) -> float:
    if matcher.pair_scores is None:
        products = np.asarray(query.embedding, np.float64) @ np.asarray(gallery.embedding).T
        return float(products.max())
    lists, mesh = np.arange(len(gallery.embedding))[None], matcher.mesh
    source = InMemoryFeatures(gallery)
    scores = score_lists(matcher.pair_scores, query, lists, source, mesh, query_block(1, mesh))
    return float(scores.max())


def describe(found: Calibration) -> str:
    """Returns in words how good probabilities are."""
    first, shown = 100 * found.ece_first, 100 * found.ece_shown
    lines = [
        f"Fitted on {found.queries:,} photos. Probabilities of first results are off by "
        f"{first:.1f} points, of the first {metrics.SHOWN} by {shown:.1f} (in two halves by item).",
        f"Photos whose item is in the catalog are told from others with an AUROC of "
        f"{found.auroc:.2f}; where 95% of these pass, {100 * found.fpr:.0f}% of the others do.",
    ]
    if not found.shows_probabilities:
        lines.append(f"Not shown: more than {100 * metrics.MAX_ECE:.0f} points.")
    elif found.auroc < _MIN_AUROC:
        lines.append(f"'Not in this catalog' is not said: the AUROC is below {_MIN_AUROC}.")
    return "\n".join(lines)
