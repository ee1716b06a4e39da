"""Features of many images in a Lance table, on a local disk or in a bucket.

A row is an image: its index in the gallery, its id, the fingerprint of the model and the
checkpoint's step that made it, its features and a checksum of each. Images are appended some at a
time, each time in one atomic commit, so that a killed process leaves whole rows, in any order, and
the next one adds what is missing. Several processes may append at once. Lance does not wait for
the disk: a power cut may cost the last commits.
"""

import os
import zlib
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import jax
import lance
import numpy as np
import pyarrow as pa
from jax.experimental import multihost_utils
from jax.sharding import Mesh

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
    naming,
)
from grnet_jax.search.embed import Batches, embed_batches
from grnet_jax.search.fingerprints import Fingerprint
from grnet_jax.search.ranking import Progress, ignore_progress

FORMAT = 2


class FeatureStore:
    """The features of n images in the table at `path`, which is made if there is none.

    Args:
      path: folder or URL of the table, ending in ".lance".
      fingerprint: of what the features were computed from.
      photo_ids: str [n], of image 0 to n - 1.
      like: shapes and dtypes of features, of any number of images.
      dtype: that real features are stored in, one of DTYPES; they are read in their own.

    Raises:
      StoreError: a table of another model, step, set of images, shape or dtype, or a damaged one.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fingerprint: Fingerprint,
        photo_ids: np.ndarray,
        like: Features,
        dtype: str = "float32",
    ):
        self.path = os.path.expanduser(os.fspath(path))
        self._fingerprint = fingerprint
        self._photo_ids = photo_ids
        self._columns = FeatureColumns(like, DTYPES[dtype])
        self._described = {
            "format": str(FORMAT),
            "model": fingerprint.model,
            "step": str(fingerprint.step),
            "photos": fingerprint.photos,
            "rows": str(len(photo_ids)),
            "features": self._columns.describe(),
        }
        number, *features = feature_fields(self._columns)
        made_by = [("photo_id", pa.string()), ("model", pa.string()), ("step", pa.int64())]
        self._schema = pa.schema([number, *made_by, *features], metadata=self._described)
        if jax.process_index() == 0:
            self._create()
        check_same_everywhere(b"", "")  # the others wait for it
        self._check_described(self._open().schema.metadata or {})

    def missing(self) -> np.ndarray:
        """Returns the images that are not stored yet, int64 [m], in order, on every process."""
        offsets = self._offsets(self._open())
        missing = np.flatnonzero(offsets < 0)
        check_same_everywhere(missing.tobytes(), f"{self.path}: processes see different rows")
        return missing

    def writer(self) -> "StoreWriter":
        """Returns what adds images."""
        return StoreWriter(
            self.path, self._schema, self._columns, self._fingerprint, self._photo_ids
        )

    def reader(self) -> "StoredFeatures":
        """Returns what reads images, once every process has written its own.

        Raises:
          StoreError: if images are missing.
        """
        check_same_everywhere(b"", "")  # until all have written
        dataset = self._open()
        offsets = self._offsets(dataset)
        missing = np.flatnonzero(offsets < 0)
        if len(missing):
            raise StoreError(
                f"{self.path} is not complete: it lacks {len(missing)} of {len(offsets)} images, "
                f"such as number {missing[0]}; the command that was writing it goes on with it"
            )
        return StoredFeatures(self.path, dataset, offsets, self._columns)

    def remove_remains(self) -> None:
        """Removes what killed writers left and older versions; for when nobody writes."""
        check_same_everywhere(b"", "")
        if jax.process_index() == 0:
            self._open().cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
        check_same_everywhere(b"", "")

    def _create(self) -> None:
        try:
            lance.dataset(self.path)
        except (OSError, ValueError):  # there is none, or it is damaged
            with naming(self.path):
                lance.write_dataset(self._schema.empty_table(), self.path, schema=self._schema)

    def _open(self) -> lance.LanceDataset:
        with naming(self.path):
            return lance.dataset(self.path)

    def _check_described(self, metadata: Mapping[bytes, bytes]) -> None:
        there = {key.decode(): value.decode() for key, value in metadata.items()}
        differ = [key for key, value in self._described.items() if there.get(key) != value]
        if differ:
            listed = "\n".join(
                f"  {key}: {there.get(key, 'absent')} there, {self._described[key]} now"
                for key in differ
            )
            raise StoreError(
                f"{self.path} holds features of another model, of other images or in another "
                f"form; choose another eval.search.store, or delete it. What differs:\n{listed}"
            )

    def _offsets(self, dataset: lance.LanceDataset) -> np.ndarray:
        """Returns at which row of the table each image is, int64 [n], -1 for nowhere."""
        stored = [np.empty(0, np.int64)]
        columns = ["index", "photo_id", "model", "step"]
        with naming(self.path):
            scanner = dataset.scanner(columns, batch_size=SCANNED_ROWS, scan_in_order=True)
            for batch in scanner.to_batches():
                stored.append(self._check_rows(batch))
        index = np.concatenate(stored)
        offsets = np.full(len(self._photo_ids), -1, np.int64)
        offsets[index] = np.arange(len(index))
        if (offsets >= 0).sum() < len(index):
            twice = np.flatnonzero(np.bincount(index) > 1)
            raise StoreError(
                f"{self.path} holds {len(twice)} images twice, such as number {twice[0]}: two "
                "commands wrote it at once; delete it"
            )
        return offsets

    def _check_rows(self, batch: pa.RecordBatch) -> np.ndarray:
        """Returns which images these rows are, int64 [k]; StoreError for others."""
        index = batch["index"].to_numpy()
        outside = (index < 0) | (index >= len(self._photo_ids))
        if outside.any():
            raise StoreError(
                f"{self.path} holds image {index[outside][0]}, of {len(self._photo_ids)}; delete it"
            )
        for column, wanted in (
            ("model", self._fingerprint.model),
            ("step", self._fingerprint.step),
            ("photo_id", self._photo_ids[index]),
        ):
            found = np.asarray(batch[column])
            wrong = np.flatnonzero(found != wanted)
            if len(wrong):
                row = int(wrong[0])
                expected = wanted[row] if isinstance(wanted, np.ndarray) else wanted
                raise StoreError(
                    f"{self.path} holds image {index[row]} with {column} {found[row]}, expected "
                    f"{expected}; delete it"
                )
        return index


class StoreWriter:
    """Appends images to a table, many at a time; as a context it writes the last ones too."""

    def __init__(
        self,
        path: str,
        schema: pa.Schema,
        columns: FeatureColumns,
        fingerprint: Fingerprint,
        photo_ids: np.ndarray,
    ):
        self._table = Appender(path, schema)
        self._columns = columns
        self._fingerprint = fingerprint
        self._photo_ids = photo_ids

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._table.flush()

    def add(self, index: np.ndarray, features: Features) -> None:
        """Takes the features (numpy leaves) of these images, int [k], each but once.

        Raises:
          StoreError: a number is too large for the store's dtype.
        """
        if not len(index):
            return
        numbers, *parts = feature_arrays(index, self._columns.split(features))
        arrays = [
            numbers,
            pa.array(self._photo_ids[index].tolist(), pa.string()),
            pa.array([self._fingerprint.model] * len(index)),
            pa.array(np.full(len(index), self._fingerprint.step, np.int64)),
            *parts,
        ]
        self._table.add(arrays)


def store_rows(
    store: FeatureStore,
    embed: Callable[[Any, jax.Array], Features],
    variables: Any,
    batches: Batches,
    rows: np.ndarray,
    *,
    batch: int,
    mesh: Mesh,
    progress: Progress = ignore_progress,
) -> None:
    """Embeds the images in `rows` that a store lacks; every process writes its part of each batch.

    Args:
      store: of the n images.
      embed, variables, batches, batch, mesh: of `embed_batches`.
      rows: int [n], all of the store's images.
      progress: told how many images are stored, and whether they were before.
    """
    missing = store.missing()
    progress(len(rows) - len(missing), True)
    parts = embed_batches(
        embed, variables, batches, rows[missing], batch=batch, mesh=mesh, progress=progress
    )
    share = batch // jax.process_count()
    mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    with store.writer() as writer:
        for start, features in parts:
            places = missing[start : start + batch][mine]
            writer.add(places, jax.tree.map(lambda leaf: leaf[mine], features))
    if len(missing):
        store.remove_remains()


def check_same_everywhere(content: bytes, otherwise: str) -> None:
    """Waits for all processes and raises InputError unless they hold the same bytes."""
    if jax.process_count() == 1:
        return
    sums = multihost_utils.process_allgather(np.uint32(zlib.crc32(content)))
    if len(np.unique(sums)) > 1:
        raise InputError(f"{otherwise}. It has to lie on a file system that all of them share")
