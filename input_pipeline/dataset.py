"""A prepared data set, its splits and images; needs no TensorFlow."""

import dataclasses
import importlib.util
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from etils import epath

from input_pipeline.builder import (
    SUMMARY_FILE,
    VERSION,
    Contents,
    ensure_prepared,
    index_file,
    table_contents,
)
from input_pipeline.config import ANNOTATED, DatasetConfig, ImageConfig, PrepareOptions
from input_pipeline.datasets import Registered, find_dataset
from input_pipeline.errors import AnnotationError, DatasetError, InputError
from input_pipeline.files import read_object, to_path
from input_pipeline.images import build_transform, crop_and_resize
from input_pipeline.index import PhotoIndex, count_photos
from input_pipeline.objects.index import ObjectSplit, count_objects
from input_pipeline.objects.single import SingleObjectSplit
from input_pipeline.record_files import RecordFiles
from input_pipeline.records import PhotoRecord
from input_pipeline.stored_split import StoredSplit
from input_pipeline.table import Checked, Problem, check_table, complete, parse_on_error
from input_pipeline.transforms import (
    CropBoxes,
    Keypoints,
    annotated_keypoints,
    read_detections,
    read_keypoints,
)
from input_pipeline.vocabulary import CUSTOMER, DOMAINS, SHOP, SPLITS

_MOST_PRINTED = 20  # rows left out that are printed, of each kind


class Split(StoredSplit[PhotoIndex, PhotoRecord]):
    """The images of one split, each with one garment."""

    index_type = PhotoIndex
    record_type = PhotoRecord

    def __init__(self, name: str, index: PhotoIndex, records: RecordFiles):
        super().__init__(name, index, records)
        self._detected: dict[str, np.ndarray] = {}
        self._keypoints: dict[str, Keypoints] = {}

    @classmethod
    def join(cls, parts: Sequence["Split"]) -> "Split":
        """Concatenates several splits of one data set."""
        index = PhotoIndex.join([part.index for part in parts])
        records = RecordFiles.join([part._records for part in parts])
        return cls("+".join(part.name for part in parts), index, records)

    def detected(self, path: str) -> np.ndarray:
        """Reads a detector's boxes once, float32 [n, 4]; see `read_detections`."""
        if path not in self._detected:
            self._detected[path] = read_detections(path, self.index)
        return self._detected[path]

    def keypoints(self, path: str) -> Keypoints:
        """Reads keypoints once: of a file, or with ANNOTATED the annotated landmarks."""
        if path not in self._keypoints:
            annotated = path == ANNOTATED
            self._keypoints[path] = (
                annotated_keypoints(self.index) if annotated else read_keypoints(path, self.index)
            )
        return self._keypoints[path]

    def crop_boxes(self, image: ImageConfig) -> np.ndarray:
        """Returns what is cropped out of each image, int32 [n, 4]; see `CropBoxes`."""
        return CropBoxes(self, image).pixels(np.arange(len(self)))

    def model_input(self, row: int, image: ImageConfig) -> np.ndarray:
        """Returns what `image_batches` yields for this row, uint8 [size, size, 3]."""
        box = CropBoxes(self, image).pixels(np.array([row]))[0]
        transform = dataclasses.replace(build_transform(image), crop="box", square=False)
        return crop_and_resize(self.picture(row), tuple(box.tolist()), transform)

    def query_rows(self) -> np.ndarray:
        """Returns the rows of the customer images, int32 [q]."""
        return np.flatnonzero(self.index.domain == CUSTOMER).astype(np.int32)

    def gallery_rows(self) -> np.ndarray:
        """Returns the rows of the shop images, int32 [g]."""
        return np.flatnonzero(self.index.domain == SHOP).astype(np.int32)


class Dataset:
    """A prepared data set.

    Attributes:
      name: of the data set.
      directory: the folder that holds its records.
      summary: {"splits": {split: {"items": ..., "pairs": ..., ...}}, ...}: counts, options and
        notes of the preparation.
    """

    def __init__(
        self,
        name: str,
        directory: epath.Path,
        summary: dict[str, Any],
        splits: Sequence[Split | ObjectSplit],
    ):
        self.name = name
        self.directory = directory
        self.summary = summary
        # Which of the two kinds of splits it has is the data set's: no type can tell.
        self._splits: dict[str, Any] = {split.name: split for split in splits}

    @property
    def title(self) -> str:
        """Returns what headings call it."""
        return find_dataset(self.name).title

    @property
    def content(self) -> str:
        """Returns what names its content, whatever its source was called and wherever it lay."""
        return f"{self.directory.parent.name.rpartition('-')[2]}/{self.directory.name}"

    @property
    def splits(self) -> tuple[str, ...]:
        """Returns the names of its splits."""
        return tuple(self._splits)

    def has_split(self, name: str) -> bool:
        """Returns whether it has a split of this name."""
        return name in self._splits

    def split(self, name: str) -> Split:
        """Returns the split of this name; an `ObjectSplit` if the data set is one of objects.

        Raises:
          DatasetError: it has none of this name.
        """
        if name not in self._splits:
            raise DatasetError(
                f"{self.name} has no split {name!r}; it has {', '.join(self._splits)}"
            )
        return self._splits[name]

    def object_split(self, name: str) -> ObjectSplit:
        """Returns the split of this name of a data set of objects.

        Raises:
          DatasetError: it has none of this name, or is no data set of objects.
        """
        split: Any = self.split(name)
        if not isinstance(split, ObjectSplit):
            raise DatasetError(f"{self.name} is no data set of objects, such as coco is")
        return split

    def as_objects(self) -> "Dataset":
        """Returns it as a data set of objects: each garment is its photo's object."""
        splits = [
            split if isinstance(split, ObjectSplit) else SingleObjectSplit(split)
            for split in self._splits.values()
        ]
        return Dataset(self.name, self.directory, self.summary, splits)

    def joined(self, names: Sequence[str]) -> Split:
        """Returns several splits, one after the other, as one."""
        parts = [self.split(name) for name in names]
        return parts[0] if len(parts) == 1 else Split.join(parts)


def load_dataset(dataset: DatasetConfig, options: PrepareOptions | None = None) -> Dataset:
    """Opens a data set, and prepares it first if it is not yet prepared.

    Args:
      dataset: which.
      options: how to prepare it. None opens it however it was prepared, and prepares it with the
        defaults.

    Raises:
      DatasetError: a field is wrong, the prepared folder is damaged, or it was prepared with other
        options than these.
      AnnotationError: rows of the annotations are wrong.
    """
    _require_pipeline()
    chosen = options or PrepareOptions()
    registered = find_dataset(dataset.name)
    parent = to_path(dataset.dir, "dataset.dir") / dataset.name
    try:
        folder = _find_prepared(parent, registered.folder_name(dataset.source))
        ensure_prepared(
            folder, dataset.name, lambda: _plan(registered, dataset.source, folder, chosen), chosen
        )
    except OSError as error:
        raise DatasetError(f"{parent}: cannot be prepared in: {error}") from error
    opened = open_dataset(dataset.name, folder)
    if options is not None:
        _check_options(opened, options)
    skipped = opened.summary.get("skipped_rows", 0)
    note = f" ({skipped:,} bad rows were left out)" if skipped else ""
    print(f"Data: {folder}{note}", flush=True)
    return opened


def _require_pipeline() -> None:
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise InputError(
            "data sets need TensorFlow Datasets, which is not installed: pip install "
            "'grnet_jax[train]'"
        )


def _find_prepared(parent: epath.Path, name: str) -> epath.Path:
    """Returns the folder of this name; or one of the same content, whose source had another."""
    folder, digest = parent / name / VERSION, name.rpartition("-")[2]
    if folder.exists() or digest == name:
        return folder
    same = (path / VERSION for path in sorted(parent.glob(f"*-{digest}")))
    return next((path for path in same if path.exists()), folder)


def _plan(
    registered: Registered, source: str, folder: epath.Path, options: PrepareOptions
) -> Contents:
    """Reads and checks what a data set is made from, and plans its files.

    Raises:
      AnnotationError: there are problems of kinds that are not left out, or no row is right.
    """
    if hasattr(registered.module, "contents"):
        return registered.module.contents(source, options)
    checked, fatal, summary = _check(registered, source, options)
    if fatal or checked.table.empty:
        cure = "Correct them"
        if not checked.table.empty:
            kinds = ",".join(sorted({problem.kind for problem in fatal}))
            cure += (
                ", or leave bad rows out: python -m input_pipeline.prepare ... "
                f"--on_error=skip, or --on_error={kinds}"
            )
        texts = [str(problem) for problem in fatal or checked.problems]
        raise AnnotationError(texts or [f"{source}: lists no image"], f"{cure}.")
    _print_skipped(checked)
    _print_older(folder)
    return table_contents(checked.table, registered.kind, summary, options)


class SourceCheck(NamedTuple):
    """The result of checking what a data set would be prepared from.

    Attributes:
      checked: every row that is right, and every problem.
      fatal: the problems that would stop a preparation.
      summary: what preparing would store, without the sizes in bytes.
    """

    checked: Checked
    fatal: list[Problem]
    summary: dict[str, Any]


def _check(registered: Registered, source: str, options: PrepareOptions) -> SourceCheck:
    """Reads and checks a source; the summary lacks the counts of the splits."""
    skipped = parse_on_error(options.on_error, registered.known_faults)
    table = registered.to_table(source)
    checked = check_table(table, options.max_pixels)
    table, attrs = complete(table), checked.table.attrs
    listed = table[(table["image"] != "") & (table["split"] != "")]
    summary: dict[str, Any] = {
        "kind": registered.kind,
        "source": source,
        "skipped_rows": checked.bad_rows(),
        "problems": checked.kinds(),
        "notes": checked.notes,
        "attribute_types": attrs.get("attributes", {}),
        "release": registered.compare(listed, checked.table),
    }
    if registered.kind == "objects":
        objects = checked.table[checked.table["category"] != ""]
        counts = objects.groupby(["category", "split"]).size().unstack(fill_value=0)
        counts = counts.reindex(attrs["categories"], fill_value=0)
        summary["objects_per_category"] = counts.to_dict("index")
    fatal = [problem for problem in checked.problems if problem.kind not in skipped]
    return SourceCheck(checked, fatal, summary)


def _print_skipped(checked: Checked) -> None:
    """Prints what is left out or corrected, some lines of each kind."""
    counts: Counter[str] = Counter()
    for problem in checked.problems:
        counts[problem.kind] += 1
        if counts[problem.kind] <= _MOST_PRINTED:
            print(f"Left out: {problem}")
    for kind, count in sorted(counts.items()):
        if count > _MOST_PRINTED:
            print(f"Left out: {kind}: {count:,} in all; --check lists them")
    for note, count in checked.notes.items():
        print(f"Noted: {note}: {count:,}")


def _print_older(folder: epath.Path) -> None:
    stem = folder.parent.name.rpartition("-")[0]
    older = [
        path
        for path in folder.parent.parent.glob(f"{stem}-*")
        if re.fullmatch(rf"{re.escape(stem)}-[0-9a-f]{{12}}", path.name)
        and path != folder.parent
        and (path / VERSION).exists()
    ]
    if older:
        print("Prepared from other states of this source; delete what you no longer need:")
        print("\n".join(f"  {path}" for path in sorted(older)))


def _check_options(dataset: Dataset, options: PrepareOptions) -> None:
    """Raises DatasetError if a folder was prepared with other options than those set in these."""
    stored, asked = dataset.summary["options"], options.for_records()
    different = [
        f"--{name}={stored[name]}, not {asked[name]}"
        for name in asked
        if name in options.model_fields_set and stored[name] != asked[name]
    ]
    if different:
        raise DatasetError(
            f"{dataset.directory} was prepared with {', '.join(different)}: delete it, or "
            "choose another --dir"
        )


def _count_rows(rows: pd.DataFrame) -> dict[str, int]:
    """Returns what `PhotoIndex.counts` will count."""
    categories = rows["category"][rows["category"] != ""]
    item = rows["item_id"].factorize()[0]
    return count_photos(
        item, (rows["domain"] == DOMAINS[CUSTOMER]).to_numpy(), categories.factorize()[0]
    )


def _count_objects(rows: pd.DataFrame) -> dict[str, int]:
    """Returns what `ObjectIndex.counts` will count."""
    objects = (rows["category"] != "").groupby(rows["image"]).sum()
    return count_objects(
        objects.to_numpy(), (rows["crowd"].astype(bool)).groupby(rows["image"]).sum().to_numpy()
    )


def check_source(dataset: DatasetConfig, options: PrepareOptions) -> SourceCheck:
    """Reads and checks what a data set would be prepared from, every image too; writes nothing.

    Raises:
      DatasetError: a field is wrong, or the data set is not made from files.
      AnnotationError: an annotation file cannot be read as a whole.
    """
    registered = find_dataset(dataset.name)
    if not hasattr(registered.module, "to_table"):
        raise DatasetError(f"{dataset.name}: is not made from files, there is nothing to check")
    registered.folder_name(dataset.source)  # names files that are missing
    checked, fatal, summary = _check(registered, dataset.source, options)
    count = _count_objects if registered.kind == "objects" else _count_rows
    table = checked.table
    splits = {split: count(part) for split in SPLITS if len(part := table[table["split"] == split])}
    return SourceCheck(checked, fatal, {"splits": splits, **summary})


def open_dataset(name: str, folder: epath.Path) -> Dataset:
    """Opens a prepared folder, and checks that it is complete.

    Raises:
      DatasetError: names the file that is missing or damaged, and what to do.
    """
    _require_pipeline()
    try:
        summary = _read_summary(folder / SUMMARY_FILE)
        kind = ObjectSplit if summary.get("kind") == "objects" else Split
        splits = [
            kind.open(split, folder / index_file(split), RecordFiles(paths, lengths))
            for split, (paths, lengths) in _record_files(folder).items()
        ]
    except DatasetError as error:
        raise DatasetError(
            f"{error}. The prepared data is not complete: delete {folder} and run again."
        ) from error
    return Dataset(name, folder, summary, splits)


def _read_summary(path: epath.Path) -> dict[str, Any]:
    try:
        summary = read_object(path, "the summary of a prepared data set")
    except InputError as error:
        raise DatasetError(str(error)) from error
    if missing := {"splits", "options"} - summary.keys():
        raise DatasetError(f"{path}: {', '.join(sorted(missing))} missing")
    return summary


def _record_files(folder: epath.Path) -> Mapping[str, tuple[list[epath.Path], list[int]]]:
    """Returns the paths of each split's files and how many records each has."""
    import tensorflow_datasets as tfds

    try:
        infos = tfds.builder_from_directory(folder).info.splits
        return {split: (info.filepaths, info.shard_lengths) for split, info in infos.items()}
    except Exception as error:  # TFDS lets through whatever its parsers raise
        raise DatasetError(f"{folder / 'dataset_info.json'}: cannot be read ({error})") from error
