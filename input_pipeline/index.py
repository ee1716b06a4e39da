"""What sampling and protocols need to know of every photo, without reading the photos."""

import dataclasses
import functools
import io
from collections.abc import Iterable, Sequence

import numpy as np
from etils import epath

from input_pipeline.errors import DatasetError

CUSTOMER, SHOP = 0, 1
_COLUMNS = {  # dtype and shape of one row
    "item": (np.int32, ()),
    "domain": (np.int8, ()),
    "category": (np.int32, ()),
    "view": (np.int8, ()),
    "occluded": (np.int8, ()),
    "cropped": (np.int8, ()),
    "box": (np.float32, (4,)),
    "size": (np.int32, (2,)),
    "content": (np.int32, ()),
}
_DIGEST = np.dtype([("high", "<u8"), ("low", "<u8")])
_ROWS_PER_PART = 65_536


@dataclasses.dataclass(frozen=True)
class PhotoIndex:
    """Columns over the N photos of a split; row i is record i. -1 stands for unknown.

    Attributes:
      photo_id: str [N].
      item: int32 [N], an index into `items`.
      domain: int8 [N], 0 customer, 1 shop.
      category: int32 [N], an index into `categories`.
      view: int8 [N], 0 front, 1 side, 2 back.
      occluded: int8 [N], 0 or 1.
      cropped: int8 [N], 0 or 1.
      box: float32 [N, 4], (x_1, y_1, x_2, y_2) in pixels of the upright photo.
      size: int32 [N, 2], (height, width) of the upright photo in pixels.
      content: int32 [N], equal exactly where the stored image bytes are equal.
      items: str [number of items in this split].
      categories: str [number of categories in the data set], the same in each split.
    """

    photo_id: np.ndarray
    item: np.ndarray
    domain: np.ndarray
    category: np.ndarray
    view: np.ndarray
    occluded: np.ndarray
    cropped: np.ndarray
    box: np.ndarray
    size: np.ndarray
    content: np.ndarray
    items: np.ndarray
    categories: np.ndarray

    def __len__(self) -> int:
        return len(self.item)

    @functools.cached_property
    def customers(self) -> "RowsByItem":
        """The customer photos, by item."""
        return RowsByItem.of(self, CUSTOMER)

    @functools.cached_property
    def shops(self) -> "RowsByItem":
        """The shop photos, by item."""
        return RowsByItem.of(self, SHOP)

    @functools.cached_property
    def pairs(self) -> np.ndarray:
        """int32 [n, 2]: every (customer row, shop row) of one item, sorted by item."""
        customers, shops = self.customers, self.shops
        repeats = shops.counts[self.item[customers.rows]]
        customer = np.repeat(customers.rows, repeats)
        first = np.repeat(np.cumsum(repeats) - repeats, repeats)
        shop = shops.rows[shops.starts[self.item[customer]] + np.arange(len(customer)) - first]
        return np.stack([customer, shop], axis=1)

    @functools.cached_property
    def paired_items(self) -> np.ndarray:
        """int32 [m]: the items that have both a customer and a shop photo."""
        both = (self.customers.counts > 0) & (self.shops.counts > 0)
        return np.flatnonzero(both).astype(np.int32)

    def counts(self) -> dict[str, int]:
        """The numbers that a summary prints."""
        return {
            "items": len(self.items),
            "customer_photos": len(self.customers.rows),
            "shop_photos": len(self.shops.rows),
            "pairs": int((self.customers.counts * self.shops.counts).sum()),
            "queries": len(self.customers.rows),
            "gallery": len(self.shops.rows),
            "queries_without_match": int(self.customers.counts[self.shops.counts == 0].sum()),
        }

    def save(self, path: epath.PathLike) -> None:
        """Writes the index, atomically on a local disk."""
        path = epath.Path(path)
        buffer = io.BytesIO()
        columns = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        np.savez_compressed(buffer, **columns)
        unfinished = path.parent / f"{path.name}.tmp"
        unfinished.write_bytes(buffer.getvalue())
        unfinished.replace(path)

    @classmethod
    def load(cls, path: epath.PathLike) -> "PhotoIndex":
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
        lengths = {len(getattr(index, name)) for name in ("photo_id", *_COLUMNS)}
        if len(lengths) != 1:
            raise DatasetError(f"{path}: damaged (columns of different lengths)")
        return index


@dataclasses.dataclass(frozen=True)
class RowsByItem:
    """Rows of one domain, sorted by item and then by row.

    Attributes:
      rows: int32 [n].
      starts: int64 [items], where an item's rows begin in `rows`.
      counts: int64 [items].
    """

    rows: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, index: PhotoIndex, domain: int) -> "RowsByItem":
        """Groups the photos of one domain."""
        rows = np.flatnonzero(index.domain == domain).astype(np.int32)
        rows = rows[np.argsort(index.item[rows], kind="stable")]
        counts = np.bincount(index.item[rows], minlength=len(index.items))
        return cls(rows, np.cumsum(counts) - counts, counts)


class IndexBuilder:
    """Collects an index, one record after another."""

    def __init__(self) -> None:
        names = ("photo_id", "content_digest", *_COLUMNS)
        self._waiting: dict[str, list] = {name: [] for name in names if name != "content"}
        self._parts: list[dict[str, np.ndarray]] = []
        self._items: dict[str, int] = {}
        self._categories: dict[str, int] = {}

    def add(self, *, item_id: str, category: str, **columns: object) -> None:
        """Adds a row.

        Args:
          item_id: name of the item.
          category: name of the category, "" where unknown.
          **columns: photo_id, domain, view, occluded, cropped, box, size, and
            content_digest: 16 bytes, equal where the stored image bytes are equal.
        """
        columns["item"] = self._items.setdefault(item_id, len(self._items))
        columns["category"] = (
            self._categories.setdefault(category, len(self._categories)) if category else -1
        )
        for name, values in self._waiting.items():
            values.append(columns[name])
        if len(self._waiting["item"]) >= _ROWS_PER_PART:
            self._pack()

    def categories(self) -> set[str]:
        """The names met so far."""
        return set(self._categories)

    def build(self, categories: Sequence[str]) -> PhotoIndex:
        """The index, its categories numbered by their place in `categories`."""
        self._pack()
        columns = {
            name: np.concatenate([part[name] for part in self._parts]) for name in self._waiting
        }
        places = {name: place for place, name in enumerate(categories)}
        renumber = np.array([places[name] for name in self._categories] + [-1], np.int32)
        columns["category"] = renumber[columns["category"]]  # -1 takes the last, -1
        digests = columns.pop("content_digest")
        return PhotoIndex(
            content=np.unique(digests, return_inverse=True)[1].astype(np.int32),
            items=_strings(self._items),
            categories=_strings(categories),
            **columns,
        )

    def _pack(self) -> None:
        """Turns the waiting rows into arrays: as Python objects, millions take gigabytes."""
        part = {}
        for name, values in self._waiting.items():
            if name == "photo_id":
                part[name] = _strings(values)
            elif name == "content_digest":
                part[name] = np.frombuffer(b"".join(values), _DIGEST)
            else:
                dtype, shape = _COLUMNS[name]
                part[name] = np.array(values, dtype).reshape(-1, *shape)
            values.clear()
        self._parts.append(part)


def _strings(values: Iterable[str]) -> np.ndarray:
    return np.array(list(values), dtype=np.str_)
