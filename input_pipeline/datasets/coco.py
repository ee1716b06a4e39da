"""Photos with the boxes and masks of many objects, in the form of COCO's files.

SOURCE holds either `annotations/{train,val,test}.json` or `{train,val,test}.json`, of which any
may lack, or one `annotations.json`. Where the photos of that one have a field `split`, it is their
split; else a hash of their id makes a tenth val and a tenth test. `file_name` is a path below
SOURCE/images or, where no such file is there, below SOURCE.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from input_pipeline.config import PrepareOptions
from input_pipeline.datasets.base import ShardPaths, index_file, scan_records
from input_pipeline.datasets.coco_file import Categories, CocoFile
from input_pipeline.datasets.download import DownloadConfig, digest_files, download_config
from input_pipeline.datasets.listed import ListedRecords, store_photo
from input_pipeline.datasets.object_listing import (
    CheckedObject,
    CheckedPhoto,
    ObjectListing,
    ObjectRow,
    ObjectValidationReport,
    ProblemLog,
    check_objects,
    turn_mask,
)
from input_pipeline.datasets.object_records import (
    ObjectRecord,
    object_features,
    parse_object_record,
    to_example,
)
from input_pipeline.errors import DatasetError
from input_pipeline.images import encode_png
from input_pipeline.object_index import build_object_indices
from input_pipeline.vocabulary import SPLITS

_PHOTOS_PER_SHARD = 4096


@dataclass(kw_only=True)
class CocoConfig(DownloadConfig):
    """Which files, and how to take them: see `download_config`.

    Attributes:
      shares: of the photos in each split, where files do not tell.
      names: the categories by id, whatever the files call them; None: the files' own.
    """

    benchmark = "COCO's form"
    overhang = 1
    shares: ClassVar[Mapping[str, float]] = {"train": 0.8, "val": 0.1, "test": 0.1}
    names: ClassVar[Mapping[int, str] | None] = None

    @classmethod
    def files(cls, root: epath.Path) -> dict[str, epath.Path]:
        """Returns the annotation files by split; a single one has "".

        Raises:
          DatasetError: there are none, or not in one of the layouts.
        """
        possible = [
            *(
                {split: folder / f"{split}.json" for split in SPLITS}
                for folder in (root / "annotations", root)
            ),
            {"": root / "annotations.json"},
        ]
        existing = [
            {split: path for split, path in files.items() if path.exists()} for files in possible
        ]
        layouts = [files for files in existing if files]
        expected = (
            "annotations/{train,val,test}.json, {train,val,test}.json or a single annotations.json"
        )
        if not layouts:
            raise DatasetError(f"{root} (dataset.source): expected {expected}; there is none")
        if len(layouts) > 1:
            names = ", ".join(str(path) for files in layouts for path in files.values())
            raise DatasetError(
                f"{root} (dataset.source): expected one of {expected}; there are {names}"
            )
        return layouts[0]

    @classmethod
    def fingerprint(cls, root: epath.Path) -> str:
        """Returns a digest of the annotation files."""
        files = cls.files(root)
        return f"{','.join(files)} {digest_files(list(files.values()))}"

    def read(self) -> ObjectListing:
        """Returns the photos and objects that are right in themselves."""
        log, categories = ProblemLog(), Categories(self.names)
        rows = []
        for split, path in self.files(self.root).items():
            file = CocoFile(path, categories, log)
            split_of = functools.partial(_first, split) if split else self.split_of
            rows += file.rows(split_of, own_splits=not split)
        numbers = {key: number for number, key in enumerate(sorted(categories.names))}
        return ObjectListing(
            rows=[_numbered(row, numbers) for row in rows],
            problems=log.problems,
            categories=tuple(categories.names[key] for key in numbers),
            log=log,
        )

    def split_of(self, image: int | str) -> str:
        """Returns the split of an image's id where files do not tell: a pure function of it."""
        digest = hashlib.blake2b(str(image).encode(), digest_size=8).digest()
        fraction = int.from_bytes(digest, "big") / 2**64
        for split, share in self.shares.items():
            if fraction < share:
                return split
            fraction -= share
        return next(iter(self.shares))  # what rounding leaves over

    def photo_path(self, image: str) -> epath.Path:
        """Returns the path of a photo: below `images` or beside it."""
        path = self.root / "images" / image
        return path if path.exists() else self.root / image

    def check(self) -> ObjectValidationReport:
        """Reads and checks everything, and writes nothing."""
        return check_objects(self.read(), self.photo_path, self.options.max_pixels, self.overhang)

    def describe(self, checked: ObjectValidationReport) -> dict[str, object]:  # type: ignore[override]
        """As everywhere, and the categories."""
        return {
            **super().describe(checked),
            "kind": "objects",
            "categories": list(checked.categories),
            "objects_per_category": checked.category_counts(),
        }


class Coco(ListedRecords[ObjectRecord]):
    """Photos with their objects; subclasses set `name`."""

    name = "coco"
    builder_config: CocoConfig

    @property
    def photos_per_shard(self) -> int:
        """Returns how many photos a file of records holds."""
        return _PHOTOS_PER_SHARD

    def features(self) -> tfds.features.FeaturesDict:
        """See `object_records`."""
        return object_features()

    def example(self, record: ObjectRecord) -> dict[str, object]:
        """See `object_records`."""
        return to_example(record)

    def write_indices(self, folder: epath.Path, paths: ShardPaths) -> dict[str, dict[str, int]]:
        """Writes an `ObjectIndex` for each split."""
        records = {
            split: map(parse_object_record, scan_records(split, files))
            for split, files in paths.items()
        }
        categories: Any = self.notes()["categories"]
        counts = {}
        for split, index in build_object_indices(records, categories).items():
            index.save(folder / index_file(split))
            counts[split] = index.counts()
        return counts

    def _record(self, checked: CheckedPhoto) -> ObjectRecord:
        row, header, objects, turn = checked
        config = self.builder_config
        photo = store_photo(config.photo_path(row.image), header, config.options)
        boxes = [obj.box for obj in objects]
        masks = [_mask(obj, turn) for obj in objects]
        if resize := photo.resize:
            boxes, masks = list(map(resize.box, boxes)), list(map(resize.mask, masks))
        return ObjectRecord(
            image=photo.image,
            photo_id=row.image,
            height=photo.height,
            width=photo.width,
            orientation=photo.orientation,
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            categories=np.array([obj.category for obj in objects], np.int32),
            crowd=np.array([obj.crowd for obj in objects], np.bool_),
            masks=tuple(masks),
        )


def describe(source: str, options: PrepareOptions) -> tuple[type[Coco], CocoConfig]:
    """Returns the builder and its config."""
    return Coco, download_config(CocoConfig, source, options)


def _mask(obj: CheckedObject, turn: int) -> bytes:
    if obj.mask is None:
        return b""
    return encode_png(np.ascontiguousarray(turn_mask(obj.mask.pixels(), turn)) * np.uint8(255))


def _numbered(row: ObjectRow, numbers: Mapping[int, int]) -> ObjectRow:
    """Returns the row with indices of categories in place of the file's ids."""
    objects = tuple(dataclasses.replace(obj, category=numbers[obj.category]) for obj in row.objects)
    return dataclasses.replace(row, objects=objects)


def _first(split: str, image: int | str) -> str:
    del image
    return split
