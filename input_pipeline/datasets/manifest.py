"""A user's own photos, listed in a CSV (columns: see `manifest_rows`)."""

import re
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, TypeVar

from etils import epath

from input_pipeline.datasets import manifest_rows
from input_pipeline.datasets.listed import ListedConfig, ListedPhotos, config_name, list_options
from input_pipeline.datasets.listing import Listing
from input_pipeline.datasets.manifest_rows import Table
from input_pipeline.errors import DatasetError, ManifestError

_ROWS_PER_SHARD = 512  # of photos of a megabyte or so

Config = TypeVar("Config", bound="ManifestConfig")


@dataclass(kw_only=True)
class ManifestConfig(ListedConfig):
    """Which manifest, and how to take it: see `manifest_config`.

    Attributes:
      needed: columns that have to be there beside those that every manifest has.
    """

    error = ManifestError
    watches_photos = True
    needed: ClassVar[tuple[str, ...]] = ()

    table: Table

    def read(self) -> Listing:
        """The rows whose cells are right."""
        return manifest_rows.read_listing(self.table)

    def without_lists(self) -> Self:
        """The table without its rows."""
        return replace(self, table=self.table._replace(data=b"", rows=[], problems=[]))

    def photo_path(self, image: str) -> epath.Path:
        """The path is relative to the CSV."""
        return self.table.photo_path(image)

    def origin(self) -> dict[str, object]:
        """The path of the CSV."""
        return {"manifest": str(self.table.path)}


def manifest_config(kind: type[Config], data: Any) -> Config:
    """Describes a set by config.data's fields; reads the CSV, and looks for each photo.

    Args:
      kind: of the config.
      data: config.data, of which manifest, on_bad_row, max_pixels and long_side are read.

    Raises:
      DatasetError: a field is wrong.
      ManifestError: the CSV cannot be read as a whole.
    """
    if not data.manifest:
        raise DatasetError("config.data.manifest is empty: give the path of the CSV")
    options = list_options(data, kind.skips)
    table = manifest_rows.read_table(epath.Path(data.manifest).expanduser(), kind.needed)
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", table.path.stem)
    name = config_name(stem, manifest_rows.fingerprint(table), options)
    return kind(name=name, table=table, stem=stem, options=options)


class Manifest(ListedPhotos):
    """The photos of a CSV."""

    name = "manifest"

    @property
    def photos_per_shard(self) -> int:
        """Fewer than of a benchmark's small photos."""
        return _ROWS_PER_SHARD


def from_data(data: Any) -> tuple[type[Manifest], ManifestConfig]:
    """The builder and its config, for these fields of config.data."""
    return Manifest, manifest_config(ManifestConfig, data)
