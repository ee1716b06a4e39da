"""What the builders share that read lists of photos: policy, records and summary."""

import abc
import functools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import tensorflow_datasets as tfds
from etils import epath
from tqdm import tqdm

from grnet_jax.photos import encode_png, open_photo
from input_pipeline.datasets.base import SPLITS, PhotoBuilder, ShardSource
from input_pipeline.datasets.listing import THREADS, Checked, CheckedRow, Listing, check_listing
from input_pipeline.datasets.records import NO_LANDMARKS, PhotoRecord
from input_pipeline.errors import DatasetError, ListError
from input_pipeline.parallel import ordered_map

BAD_ROW_POLICIES = ("error", "skip")


@dataclass(kw_only=True)
class ListedConfig(tfds.core.BuilderConfig, abc.ABC):
    """Which lists, and how to take them.

    Attributes:
      stem: what the names of all preparations of these lists begin with.
      on_bad_row: "error" refuses lists with bad rows, "skip" leaves these out and counts them.
      max_pixels: larger photos are bad rows.
    """

    error: ClassVar[type[ListError]] = ListError
    overhang: ClassVar[int] = 0  # see `check_listing`

    stem: str
    on_bad_row: str
    max_pixels: int

    @abc.abstractmethod
    def read(self) -> Listing:
        """Reads the lists, and looks at no photo."""

    @abc.abstractmethod
    def photo_path(self, image: str) -> epath.Path:
        """Where the photo of a path in the lists lies."""

    @abc.abstractmethod
    def origin(self) -> dict[str, object]:
        """What the summary tells of where the photos came from."""

    def compare(self, checked: Checked) -> list[dict[str, object]]:
        """Counts beside those of the published data set: what, found, release, paper."""
        del checked
        return []

    def check(self) -> Checked:
        """Reads and checks everything, and writes nothing."""
        return check_listing(self.read(), self.photo_path, self.max_pixels, self.overhang)

    def describe(self, checked: Checked) -> dict[str, object]:
        """The part of the summary that does not depend on what is written."""
        return {
            **self.origin(),
            "skipped_rows": checked.bad_rows(),
            "problems": checked.problem_counts(),
            "tolerated": dict(sorted(checked.tolerated.items())),
            "facts": dict(checked.facts),
            "release": self.compare(checked),
        }


def check_policy(on_bad_row: str) -> None:
    """Raises DatasetError where config.data.on_bad_row is none of the policies."""
    if on_bad_row not in BAD_ROW_POLICIES:
        raise DatasetError(f"config.data.on_bad_row={on_bad_row!r}: expected error or skip")


def config_name(stem: str, fingerprint: str, on_bad_row: str, max_pixels: int) -> str:
    """The prepared folder's name: other lists, or another choice of rows, have another."""
    skips = f"-skip{max_pixels}" if on_bad_row == "skip" else ""  # the limit makes rows bad
    return f"{stem}-{fingerprint[:12]}{skips}"


class ListedPhotos(PhotoBuilder):
    """Keeps JPEGs of grey or RGB pixels byte for byte; all else becomes upright RGB PNG.

    Subclasses set `name`, and may set `photos_per_shard`.
    """

    builder_config: ListedConfig

    @property
    def photos_per_shard(self) -> int:
        """Photos in one file of records."""
        return 8192

    def shards(self) -> Mapping[str, Sequence[ShardSource]]:
        """The good rows in the order of the lists."""
        config = self.builder_config
        checked = config.check()
        if (checked.problems and config.on_bad_row == "error") or not checked.rows:
            raise config.error(
                [str(problem) for problem in checked.problems],
                rows_can_be_skipped=bool(checked.rows),
            )
        for problem in checked.problems:
            print(f"Skipped {problem}")
        for kind, count in sorted(checked.tolerated.items()):
            print(f"Tolerated: {kind}: {count}")
        self._notes = config.describe(checked)
        self._tell_of_older_preparations()
        return {
            split: self._shards_of(split, chosen)
            for split in SPLITS
            if (chosen := [checked for checked in checked.rows if checked.row.split == split])
        }

    def notes(self) -> dict[str, object]:
        """Where it came from, and how many rows were bad or odd, by kind."""
        return self._notes

    def _tell_of_older_preparations(self) -> None:
        name = self.builder_config.name
        stem = self.builder_config.stem
        older = [
            str(folder)
            for folder in epath.Path(self.data_dir).parent.parent.glob(f"{stem}-*")
            if folder.name != name
        ]
        if older:
            print(
                f"Prepared from other states of this {self.name}; delete what you no longer need:"
            )
            print("\n".join(f"  {folder}" for folder in sorted(older)))

    def _shards_of(self, split: str, rows: Sequence[CheckedRow]) -> list[ShardSource]:
        step = self.photos_per_shard
        parts = [rows[start : start + step] for start in range(0, len(rows), step)]
        return [
            functools.partial(self._records, part, f"Writing {split} {number + 1}/{len(parts)}")
            for number, part in enumerate(parts)
        ]

    def _records(self, rows: Sequence[CheckedRow], title: str) -> Iterator[PhotoRecord]:
        with ThreadPoolExecutor(THREADS) as pool:
            records = ordered_map(pool, self._record, rows, 2 * THREADS)
            yield from tqdm(records, title, len(rows), unit=" photos")

    def _record(self, checked: CheckedRow) -> PhotoRecord:
        row, header = checked
        path = self.builder_config.photo_path(row.image)
        orientation = header.orientation
        if header.plain_jpeg:
            image = path.read_bytes()
        else:
            image = encode_png(open_photo(path, self.builder_config.max_pixels))
            orientation = 1
        return PhotoRecord(
            image=image,
            photo_id=row.image,
            item_id=row.item_id,
            domain=row.domain,
            height=header.height,
            width=header.width,
            box=row.box or (0.0, 0.0, float(header.width), float(header.height)),
            orientation=orientation,
            category=row.category,
            clothes_type=row.clothes_type,
            attributes=row.attributes,
            landmarks=NO_LANDMARKS.copy() if row.landmarks is None else row.landmarks,
            view=row.view,
            occluded=row.occluded,
            cropped=row.cropped,
        )
