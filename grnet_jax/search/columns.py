"""Features as columns of a Lance table: how they are written, and read in any order."""

import contextlib
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import lance
import ml_dtypes
import numpy as np
import pyarrow as pa

from grnet_jax.errors import InputError
from grnet_jax.models import Features

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),  # Arrow has none: stored as the bits
}
SCANNED_ROWS = 8192
_COMMIT_ROWS, _COMMIT_BYTES = 2048, 64 << 20


class StoreError(InputError):
    """A feature store that cannot be used; the message says which and why."""


class FeatureColumns:
    """Features as columns of stored numbers, one a leaf."""

    def __init__(self, like: Features, dtype: np.dtype):
        self._like, self._dtype = like, dtype
        leaves, self._tree = jax.tree_util.tree_flatten_with_path(like)
        self.names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
        self._shapes = [leaf.shape[1:] for _, leaf in leaves]
        self._own = [np.dtype(leaf.dtype) for _, leaf in leaves]
        self.dtypes = [dtype if _is_real(own) else own for own in self._own]
        self.widths = [int(np.prod(shape, dtype=np.int64)) for shape in self._shapes]
        self.places = list(range(len(self.names)))  # among the checksums

    def embeddings(self) -> "FeatureColumns":
        """Returns the embedding's alone, of the same rows."""
        part = FeatureColumns(Features(self._like.embedding), self._dtype)
        part.places = [self.names.index(name) for name in part.names]
        return part

    def describe(self) -> str:
        """Names, shapes and dtypes, to compare."""
        parts = zip(self.names, self._shapes, self._own, self.dtypes, strict=True)
        return "; ".join(f"{n} {list(s)} {own} as {dtype}" for n, s, own, dtype in parts)

    def split(self, features: Features) -> list[np.ndarray]:
        """[n, width] of each leaf, in the store's dtype.

        Raises:
          StoreError: a number is too large for it.
        """
        parts = []
        for name, leaf, dtype, width in zip(
            self.names, jax.tree.leaves(features), self.dtypes, self.widths, strict=True
        ):
            with np.errstate(over="ignore"):
                part = np.ascontiguousarray(leaf.reshape(len(leaf), width).astype(dtype))
            if (
                dtype.itemsize == 2
                and (np.isinf(part) & np.isfinite(leaf.reshape(-1, width))).any()
            ):
                raise StoreError(
                    f"{name} has values up to {np.abs(leaf).max():.4g}, too large for {dtype}: "
                    "choose eval.search.store_dtype=bfloat16 or float32"
                )
            parts.append(part)
        return parts

    def join(self, parts: list[np.ndarray]) -> Features:
        """Back from `split`, in the features' own dtypes."""
        leaves = [
            part.reshape(len(part), *shape).astype(own, copy=False)
            for part, shape, own in zip(parts, self._shapes, self._own, strict=True)
        ]
        return jax.tree.unflatten(self._tree, leaves)


class StoredFeatures:
    """A complete table as a `FeatureSource`; in memory is one number an image."""

    def __init__(
        self, path: str, dataset: lance.LanceDataset, offsets: np.ndarray, columns: FeatureColumns
    ):
        self._path = path
        self._dataset = dataset
        self._offsets = offsets
        self._columns = columns

    def __len__(self) -> int:
        return len(self._offsets)

    def take(self, rows: np.ndarray) -> Features:
        """Returns the features of these images, in the order asked.

        Raises:
          StoreError: naming the image whose features are damaged.
        """
        names = ["index", "checksums", *self._columns.names]
        rows, places = np.unique(rows, return_inverse=True)  # each is read once, and in order
        with naming(self._path):
            table = self._dataset.take(self._offsets[rows].tolist(), columns=names)
            table = table.combine_chunks()
        parts = [
            _from_arrow(table[name], dtype)
            for name, dtype in zip(self._columns.names, self._columns.dtypes, strict=True)
        ]
        written = _from_arrow(table["checksums"], np.dtype(np.uint32))[:, self._columns.places]
        damaged = (table["index"].to_numpy() != rows) | (written != _checksums(parts)).any(axis=1)
        if damaged.any():
            raise StoreError(
                f"{self._path} is damaged: image {rows[int(np.flatnonzero(damaged)[0])]} is not "
                "as it was written; delete it"
            )
        return self._columns.join([part[places] for part in parts])

    def embeddings(self) -> "StoredFeatures":
        """Returns the same images; only their embeddings are read."""
        return StoredFeatures(self._path, self._dataset, self._offsets, self._columns.embeddings())


class Appender:
    """Appends rows to a table, many at a time, each time in one commit."""

    def __init__(self, path: str, schema: pa.Schema):
        self._path, self._schema = path, schema
        self._waiting: list[pa.RecordBatch] = []

    def add(self, arrays: list[pa.Array]) -> None:
        """Takes rows, the schema's columns."""
        self._waiting.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        rows, size = (
            sum(getattr(batch, name) for batch in self._waiting) for name in ("num_rows", "nbytes")
        )
        if rows >= _COMMIT_ROWS or size >= _COMMIT_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes what waits."""
        if self._waiting:
            table, self._waiting = pa.Table.from_batches(self._waiting), []
            with naming(self._path):
                lance.write_dataset(table, self._path, mode="append")


def feature_fields(columns: FeatureColumns) -> list[Any]:
    """Returns the fields of a table's schema that hold an image's number and its features."""
    fields: list[Any] = [
        ("index", pa.int64()),
        ("checksums", pa.list_(pa.uint32(), len(columns.names))),
    ]
    for name, dtype, width in zip(columns.names, columns.dtypes, columns.widths, strict=True):
        fields.append((name, pa.list_(pa.from_numpy_dtype(_bits(dtype)), width)))
    return fields


def feature_arrays(index: np.ndarray, parts: list[np.ndarray]) -> list[pa.Array]:
    """Returns the arrays of `feature_fields` for images int [n] and what `split` made of them."""
    numbers = pa.array(np.asarray(index, np.int64))
    return [numbers, _to_arrow(_checksums(parts)), *map(_to_arrow, parts)]


def intact(table: pa.Table) -> np.ndarray:
    """Returns which rows of a table of features are as they were written, bool [n]."""
    table = table.combine_chunks()
    lists = [field for field in table.schema if pa.types.is_fixed_size_list(field.type)]
    kinds = {field.name: np.dtype(field.type.value_type.to_pandas_dtype()) for field in lists}
    parts = {name: _from_arrow(table[name], kind) for name, kind in kinds.items()}
    written = parts.pop("checksums")
    return (_checksums(list(parts.values())) == written).all(axis=1)


def _to_arrow(part: np.ndarray) -> pa.FixedSizeListArray:
    flat = part.view(_bits(part.dtype)).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), part.shape[1])


def _from_arrow(column: pa.ChunkedArray, dtype: np.dtype) -> np.ndarray:
    """[n, width], in general without a copy and not to be written to."""
    width = column.type.list_size
    chunks = [chunk.flatten().to_numpy() for chunk in column.chunks]
    flat = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
    return flat.view(dtype).reshape(-1, width)


def _bits(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.uint16) if dtype == ml_dtypes.bfloat16 else dtype


def _is_real(dtype: np.dtype) -> bool:
    return bool(jax.numpy.issubdtype(dtype, jax.numpy.floating))


def _checksums(parts: list[np.ndarray]) -> np.ndarray:
    """uint32 [n, columns]: CRC-32 of each image's stored bytes of each column."""
    values = [[zlib.crc32(row) for row in part.view(np.uint8)] for part in parts]
    return np.array(values, np.uint32).reshape(len(parts), -1).T.copy()


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Turns what Lance and Arrow raise into a StoreError that names the table."""
    try:
        yield
    except StoreError:
        raise
    except BaseException as error:
        # Of a damaged table Lance, which is Rust, may panic: no Exception.
        panicked = type(error).__name__ == "PanicException"
        if not panicked and not isinstance(error, OSError | ValueError | RuntimeError | KeyError):
            raise
        raise StoreError(
            f"{path} cannot be read or written (if it is damaged, delete it): {error}"
        ) from error
