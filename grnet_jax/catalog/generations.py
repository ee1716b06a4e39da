"""A catalog on disk: what is live, and the one switch to what is live next.

    catalog.json          which generation is live; replaced as a whole, last of all
    listing-N.parquet     of generation N, a row for each garment in a photo: its number, item, file
                          and fields
    photos-MODEL.lance    a row a photo: its features, thumbnail and colors; appended to, and tagged
                          gN as generation N reads it
    problems.csv          the photos that the last indexing left out
    lock                  held by the one process that indexes

A photo's number stands for its bytes and box: photos that are alike share it, and it is never used
for others. The generation before the live one stays readable.
"""

import contextlib
import dataclasses
import errno
import functools
import os
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Literal

import filelock
import lance
import numpy as np
import pandas as pd
import pyarrow as pa
import pydantic
from etils import epath

from grnet_jax.errors import InputError
from grnet_jax.models import Features
from grnet_jax.search.columns import (
    DTYPES,
    SCANNED_ROWS,
    Appender,
    FeatureColumns,
    StoredFeatures,
    StoreError,
    feature_arrays,
    feature_fields,
    intact,
    naming,
)
from grnet_jax.search.features import FeatureSource, FeatureSubset
from grnet_jax.search.indexed import IndexedEmbeddings, build_index
from input_pipeline import BOX, read_object, write_file

FORMAT = 1
FIELD = "field."  # what a listing's columns begin with that are an item's fields
FILE = ["file_size", "file_time", "content"]
COLOR_CELLS = 8  # a photo's colors are those of so many cells across and down
_MANIFEST = "catalog.json"
_MOST_FRAGMENTS = 200
_CHECKED = 1000  # photos, by `check_photos`
# What file systems of clusters answer that have no locks.
_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


class Model(pydantic.BaseModel):
    """What embedded a catalog's photos."""

    run: str = pydantic.Field(description="what it was loaded from")
    name: str
    step: int
    fingerprint: str
    dtype: Literal["float32", "float16", "bfloat16"]


class Manifest(pydantic.BaseModel):
    """The content of catalog.json.

    Attributes:
      generation: which is live, from 1.
      indexed_at: when, in UTC.
      source: what was indexed.
      splits: of it, if it is a prepared data set.
      model: what embedded it.
      table: name of the table of photos.
      version: of it.
      rows: of the listing.
      items: different ones.
      next: above the numbers of all photos.
      probes: partitions of the index that are searched; 0 where there is none, and all photos are
        compared.
      recall: share of the nearest photos that the index found.
      counts: photos added, changed, removed, same, unreadable and customers'.
    """

    format: Literal[1] = 1
    generation: int = pydantic.Field(ge=1)
    indexed_at: str
    source: str
    splits: list[str]
    model: Model
    table: str
    version: int = pydantic.Field(ge=1)
    rows: int = pydantic.Field(ge=1)
    items: int
    next: int = pydantic.Field(ge=1, lt=2**40)
    probes: int = pydantic.Field(default=0, ge=0)
    recall: float = 1.0
    counts: dict[str, int]

    @property
    def listing(self) -> str:
        """Returns the name of the listing's file."""
        return f"listing-{self.generation}.parquet"


@dataclasses.dataclass(frozen=True)
class Photos:
    """What is stored of photos besides their features, a row each.

    Attributes:
      states: str, digests of what was seen: bytes and box.
      sizes: int32 [n, 2], (height, width) of the upright photos.
      thumbnails: encoded JPEG.
      colors: uint8 [n, cells * cells * 3], mean colors of what the matcher sees.
    """

    states: list[str]
    sizes: np.ndarray
    thumbnails: list[bytes]
    colors: np.ndarray


class PhotoTable:
    """The table of a model's photos; for the one process that writes.

    Args:
      path: folder of the table, which is made if there is none.
      model: what describes the model, to be compared.
      like: shapes and dtypes of features.
      dtype: that they are stored in, one of DTYPES.

    Raises:
      StoreError: it is another model's, or damaged.
    """

    def __init__(self, path: epath.Path, model: str, like: Features, dtype: str):
        self._path = os.fspath(path)
        self._columns = FeatureColumns(like, DTYPES[dtype])
        described = {"format": str(FORMAT), "model": model, "features": self._columns.describe()}
        more = [
            *(("state", pa.string()), ("height", pa.int32()), ("width", pa.int32())),
            *(("thumbnail", pa.large_binary()), ("colors", pa.binary(3 * COLOR_CELLS**2))),
        ]
        self._schema = pa.schema([*feature_fields(self._columns), *more], metadata=described)
        self._appender = Appender(self._path, self._schema)
        with naming(self._path):
            if path.exists():
                there = lance.dataset(self._path).schema.metadata or {}
            else:
                lance.write_dataset(self._schema.empty_table(), self._path, schema=self._schema)
                there = self._schema.metadata
        for key, value in described.items():
            if (found := there.get(key.encode(), b"absent").decode()) != value:
                raise StoreError(f"{path}: its {key} is {found}, now {value}: index with --rebuild")

    def numbers(self) -> dict[str, int]:
        """Returns the numbers of the photos that it holds, by their states."""
        found: dict[str, int] = {}
        with naming(self._path):
            scanner = lance.dataset(self._path).scanner(
                ["index", "state"], batch_size=SCANNED_ROWS, scan_in_order=True
            )
            for batch in scanner.to_batches():
                states, numbers = (batch[name].to_pylist() for name in ("state", "index"))
                for state, number in zip(states, numbers, strict=True):
                    found.setdefault(state, number)
        return found

    def add(self, numbers: np.ndarray, features: Features, photos: Photos) -> None:
        """Takes photos, int [k]; they are written many at a time, each time in one commit."""
        arrays = [
            *feature_arrays(numbers, self._columns.split(features)),
            pa.array(photos.states),
            pa.array(photos.sizes[:, 0]),
            pa.array(photos.sizes[:, 1]),
            pa.array(photos.thumbnails, pa.large_binary()),
            pa.array([row.tobytes() for row in photos.colors], self._schema.field("colors").type),
        ]
        self._appender.add(arrays)

    def flush(self) -> None:
        """Writes what waits."""
        self._appender.flush()

    def publish(self, numbers: np.ndarray, generation: int, indexed: bool) -> tuple[int, int]:
        """Leaves these photos alone, int [n], for a generation.

        What other generations read stays as it was.

        Args:
          numbers: of the photos.
          generation: its number.
          indexed: whether an index of the embeddings is built.

        Returns:
          The version that it reads, and the partitions of the index.
        """
        with naming(self._path):
            dataset = lance.dataset(self._path)
            index = dataset.to_table(["index"])["index"].to_numpy()
            gone = np.setdiff1d(index, numbers)
            for start in range(0, len(gone), 10_000):
                listed = ", ".join(map(str, gone[start : start + 10_000]))
                dataset.delete(f"index in ({listed})")
            fragments = dataset.get_fragments()
            deleted = sum(fragment.num_deletions for fragment in fragments)
            if len(fragments) > _MOST_FRAGMENTS or 5 * deleted > len(index):
                dataset.optimize.compact_files()
            partitions = build_index(dataset) if indexed else 0
            dataset = lance.dataset(self._path)
            tag, version = f"g{generation}", dataset.version
            if tag in dataset.tags.list():
                dataset.tags.delete(tag)
            dataset.tags.create(tag, version)
        return version, partitions

    def clean(self, oldest: int) -> None:
        """Removes what only generations before this one read, and what killed writers left."""
        with naming(self._path):
            dataset = lance.dataset(self._path)
            for tag in dataset.tags.list():
                if int(tag[1:]) < oldest:
                    dataset.tags.delete(tag)
            dataset.cleanup_old_versions(
                older_than=timedelta(0),
                delete_unverified=True,
                error_if_tagged_old_versions=False,
            )


@dataclasses.dataclass(frozen=True)
class Generation:
    """One state of a catalog, whole.

    Attributes:
      manifest: the content of catalog.json.
      listing: number, image, path, item_id, x_1 to y_2, file_size, file_time, content, and a column
        FIELD + name a field.
      features: of each of its rows.
    """

    manifest: Manifest
    listing: pd.DataFrame
    features: FeatureSource
    _path: str
    _dataset: lance.LanceDataset
    _offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.listing)

    @functools.cached_property
    def fields(self) -> dict[str, pd.Series]:
        """Returns the fields to filter by, categories of str [n] each."""
        names = [name for name in self.listing if name.startswith(FIELD)]
        fields = {name.removeprefix(FIELD): self.listing[name] for name in names}
        return {"item_id": self.listing["item_id"], **fields}

    def indexed(self) -> IndexedEmbeddings:
        """Returns the embeddings as their index finds them."""
        numbers = self.listing["number"].to_numpy()
        return IndexedEmbeddings(
            self._path, self._dataset, numbers, self.features, self.manifest.probes
        )

    def read(self, rows: np.ndarray, column: str) -> list[Any]:
        """Returns a column of the table of photos for these rows of the listing."""
        numbers = self.listing["number"].to_numpy()[rows]
        with naming(self._path):
            return self._dataset.take(self._offsets[numbers].tolist(), columns=[column])[
                column
            ].to_pylist()


def read_manifest(folder: epath.Path) -> Manifest | None:
    """Returns the content of catalog.json; None where no catalog is.

    Raises:
      StoreError: it is damaged, or of another version of this package.
    """
    path = folder / _MANIFEST
    try:
        if not path.exists():
            return None
        return Manifest.model_validate(read_object(path, "what index writes"))
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise StoreError(
            f"{path}: field {field!r}: {first['msg']}; delete {folder} and index anew"
        ) from error


def live_manifest(folder: epath.Path) -> Manifest:
    """Reads which generation of a catalog is live.

    Raises:
      StoreError: there is no catalog, or it is damaged.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise StoreError(
            f"{folder}: no catalog: python -m grnet_jax.search index {folder} --from=PHOTOS"
        )
    return manifest


def open_generation(
    folder: epath.Path, like: Features, manifest: Manifest | None = None
) -> Generation:
    """Opens a generation.

    Args:
      folder: of the catalog.
      like: shapes and dtypes of its model's features.
      manifest: of the generation; None for the live one.

    Raises:
      StoreError: there is no catalog, or it is damaged.
    """
    manifest = manifest or live_manifest(folder)
    listing = read_listing(folder, manifest)
    path = os.fspath(folder / manifest.table)
    with naming(path):
        dataset = lance.dataset(path, version=manifest.version)
        index = dataset.to_table(["index"])["index"].to_numpy()
    numbers = listing["number"].to_numpy()
    offsets = np.full(max(index.max(initial=0), numbers.max()) + 1, -1, np.int64)
    offsets[index] = np.arange(len(index))
    if (lost := int((offsets[numbers] < 0).sum())) > 0:
        raise StoreError(f"{path} lacks {lost} photos of the catalog: index with --rebuild")
    stored = StoredFeatures(
        path, dataset, offsets, FeatureColumns(like, DTYPES[manifest.model.dtype])
    )
    return Generation(manifest, listing, FeatureSubset(stored, numbers), path, dataset, offsets)


def read_listing(folder: epath.Path, manifest: Manifest) -> pd.DataFrame:
    """Reads the photos of a generation; raises StoreError if the file is missing or damaged."""
    path = folder / manifest.listing
    try:
        listing = pd.read_parquet(os.fspath(path))
        coded = [name for name in listing if name == "item_id" or name.startswith(FIELD)]
        listing = listing.astype(dict.fromkeys(coded, "category"))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StoreError(f"{path}: cannot be read ({error}): index with --rebuild") from error
    columns = ["number", "image", "path", "item_id", *BOX, *FILE]
    if len(listing) != manifest.rows or not {*columns} <= {*listing}:
        raise StoreError(f"{path}: is not the listing that was written: index with --rebuild")
    return listing


def check_photos(folder: epath.Path, manifest: Manifest, listing: pd.DataFrame) -> str:
    """Reads some of a generation's photos again; returns what is wrong, "" for nothing."""
    path = os.fspath(folder / manifest.table)
    numbers = listing["number"].drop_duplicates()
    try:
        with naming(path):
            dataset = lance.dataset(path, version=manifest.version)
            there = dataset.to_table(["index"])["index"].to_numpy()
            lost = ~np.isin(numbers, there)
            rows = np.linspace(0, len(there) - 1, min(len(there), _CHECKED)).astype(int)
            damaged = int((~intact(dataset.take(rows.tolist()))).sum())
    except StoreError as error:
        return str(error)
    if damaged or lost.any():
        said = f"{path}: {damaged} of {len(rows)} photos read are damaged, {lost.sum()} missing"
        return f"{said}: index with --rebuild"
    return ""


def write_manifest(folder: epath.Path, manifest: Manifest) -> None:
    """Makes a generation the live one."""
    write_file(folder / _MANIFEST, manifest.model_dump_json(indent=2) + "\n")


@contextlib.contextmanager
def writer_lock(folder: epath.Path) -> Iterator[None]:
    """Holds the lock of the one process that indexes a catalog.

    Raises:
      StoreError: another process holds it.
      InputError: the folder cannot be written to.
    """
    path = folder / "lock"
    if "://" in os.fspath(path):
        print(f"No lock at {path}: let only one process index this catalog at a time.")
        yield
        return
    lock = filelock.FileLock(path, fallback_to_soft=False)
    try:
        try:
            lock.acquire(timeout=0)
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        except filelock.Timeout:
            owner = path.read_text() or "another process"
            raise StoreError(f"{folder}: {owner} is indexing it; wait until it is done") from None
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
            print(
                f"No lock at {path} ({error}): let only one process index this catalog at a time."
            )
        yield
    finally:
        lock.release()
