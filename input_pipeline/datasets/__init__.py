"""The data sets, each a module here or, for images with many objects, in `input_pipeline.objects`.

A module NAME.py has `to_table(source) -> pandas.DataFrame`, which reads the annotations and looks
at no image (columns: see `input_pipeline.table`). It may also have

  FILES         paths below the source that it reads, with * for anything in a name, as img/*/*.txt:
                what a prepared folder is named by, so that changed annotations are prepared anew
  REQUIRED      those of them that have to be there
  KIND          "pairs" (the default): items with customer and shop images, if the source has items;
                "images": images with labels; "objects": images with many objects
  TITLE         what headings call it, where that is not its name
  PROTOCOL      fields of `eval.protocol` as its benchmark has them
  KNOWN_FAULTS  kinds of problems (`table.KINDS`) that the release has: their rows are left out
  RELEASE       what there is: (in the release, in the paper), None where not known
  count         from a table to the same numbers by name

and in place of FILES and REQUIRED a function `fingerprint(source) -> str`. A module that reads no
annotations has `folder_name(source)` and `contents(source, options)`.

What is wrong `to_table` tells with `table.mark`; it raises AnnotationError where a whole file is. A
wrong line of a file other than the images' own is a row of `source` and `problems` alone, appended
by `pd.concat`. What is not known may be NaN, as `DataFrame.merge` leaves it; numbers may be text,
which the table's checks parse. Short examples: `deepfashion_attributes`, `folder`.
"""

import hashlib
import importlib
import itertools
import os
import pkgutil
import re
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from etils import epath

from input_pipeline.errors import DatasetError, one_of

if TYPE_CHECKING:
    import pandas as pd

OBJECTS = ("coco", "deepfashion2_objects", "modanet", "synthetic_objects")
_FEW_FILES = 100  # of more than these, names and sizes are looked at, and not what is in them


def dataset_names(*kinds: str) -> tuple[str, ...]:
    """Returns the names of the data sets there are, all or those of these kinds."""
    names = [info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_")]
    every = tuple(sorted([*names, *OBJECTS]))
    return tuple(name for name in every if find_dataset(name).kind in kinds) if kinds else every


def find_dataset(name: str) -> "Registered":
    """Returns the data set of this name.

    Raises:
      DatasetError: naming the data sets there are.
    """
    if name not in dataset_names():
        raise DatasetError(f"dataset.name={name!r}: expected {one_of(dataset_names())}")
    room = "objects" if name in OBJECTS else "datasets"
    return Registered(name, importlib.import_module(f"input_pipeline.{room}.{name}"))


def benchmark_protocol(name: str) -> dict[str, Any]:
    """Returns the fields of `eval.protocol` as this data set's benchmark has them."""
    return dict(find_dataset(name).protocol) if name in dataset_names() else {}


class Registered:
    """A data set's module, with defaults for what it does not say.

    Attributes:
      name: of the data set.
      module: which reads it.
    """

    def __init__(self, name: str, module: ModuleType):
        self.name = name
        self.module = module
        self.kind: str = getattr(module, "KIND", "pairs")
        self.title: str = getattr(module, "TITLE", name)
        self.protocol: Mapping[str, Any] = getattr(module, "PROTOCOL", {})
        self.known_faults: Sequence[str] = getattr(module, "KNOWN_FAULTS", ())

    def to_table(self, source: str) -> "pd.DataFrame":
        """Reads the annotations of a source."""
        return self.module.to_table(open_source(self.name, source))

    def folder_name(self, source: str) -> str:
        """Returns the name of the prepared folder, which changes with the annotations.

        Raises:
          DatasetError: the source is missing, or lacks files.
        """
        if hasattr(self.module, "folder_name"):
            return self.module.folder_name(source)
        root = open_source(self.name, source)
        if hasattr(self.module, "fingerprint"):
            digest = self.module.fingerprint(root)
        else:
            found = {name: find_files(root, name) for name in self.module.FILES}
            if missing := [name for name in self.module.REQUIRED if not found[name]]:
                text = f"{', '.join(missing)} missing, which {self.name} has"
                raise DatasetError(f"{root} (dataset.source): {text}")
            digest = fingerprint(itertools.chain(*found.values()))
        stem = re.sub(r"[^A-Za-z0-9_-]", "_", root.stem) or "release"
        return f"{stem}-{digest[:12]}"

    def compare(self, listed: "pd.DataFrame", good: "pd.DataFrame") -> list[dict[str, Any]]:
        """Returns counts of the rows listed and of those that are right, beside the release's."""
        if not hasattr(self.module, "count"):
            return []
        lines, rows = [], self.module.count(listed)
        for what, count in self.module.count(good).items():
            release, paper = self.module.RELEASE.get(what, (None, None))
            line = {"what": what, "listed": rows[what], "found": count}
            lines.append({**line, "release": release, "paper": paper})
        return lines


def open_source(name: str, source: str) -> epath.Path:
    """Returns the path of a source.

    Raises:
      InputError: there is none.
    """
    if not source:
        raise DatasetError(
            f"dataset.source is empty: give what {name} is prepared from, as docs/datasets.md says"
        )
    from input_pipeline.files import to_path  # with pandas, which names alone need not

    path = to_path(source, "dataset.source")
    try:
        if path.exists():
            return path
    except OSError as error:  # of a bucket
        raise DatasetError(f"{source!r}: cannot be read (dataset.source): {error}") from error
    hint = "if it was moved, give its new path"
    raise DatasetError(f"{path}: no such file or folder (dataset.source); {hint}")


def find_files(root: epath.Path, pattern: str) -> list[epath.Path]:
    """Returns the files of a pattern, in order; `Anno` may be `Anno_coarse`, in newer releases."""
    if "*" in pattern:
        return sorted(root.glob(pattern))
    path = root / pattern
    newer = root / pattern.replace("Anno/", "Anno_coarse/")
    return [path] if path.exists() else [newer] if newer.exists() else []


def find_file(root: epath.Path, name: str) -> epath.Path | None:
    """Returns where a file lies; None without it."""
    return next(iter(find_files(root, name)), None)


def fingerprint(files: Iterable[epath.Path], *texts: str) -> str:
    """Returns a digest of files' names and, of few, their content, else their sizes; and texts."""
    from input_pipeline.files import check_file  # with pandas, as above

    files = list(files)
    digest = hashlib.blake2b("\0".join(texts).encode("utf-8", "surrogateescape"), digest_size=16)
    for path in files:
        digest.update(f"{path.name}\0".encode())
        try:
            check_file(path)
            if len(files) <= _FEW_FILES:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "blake2b").digest())
            elif "://" not in os.fspath(path):  # asking a bucket for sizes takes long, as epath's
                digest.update(f"{os.stat(path).st_size}\0".encode())
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read: {error}") from error
    return digest.hexdigest()
