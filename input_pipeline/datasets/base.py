"""What all builders share: the order of the records, their schema, and the index beside them."""

import abc
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from etils import epath
from tensorflow_datasets.core import dataset_builder
from tqdm import tqdm

from input_pipeline.datasets.records import (
    DOMAINS,
    PhotoRecord,
    parse_record,
    photo_features,
    to_example,
)
from input_pipeline.index import IndexBuilder, build_indices

SPLITS = ("train", "val", "test")
SUMMARY_FILE = "summary.json"
_READ_AT_A_TIME = 256

Record = TypeVar("Record")
ShardSource = Callable[[], Iterator[Record]]
ShardPaths = Mapping[str, Sequence[epath.Path]]


def index_file(split: str) -> str:
    """Name of a split's index in the prepared folder."""
    return f"index.{split}.npz"


class RecordBuilder(dataset_builder.ShardBasedBuilder, Generic[Record]):  # tfds.core: from 4.9.10
    """Writes records in a fixed order, and their index beside them.

    The shards are cut before anything is written, so that records stream straight to their
    file: TFDS' generator-based builder would write all records twice and, where their order
    is to be kept, sort them in memory.

    Subclasses define what is abstract here, and may extend `notes`.
    """

    VERSION = tfds.core.Version("1.0.0")

    @abc.abstractmethod
    def shards(self) -> Mapping[str, Sequence[ShardSource]]:
        """For each split that has photos, one source of records per file, in order."""

    @abc.abstractmethod
    def features(self) -> tfds.features.FeaturesDict:
        """The schema of the records."""

    @abc.abstractmethod
    def example(self, record: Record) -> dict[str, object]:
        """A record as a TFDS example."""

    @abc.abstractmethod
    def write_indices(self, folder: epath.Path, paths: ShardPaths) -> dict[str, dict[str, int]]:
        """Scans the records of each split once, writes its index, and returns its counts."""

    def notes(self) -> dict[str, object]:
        """What `summary.json` tells beside the counts of each split."""
        return {}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=self.features(), disable_shuffling=True)

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager):
        del dl_manager  # nothing is downloaded
        return {
            split: [_Numbered(source, self.example) for source in sources]
            for split, sources in self.shards().items()
        }

    def _log_download_bytes(self) -> None:
        """Keeps TFDS from announcing a download, of which there is none."""

    def _log_download_done(self) -> None:
        """As above."""

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        super()._download_and_prepare(dl_manager, download_config)
        # Still inside the unfinished folder: its renaming is what makes all of it valid.
        folder = epath.Path(self.data_dir)
        paths = {name: split.filepaths for name, split in self.info.splits.items()}
        counts = self.write_indices(folder, paths)
        for split, count in counts.items():
            count["bytes"] = sum(path.stat().length for path in paths[split])
        (folder / SUMMARY_FILE).write_text(json.dumps({"splits": counts, **self.notes()}, indent=2))


class PhotoBuilder(RecordBuilder[PhotoRecord]):
    """Records of a photo with one garment each."""

    def features(self) -> tfds.features.FeaturesDict:
        """See `records`."""
        return photo_features()

    def example(self, record: PhotoRecord) -> dict[str, object]:
        """See `records`."""
        return to_example(record)

    def write_indices(self, folder: epath.Path, paths: ShardPaths) -> dict[str, dict[str, int]]:
        """Writes a `PhotoIndex` for each split."""
        builders = {split: _scan(split, files) for split, files in paths.items()}
        counts = {}
        for split, index in build_indices(builders).items():
            index.save(folder / index_file(split))
            counts[split] = index.counts()
        return counts


def scan_records(split: str, paths: Sequence[epath.Path]) -> Iterator[bytes]:
    """Yields the stored records of a split, and shows how far it is."""
    records = ArrayRecordDataSource([str(path) for path in paths])
    with tqdm(total=len(records), desc=f"Indexing {split}", unit=" photos", delay=2) as bar:
        for start in range(0, len(records), _READ_AT_A_TIME):
            rows = range(start, min(start + _READ_AT_A_TIME, len(records)))
            yield from records.__getitems__(rows)
            bar.update(len(rows))


class _Numbered:
    """A source of numbered examples; a class, for Beam sends it to other processes."""

    def __init__(self, source: ShardSource, example: Callable[[Any], dict[str, object]]):
        self._source = source
        self._example = example

    def __call__(self) -> Iterator[tuple[int, dict[str, object]]]:
        for number, record in enumerate(self._source()):
            yield number, self._example(record)


def _scan(split: str, paths: Sequence[epath.Path]) -> IndexBuilder:
    builder = IndexBuilder()
    for serialized in scan_records(split, paths):
        record = parse_record(serialized)
        builder.add(
            photo_id=record.photo_id,
            item_id=record.item_id,
            category=record.category,
            domain=DOMAINS.index(record.domain),
            view=record.view,
            occluded=record.occluded,
            cropped=record.cropped,
            box=record.box,
            size=(record.height, record.width),
            content_digest=hashlib.blake2b(record.image, digest_size=16).digest(),
            attributes=record.attributes,
            unknown_attributes=record.unknown_attributes,
        )
    return builder
