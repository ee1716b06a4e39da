"""What all builders share: the order of the records, their schema, and the index beside them."""

import abc
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from etils import epath
from tensorflow_datasets.core import dataset_builder
from tqdm import tqdm

from input_pipeline.beam import Write, write_with_beam
from input_pipeline.datasets.records import (
    NO_LANDMARKS,
    PhotoRecord,
    parse_record,
    photo_features,
    to_example,
)
from input_pipeline.index import IndexBuilder, build_indices
from input_pipeline.vocabulary import DOMAINS, LANDMARKS

SUMMARY_FILE = "summary.json"
_READ_AT_A_TIME = 256

Record = TypeVar("Record")
ShardSource = Callable[[], Iterator[Record]]
ShardPaths = Mapping[str, Sequence[epath.Path]]


def index_file(split: str) -> str:
    """Returns the name of a split's index file in the prepared folder."""
    return f"index.{split}.npz"


class RecordBuilder(dataset_builder.FileReaderBuilder, Generic[Record]):
    """Writes records in a fixed order, and their index beside them.

    The shards are cut before anything is written, so that records stream straight to their
    file: TFDS' generator-based builder would write all records twice and, where their order
    is to be kept, sort them in memory. Its shard-based builder keeps a file's records in memory
    until the file is written; with Beam it mixes up the lengths of more than ten files.

    Subclasses define what is abstract here, and may extend `notes`.

    Attributes:
      apart: whether Beam writes the shards, each in another process; their sources are pickled.
    """

    apart = False

    VERSION = tfds.core.Version("1.2.0")

    @abc.abstractmethod
    def shards(self) -> Mapping[str, Sequence[ShardSource]]:
        """Returns one source of records per file, in order, for each split that has photos."""

    @abc.abstractmethod
    def features(self) -> tfds.features.FeaturesDict:
        """Returns the schema of the records."""

    @abc.abstractmethod
    def example(self, record: Record) -> dict[str, object]:
        """Returns a record as a TFDS example."""

    @abc.abstractmethod
    def write_indices(self, folder: epath.Path, paths: ShardPaths) -> dict[str, dict[str, int]]:
        """Scans the records of each split once, writes its index, and returns its counts."""

    def notes(self) -> dict[str, object]:
        """Returns what `summary.json` holds beside the counts of each split."""
        return {}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=self.features(), disable_shuffling=True)

    def _log_download_bytes(self) -> None:
        """Keeps TFDS from announcing a download, of which there is none."""

    def _log_download_done(self) -> None:
        """As above."""

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        del dl_manager  # nothing is downloaded
        # The unfinished folder: its renaming is what makes all of it valid.
        folder = epath.Path(self.data_dir)
        self.apart = bool(download_config and download_config.beam_runner)
        paths, files = self._files()
        if self.apart:
            write_with_beam(files, folder, download_config)
        else:
            for path, write in files.items():
                write(path)
        self.info.set_splits(
            tfds.core.SplitDict([self._split_info(name, paths[name]) for name in paths])
        )
        counts = self.write_indices(folder, paths)
        options = self.builder_config.options.for_records()
        for split, count in counts.items():
            count["bytes"] = sum(path.stat().length for path in paths[split])
        (folder / SUMMARY_FILE).write_text(
            json.dumps({"splits": counts, "options": options, **self.notes()}, indent=2)
        )

    def _files(self) -> tuple[ShardPaths, dict[epath.Path, Write]]:
        """Returns the paths of each split's shards, and what writes each."""
        paths: dict[str, list[epath.Path]] = {}
        files: dict[epath.Path, Write] = {}
        for split, sources in self.shards().items():
            template = self._get_filename_template(split)
            paths[split] = [
                template.sharded_filepath(shard_index=number, num_shards=len(sources))
                for number in range(len(sources))
            ]
            for path, source in zip(paths[split], sources, strict=True):
                files[path] = functools.partial(self._write_shard, source)
        return paths, files

    def _write_shard(self, source: ShardSource, path: epath.Path) -> None:
        features = self.features()
        serializer = tfds.core.ExampleSerializer(features.get_serialized_info())

        def serialize(record: Record) -> bytes:
            example = serializer.get_tf_example(features.encode_example(self.example(record)))
            # serialize_example would put the fields in another order in every process.
            return example.SerializeToString(deterministic=True)

        writer = tfds.core.ExampleWriter(file_format=tfds.core.FileFormat.ARRAY_RECORD)
        writer.write(path, enumerate(map(serialize, source())))

    def _split_info(self, split: str, paths: Sequence[epath.Path]) -> tfds.core.SplitInfo:
        return tfds.core.SplitInfo(
            name=split,
            shard_lengths=[len(ArrayRecordDataSource([str(path)])) for path in paths],
            num_bytes=sum(path.stat().length for path in paths),
            filename_template=self._get_filename_template(split),
        )


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
            resize_scale=record.resize_scale,
            content_digest=hashlib.blake2b(record.image, digest_size=16).digest(),
            clothes_type=record.clothes_type,
            landmarks=record.landmarks if len(record.landmarks) == len(LANDMARKS) else NO_LANDMARKS,
            attributes=record.attributes,
            unknown_attributes=record.unknown_attributes,
        )
    return builder
