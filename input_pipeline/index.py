"""The index: what sampling and protocols need of every image, without reading the images."""

import dataclasses
import functools
import hashlib
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from etils import epath

from input_pipeline.errors import DatasetError
from input_pipeline.files import write_file
from input_pipeline.records import NO_LANDMARKS, PhotoRecord
from input_pipeline.vocabulary import CUSTOMER, DOMAINS, LANDMARKS, SHOP

_DIGEST = np.dtype([("high", "<u8"), ("low", "<u8")])  # of 16 bytes; NumPy strips zeros from bytes
_ROWS_PER_PART = 16_384  # as Python objects, the rows of millions of images take gigabytes
_SMALL = ("view", "occluded", "cropped", "clothes_type")
_COLUMNS = (
    "item",
    "domain",
    "category",
    *_SMALL,
    "box",
    "size",
    "resize_scale",
    "content",
    "landmarks",
    "attribute_ends",
)


@dataclasses.dataclass(frozen=True)
class StoredIndex:
    """NumPy arrays, the fields of a subclass; those named in `rows` have one element per image."""

    rows: ClassVar[tuple[str, ...]]

    def __len__(self) -> int:
        return len(getattr(self, self.rows[0]))

    def save(self, path: epath.PathLike) -> None:
        """Writes the index, atomically on a local disk."""
        buffer = io.BytesIO()
        columns = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        np.savez_compressed(buffer, **columns)
        write_file(epath.Path(path), buffer.getvalue())

    @classmethod
    def load(cls, path: epath.PathLike) -> Self:
        """Reads an index that `save` wrote.

        Raises:
          DatasetError: the file is missing, damaged or not an index.
        """
        try:
            content = io.BytesIO(epath.Path(path).read_bytes())
            with np.load(content, allow_pickle=False) as stored:
                columns = {field.name: stored[field.name] for field in dataclasses.fields(cls)}
        except FileNotFoundError:
            raise DatasetError(f"{path}: missing") from None
        except Exception as error:  # a damaged zip raises nearly anything
            raise DatasetError(f"{path}: damaged ({error})") from error
        index = cls(**columns)
        if len({len(getattr(index, name)) for name in cls.rows}) != 1:
            raise DatasetError(f"{path}: damaged (columns of different lengths)")
        return index


def number_contents(digests: list[np.ndarray]) -> list[np.ndarray]:
    """Numbers the digests of all splits, equal ones alike; int32 for each split."""
    numbers = np.unique(np.concatenate(digests), return_inverse=True)[1].astype(np.int32)
    return np.split(numbers, np.cumsum([len(part) for part in digests])[:-1])


@dataclasses.dataclass(frozen=True)
class PhotoIndex(StoredIndex):
    """Columns over the N images of a split; row i is record i. -1 stands for unknown.

    Attributes:
      photo_id: str [N].
      item: int32 [N], an index into `items`.
      domain: int8 [N], 0 customer, 1 shop.
      category: int32 [N], an index into `categories`.
      view: int8 [N], a position in VIEWS.
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
        categories = self.category[self.category >= 0]
        return count_photos(self.item, self.domain == CUSTOMER, categories)

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


def count_photos(item: np.ndarray, customer: np.ndarray, categories: np.ndarray) -> dict[str, int]:
    """Returns the numbers that a summary prints.

    Args:
      item: int [n], of each image.
      customer: bool [n], whether it is a customer image.
      categories: of the images that have one.
    """
    items = int(item.max(initial=-1)) + 1
    customers, shops = (np.bincount(item[part], minlength=items) for part in (customer, ~customer))
    return {
        "photos": len(item),
        "categories": len(np.unique(categories)),
        "items": int(((customers + shops) > 0).sum()),
        "customer_photos": int(customers.sum()),
        "shop_photos": int(shops.sum()),
        "pairs": int((customers * shops).sum()),
        "queries": int(customers.sum()),
        "gallery": int(shops.sum()),
        "queries_without_match": int(customers[shops == 0].sum()),
    }


class NameNumbers(dict[str, int]):
    """Numbers by name, each new name the next one; -1 for "", which is not kept."""

    def __missing__(self, name: str) -> int:
        if name:
            self[name] = len(self)
        return self.get(name, -1)

    def places(self, names: Sequence[str]) -> np.ndarray:
        """Returns the place among `names` of each number, and at the end -1, so that -1 stays."""
        places = {name: place for place, name in enumerate(names)}
        return np.array([*(places[name] for name in self), -1], np.int32)


def index_photos(
    records: Mapping[str, Iterable[PhotoRecord]], names: Mapping[str, Sequence[str]]
) -> dict[str, PhotoIndex]:
    """Builds each split's index; categories, attributes and contents have one numbering in all.

    Args:
      records: of each split, in their order; each is read once.
      names: all "categories" and "attributes" in their order, where a list of them is known; else
        those of the records, sorted.
    """
    numbers = {name: NameNumbers() for name in ("categories", "attributes")}
    items = {split: NameNumbers() for split in records}
    columns = {
        split: stack_rows(_photo_row(record, items[split], **numbers) for record in part)
        for split, part in records.items()
    }
    order = {name: list(names.get(name) or sorted(numbers[name])) for name in numbers}
    places = {name: numbers[name].places(order[name]) for name in numbers}
    contents = number_contents(
        [
            number_boxes(rows.pop("digest"), rows["photo_id"], rows["box"])
            for rows in columns.values()
        ]
    )
    indices = {}
    for (split, rows), content in zip(columns.items(), contents, strict=True):
        marks = rows.pop("marks")
        rows["category"] = places["categories"][rows["category"]]
        indices[split] = PhotoIndex(
            content=content,
            attribute_ends=np.cumsum(rows.pop("mark_count"), dtype=np.int64),
            attribute_marks=np.sign(marks) * (places["attributes"][np.abs(marks) - 1] + 1),
            items=np.array(list(items[split]), np.str_),
            **{name: np.array(order[name], np.str_) for name in order},
            **rows,
        )
    return indices


def _photo_row(
    record: PhotoRecord, items: NameNumbers, categories: NameNumbers, attributes: NameNumbers
) -> dict[str, Any]:
    landmarks = record.landmarks if len(record.landmarks) == len(LANDMARKS) else NO_LANDMARKS
    marks = [attributes[name] + 1 for name in record.attributes]
    marks += [-attributes[name] - 1 for name in record.unknown_attributes]
    return {
        "photo_id": np.str_(record.photo_id),
        "digest": digest(record.image),
        "item": np.int32(items[record.item_id]),
        "domain": np.int8(DOMAINS.index(record.domain)),
        "category": np.int32(categories[record.category]),
        **{name: np.int8(getattr(record, name)) for name in _SMALL},
        "box": np.array(record.box, np.float32),
        "size": np.array((record.height, record.width), np.int32),
        "resize_scale": np.float32(record.resize_scale),
        "landmarks": landmarks,
        "mark_count": np.int32(len(marks)),
        "marks": np.array(marks, np.int32),
    }


def digest(image: bytes) -> np.ndarray:
    """Returns 16 bytes that are equal where the bytes of images are, as one value."""
    return np.frombuffer(hashlib.blake2b(image, digest_size=16).digest(), _DIGEST)[0]


def stack_rows(rows: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Stacks rows of NumPy values to columns; `marks`, of any number per row, one after another."""
    parts: list[dict[str, np.ndarray]] = []
    rows = iter(rows)
    while part := list(itertools.islice(rows, _ROWS_PER_PART)):
        columns = {name: [row[name] for row in part] for name in part[0]}
        parts.append(
            {
                name: np.concatenate(values) if name == "marks" else np.stack(values)
                for name, values in columns.items()
            }
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def number_boxes(digests: np.ndarray, photo_id: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Adds to digests the number of each row's box among the different boxes of its image."""
    photo = np.unique(photo_id, return_inverse=True)[1]
    keys = np.column_stack([photo, boxes.astype(np.float64)])
    distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
    first = np.searchsorted(distinct[:, 0], distinct[:, 0])
    numbered = np.zeros(len(digests), [*_DIGEST.descr, ("box", "<i4")])
    numbered["high"], numbered["low"] = digests["high"], digests["low"]
    numbered["box"] = (np.arange(len(distinct)) - first)[inverse.reshape(-1)]
    return numbered
