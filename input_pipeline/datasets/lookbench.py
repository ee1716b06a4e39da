"""LookBench (Gao et al., 2026): one of its subsets, or any data in the form of its package.

Parquet files of queries and gallery images, a row each: `image`, a path below the source or an
image file's bytes; `label` or `item_ID`, which a query shares with its matches; `category`. All is
test, and the distractors of a folder `noise` beside the source are in the gallery. Images inside
the files are written out once, to `images/` beside them.
"""

import os
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from input_pipeline import datasets
from input_pipeline.errors import AnnotationError, DatasetError
from input_pipeline.files import image_name, short, write_file
from input_pipeline.table import mark

TITLE = "LookBench"
_DOMAINS = {"query": "customer", "gallery": "shop", "noise": "shop"}
_LABELS = ("label", "item_ID")
_ROWS = 64  # read at a time: they may hold images


def fingerprint(root: epath.Path) -> str:
    """Returns a digest of the parquet files."""
    return datasets.fingerprint(path for _, paths in _find_parts(root).values() for path in paths)


def to_table(root: epath.Path) -> pd.DataFrame:
    """Reads the queries, the gallery and the distractors, and writes out the images they hold."""
    read = [
        _read_row(cells, part, number, source, folder)
        for part, (folder, paths) in _find_parts(root).items()
        for number, (source, cells) in enumerate(row for path in paths for row in _read(path))
    ]
    if not read:
        raise AnnotationError([f"{root}: its parquet files have no rows"])
    rows = pd.DataFrame(read)
    expected = "field 'image': expected a path or the bytes of an image, got {cell}"
    rows = mark(rows, rows["cell"] != "", "format", expected)
    lacks = (rows["item_id"] == "") & (rows["domain"] == "customer")
    rows = mark(rows, lacks, "value", "field {label!r}: is empty, and matches nothing")
    own = rows["item_id"].where(rows["item_id"] != "", rows["image"])  # a distractor without one
    return rows.assign(item_id=own, split="test").drop(columns=["cell", "label"])


def _find_parts(root: epath.Path) -> dict[str, tuple[epath.Path, list[epath.Path]]]:
    """Returns of each part the folder that paths are relative to and its files.

    Raises:
      DatasetError: there are no queries, or no gallery.
    """
    parts = {}
    for part in ("query", "gallery"):
        names = f"{part}*.parquet", f"{part}/*.parquet"
        parts[part] = root, [path for name in names for path in datasets.find_files(root, name)]
        if not parts[part][1]:
            text = f"{part}.parquet and {part}/{part}.parquet missing, which lookbench has"
            raise DatasetError(f"{root} (dataset.source): {text}")
    noise = root.parent / "noise"
    return parts | {"noise": (noise, datasets.find_files(noise, "*.parquet"))}


def _read(path: epath.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields where each row stands and its cells.

    Raises:
      AnnotationError: it is no parquet file, or lacks a column.
    """
    try:
        with path.open("rb") as file:
            table = pq.ParquetFile(file)
            there = table.schema_arrow.names
            label = next((name for name in _LABELS if name in there), _LABELS[0])
            if missing := [name for name in ("image", label) if name not in there]:
                names = f"{missing[0]!r} is missing; the columns are {', '.join(there)}"
                raise AnnotationError([f"{path}: column {names}"])
            read = [name for name in ("image", label, "category") if name in there]
            batches = table.iter_batches(_ROWS, columns=read)
            for number, row in enumerate(row for batch in batches for row in batch.to_pylist()):
                yield f"{path}: row {number}", {"label": label, "item_id": row[label], **row}
    except (OSError, pa.ArrowException) as error:
        raise AnnotationError([f"{path}: cannot be read: {error}"]) from error


def _read_row(
    cells: dict[str, Any], part: str, number: int, source: str, folder: epath.Path
) -> dict[str, Any]:
    """Returns a row of the table, its image written out where the cell holds it."""
    image, name, wrong = cells["image"], f"{part}/{number:06d}", ""
    if isinstance(image, dict):  # as the hub stores images
        image = image.get("bytes") or image.get("path")
    path = folder / "images" / name
    if isinstance(image, str) and image and "\0" not in image:
        name, path = image_name(image), folder / image
    elif isinstance(image, bytes) and image:
        _write_once(path, image)
    else:
        wrong = short(image)
    return {
        "image": name,
        "path": os.fspath(path),
        "domain": _DOMAINS[part],
        "item_id": _to_text(cells["item_id"]),
        "category": _to_text(cells.get("category")),
        "label": cells["label"],
        "source": source,
        "cell": wrong,
    }


def _write_once(path: epath.Path, image: bytes) -> None:
    if not path.exists() or path.stat().length != len(image):
        write_file(path, image)


def _to_text(cell: Any) -> str:
    """Returns a cell as text; a whole number as pandas writes it beside empty cells, without .0."""
    if cell is None or cell != cell:
        return ""
    return str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell).strip()
