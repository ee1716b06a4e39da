"""A prepared data set, its splits and photos; needs no TensorFlow."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from grnet_jax.photos import ANNOTATED, crop_and_resize, make_framing
from input_pipeline.cuts import Cuts, read_detections
from input_pipeline.datasets.base import SUMMARY_FILE, index_file
from input_pipeline.datasets.listed import ListedConfig
from input_pipeline.datasets.listing import Checked, Problem
from input_pipeline.datasets.records import PhotoRecord, parse_record
from input_pipeline.datasets.registry import find_dataset
from input_pipeline.errors import DatasetError
from input_pipeline.index import CUSTOMER, SHOP, PhotoIndex
from input_pipeline.object_index import ObjectSplit
from input_pipeline.points import Points, annotated_points, read_points
from input_pipeline.preparing import ensure_prepared, quiet_tfds
from input_pipeline.record_files import RecordFiles
from input_pipeline.stored_split import StoredSplit


class Split(StoredSplit[PhotoIndex, PhotoRecord]):
    """The photos of one split, each with one garment."""

    index_type = PhotoIndex
    parse = staticmethod(parse_record)

    def __init__(self, name: str, index: PhotoIndex, records: RecordFiles):
        super().__init__(name, index, records)
        self._detected: dict[str, np.ndarray] = {}
        self._points: dict[str, Points] = {}

    @classmethod
    def join(cls, parts: Sequence["Split"]) -> "Split":
        """The photos of several splits of one data set, one after the other."""
        index = PhotoIndex.join([part.index for part in parts])
        records = RecordFiles.join([part._records for part in parts])
        return cls("+".join(part.name for part in parts), index, records)

    def detected(self, path: str) -> np.ndarray:
        """float32 [n, 4]: see `cuts.read_detections`; a file is read once."""
        if path not in self._detected:
            self._detected[path] = read_detections(path, self.index)
        return self._detected[path]

    def points(self, path: str) -> Points:
        """See `points.read_points`, of ANNOTATED `points.annotated_points`; both read once."""
        if path not in self._points:
            annotated = path == ANNOTATED
            self._points[path] = (
                annotated_points(self.index) if annotated else read_points(path, self.index)
            )
        return self._points[path]

    def cuts(self, data: Any) -> np.ndarray:
        """int32 [n, 4]: what the fields of config.data cut out of each photo; see `Cuts`."""
        return Cuts(self, data).pixels(np.arange(len(self)))

    def framed(self, row: int, data: Any) -> np.ndarray:
        """uint8 [size, size, 3]: what `photo_batches` yields for this photo and config.data."""
        cut = Cuts(self, data).pixels(np.array([row]))[0]
        framing = dataclasses.replace(make_framing(data), crop="box", square=False)
        return crop_and_resize(self.picture(row), tuple(cut.tolist()), framing)

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
        self,
        name: str,
        directory: epath.Path,
        summary: dict[str, Any],
        splits: Sequence[Split | ObjectSplit],
    ):
        self.name = name
        self.directory = directory
        self.summary = summary
        # Which of the two kinds of splits it has is the data set's: no type can tell.
        self._splits: dict[str, Any] = {split.name: split for split in splits}

    @property
    def title(self) -> str:
        """What headings of figures call it."""
        return find_dataset(self.name).title or self.name

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits there are."""
        return tuple(self._splits)

    def has_split(self, name: str) -> bool:
        """Whether there is such a split."""
        return name in self._splits

    def split(self, name: str) -> Split:
        """The split of this name; an `ObjectSplit` where the data set is one of objects.

        Raises:
          DatasetError: there is none.
        """
        if name not in self._splits:
            raise DatasetError(
                f"{self.name} has no split {name!r}; it has {', '.join(self._splits)}"
            )
        return self._splits[name]

    def object_split(self, name: str) -> ObjectSplit:
        """The split of this name of a data set of objects.

        Raises:
          DatasetError: there is none, or the data set is none of objects.
        """
        split: Any = self.split(name)
        if not isinstance(split, ObjectSplit):
            raise DatasetError(f"{self.name} is no data set of objects, such as coco is")
        return split

    def joined(self, names: Sequence[str]) -> Split:
        """The photos of several splits, one split after the other, as one."""
        parts = [self.split(name) for name in names]
        return parts[0] if len(parts) == 1 else Split.join(parts)


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
    ensure_prepared(
        folder,
        lambda: builder(config=config, data_dir=root),
        # Configs stored before there were these fields lack them.
        beam_runner=data.get("beam_runner", ""),
        beam_options=data.get("beam_options", ""),
    )
    dataset = open_dataset(data.name, folder)
    _tell_of_arrived(dataset, config)
    skipped = dataset.summary.get("skipped_rows", 0)
    note = f" ({skipped:,} bad rows were left out)" if skipped else ""
    print(f"Data: {folder}{note}", flush=True)
    return dataset


def _tell_of_arrived(dataset: Dataset, config: tfds.core.BuilderConfig) -> None:
    """Says where photos are there now that were missing when the data was prepared."""
    missing = dataset.summary.get("missing_photos", [])
    arrived = [image for image in missing if config.photo_path(image).exists()]
    if arrived:
        print(
            f"{len(arrived):,} photos that were missing when {dataset.directory} was prepared are "
            f"there now, such as {arrived[0]}: delete that folder to prepare them too"
        )


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
        kind = ObjectSplit if summary.get("kind") == "objects" else Split
        splits = [
            kind.open(
                split, folder / index_file(split), RecordFiles(info.filepaths, info.shard_lengths)
            )
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
