"""What is searched for, and where: the queries and the gallery of an evaluation."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from grnet_jax.errors import InputError, check_at_least
from grnet_jax.retrieval.digests import RESIZED

# What `eval.whitening` is where it is learned on the gallery, and not on a split's photos.
WHITENED_BY_GALLERY = "gallery"


class EvaluationError(InputError):
    """A split that cannot be evaluated; the message says why."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Queries and the part of the gallery that they are ranked against.

    Attributes:
      category: of all of them, or "" for every category.
      queries: int [q'], places in `Task.query_rows`.
      gallery: int [g'], places in `Task.gallery_rows`.
    """

    category: str
    queries: np.ndarray
    gallery: np.ndarray


@dataclasses.dataclass(frozen=True)
class Task:
    """The queries and the gallery of an evaluation.

    Attributes:
      dataset: its title.
      split: name of the split whose customer photos are the queries.
      gallery_splits: names of the splits whose shop photos are the gallery.
      photos: an `input_pipeline.Split` with all these splits.
      query_rows: int [q], rows of photos.index.
      gallery_rows: int [g]; a shop photo listed under several items is there once.
      positives: int32 [q, p], places in `gallery_rows` that show the query's item, padded with -1.
      groups: each query is in one of them.
      sampled: how the queries were chosen, "" where they are all.
      learning: an `input_pipeline.Split` whose photos whitening is learned on, or None.
    """

    dataset: str
    split: str
    gallery_splits: tuple[str, ...]
    photos: Any
    query_rows: np.ndarray
    gallery_rows: np.ndarray
    positives: np.ndarray
    groups: tuple[Group, ...]
    sampled: str
    learning: Any = None

    def describe(self) -> str:
        """The protocol in words."""
        queries = f"{len(self.query_rows):,} customer photos of {self.split}"
        splits = " + ".join(self.gallery_splits)
        gallery = f"{len(self.gallery_rows):,} shop photos of {splits}"
        within = ", ranked within the query's category" if self.groups[0].category else ""
        sampled = f" ({self.sampled})" if self.sampled else ""
        missing = int((self.positives < 0).all(axis=1).sum())
        unmatched = f"; {missing:,} queries have no match in it" if missing else ""
        return f"Queries: {queries}{sampled}. Gallery: {gallery}{within}{unmatched}."


# Fields of config.data that decide what a model sees of a photo.
_SEEN = (*RESIZED, "crop", "shop_crop", "square")


def see_as_trained(data: Any, trained: Any) -> None:
    """Sets the fields of a config.data by which a model sees photos to those of its training."""
    for field in _SEEN:
        wanted = trained[field]
        if data[field] != wanted:
            logging.info("data.%s=%s, as the model was trained", field, wanted)
        data[field] = wanted


def configured_task(dataset: Any, config: Any, **others: Any) -> Task:
    """The task that `config.eval` describes, but for the arguments of `make_task` given."""
    names = ("split", "gallery", "queries", "query_seed", "same_category", "whitening")
    choices = {name: config.eval[name] for name in names} | others
    return make_task(dataset, data=config.data, **choices)


def make_task(
    dataset: Any,
    split: str,
    data: Any,
    *,
    gallery: str = "",
    queries: int = 0,
    query_seed: int = 0,
    same_category: bool = False,
    whitening: str = "",
    also_cut: Sequence[tuple[Any, Any]] = (),
) -> Task:
    """Chooses queries and gallery of a split.

    Args:
      dataset: an `input_pipeline.Dataset`.
      split: whose customer photos are the queries.
      data: config.data, by which photos are cut.
      gallery: splits whose shop photos are the gallery, joined by "+", or "all" of them; "" for
        the split itself.
      queries: as many queries are drawn, among those with a match; 0 takes all.
      query_seed: of the drawing.
      same_category: whether a query is ranked among the shop photos of its own category alone.
      whitening: the split that it is learned on; "" or "gallery" for none.
      also_cut: further data sets of the same photos, each with the config.data that they are cut
        by: photos that any of them tells apart are two in the gallery.

    Raises:
      DatasetError: there is no such split.
      EvaluationError: a choice that cannot be, or no query, no gallery photo, or no match.
    """
    check_at_least("eval.queries", queries, 0)
    names = _gallery_splits(dataset, split, gallery)  # so rows of the split are its own here
    photos = dataset.joined(names)
    index = photos.index
    query_rows, shop_rows = dataset.split(split).query_rows(), photos.gallery_rows()
    _check_some(photos.name, query_rows, shop_rows)
    if same_category:
        _check_categories(index, query_rows)
    category = index.category if same_category else np.zeros(len(photos), np.int32)
    seen = [(photos, data), *((other.joined(names), cut) for other, cut in also_cut)]
    cuts = np.concatenate([photos.cuts(cut)[shop_rows] for photos, cut in seen], axis=1)
    first, place = _distinct(index.photo_id[shop_rows], category[shop_rows], cuts)
    gallery_rows = shop_rows[first]
    listed = positive_rows(index.item[query_rows], index.item[shop_rows])
    listed[category[shop_rows[listed]] != category[query_rows, None]] = -1
    positives = _each_once(np.where(listed < 0, -1, place[listed]))
    if (positives < 0).all():
        raise EvaluationError(
            f"split {split!r}: none of its {len(query_rows)} queries shows an item that the "
            f"gallery of {len(gallery_rows)} photos ({'+'.join(names)}) has; nothing can be "
            "measured"
        )
    sampled = ""
    if queries:
        chosen = _sample(positives, queries, query_seed)
        sampled = f"{queries:,} of {len(query_rows):,}, drawn with seed {query_seed}"
        query_rows, positives = query_rows[chosen], positives[chosen]
    return Task(
        dataset=dataset.title,
        split=split,
        gallery_splits=names,
        photos=photos,
        query_rows=query_rows.astype(np.int32),
        gallery_rows=gallery_rows.astype(np.int32),
        positives=positives.astype(np.int32),
        groups=_groups(index, query_rows, gallery_rows, same_category),
        sampled=sampled,
        learning=None if whitening in ("", WHITENED_BY_GALLERY) else dataset.split(whitening),
    )


def has_both_domains(split: Any) -> bool:
    """Whether a split has queries and a gallery, so that there is anything to rank."""
    return bool(len(split.query_rows()) and len(split.gallery_rows()))


def positive_rows(query_items: np.ndarray, gallery_items: np.ndarray) -> np.ndarray:
    """For each query the gallery rows with its item, int32 [q, p], padded with -1; p >= 1."""
    order = np.argsort(gallery_items, kind="stable")
    ordered = gallery_items[order]
    first = np.searchsorted(ordered, query_items, side="left")
    last = np.searchsorted(ordered, query_items, side="right")
    width = max(int((last - first).max(initial=1)), 1)
    columns = first[:, None] + np.arange(width)[None, :]
    inside = columns < last[:, None]
    rows = order[np.minimum(columns, len(order) - 1)]
    return np.where(inside, rows, -1).astype(np.int32)


def identical_rows(positives: np.ndarray, content: np.ndarray) -> np.ndarray:
    """Positives, and the gallery photos whose files are byte for byte a positive's.

    Args:
      positives: int [q, p], gallery rows, padded with -1.
      content: int [g], equal where the files are.

    Returns:
      int32 [q, p'], as positives.
    """
    order = np.argsort(content, kind="stable")
    ordered = content[order]
    found = []
    for rows in positives:
        wanted = np.unique(content[rows[rows >= 0]])
        first = np.searchsorted(ordered, wanted, side="left")
        last = np.searchsorted(ordered, wanted, side="right")
        spans = [order[start:stop] for start, stop in zip(first, last, strict=True)]
        found.append(np.sort(np.concatenate(spans)) if spans else rows[:0])
    width = max([1, *map(len, found)])
    padded = [np.pad(rows, (0, width - len(rows)), constant_values=-1) for rows in found]
    return np.array(padded, np.int32).reshape(-1, width)


def _gallery_splits(dataset: Any, split: str, gallery: str) -> tuple[str, ...]:
    """The evaluated split first."""
    dataset.split(split)
    names = dataset.splits if gallery == "all" else (gallery or split).split("+")
    for name in names:
        dataset.split(name)
    if split not in names:
        raise EvaluationError(
            f"eval.gallery={gallery!r} does not hold eval.split={split!r}: items are in one split, "
            "so that no query would have a match"
        )
    return split, *(name for name in names if name != split)


def _check_some(name: str, query_rows: np.ndarray, shop_rows: np.ndarray) -> None:
    for rows, what, domain in ((query_rows, "query", "customer"), (shop_rows, "gallery", "shop")):
        if not len(rows):
            raise EvaluationError(
                f"split {name!r} has an empty {what} set: it holds no photo of domain {domain!r}"
            )


def _distinct(
    photo_id: np.ndarray, category: np.ndarray, cuts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows that show something of their own: their places, and for each row its place among these.

    A photo that is listed several times is one, unless other parts of it are cut out, or it stands
    in two categories that are galleries of their own.
    """
    photo = np.unique(photo_id, return_inverse=True)[1]
    keys = np.column_stack([photo, category, cuts])
    _, first, place = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)  # in the order of the rows again
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return first[order], places[place.reshape(-1)]


def _each_once(positives: np.ndarray) -> np.ndarray:
    """Each row's places once, in order, with -1 behind them."""
    ordered = np.sort(positives, axis=1)
    ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = -1
    behind = np.argsort(ordered < 0, axis=1, kind="stable")
    return np.take_along_axis(ordered, behind, axis=1)


def _check_categories(index: Any, query_rows: np.ndarray) -> None:
    without = query_rows[index.category[query_rows] < 0]
    if len(without):
        name = str(index.photo_id[without[0]])
        raise EvaluationError(f"eval.same_category: query {name!r} has no category")


def _sample(positives: np.ndarray, queries: int, seed: int) -> np.ndarray:
    matched = np.flatnonzero((positives >= 0).any(axis=1))
    if queries > len(matched):
        raise EvaluationError(
            f"eval.queries={queries}: only {len(matched)} queries have a match in the gallery"
        )
    return np.sort(np.random.default_rng(seed).choice(matched, queries, replace=False))


def _groups(
    index: Any, query_rows: np.ndarray, gallery_rows: np.ndarray, same_category: bool
) -> tuple[Group, ...]:
    if not same_category:
        return (Group("", np.arange(len(query_rows)), np.arange(len(gallery_rows))),)
    wanted, held = index.category[query_rows], index.category[gallery_rows]
    return tuple(
        Group(
            str(index.categories[number]), *map(np.flatnonzero, (wanted == number, held == number))
        )
        for number in np.unique(wanted)
    )
