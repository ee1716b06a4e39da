"""A user's own photos, listed in a CSV (columns: see `manifest_rows`)."""

import re
from dataclasses import dataclass

from etils import epath

from input_pipeline.datasets import manifest_rows
from input_pipeline.datasets.listed import ListedConfig, ListedPhotos, check_policy, config_name
from input_pipeline.datasets.listing import Listing
from input_pipeline.datasets.manifest_rows import Table
from input_pipeline.errors import DatasetError, ManifestError

_ROWS_PER_SHARD = 512  # of photos of a megabyte or so


@dataclass(kw_only=True)
class ManifestConfig(ListedConfig):
    """Which manifest, and how to take it: see `manifest_config`."""

    error = ManifestError

    table: Table

    def read(self) -> Listing:
        """The rows whose cells are right."""
        return manifest_rows.read_listing(self.table)

    def photo_path(self, image: str) -> epath.Path:
        """The path is relative to the CSV."""
        return self.table.photo_path(image)

    def origin(self) -> dict[str, object]:
        """The path of the CSV."""
        return {"manifest": str(self.table.path)}


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
    check_policy(on_bad_row)
    table = manifest_rows.read_table(epath.Path(manifest).expanduser())
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", table.path.stem)
    return ManifestConfig(
        name=config_name(stem, manifest_rows.fingerprint(table), on_bad_row, max_pixels),
        table=table,
        stem=stem,
        on_bad_row=on_bad_row,
        max_pixels=max_pixels,
    )


class Manifest(ListedPhotos):
    """The photos of a CSV."""

    name = "manifest"

    @property
    def photos_per_shard(self) -> int:
        """Fewer than of a benchmark's small photos."""
        return _ROWS_PER_SHARD
