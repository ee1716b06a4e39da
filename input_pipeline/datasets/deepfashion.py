"""What the builders of DeepFashion's benchmarks share: the folder a user downloaded."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from etils import epath

from input_pipeline.datasets.deepfashion_text import fingerprint
from input_pipeline.datasets.listed import ListedConfig, check_policy, config_name
from input_pipeline.datasets.listing import Checked
from input_pipeline.errors import AnnotationError, DatasetError

PARTITION = "Eval/list_eval_partition.txt"
# The archives unpack to img/, beside Anno/ or inside Img/.
_PHOTO_FOLDERS = (".", "Img")

Config = TypeVar("Config", bound="DeepFashionConfig")


@dataclass(kw_only=True)
class DeepFashionConfig(ListedConfig):
    """Which download, and how to take it: see `deepfashion_config`.

    Attributes:
      benchmark: its name in messages.
      required: annotation files, relative to the download.
      optional: files that are used where they are there.
      root: the download.
      photos: the folder that holds img/.
    """

    error = AnnotationError
    overhang = 1  # some boxes of the releases count their last pixel in, or from 1

    benchmark: ClassVar[str]
    required: ClassVar[Sequence[str]]
    optional: ClassVar[Sequence[str]]

    root: epath.Path
    photos: epath.Path

    def photo_path(self, image: str) -> epath.Path:
        """The path begins with img/."""
        return self.photos / image

    def origin(self) -> dict[str, object]:
        """The download."""
        return {"source": str(self.root)}

    def file(self, name: str) -> epath.Path:
        """Where an annotation file lies."""
        return find_file(self.root, name)

    def optional_file(self, name: str) -> epath.Path | None:
        """The same; None where there is none."""
        path = self.file(name)
        return path if path.exists() else None


def deepfashion_config(kind: type[Config], source: str, on_bad_row: str, max_pixels: int) -> Config:
    """Describes a set by config.data's fields; reads the annotation files for their digest.

    Photos are not part of the digest: where photos were changed, added or deleted, delete the
    prepared folder.

    Args:
      kind: the benchmark's config.
      source: the folder that was downloaded, with Anno, Eval and img or Img.
      on_bad_row: "error" refuses annotation files with bad rows, "skip" leaves them out.
      max_pixels: larger photos are bad rows.

    Raises:
      DatasetError: a field is wrong, or a file or folder is missing.
    """
    if not source:
        raise DatasetError(
            f"config.data.source is empty: give the folder of {kind.benchmark} that you "
            "downloaded (docs/datasets.md says where from)"
        )
    check_policy(on_bad_row)
    root = epath.Path(source).expanduser()
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder (config.data.source)")
    missing = [name for name in kind.required if not find_file(root, name).exists()]
    if missing:
        raise DatasetError(
            f"{root} (config.data.source): {', '.join(missing)} missing, which {kind.benchmark} has"
        )
    photos = next((root / name for name in _PHOTO_FOLDERS if (root / name / "img").is_dir()), None)
    if photos is None:
        raise DatasetError(f"{root} (config.data.source): has neither a folder img nor Img/img")
    key = fingerprint([find_file(root, name) for name in (*kind.required, *kind.optional)])
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", root.name) or "release"
    return kind(
        name=config_name(stem, key, on_bad_row, max_pixels),
        stem=stem,
        on_bad_row=on_bad_row,
        max_pixels=max_pixels,
        root=root,
        photos=photos,
    )


def find_file(root: epath.Path, name: str) -> epath.Path:
    """Where an annotation file lies; newer releases have Anno_coarse in Anno's place."""
    path = root / name
    newer = root / name.replace("Anno/", "Anno_coarse/")
    return newer if newer.exists() and not path.exists() else path


def compare(what: str, found: int, release: int, paper: int | None = None) -> dict[str, object]:
    """A count beside the release's and, where it differs, the paper's."""
    return {"what": what, "found": found, "release": release, "paper": paper}


def count_images(checked: Checked, split: str = "", domain: str = "") -> int:
    """Different photos, all or those of a split and domain."""
    return len(
        {
            row.image
            for row, _ in checked.rows
            if split in ("", row.split) and domain in ("", row.domain)
        }
    )


def folder_category(image: str) -> str:
    """TOPS/T_Shirt of img/TOPS/T_Shirt/id_00000001/comsumer_01.jpg; "" where there is none."""
    return "/".join(image.split("/")[1:-2])
