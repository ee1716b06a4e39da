"""The index: what sampling and protocols need of every image, without reading the images."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from input_pipeline.stored_index import DIGEST, StoredIndex, number_contents
from input_pipeline.vocabulary import CUSTOMER, LANDMARKS, SHOP

_COLUMNS = {  # dtype and shape of one row
    "item": (np.int32, ()),
    "domain": (np.int8, ()),
    "category": (np.int32, ()),
    "view": (np.int8, ()),
    "occluded": (np.int8, ()),
    "cropped": (np.int8, ()),
    "box": (np.float32, (4,)),
    "size": (np.int32, (2,)),
    "resize_scale": (np.float32, ()),
    "content": (np.int32, ()),
    "clothes_type": (np.int8, ()),
    "landmarks": (np.int32, (len(LANDMARKS), 3)),
    "attribute_ends": (np.int64, ()),
}
_ROWS_PER_PART = 65_536


@dataclasses.dataclass(frozen=True)
class PhotoIndex(StoredIndex):
    """Columns over the N images of a split; row i is record i. -1 stands for unknown.

    Attributes:
      photo_id: str [N].
      item: int32 [N], an index into `items`.
      domain: int8 [N], 0 customer, 1 shop.
      category: int32 [N], an index into `categories`.
      view: int8 [N], 0 front, 1 side, 2 back.
      occluded: int8 [N], 0 or 1.
      cropped: int8 [N], 0 or 1.
      box: float32 [N, 4], (x_1, y_1, x_2, y_2) in pixels of the upright image.
      size: int32 [N, 2], (height, width) of the upright image in pixels.
      resize_scale: float32 [N], longer side of the stored photo by that of the original.
      content: int32 [N], equal exactly where the stored image bytes are equal, in all splits; if an
        image has several boxes, each box has another number, the n-th the same in equal images.
      clothes_type: int8 [N], 1 upper body, 2 lower body, 3 full body.
      landmarks: int32 [N, 8, 3] (visibility, x, y), as in a record; -1 if the data set has other
        landmarks than these eight.
      attribute_ends: int64 [N], where each image's part of `attribute_marks` ends.
      attribute_marks: int32, a + 1 for each attribute a, an index into `attributes`, that an image
        has, -(a + 1) for each that is unknown.
      items: str [number of items in this split].
      categories: str [number of categories in the data set], the same in each split.
      attributes: str [number of attributes in the data set], the same in each split.
    """

    rows = ("photo_id", *_COLUMNS)

    photo_id: np.ndarray
    item: np.ndarray
    domain: np.ndarray
    category: np.ndarray
    view: np.ndarray
    occluded: np.ndarray
    cropped: np.ndarray
    box: np.ndarray
    size: np.ndarray
    resize_scale: np.ndarray
    content: np.ndarray
    clothes_type: np.ndarray
    landmarks: np.ndarray
    attribute_ends: np.ndarray
    attribute_marks: np.ndarray
    items: np.ndarray
    categories: np.ndarray
    attributes: np.ndarray

    @functools.cached_property
    def customers(self) -> "RowsByItem":
        """Returns the customer images, by item."""
        return RowsByItem.of(self, CUSTOMER)

    @functools.cached_property
    def shops(self) -> "RowsByItem":
        """Returns the shop images, by item."""
        return RowsByItem.of(self, SHOP)

    @functools.cached_property
    def photos(self) -> "RowsByItem":
        """Returns all images, by item."""
        return RowsByItem.of(self)

    @functools.cached_property
    def pairs(self) -> np.ndarray:
        """Returns every (customer row, shop row) of one item, sorted by item, int32 [n, 2]."""
        customers, shops = self.customers, self.shops
        repeats = shops.counts[self.item[customers.rows]]
        customer = np.repeat(customers.rows, repeats)
        first = np.repeat(np.cumsum(repeats) - repeats, repeats)
        shop = shops.rows[shops.starts[self.item[customer]] + np.arange(len(customer)) - first]
        return np.stack([customer, shop], axis=1)

    @functools.cached_property
    def paired_items(self) -> np.ndarray:
        """Returns the items that have both a customer and a shop image, int32 [m]."""
        both = (self.customers.counts > 0) & (self.shops.counts > 0)
        return np.flatnonzero(both).astype(np.int32)

    def attribute_values(self, rows: np.ndarray) -> np.ndarray:
        """Returns int8 [n, attributes]: 1 the image has it, 0 it does not, -1 unknown."""
        ends = self.attribute_ends[rows]
        starts = np.where(rows > 0, self.attribute_ends[rows - 1], 0)
        counts = ends - starts
        first = np.repeat(np.cumsum(counts) - counts, counts)
        marks = self.attribute_marks[np.repeat(starts, counts) + np.arange(counts.sum()) - first]
        values = np.zeros((len(rows), len(self.attributes)), np.int8)
        values[np.repeat(np.arange(len(rows)), counts), np.abs(marks) - 1] = np.sign(marks)
        return values

    def attribute_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Counts the images with each attribute, and those without, int64 [attributes] each."""
        marks, count = self.attribute_marks, len(self.attributes)
        has, unknown = (
            np.bincount(chosen - 1, minlength=count)
            for chosen in (marks[marks > 0], -marks[marks < 0])
        )
        return has, len(self) - has - unknown

    def counts(self) -> dict[str, int]:
        """Returns the numbers that a summary prints."""
        return {
            "photos": len(self),
            "categories": len(np.unique(self.category[self.category >= 0])),
            "items": len(self.items),
            "customer_photos": len(self.customers.rows),
            "shop_photos": len(self.shops.rows),
            "pairs": int((self.customers.counts * self.shops.counts).sum()),
            "queries": len(self.customers.rows),
            "gallery": len(self.shops.rows),
            "queries_without_match": int(self.customers.counts[self.shops.counts == 0].sum()),
        }

    @classmethod
    def join(cls, indices: Sequence["PhotoIndex"]) -> "PhotoIndex":
        """Concatenates several splits of one data set; items are matched by their names."""
        items, numbers = np.unique(
            np.concatenate([index.items for index in indices]), return_inverse=True
        )
        firsts = np.cumsum([0, *(len(index.items) for index in indices)])
        marks = np.cumsum([0, *(len(index.attribute_marks) for index in indices)])
        columns = {
            name: np.concatenate([getattr(index, name) for index in indices])
            for name in ("attribute_marks", *cls.rows)
        }
        columns["item"] = np.concatenate(
            [numbers[first + index.item] for first, index in zip(firsts, indices, strict=False)]
        ).astype(np.int32)
        columns["attribute_ends"] = np.concatenate(
            [first + index.attribute_ends for first, index in zip(marks, indices, strict=False)]
        )
        return cls(
            **columns,
            items=items,
            categories=indices[0].categories,
            attributes=indices[0].attributes,
        )


@dataclasses.dataclass(frozen=True)
class RowsByItem:
    """Rows, sorted by item and then by row.

    Attributes:
      rows: int32 [n].
      starts: int64 [items], where each item's rows begin in `rows`.
      counts: int64 [items].
    """

    rows: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, index: PhotoIndex, domain: int | None = None) -> "RowsByItem":
        """Groups the images, all or those of one domain."""
        chosen = np.ones(len(index), bool) if domain is None else index.domain == domain
        rows = np.flatnonzero(chosen).astype(np.int32)
        rows = rows[np.argsort(index.item[rows], kind="stable")]
        counts = np.bincount(index.item[rows], minlength=len(index.items))
        return cls(rows, np.cumsum(counts) - counts, counts)


class IndexBuilder:
    """Collects the rows of a split's index, one record after another."""

    def __init__(self) -> None:
        computed = ("content", "attribute_ends")
        names = ("photo_id", "content_digest", "mark_count", "marks", *_COLUMNS)
        self._waiting: dict[str, list] = {name: [] for name in names if name not in computed}
        self._parts: list[dict[str, np.ndarray]] = []
        self.items: dict[str, int] = {}
        self.categories: dict[str, int] = {}
        self.attributes: dict[str, int] = {}

    def add(
        self,
        *,
        item_id: str,
        category: str,
        attributes: Sequence[str],
        unknown_attributes: Sequence[str],
        **columns: object,
    ) -> None:
        """Adds a row.

        Args:
          item_id: name of the item.
          category: name of the category, "" if unknown.
          attributes: names of those the image has.
          unknown_attributes: names of those that are unknown.
          **columns: photo_id, domain, view, occluded, cropped, box, size, resize_scale,
            clothes_type, landmarks, and content_digest: 16 bytes, equal where the stored image
            bytes are equal.
        """
        columns["item"] = _number(self.items, item_id)
        columns["category"] = _number(self.categories, category) if category else -1
        columns["mark_count"] = len(attributes) + len(unknown_attributes)
        for name, value in columns.items():
            self._waiting[name].append(value)
        for sign, names in ((1, attributes), (-1, unknown_attributes)):
            self._waiting["marks"] += [
                sign * (_number(self.attributes, name) + 1) for name in names
            ]
        if max(len(self._waiting["item"]), len(self._waiting["marks"]) // 8) >= _ROWS_PER_PART:
            self._pack()

    def columns(self) -> dict[str, np.ndarray]:
        """Returns all columns, but content_digest and mark_count for content and attribute_ends."""
        self._pack()
        return {
            name: np.concatenate([part[name] for part in self._parts]) for name in self._waiting
        }

    def _pack(self) -> None:
        """Turns the waiting rows into arrays: as Python objects, millions take gigabytes."""
        part = {}
        for name, values in self._waiting.items():
            if name == "photo_id":
                part[name] = _strings(values)
            elif name == "content_digest":
                part[name] = np.frombuffer(b"".join(values), DIGEST)
            elif name in ("mark_count", "marks"):
                part[name] = np.array(values, np.int32)
            else:
                dtype, shape = _COLUMNS[name]
                part[name] = np.array(values, dtype).reshape(-1, *shape)
            values.clear()
        self._parts.append(part)


def build_indices(builders: Mapping[str, IndexBuilder]) -> dict[str, PhotoIndex]:
    """Builds each split's index; categories, attributes and contents have one numbering in all."""
    categories = sorted({name for builder in builders.values() for name in builder.categories})
    attributes = sorted({name for builder in builders.values() for name in builder.attributes})
    columns = {split: builder.columns() for split, builder in builders.items()}
    digests = [
        number_boxes(rows.pop("content_digest"), rows["photo_id"], rows["box"])
        for rows in columns.values()
    ]
    contents = number_contents(digests)
    indices = {}
    for (split, builder), content in zip(builders.items(), contents, strict=True):
        rows = columns[split]
        marks = rows.pop("marks")
        rows["category"] = _renumbered(builder.categories, categories)[rows["category"]]
        rows["attribute_ends"] = np.cumsum(rows.pop("mark_count"), dtype=np.int64)
        numbers = _renumbered(builder.attributes, attributes)[np.abs(marks) - 1]
        indices[split] = PhotoIndex(
            content=content,
            attribute_marks=np.sign(marks) * (numbers + 1),
            items=_strings(builder.items),
            categories=_strings(categories),
            attributes=_strings(attributes),
            **rows,
        )
    return indices


def number_boxes(digests: np.ndarray, photo_id: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Adds to digests the number of each row's box among the different boxes of its image."""
    photo = np.unique(photo_id, return_inverse=True)[1]
    keys = np.column_stack([photo, boxes.astype(np.float64)])
    distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
    first = np.searchsorted(distinct[:, 0], distinct[:, 0])
    numbered = np.zeros(len(digests), [*DIGEST.descr, ("box", "<i4")])
    numbered["high"], numbered["low"] = digests["high"], digests["low"]
    numbered["box"] = (np.arange(len(distinct)) - first)[inverse.reshape(-1)]
    return numbered


def _number(numbers: dict[str, int], name: str) -> int:
    """Returns the number of a name, a new one if it has none."""
    return numbers.setdefault(name, len(numbers))


def _renumbered(names: Iterable[str], ordered: Sequence[str]) -> np.ndarray:
    """Returns the index of each name in `ordered`, and at the end -1, so that -1 stays -1."""
    indices = {name: index for index, name in enumerate(ordered)}
    return np.array([*(indices[name] for name in names), -1], np.int32)


def _strings(values: Iterable[str]) -> np.ndarray:
    return np.array(list(values), dtype=np.str_)
