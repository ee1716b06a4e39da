"""A prepared data set, its splits and photos; needs no TensorFlow."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from grnet_jax.photos import Framing, crop_and_resize, open_photo
from input_pipeline.datasets.base import SUMMARY_FILE, index_file
from input_pipeline.datasets.listed import ListedConfig
from input_pipeline.datasets.listing import Checked, Problem
from input_pipeline.datasets.records import PhotoRecord, parse_record
from input_pipeline.datasets.registry import find_dataset
from input_pipeline.errors import DatasetError
from input_pipeline.index import CUSTOMER, SHOP, PhotoIndex
from input_pipeline.preparing import ensure_prepared, quiet_tfds
from input_pipeline.record_files import RecordFiles


class Split:
    """The photos of one split.

    Attributes:
      name: "train", "val" or "test".
      index: a row of columns for each photo.
    """

    def __init__(self, name: str, index: PhotoIndex, records: RecordFiles):
        self.name = name
        self.index = index
        self._records = records

    def __len__(self) -> int:
        return len(self.index)

    def read(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        """The stored records of these rows, to be parsed by `records.parse_record`."""
        return self._records.read(rows)

    def record(self, row: int) -> PhotoRecord:
        """One photo with all its labels."""
        return parse_record(self.read([row])[0])

    def picture(self, row: int) -> np.ndarray:
        """uint8 [H, W, 3]: a whole photo, upright."""
        record = self.record(row)
        return open_photo(record.image, record.height * record.width, record.photo_id)

    def framed(self, row: int, framing: Framing) -> np.ndarray:
        """uint8 [size, size, 3]: what `photo_batches` yields for this photo."""
        return crop_and_resize(self.picture(row), self.index.box[row], framing)

    def pairs(self) -> np.ndarray:
        """int32 [n, 2]: the rows of every customer and shop photo of one item."""
        return self.index.pairs

    def query_rows(self) -> np.ndarray:
        """int32 [q]: the rows of the customer photos."""
        return np.flatnonzero(self.index.domain == CUSTOMER).astype(np.int32)

    def gallery_rows(self) -> np.ndarray:
        """int32 [g]: the rows of the shop photos."""
        return np.flatnonzero(self.index.domain == SHOP).astype(np.int32)


class Dataset:
    """A prepared data set.

    Attributes:
      name: of the data set.
      directory: the folder that holds its records.
      summary: {"splits": {split: {"items": ..., "pairs": ..., ...}}, ...}: counts, and notes of
        the preparation.
    """

    def __init__(
        self, name: str, directory: epath.Path, summary: dict[str, Any], splits: Sequence[Split]
    ):
        self.name = name
        self.directory = directory
        self.summary = summary
        self._splits = {split.name: split for split in splits}

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits there are."""
        return tuple(self._splits)

    def has_split(self, name: str) -> bool:
        """Whether there is such a split."""
        return name in self._splits

    def split(self, name: str) -> Split:
        """The split of this name.

        Raises:
          DatasetError: there is none.
        """
        if name not in self._splits:
            raise DatasetError(
                f"{self.name} has no split {name!r}; it has {', '.join(self._splits)}"
            )
        return self._splits[name]


def load_dataset(data: ml_collections.ConfigDict) -> Dataset:
    """Opens the data set that config.data describes; prepares it where that is not yet done.

    Raises:
      DatasetError: a field is wrong, or the prepared folder is damaged.
      ManifestError: rows of the manifest are wrong.
      AnnotationError: rows of a benchmark's annotation files are wrong.
    """
    builder, config = find_dataset(data.name).describe(data)
    root = epath.Path(data.dir).expanduser()
    folder = root / builder.name / config.name / str(builder.VERSION)
    ensure_prepared(folder, lambda: builder(config=config, data_dir=root))
    dataset = open_dataset(data.name, folder)
    skipped = dataset.summary.get("skipped_rows", 0)
    note = f" ({skipped:,} bad rows were left out)" if skipped else ""
    print(f"Data: {folder}{note}", flush=True)
    return dataset


class Report(NamedTuple):
    """What checking found.

    Attributes:
      checked: every row and problem.
      refused: the problems that would stop a preparation.
      summary: what preparing would store, without the sizes in bytes.
    """

    checked: Checked
    refused: list[Problem]
    summary: dict[str, Any]


def check_source(data: ml_collections.ConfigDict) -> Report:
    """Reads and checks what a data set would be prepared from, every photo too; writes nothing.

    Raises:
      DatasetError: a field is wrong, or the data set is not made from lists of photos.
      ManifestError: the manifest cannot be read as a whole.
      AnnotationError: an annotation file cannot be read as a whole.
    """
    _, config = find_dataset(data.name).describe(data)
    if not isinstance(config, ListedConfig):
        raise DatasetError(f"{data.name}: is not made from files, there is nothing to check")
    checked = config.check()
    summary = {"splits": checked.split_counts(), **config.describe(checked)}
    return Report(checked, config.refused(checked), summary)


def open_dataset(name: str, folder: epath.Path) -> Dataset:
    """Opens a prepared folder, and checks that nothing of it is missing.

    Raises:
      DatasetError: names the file that is missing or damaged, and what to do.
    """
    try:
        summary = _read_summary(folder / SUMMARY_FILE)
        splits = [
            _open_split(folder, split, info.filepaths, info.shard_lengths)
            for split, info in _split_infos(folder).items()
        ]
    except DatasetError as error:
        raise DatasetError(
            f"{error}. The prepared data is not whole: delete {folder} and run again."
        ) from error
    return Dataset(name, folder, summary, splits)


def _read_summary(path: epath.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read ({error})") from error


def _split_infos(folder: epath.Path) -> Mapping[str, tfds.core.SplitInfo]:
    try:
        with quiet_tfds():
            return tfds.builder_from_directory(folder).info.splits
    except Exception as error:  # TFDS lets through whatever its parsers raise
        raise DatasetError(f"{folder / 'dataset_info.json'}: cannot be read ({error})") from error


def _open_split(
    folder: epath.Path, split: str, paths: Sequence[epath.Path], lengths: Sequence[int]
) -> Split:
    records = RecordFiles(paths, lengths)
    path = folder / index_file(split)
    index = PhotoIndex.load(path)
    if len(index) != len(records):
        raise DatasetError(f"{path}: has {len(index)} rows for {len(records)} records")
    return Split(split, index, records)
