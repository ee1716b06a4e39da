"""What the builders share that read a folder which a user downloaded."""

import abc
import hashlib
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from etils import epath

from input_pipeline.config import PrepareOptions
from input_pipeline.datasets.listed import ListedConfig
from input_pipeline.datasets.listing import ValidationReport
from input_pipeline.datasets.on_error import parse_on_error
from input_pipeline.errors import AnnotationError, DatasetError

_CHUNK = 2**20

Config = TypeVar("Config", bound="DownloadConfig")


@dataclass(kw_only=True)
class DownloadConfig(ListedConfig):
    """Which download, and how to take it: see `download_config`.

    Attributes:
      benchmark: its name in messages.
      root: the download.
    """

    error = AnnotationError

    benchmark: ClassVar[str]

    root: epath.Path

    @classmethod
    @abc.abstractmethod
    def fingerprint(cls, root: epath.Path) -> str:
        """Returns a digest that changes when an annotation file changes.

        Raises:
          DatasetError: a file or folder of the benchmark is missing.
        """

    def origin(self) -> dict[str, object]:
        """Returns the download."""
        return {"source": str(self.root)}


def download_config(kind: type[Config], source: str, options: PrepareOptions) -> Config:
    """Describes a set by its folder; reads the annotation files for their digest.

    Photos are not part of the digest, unless the benchmark's `fingerprint` says so: where photos
    were changed or deleted, delete the prepared folder.

    Args:
      kind: the benchmark's config.
      source: the folder.
      options: of preparing.

    Raises:
      DatasetError: a field is wrong, or a file or folder is missing.
    """
    if not source:
        raise DatasetError(
            f"dataset.source is empty: give the folder of {kind.benchmark} that you "
            "downloaded (docs/datasets.md says where from)"
        )
    parse_on_error(options.on_error, kind.skips)
    root = epath.Path(source).expanduser()
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder (dataset.source)")
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", root.name) or "release"
    name = f"{stem}-{short_digest(kind.fingerprint(root))}"
    return kind(name=name, stem=stem, options=options, root=root)


def check_there(
    benchmark: str,
    root: epath.Path,
    names: Sequence[str],
    find: Callable[[epath.Path, str], epath.Path] = operator.truediv,
) -> None:
    """Raises DatasetError where a file or folder of a download is not where `find` says it lies."""
    missing = [name for name in names if not find(root, name).exists()]
    if missing:
        raise DatasetError(
            f"{root} (dataset.source): {', '.join(missing)} missing, which {benchmark} has"
        )


def short_digest(fingerprint: str) -> str:
    """Returns what a prepared folder's name has of a fingerprint: other files, another folder."""
    return hashlib.blake2b(fingerprint.encode(), digest_size=6).hexdigest()


def digest_files(paths: Sequence[epath.Path]) -> str:
    """Returns a digest that changes when one of these files changes, comes or goes."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        digest.update(f"{path.name}\0{path.exists()}\0".encode())
        if not path.exists():
            continue
        try:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        except OSError as error:
            raise AnnotationError([f"{path}: cannot be read: {error}"]) from error
    return digest.hexdigest()


def compare(
    what: str, found: int, release: int | None, paper: int | None = None
) -> dict[str, object]:
    """Returns a count beside the release's and, if it differs, the paper's; None if unknown."""
    return {"what": what, "found": found, "release": release, "paper": paper}


def count_images(checked: ValidationReport, split: str = "", domain: str = "") -> int:
    """Counts different photos, all or those of a split and domain."""
    return len(
        {
            row.image
            for row, _ in checked.rows
            if split in ("", row.split) and domain in ("", row.domain)
        }
    )
