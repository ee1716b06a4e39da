"""Writes a data set: from a table to ArrayRecord files, their index and a summary.

The files of records are planned before anything is written, so that what a killed run has finished
is kept, and so that Beam can write each of them in another process.
"""

import dataclasses
import functools
import hashlib
import io
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lazy_loader
import numpy as np
import pandas as pd
from etils import epath
from PIL import Image
from tqdm import tqdm

from input_pipeline import masks
from input_pipeline.beam import Write, beam_flags, write_with_beam
from input_pipeline.config import PrepareOptions
from input_pipeline.images import encode_png, load_image
from input_pipeline.index import index_photos
from input_pipeline.locks import preparation_lock
from input_pipeline.objects.index import index_objects
from input_pipeline.parallel import ordered_map
from input_pipeline.record_files import open_records
from input_pipeline.records import (
    NO_LANDMARKS,
    ObjectRecord,
    PhotoRecord,
    features,
    parse,
    to_example,
)
from input_pipeline.table import THREADS
from input_pipeline.vocabulary import BOX, SPLITS, UNKNOWN

# Reading and searching photos needs none of it.
tfds = lazy_loader.load("tensorflow_datasets")

VERSION = "1.3.0"
SUMMARY_FILE = "summary.json"
SHARD_BYTES = 256 * 2**20  # of images in a file of records, about
_PLAN_FILE = "plan.json"
_QUALITY = 95  # of JPEGs made smaller
_READ_AT_A_TIME = 256

ShardSource = Callable[[], Iterable[Any]]


def index_file(split: str) -> str:
    """Returns the name of a split's index file in the prepared folder."""
    return f"index.{split}.npz"


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a data set will hold.

    Attributes:
      record: `PhotoRecord` or `ObjectRecord`.
      shards: for each split that has images, one source of records per file, in order; they are
        pickled where Beam writes them.
      summary: what `summary.json` holds beside the counts of each split.
      names: all "categories" and "attributes" in their order, where lists tell them.
      plan: of what the records are made; the files of a killed run with another plan are removed.
    """

    record: type
    shards: Mapping[str, Sequence[ShardSource]]
    summary: Mapping[str, Any]
    names: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    plan: str = ""


def ensure_prepared(
    folder: epath.Path, name: str, contents: Callable[[], Contents], options: PrepareOptions
) -> None:
    """Prepares a data set unless its folder exists.

    Files are written to a folder beside it, which is renamed when it is complete; a killed run
    leaves that folder, and the next goes on with it.

    Args:
      folder: DIR/NAME/CONFIG/VERSION.
      name: of the data set.
      contents: reads and checks what it is made from; called only if the folder does not exist.
      options: of preparing.

    Raises:
      DatasetError: what `contents`, `beam_flags` and `write_with_beam` raise.
    """
    if folder.exists():
        return
    flags = beam_flags(options.beam_runner, options.beam_options)
    with preparation_lock(folder.parent.parent / f".{folder.parent.name}.lock"):
        if folder.exists():  # another process has done it meanwhile
            return
        print(f"Preparing {folder}", flush=True)
        planned = contents()
        unfinished = _open_unfinished(folder, planned.plan, options)
        paths = _write_records(unfinished, name, planned, options.beam_runner, flags)
        counts = _write_index(unfinished, planned, paths)
        for split, count in counts.items():
            count["bytes"] = sum(path.stat().length for path in paths[split])
        summary = {"splits": counts, "options": options.for_records(), **planned.summary}
        (unfinished / SUMMARY_FILE).write_text(json.dumps(summary, indent=2))
        for path in (unfinished / _PLAN_FILE, *unfinished.glob("*.tmp")):  # of killed writers
            path.unlink()
        unfinished.rename(folder)
    print(f"Prepared {folder}", flush=True)


def _open_unfinished(folder: epath.Path, plan: str, options: PrepareOptions) -> epath.Path:
    """Returns the folder to write to, with the files of a killed run that had the same plan."""
    unfinished = folder.parent / f"{folder.name}.unfinished"
    text = json.dumps({"plan": plan, "options": options.for_records()})
    plan_file = unfinished / _PLAN_FILE
    if unfinished.exists():
        if plan_file.exists() and plan_file.read_text() == text:
            print(f"Going on with what a killed run left: {unfinished}")
            return unfinished
        print(f"Removing what a killed run left: {unfinished}")
        unfinished.rmtree()
    unfinished.mkdir(parents=True)
    plan_file.write_text(text)
    return unfinished


def _write_records(
    folder: epath.Path, name: str, contents: Contents, beam_runner: str, flags: Any
) -> dict[str, list[epath.Path]]:
    """Writes the files of records that are not there yet, and TFDS's metadata; returns all."""
    paths: dict[str, list[epath.Path]] = {}
    jobs: dict[epath.Path, Write] = {}
    templates = {
        split: tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=name, split=split, filetype_suffix="array_record"
        )
        for split in contents.shards
    }
    for split, sources in contents.shards.items():
        paths[split] = [
            templates[split].sharded_filepath(shard_index=number, num_shards=len(sources))
            for number in range(len(sources))
        ]
        for path, source in zip(paths[split], sources, strict=True):
            if not path.exists():
                jobs[path] = functools.partial(write_shard, contents.record, source)
    if beam_runner:
        write_with_beam(jobs, folder, beam_runner, flags)
    else:
        for path, write in jobs.items():
            write(path)
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[len(open_records([path])) for path in files],
            num_bytes=sum(path.stat().length for path in files),
            filename_template=templates[split],
        )
        for split, files in paths.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features(contents.record),
        split_infos=infos,
        version=VERSION,
        check_data=False,
        disable_shuffling=True,
    )
    return paths


def write_shard(record: type, source: ShardSource, path: epath.Path) -> None:
    """Writes a file of records; it appears under its name when it is complete."""
    schema = features(record)
    serializer = tfds.core.ExampleSerializer(schema.get_serialized_info())
    # A name of its own: Beam may run a job twice.
    unfinished = path.parent / f"{path.name}.{uuid.uuid4().hex}.tmp"

    def serialize(each: Any) -> bytes:
        example = serializer.get_tf_example(schema.encode_example(to_example(each)))
        # serialize_example would put the fields in another order in every process.
        return example.SerializeToString(deterministic=True)

    writer = tfds.core.ExampleWriter(file_format=tfds.core.FileFormat.ARRAY_RECORD)
    writer.write(unfinished, enumerate(map(serialize, source())))
    unfinished.replace(path)


def _write_index(
    folder: epath.Path, contents: Contents, paths: Mapping[str, Sequence[epath.Path]]
) -> dict[str, dict[str, int]]:
    """Reads all records once and writes each split's index; returns their counts."""
    records = {
        split: map(functools.partial(parse, contents.record), _read_records(split, files))
        for split, files in paths.items()
    }
    build: Any = index_photos if contents.record is PhotoRecord else index_objects
    indices = build(records, contents.names)
    for split, index in indices.items():
        index.save(folder / index_file(split))
    return {split: index.counts() for split, index in indices.items()}


def _read_records(split: str, paths: Sequence[epath.Path]) -> Iterator[bytes]:
    records = open_records(paths)
    with tqdm(total=len(records), desc=f"Indexing {split}", unit=" images", delay=2) as bar:
        for start in range(0, len(records), _READ_AT_A_TIME):
            rows = range(start, min(start + _READ_AT_A_TIME, len(records)))
            yield from records.__getitems__(rows)
            bar.update(len(rows))


def table_contents(
    table: pd.DataFrame, kind: str, summary: Mapping[str, Any], options: PrepareOptions
) -> Contents:
    """Plans the files of a checked table.

    Args:
      table: see `table.Checked`.
      kind: of the data set; "objects": a record holds an image with all its rows; else a row.
      summary: see `Contents`.
      options: of preparing.
    """
    names = {name: list(table.attrs.get(name, ())) for name in ("categories", "attributes")}
    if kind == "objects":
        numbers = {name: number for number, name in enumerate(names["categories"])}
        records: Any = functools.partial(_object_records, numbers=numbers)
    else:
        records = _photo_records
    shards: dict[str, list[ShardSource]] = {}
    for split in SPLITS:
        rows = table[table["split"] == split]
        if kind == "objects":  # all rows of an image in one file
            sizes = rows.drop_duplicates("image").set_index("image")["file_bytes"]
            shard = rows["image"].map((sizes.cumsum() - sizes) // SHARD_BYTES)
        else:
            shard = (rows["file_bytes"].cumsum() - rows["file_bytes"]) // SHARD_BYTES
        parts = [part for _, part in rows.groupby(shard)]
        if parts:
            shards[split] = [
                functools.partial(
                    records, part, f"Writing {split} {number}/{len(parts)}", options=options
                )
                for number, part in enumerate(parts, 1)
            ]
    hashed = pd.util.hash_pandas_object(table[["image", "split", "file_bytes", *BOX]], index=False)
    plan = hashlib.blake2b(hashed.to_numpy().tobytes(), digest_size=16).hexdigest()
    record = ObjectRecord if kind == "objects" else PhotoRecord
    return Contents(record, shards, summary, names, plan)


def _photo_records(
    rows: pd.DataFrame, title: str, options: PrepareOptions
) -> Iterator[PhotoRecord]:
    """Yields the record of each row."""
    jobs = (row._asdict() for row in rows.itertuples(index=False))
    return _in_threads(functools.partial(_photo_record, options=options), jobs, len(rows), title)


def _object_records(
    rows: pd.DataFrame, title: str, options: PrepareOptions, numbers: Mapping[str, int]
) -> Iterator[ObjectRecord]:
    """Yields the record of each image, with its objects in the order of the rows."""
    images = rows.drop_duplicates("image").to_dict("records")
    image, _ = rows["image"].factorize()
    order = np.argsort(image, kind="stable")
    places = np.split(order, np.cumsum(np.bincount(image))[:-1])
    categories = rows["category"].map(numbers).fillna(UNKNOWN).to_numpy(np.int32)
    boxes = rows[BOX].to_numpy()
    crowd, masks = rows["crowd"].to_numpy(np.bool_), rows["mask"].to_numpy()

    def make(job: tuple[Mapping[str, Any], np.ndarray]) -> ObjectRecord:
        stored, resize = _store(job[0], options)
        objects = job[1][categories[job[1]] != UNKNOWN]  # but the row of the image itself
        return ObjectRecord(
            **stored,
            boxes=np.array(list(map(resize.box, boxes[objects])), np.float32).reshape(-1, 4),
            categories=categories[objects],
            crowd=crowd[objects],
            masks=tuple(map(resize.mask, masks[objects])),
        )

    return _in_threads(make, zip(images, places, strict=True), len(images), title)


def _in_threads(make: Callable, jobs: Iterable[Any], count: int, title: str) -> Iterator[Any]:
    with ThreadPoolExecutor(THREADS) as pool:
        yield from tqdm(ordered_map(pool, make, jobs, 2 * THREADS), title, count, unit=" images")


def _photo_record(row: Mapping[str, Any], options: PrepareOptions) -> PhotoRecord:
    image, resize = _store(row, options)
    box = tuple(row[name] for name in BOX)
    if np.isnan(box[0]):
        box = (0.0, 0.0, float(row["width"]), float(row["height"]))
    landmarks = NO_LANDMARKS if row["landmarks"] is None else row["landmarks"]
    same = ("item_id", "domain", "category", "clothes_type", "view", "occluded", "cropped")
    return PhotoRecord(
        **image,
        **{name: row[name] for name in same},
        box=resize.box(box),
        resize_scale=resize.scale,
        attributes=tuple(row["attributes"]),
        unknown_attributes=tuple(row["unknown_attributes"]),
        landmarks=resize.landmarks(landmarks),
        mask=resize.mask(row["mask"]),
    )


@dataclasses.dataclass(frozen=True)
class Resize:
    """How an image is stored smaller, and its labels with it; (1, 1): as it is.

    Attributes:
      scales: (width, height) of the stored image by those of the original.
      height: of the original, in pixels.
      width: as height.
    """

    scales: tuple[float, float]
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """Returns (width, height) of the stored image."""
        return round(self.width * self.scales[0]), round(self.height * self.scales[1])

    @property
    def scale(self) -> float:
        """Returns the stored image's longer side by that of the original."""
        return self.scales[0] if self.size[0] > self.size[1] else self.scales[1]

    def box(self, box: Sequence[float]) -> tuple[float, float, float, float]:
        """Reduces a box, in pixels."""
        (across, down), (x_1, y_1, x_2, y_2) = self.scales, box
        return x_1 * across, y_1 * down, x_2 * across, y_2 * down

    def landmarks(self, landmarks: np.ndarray) -> np.ndarray:
        """Reduces landmarks int32 [n, 3] (visibility, x, y), rounded down to pixels."""
        moved = landmarks.copy()
        known = landmarks[:, 0] != UNKNOWN
        moved[known, 1:] = np.floor(landmarks[known, 1:] * self.scales)
        return moved

    def mask(self, counts: bytes) -> bytes:
        """Draws a mask in the stored image's size: a PNG of 0 and 255; b"" stays."""
        if not counts:
            return b""
        picture = Image.fromarray(masks.draw(counts, self.height, self.width) * np.uint8(255))
        if self.scales != (1.0, 1.0):
            picture = picture.resize(self.size, Image.Resampling.BOX)
        return encode_png(np.where(np.asarray(picture) >= 128, 255, 0).astype(np.uint8))


def _store(row: Mapping[str, Any], options: PrepareOptions) -> tuple[dict[str, Any], Resize]:
    """Reads an image that was checked: a record's fields of it, and how it was made smaller.

    A JPEG of gray or RGB pixels stays as it was found; all else becomes an upright RGB PNG, and
    what is larger than --max_side an upright RGB JPEG of that size.
    """
    path, height, width = epath.Path(row["path"]), int(row["height"]), int(row["width"])
    fields = {"photo_id": row["image"], "height": height, "width": width, "orientation": 1}
    side = options.max_side
    if 0 < side < max(height, width):
        scale = side / max(height, width)
        small = max(round(width * scale), 1), max(round(height * scale), 1)
        buffer = io.BytesIO()
        picture = Image.fromarray(load_image(path, options.max_pixels))
        picture = picture.resize(small, Image.Resampling.LANCZOS)
        picture.save(buffer, format="JPEG", quality=_QUALITY)
        fields |= {"image": buffer.getvalue(), "height": small[1], "width": small[0]}
        return fields, Resize((small[0] / width, small[1] / height), height, width)
    unchanged = Resize((1.0, 1.0), height, width)
    if row["plain_jpeg"]:
        return fields | {
            "image": path.read_bytes(),
            "orientation": int(row["orientation"]),
        }, unchanged
    return fields | {"image": encode_png(load_image(path, options.max_pixels))}, unchanged
