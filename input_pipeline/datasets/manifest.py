"""A user's own photos, listed in a CSV (columns: see `manifest_rows`)."""

import re
from dataclasses import dataclass, replace
from typing import ClassVar, Self, TypeVar

from etils import epath

from input_pipeline.config import PrepareOptions
from input_pipeline.datasets import manifest_rows
from input_pipeline.datasets.download import short_digest
from input_pipeline.datasets.listed import ListedConfig, ListedPhotos
from input_pipeline.datasets.listing import Listing
from input_pipeline.datasets.manifest_rows import Table
from input_pipeline.datasets.on_error import parse_on_error
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
        """Returns the rows whose cells are right."""
        return manifest_rows.read_listing(self.table)

    def without_lists(self) -> Self:
        """Returns the table without its rows."""
        return replace(self, table=self.table._replace(data=b"", rows=[], problems=[]))

    def photo_path(self, image: str) -> epath.Path:
        """Returns the path of a photo, relative to the CSV."""
        return self.table.photo_path(image)

    def origin(self) -> dict[str, object]:
        """Returns the path of the CSV."""
        return {"manifest": str(self.table.path)}


def manifest_config(kind: type[Config], source: str, options: PrepareOptions) -> Config:
    """Describes a set by its CSV; reads the CSV, and looks for each photo.

    Args:
      kind: of the config.
      source: path of the CSV.
      options: of preparing.

    Raises:
      DatasetError: a field is wrong.
      ManifestError: the CSV cannot be read as a whole.
    """
    if not source:
        raise DatasetError("dataset.source is empty: give the path of the CSV")
    parse_on_error(options.on_error, kind.skips)
    table = manifest_rows.read_table(epath.Path(source).expanduser(), kind.needed)
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", table.path.stem)
    name = f"{stem}-{short_digest(manifest_rows.fingerprint(table))}"
    return kind(name=name, table=table, stem=stem, options=options)


class Manifest(ListedPhotos):
    """The photos of a CSV."""

    name = "manifest"

    @property
    def photos_per_shard(self) -> int:
        """Returns fewer photos than for a benchmark's small ones."""
        return _ROWS_PER_SHARD


def describe(source: str, options: PrepareOptions) -> tuple[type[Manifest], ManifestConfig]:
    """Returns the builder and its config."""
    return Manifest, manifest_config(ManifestConfig, source, options)
