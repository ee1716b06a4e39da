"""What the builders share that read lists of photos: options, records and summary."""

import abc
import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import tensorflow_datasets as tfds
from etils import epath
from tqdm import tqdm

from input_pipeline.config import PrepareOptions
from input_pipeline.datasets.base import PhotoBuilder, Record, RecordBuilder, ShardSource
from input_pipeline.datasets.listing import (
    THREADS,
    CheckedRow,
    Listing,
    PhotoRow,
    Problem,
    ValidationReport,
    check_listing,
)
from input_pipeline.datasets.on_error import OnError, parse_on_error
from input_pipeline.datasets.records import NO_LANDMARKS, PhotoRecord
from input_pipeline.datasets.resizing import Resize
from input_pipeline.errors import ListError
from input_pipeline.images import ImageHeader, encode_png, load_image
from input_pipeline.parallel import ordered_map
from input_pipeline.vocabulary import SPLITS

_MOST_PRINTED = 20  # skipped rows that are printed, of each kind
_MOST_STORED = 1000  # missing photos that the summary names


@dataclass(kw_only=True)
class ListedConfig(tfds.core.BuilderConfig, abc.ABC):
    """Which lists, and how to take them.

    Attributes:
      stem: what the names of all preparations of these lists begin with.
      options: how to take them.
    """

    error: ClassVar[type[ListError]] = ListError
    skips: ClassVar[frozenset[str]] = frozenset()  # kinds of problems the release has
    overhang: ClassVar[int] = 0  # see `check_listing`
    many_boxes: ClassVar[bool] = False  # see `check_listing`
    watches_photos: ClassVar[bool] = False  # whether photos that arrive are prepared anew unasked

    stem: str
    options: PrepareOptions

    @property
    def on_error(self) -> OnError:
        """Returns which problems stop the preparation."""
        return parse_on_error(self.options.on_error, self.skips)

    @abc.abstractmethod
    def read(self) -> Listing:
        """Reads the lists, and looks at no photo."""

    @abc.abstractmethod
    def photo_path(self, image: str) -> epath.Path:
        """Returns where the photo of a path in the lists lies."""

    @abc.abstractmethod
    def origin(self) -> dict[str, object]:
        """Returns what the summary says of the photos' origin."""

    def mask(self, row: PhotoRow, height: int, width: int) -> bytes:
        """Returns a PNG of the garment's pixels in the upright photo; b"" if unknown."""
        del row, height, width
        return b""

    def compare(self, checked: ValidationReport) -> list[dict[str, object]]:
        """Counts beside those of the published data set: what, found, release, paper."""
        del checked
        return []

    def without_lists(self) -> Self:
        """Returns what other processes need of it to write records."""
        return self

    def check(self) -> ValidationReport:
        """Reads and checks everything, and writes nothing."""
        return check_listing(
            self.read(),
            self.photo_path,
            self.options.max_pixels,
            overhang=self.overhang,
            many_boxes=self.many_boxes,
        )

    def fatal_problems(self, report: ValidationReport) -> list[Problem]:
        """Returns the problems that stop a preparation."""
        return [problem for problem in report.problems if self.on_error.is_fatal(problem.kind)]

    def describe(self, checked: ValidationReport) -> dict[str, object]:
        """Returns the part of the summary that does not depend on what is written."""
        return {
            **self.origin(),
            "on_error": str(self.on_error),
            "skipped_rows": checked.bad_rows(),
            "problems": checked.problem_counts(),
            "tolerated": dict(sorted(checked.tolerated.items())),
            "facts": dict(checked.facts),
            "attribute_types": dict(checked.attribute_types),
            "missing_photos": [] if self.watches_photos else checked.missing[:_MOST_STORED],
            "release": self.compare(checked),
        }


class StoredPhoto(NamedTuple):
    """A photo as a record holds it.

    Attributes:
      image: a JPEG of gray or RGB pixels as it was found; all else becomes upright RGB PNG, and
        photos larger than --max_side upright RGB JPEGs of that size.
      height: of the upright photo, in pixels.
      width: of the upright photo, in pixels.
      orientation: EXIF orientation of the stored pixels.
      resize: how it was reduced, and its labels have to be; None if it was not.
    """

    image: bytes
    height: int
    width: int
    orientation: int
    resize: Resize | None


def store_photo(path: epath.Path, header: ImageHeader, options: PrepareOptions) -> StoredPhoto:
    """Reads a photo that was checked."""
    height, width = header.height, header.width
    if 0 < options.max_side < max(height, width):
        resize = Resize.to_max_side(height, width, options.max_side)
        image = resize.jpeg(load_image(path, options.max_pixels))
        return StoredPhoto(image, resize.height, resize.width, 1, resize)
    if header.plain_jpeg:
        return StoredPhoto(path.read_bytes(), height, width, header.orientation, None)
    image = encode_png(load_image(path, options.max_pixels))
    return StoredPhoto(image, height, width, 1, None)


class ListedRecords(RecordBuilder[Record]):
    """Writes the good rows of lists, a record for each.

    Subclasses set `name`, define `_record`, and may set `photos_per_shard`.
    """

    builder_config: ListedConfig

    @property
    def photos_per_shard(self) -> int:
        """Returns how many photos a file of records holds."""
        return 8192

    def shards(self) -> Mapping[str, Sequence[ShardSource]]:
        """Returns the good rows in the order of the lists."""
        config = self.builder_config
        report = config.check()
        fatal = config.fatal_problems(report)
        if fatal or not report.rows:
            raise config.error(
                [str(problem) for problem in fatal or report.problems],
                rows_can_be_skipped=bool(report.rows),
            )
        print_skipped(report)
        self._notes = config.describe(report)
        self._report_older_preparations()
        return {
            split: self._shards_of(split, chosen)
            for split in SPLITS
            if (chosen := [checked for checked in report.rows if checked.row.split == split])
        }

    def notes(self) -> dict[str, object]:
        """Returns the origin, and how many rows were bad or odd, by kind."""
        return self._notes

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        config = self.builder_config.without_lists()
        return {"_original_state": {**state["_original_state"], "config": config}}

    def _report_older_preparations(self) -> None:
        name = self.builder_config.name
        stem = self.builder_config.stem
        older = [
            str(folder)
            for folder in epath.Path(self.data_dir).parent.parent.glob(f"{stem}-*")
            if re.fullmatch(rf"{stem}-[0-9a-f]{{12}}", folder.name)
            and folder.name != name
            and (folder / str(self.version)).exists()
        ]
        if older:
            print(
                f"Prepared from other states of this {self.name}; delete what you no longer need:"
            )
            print("\n".join(f"  {folder}" for folder in sorted(older)))

    @abc.abstractmethod
    def _record(self, checked: Any) -> Record:
        """Returns the record of a row of the config's `check`."""

    def _shards_of(self, split: str, rows: Sequence[Any]) -> list[ShardSource]:
        step = self.photos_per_shard
        parts = [rows[start : start + step] for start in range(0, len(rows), step)]
        return [
            functools.partial(self._records, part, f"Writing {split} {number + 1}/{len(parts)}")
            for number, part in enumerate(parts)
        ]

    def _records(self, rows: Sequence[Any], title: str) -> Iterator[Record]:
        with ThreadPoolExecutor(THREADS) as pool:
            records = ordered_map(pool, self._record, rows, 2 * THREADS)
            yield from tqdm(records, title, len(rows), unit=" photos")


class ListedPhotos(ListedRecords[PhotoRecord], PhotoBuilder):
    """A photo with one garment for each row; photos as in `StoredPhoto`."""

    def _record(self, checked: CheckedRow) -> PhotoRecord:
        row, header = checked
        config = self.builder_config
        photo = store_photo(config.photo_path(row.image), header, config.options)
        box = row.box or (0.0, 0.0, float(header.width), float(header.height))
        landmarks = NO_LANDMARKS if row.landmarks is None else row.landmarks
        mask = config.mask(row, header.height, header.width)
        if resize := photo.resize:
            box, landmarks, mask = resize.box(box), resize.landmarks(landmarks), resize.mask(mask)
        return PhotoRecord(
            image=photo.image,
            photo_id=row.image,
            item_id=row.item_id,
            domain=row.domain,
            height=photo.height,
            width=photo.width,
            box=box,
            orientation=photo.orientation,
            resize_scale=resize.scale if resize else 1.0,
            category=row.category,
            clothes_type=row.clothes_type,
            attributes=row.attributes,
            unknown_attributes=row.unknown_attributes,
            landmarks=landmarks,
            mask=mask,
            view=row.view,
            occluded=row.occluded,
            cropped=row.cropped,
        )


def print_skipped(report: ValidationReport) -> None:
    """Prints what is left out or corrected, some lines of each kind."""
    counts: Counter[str] = Counter()
    for problem in report.problems:
        counts[problem.kind] += 1
        if counts[problem.kind] <= _MOST_PRINTED:
            print(f"Skipped {problem}")
    for kind, count in sorted(counts.items()):
        if count > _MOST_PRINTED:
            print(f"Skipped: {kind}: {count:,} in all; --check lists them")
    for kind, count in sorted(report.tolerated.items()):
        print(f"Tolerated: {kind}: {count:,}")
