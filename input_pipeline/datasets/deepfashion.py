"""What the builders of DeepFashion's benchmarks share: the folder a user downloaded."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from etils import epath

from input_pipeline.datasets.download import DownloadConfig, check_there, digest_files
from input_pipeline.errors import DatasetError

PARTITION = "Eval/list_eval_partition.txt"
# The archives unpack to img/, beside Anno/ or inside Img/.
_PHOTO_FOLDERS = (".", "Img")


@dataclass(kw_only=True)
class DeepFashionConfig(DownloadConfig):
    """Which download, and how to take it: see `download_config`.

    Attributes:
      required: annotation files, relative to the download.
      optional: files that are used where they are there.
    """

    overhang = 1  # some boxes of the releases count their last pixel in, or from 1

    required: ClassVar[Sequence[str]]
    optional: ClassVar[Sequence[str]]

    @classmethod
    def fingerprint(cls, root: epath.Path) -> str:
        """Returns a digest of the annotation files."""
        check_there(cls.benchmark, root, cls.required, find_file)
        _photo_folder(root)
        return digest_files([find_file(root, name) for name in (*cls.required, *cls.optional)])

    @functools.cached_property
    def photos(self) -> epath.Path:
        """Returns the folder that holds img/."""
        return _photo_folder(self.root)

    def photo_path(self, image: str) -> epath.Path:
        """Returns the path of a photo, whose name begins with img/."""
        return self.photos / image

    def file(self, name: str) -> epath.Path:
        """Returns where an annotation file lies."""
        return find_file(self.root, name)

    def optional_file(self, name: str) -> epath.Path | None:
        """Returns where an annotation file lies; None without it."""
        path = self.file(name)
        return path if path.exists() else None


def find_file(root: epath.Path, name: str) -> epath.Path:
    """Returns where an annotation file lies; newer releases have Anno_coarse in Anno's place."""
    path = root / name
    newer = root / name.replace("Anno/", "Anno_coarse/")
    return newer if newer.exists() and not path.exists() else path


def folder_category(image: str) -> str:
    """Returns the category of a path, TOPS/T_Shirt of img/TOPS/T_Shirt/id_1/x.jpg; "" without."""
    return "/".join(image.split("/")[1:-2])


def _photo_folder(root: epath.Path) -> epath.Path:
    for name in _PHOTO_FOLDERS:
        if (root / name / "img").is_dir():
            return root / name
    raise DatasetError(f"{root} (dataset.source): has neither a folder img nor Img/img")
