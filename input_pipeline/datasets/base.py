"""What all builders share: the schema, the order of the records, and the index."""

import abc
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence

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
from input_pipeline.index import IndexBuilder

SPLITS = ("train", "val", "test")
SUMMARY_FILE = "summary.json"
_READ_AT_A_TIME = 256

ShardSource = Callable[[], Iterator[PhotoRecord]]


def index_file(split: str) -> str:
    """Name of a split's index in the prepared folder."""
    return f"index.{split}.npz"


class PhotoBuilder(dataset_builder.ShardBasedBuilder):  # tfds.core names it from 4.9.10 on
    """Writes records in a fixed order, and their index beside them.

    The shards are cut before anything is written, so that records stream straight to their
    file: TFDS' generator-based builder would write all records twice and, where their order
    is to be kept, sort them in memory.

    Subclasses define `shards`, and may extend `notes`.
    """

    VERSION = tfds.core.Version("1.0.0")

    @abc.abstractmethod
    def shards(self) -> Mapping[str, Sequence[ShardSource]]:
        """For each split that has photos, one source of records per file, in order."""

    def notes(self) -> dict[str, object]:
        """What `summary.json` tells beside the counts of each split."""
        return {}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=photo_features(), disable_shuffling=True)

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager):
        del dl_manager  # nothing is downloaded
        return {
            split: [_numbered(source) for source in sources]
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
        summary = write_indices(folder, paths)
        (folder / SUMMARY_FILE).write_text(
            json.dumps({"splits": summary, **self.notes()}, indent=2)
        )


def write_indices(
    folder: epath.Path, shard_paths: Mapping[str, Sequence[epath.Path]]
) -> dict[str, dict[str, int]]:
    """Scans the records of each split once, writes its index, and returns its counts."""
    builders = {split: _scan(split, paths) for split, paths in shard_paths.items()}
    categories = sorted(set().union(*(builder.categories() for builder in builders.values())))
    summary = {}
    for split, builder in builders.items():
        index = builder.build(categories)
        index.save(folder / index_file(split))
        size = sum(path.stat().length for path in shard_paths[split])
        summary[split] = {**index.counts(), "bytes": size}
    return summary


def _numbered(source: ShardSource) -> Callable[[], Iterator[tuple[int, dict[str, object]]]]:
    return lambda: ((number, to_example(record)) for number, record in enumerate(source()))


def _scan(split: str, paths: Sequence[epath.Path]) -> IndexBuilder:
    builder = IndexBuilder()
    records = ArrayRecordDataSource([str(path) for path in paths])
    with tqdm(total=len(records), desc=f"Indexing {split}", unit=" photos", delay=2) as bar:
        for start in range(0, len(records), _READ_AT_A_TIME):
            rows = range(start, min(start + _READ_AT_A_TIME, len(records)))
            for serialized in records.__getitems__(rows):
                _add_to_index(builder, parse_record(serialized))
            bar.update(len(rows))
    return builder


def _add_to_index(builder: IndexBuilder, record: PhotoRecord) -> None:
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
    )
