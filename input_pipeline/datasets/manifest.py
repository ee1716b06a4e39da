"""A user's own photos, listed in a CSV (columns: see `manifest_rows`)."""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import tensorflow_datasets as tfds
from etils import epath
from tqdm import tqdm

from grnet_jax.photos import encode_png, open_photo
from input_pipeline.datasets import manifest_rows
from input_pipeline.datasets.base import SPLITS, PhotoBuilder, ShardSource
from input_pipeline.datasets.manifest_rows import ManifestRow, Table
from input_pipeline.datasets.records import PhotoRecord
from input_pipeline.errors import DatasetError, ManifestError
from input_pipeline.parallel import ordered_map

BAD_ROW_POLICIES = ("error", "skip")
_ROWS_PER_SHARD = 512  # of photos of a megabyte or so


@dataclass(kw_only=True)
class ManifestConfig(tfds.core.BuilderConfig):
    """Which manifest, and how to take it: see `manifest_config`."""

    table: Table
    stem: str
    on_bad_row: str
    max_pixels: int


def manifest_config(manifest: str, on_bad_row: str, max_pixels: int) -> ManifestConfig:
    """Describes a set by config.data's fields; reads the CSV, and looks for each photo.

    Args:
      manifest: path of the CSV.
      on_bad_row: "error" refuses a manifest with bad rows, "skip" leaves them out.
      max_pixels: larger photos are bad rows.

    Raises:
      DatasetError: a field is wrong.
      ManifestError: the CSV cannot be read as a whole.
    """
    if not manifest:
        raise DatasetError("config.data.manifest is empty: give the path of the CSV")
    if on_bad_row not in BAD_ROW_POLICIES:
        raise DatasetError(f"config.data.on_bad_row={on_bad_row!r}: expected error or skip")
    table = manifest_rows.read_table(epath.Path(manifest).expanduser())
    key = manifest_rows.fingerprint(table)[:12]
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", table.path.stem)
    if on_bad_row == "skip":
        key += f"-skip{max_pixels}"  # which rows are bad may depend on the limit
    return ManifestConfig(
        name=f"{stem}-{key}",
        table=table,
        stem=stem,
        on_bad_row=on_bad_row,
        max_pixels=max_pixels,
    )


class Manifest(PhotoBuilder):
    """Keeps JPEGs of grey or RGB pixels byte for byte; all else becomes upright RGB PNG."""

    name = "manifest"
    builder_config: ManifestConfig

    def shards(self) -> Mapping[str, Sequence[ShardSource]]:
        """The good rows in the order of the CSV."""
        config = self.builder_config
        rows, problems = manifest_rows.check_table(config.table, config.max_pixels)
        messages = [config.table.message(problem) for problem in problems]
        if messages and (config.on_bad_row == "error" or not rows):
            raise ManifestError(messages, rows_can_be_skipped=bool(rows))
        for message in messages:
            print(f"Skipped {message}")
        self._skipped = len({problem.line for problem in problems})
        self._tell_of_older_preparations()
        return {
            split: self._shards_of(split, chosen)
            for split in SPLITS
            if (chosen := [row for row in rows if row.split == split])
        }

    def notes(self) -> dict[str, object]:
        """Where it came from, and how many rows were bad."""
        return {"manifest": str(self.builder_config.table.path), "skipped_rows": self._skipped}

    def _tell_of_older_preparations(self) -> None:
        name = self.builder_config.name
        stem = self.builder_config.stem
        older = [
            str(folder)
            for folder in epath.Path(self.data_dir).parent.parent.glob(f"{stem}-*")
            if folder.name != name
        ]
        if older:
            print("Prepared from other states of this manifest; delete what you no longer need:")
            print("\n".join(f"  {folder}" for folder in sorted(older)))

    def _shards_of(self, split: str, rows: Sequence[ManifestRow]) -> list[ShardSource]:
        parts = [
            rows[start : start + _ROWS_PER_SHARD] for start in range(0, len(rows), _ROWS_PER_SHARD)
        ]
        return [
            functools.partial(self._records, part, f"Writing {split} {number + 1}/{len(parts)}")
            for number, part in enumerate(parts)
        ]

    def _records(self, rows: Sequence[ManifestRow], title: str) -> Iterator[PhotoRecord]:
        with ThreadPoolExecutor(manifest_rows.THREADS) as pool:
            records = ordered_map(pool, self._record, rows, 2 * manifest_rows.THREADS)
            yield from tqdm(records, title, len(rows), unit=" photos")

    def _record(self, row: ManifestRow) -> PhotoRecord:
        path = self.builder_config.table.photo_path(row.image)
        height, width, orientation = row.header.height, row.header.width, row.header.orientation
        if row.header.plain_jpeg:
            image = path.read_bytes()
        else:
            image = encode_png(open_photo(path, self.builder_config.max_pixels))
            orientation = 1
        return PhotoRecord(
            image=image,
            photo_id=row.image,
            item_id=row.item_id,
            domain=row.domain,
            height=height,
            width=width,
            box=row.box or (0.0, 0.0, float(width), float(height)),
            orientation=orientation,
            category=row.category,
            view=row.view,
            occluded=row.occluded,
            cropped=row.cropped,
        )
