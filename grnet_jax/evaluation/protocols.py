"""Evaluation protocols: which queries, which gallery, and subsets of the queries.

FindFashion's subsets (GRNet, Section 4) choose among the queries by their view, occlusion and
cropping and leave the gallery as it is. The hard sets overlap. Street2Shop's (Kiapour et al.)
are its categories, each with a gallery of its own.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from grnet_jax.config import ProtocolConfig, drawn_queries
from grnet_jax.errors import InputError
from grnet_jax.search.ranking import ItemImages
from input_pipeline import ImageConfig, read_lines, to_path

# What `eval.search.whitening` is where it is learned on the gallery, and not on a split's images.
WHITENED_BY_GALLERY = "gallery"
# Of a sampled gallery, images besides the matches, a query.
_OTHERS_PER_QUERY = 10
_TITLES = {
    "easy": "Easy",
    "hard_view": "Hard-View",
    "hard_occlusion": "Hard-Occlusion",
    "hard_cropping": "Hard-Cropping",
}


class EvaluationError(InputError):
    """A split that cannot be evaluated; the message says why."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Queries and the part of the gallery that they are ranked against.

    Attributes:
      category: of all of them, or "" for every category.
      queries: int [q'], places in `Protocol.query_rows`.
      gallery: int [g'], places in `Protocol.gallery_rows`.
    """

    category: str
    queries: np.ndarray
    gallery: np.ndarray


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The queries and the gallery of an evaluation.

    Attributes:
      dataset: its title.
      split: name of the split whose customer images are the queries.
      gallery_splits: names of the splits whose shop images are the gallery.
      images: an `input_pipeline.Split` with all these splits.
      query_rows: int [q], rows of images.index.
      gallery_rows: int [g]; a shop image listed under several items is there once.
      positives: int32 [q, p], places in `gallery_rows` that show the query's item, padded with -1.
      groups: each query is in one of them.
      listed: int [n, 2], (place in `gallery_rows`, item that it shows), each once.
      sampled: how the queries were chosen, "" where they are all.
      gallery_sampled: how the gallery was chosen, "" where it is whole.
      whitening_split: an `input_pipeline.Split` whose images whitening is learned on, or None.
      overlaps: how many images stand, byte for byte, where they make a figure better than it is.
    """

    dataset: str
    split: str
    gallery_splits: tuple[str, ...]
    images: Any
    query_rows: np.ndarray
    gallery_rows: np.ndarray
    positives: np.ndarray
    groups: tuple[Group, ...]
    listed: np.ndarray = dataclasses.field(default_factory=lambda: np.empty((0, 2), int))
    sampled: str = ""
    gallery_sampled: str = ""
    whitening_split: Any = None
    overlaps: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def items_of(self, group: Group) -> ItemImages:
        """Returns the items of a group's part of the gallery, and its queries' among them."""
        listed = _listed_part(self.listed, group.gallery)
        listed = listed[np.argsort(listed[:, 1], kind="stable")]
        items, starts = np.unique(listed[:, 1], return_index=True)
        asked = self.images.index.item[self.query_rows[group.queries]]
        places = np.minimum(np.searchsorted(items, asked), len(items) - 1)
        return ItemImages(listed[:, 0], starts, np.where(items[places] == asked, places, -1))

    def describe(self) -> str:
        """Returns the protocol in words."""
        sampled, gallery_sampled = (
            f" ({text})" if text else "" for text in (self.sampled, self.gallery_sampled)
        )
        queries = f"{len(self.query_rows):,} customer photos of {self.split}{sampled}"
        splits = " + ".join(self.gallery_splits)
        gallery = f"{len(self.gallery_rows):,} shop photos of {splits}{gallery_sampled}"
        within = ", ranked within the query's category" if self.groups[0].category else ""
        missing = int((self.positives < 0).all(axis=1).sum())
        unmatched = f"; {missing:,} queries have no match in it" if missing else ""
        overlaps = "".join(f" {count:,} {text}." for text, count in self.overlaps.items())
        return f"Queries: {queries}. Gallery: {gallery}{within}{unmatched}.{overlaps}"


@dataclasses.dataclass(frozen=True)
class QuerySubset:
    """A named choice of a protocol's queries.

    Attributes:
      name: key in result files.
      title: as headings show it, with the data set's name where that is no benchmark's own.
      queries: bool [q], which queries belong to it.
      gallery: images that a query is ranked against; None where that differs between them.
    """

    name: str
    title: str
    queries: np.ndarray
    gallery: int | None


def list_subsets(
    dataset: str,
    gallery: int | None,
    choices: dict[str, np.ndarray],
    categories: Sequence[tuple[str, np.ndarray, int]] = (),
) -> list[QuerySubset]:
    """Returns all queries, FindFashion's four choices of them, and the categories.

    Args:
      dataset: named in every title, so that no metric passes for another set's.
      gallery: images in it; None where each category has its own.
      choices: of `input_pipeline.query_subsets`.
      categories: for each the name, its queries, bool [q], and the images in its gallery.

    Returns:
      The subsets that hold any query.
    """
    everything = np.ones_like(choices["easy"])
    subsets = [
        QuerySubset("all", f"All queries ({dataset})", everything, gallery),
        *(
            QuerySubset(name, f"{title} ({dataset})", choices[name], gallery)
            for name, title in _TITLES.items()
        ),
        *(
            QuerySubset(f"category:{name}", f"{name} ({dataset})", queries, count)
            for name, queries, count in categories
        ),
    ]
    return [subset for subset in subsets if subset.queries.any()]


def build_protocol(
    dataset: Any,
    image: ImageConfig,
    options: ProtocolConfig,
    *,
    whitening: str = "",
    also_cropped: Sequence[ImageConfig] = (),
) -> Protocol:
    """Chooses queries and gallery of a split.

    Args:
      dataset: has the splits.
      image: how images are cropped.
      options: what is chosen; `val_queries` is of no consequence.
      whitening: the split that it is learned on; "" or "gallery" for none.
      also_cropped: other ways, of an ensemble's members: images that any of them tells apart are
        two in the gallery.

    Raises:
      DatasetError: there is no such split.
      EvaluationError: a choice that cannot be, or no query, no gallery image, or no match.
    """
    split, same_category = options.split, options.same_category
    names = _gallery_splits(
        dataset, split, options.gallery
    )  # so rows of the split are its own here
    images = dataset.joined(names)
    index = images.index
    query_rows, shop_rows = dataset.split(split).query_rows(), images.gallery_rows()
    _check_some(images.name, query_rows, shop_rows)
    if same_category:
        _check_categories(index, query_rows)
    category = index.category if same_category else np.zeros(len(images), np.int32)
    boxes = [images.crop_boxes(one)[shop_rows] for one in (image, *also_cropped)]
    first, place = _distinct(
        index.photo_id[shop_rows], category[shop_rows], np.concatenate(boxes, axis=1)
    )
    gallery_rows = shop_rows[first]
    listed = positive_rows(index.item[query_rows], index.item[shop_rows])
    listed[category[shop_rows[listed]] != category[query_rows, None]] = -1
    positives = _each_once(np.where(listed < 0, -1, place[listed]))
    _check_matches(positives, split, f"{len(gallery_rows)} photos ({'+'.join(names)})")
    chosen, sampled = _choose_queries(options.queries, index, query_rows, positives)
    query_rows, positives = query_rows[chosen], positives[chosen]
    return Protocol(
        dataset=dataset.title,
        split=split,
        gallery_splits=names,
        images=images,
        query_rows=query_rows.astype(np.int32),
        gallery_rows=gallery_rows.astype(np.int32),
        positives=positives.astype(np.int32),
        listed=np.unique(np.stack([place, index.item[shop_rows]], axis=1), axis=0),
        groups=_groups(index, query_rows, gallery_rows, same_category),
        sampled=sampled,
        whitening_split=None
        if whitening in ("", WHITENED_BY_GALLERY)
        else dataset.split(whitening),
        overlaps=_count_overlaps(dataset, images, names, query_rows, gallery_rows),
    )


def _count_overlaps(
    dataset: Any,
    images: Any,
    names: Sequence[str],
    query_rows: np.ndarray,
    gallery_rows: np.ndarray,
) -> dict[str, int]:
    """Counts queries that are in the gallery themselves, and images that are in train too."""
    queries, gallery = (images.index.content[rows] for rows in (query_rows, gallery_rows))
    counts = {"queries are in the gallery themselves": np.isin(queries, gallery).sum()}
    if "train" not in names and dataset.has_split("train"):
        trained = dataset.split("train").index.content
        counts["queries are training photos"] = np.isin(queries, trained).sum()
        counts["gallery photos are training photos"] = np.isin(gallery, trained).sum()
    return {text: int(count) for text, count in counts.items() if count}


def sample_protocol(protocol: Protocol, queries: int, seed: int = 0) -> Protocol:
    """Draws queries and gallery images, so that validating costs a small share of training.

    Args:
      protocol: to draw from.
      queries: as many are drawn, among those with a match; all stay where there are no more.
      seed: of the drawing.

    Returns:
      A gallery of the queries' matches and ten times as many others as there are queries, all of it
      where it has no more.
    """
    matched = int((protocol.positives >= 0).any(axis=1).sum())
    positives, rows, sampled = protocol.positives, protocol.query_rows, protocol.sampled
    if matched > queries:
        chosen = _sample(positives, queries, seed)
        sampled = f"{queries:,} of {len(rows):,}, drawn with seed {seed}"
        positives, rows = positives[chosen], rows[chosen]
    count, others = len(protocol.gallery_rows), _OTHERS_PER_QUERY * len(rows)
    matches = np.unique(positives[positives >= 0])
    kept = np.arange(count)
    gallery_sampled = ""
    if count > len(matches) + others:
        rest = np.setdiff1d(kept, matches)
        drawn = np.random.default_rng(seed).choice(rest, others, replace=False)
        kept = np.sort(np.concatenate([matches, drawn]))
        gallery_sampled = f"{len(kept):,} of {count:,}, the matches and others"
    gallery_rows = protocol.gallery_rows[kept]
    return dataclasses.replace(
        protocol,
        query_rows=rows,
        gallery_rows=gallery_rows,
        positives=within_part(positives, kept),
        listed=_listed_part(protocol.listed, kept),
        groups=_groups(
            protocol.images.index, rows, gallery_rows, bool(protocol.groups[0].category)
        ),
        sampled=sampled,
        gallery_sampled=gallery_sampled,
    )


def within_part(positives: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Returns the places of positives in a part of the gallery, int32; -1 where they are not.

    Args:
      positives: int [q, p], gallery rows, padded with -1.
      part: int [g'], gallery rows in order.
    """
    places = np.searchsorted(part, positives)
    inside = part[np.minimum(places, len(part) - 1)] == positives
    return np.where(inside & (positives >= 0), places, -1).astype(np.int32)


def has_both_domains(split: Any) -> bool:
    """Returns whether a split has queries and a gallery, so that there is anything to rank."""
    return bool(len(split.query_rows()) and len(split.gallery_rows()))


def positive_rows(query_items: np.ndarray, gallery_items: np.ndarray) -> np.ndarray:
    """Returns for each query the gallery rows with its item, int32 [q, p >= 1], padded with -1."""
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
    """Returns positives, and the gallery images whose files are byte for byte a positive's.

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
            f"eval.protocol.gallery={gallery!r} does not hold eval.protocol.split={split!r}: items "
            "are in one split, so that no query would have a match"
        )
    return split, *(name for name in names if name != split)


def _check_some(name: str, query_rows: np.ndarray, shop_rows: np.ndarray) -> None:
    for rows, what, domain in ((query_rows, "query", "customer"), (shop_rows, "gallery", "shop")):
        if not len(rows):
            raise EvaluationError(
                f"split {name!r} has an empty {what} set: it holds no photo of domain {domain!r}"
            )


def _check_matches(positives: np.ndarray, split: str, gallery: str) -> None:
    if (positives < 0).all():
        raise EvaluationError(
            f"split {split!r}: none of its {len(positives)} queries shows an item that the gallery "
            f"of {gallery} has; nothing can be measured"
        )


def _distinct(
    photo_id: np.ndarray, category: np.ndarray, crops: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows that show something of their own: their places, and for each row its place among these.

    An image that is listed several times is one, unless it is cropped otherwise, or it stands
    in two categories that are galleries of their own.
    """
    photo = np.unique(photo_id, return_inverse=True)[1]
    keys = np.column_stack([photo, category, crops])
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
        raise EvaluationError(f"eval.protocol.same_category: query {name!r} has no category")


def _choose_queries(
    text: str, index: Any, query_rows: np.ndarray, positives: np.ndarray
) -> tuple[np.ndarray, str]:
    """The places of the queries that `eval.protocol.queries` asks for, and how they were chosen."""
    drawn = drawn_queries(text)
    if drawn is None:
        path = to_path(text, "eval.protocol.queries")
        chosen, how = _named_queries(path, index, query_rows), f"listed in {path.name}"
    elif drawn[0]:
        chosen, how = _sample(positives, *drawn), f"drawn with seed {drawn[1]}"
    else:
        return np.arange(len(query_rows)), ""
    return chosen, f"{len(chosen):,} of {len(query_rows):,}, {how}"


def _named_queries(path: epath.Path, index: Any, query_rows: np.ndarray) -> np.ndarray:
    """The places of the queries that a file names, each once.

    Raises:
      EvaluationError: naming the line without a query, or a file without any.
    """
    places: dict[str, list[int]] = {}
    items = index.items[index.item[query_rows]]
    for place, names in enumerate(zip(index.photo_id[query_rows], items, strict=True)):
        for name in (str(names[0]), ",".join(map(str, names))):
            places.setdefault(name, []).append(place)
    found: set[int] = set()
    for number, line in enumerate(read_lines(path), 1):
        if name := line.strip():
            if name not in places:
                raise EvaluationError(
                    f"{path}:{number}: {name!r}: the split has no such query; expected "
                    "IMAGE or IMAGE,ITEM, as photo_id and item_id of ranks.parquet have them"
                )
            found.update(places[name])
    if not found:
        raise EvaluationError(f"eval.protocol.queries={path}: the file names no query")
    return np.array(sorted(found))


def _listed_part(listed: np.ndarray, part: np.ndarray) -> np.ndarray:
    """`Protocol.listed` of a part of the gallery, int [g'], rows in order, counted there."""
    places = within_part(listed[:, :1], part)[:, 0]
    return np.stack([places, listed[:, 1]], axis=1)[places >= 0]


def _sample(positives: np.ndarray, queries: int, seed: int) -> np.ndarray:
    matched = np.flatnonzero((positives >= 0).any(axis=1))
    if queries > len(matched):
        raise EvaluationError(
            f"eval.protocol.queries={queries}: only {len(matched)} queries have a match in the "
            "gallery"
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
