"""Your own photos: a CSV beside them, with a row for each garment in a photo.

Columns: image, a path relative to the CSV, absolute, or of a bucket; split; for retrieval item_id
and domain, else category: each photo is then an item of its own and a shop image. Optional:
category, x_1, y_1, x_2, y_2, view, occluded, cropped. See `files.read_csv` for the file's forms.
"""

import functools
import hashlib
import os
import unicodedata
from collections.abc import Sequence

import pandas as pd
from etils import epath

from input_pipeline import datasets, files
from input_pipeline.errors import AnnotationError, DatasetError
from input_pipeline.table import mark
from input_pipeline.vocabulary import BOX

_RETRIEVAL = ("item_id", "domain")
_OPTIONAL = (*BOX, "view", "occluded", "cropped")
_COLUMNS = ("image", "split", *_RETRIEVAL, "category", *_OPTIONAL)
_UNREAD = r"(?!gs:|s3:)[A-Za-z][A-Za-z0-9+.-]*://.*"  # no file, nor a bucket's
_ROUNDED = r"[0-9]+(?:[.,][0-9]+)?[eE]\+[0-9]+"  # 4.00547E+12, in place of many different numbers


def to_table(source: epath.Path, required: Sequence[str] = ()) -> pd.DataFrame:
    """Reads the rows of a CSV that has these columns too, and finds where each image lies."""
    if source.is_dir():
        hint = "expected a CSV; --dataset=folder reads folders of images"
        raise DatasetError(f"{source} (dataset.source): is a folder, {hint}")
    table = files.read_csv(source, _COLUMNS)
    labels = ("category",) if {*table} & {*_RETRIEVAL, "category"} == {"category"} else _RETRIEVAL
    box = BOX if {*BOX} & {*table} else ()
    if table.empty:
        raise AnnotationError([f"{table.attrs['header']}: has a header and no rows"])
    files.require_columns(table, [*dict.fromkeys(["image", "split", *labels, *box, *required])])
    unused = [name for name in table if name not in (*_COLUMNS, "source", "error")]
    rows = files.clean_cells(table, _OPTIONAL).drop(columns=unused)
    whole = rows["error"] == ""
    rows = mark(rows, ~whole, "format", "{error}")
    rows = mark(rows, whole & (rows["image"] == ""), "value", "field 'image': is empty")
    if labels == _RETRIEVAL:
        rows = check_items(rows)
    else:
        rows = mark(rows, whole & (rows["category"] == ""), "value", "field 'category': is empty")
    rows = add_paths(rows, os.fspath(source.parent))
    rows.attrs = {"notes": {f"cell in an unused column, {name!r}": len(rows) for name in unused}}
    return rows if labels == _RETRIEVAL else rows.assign(item_id=rows["image"])


def fingerprint(source: epath.Path) -> str:
    """Returns a digest of what is in the CSV and of the sizes of its images, wherever they lie."""
    paths = dict.fromkeys(to_table(source)["path"].tolist())
    content = hashlib.blake2b(source.read_bytes()).hexdigest()
    return datasets.fingerprint([], content, *(str(_size(path)) for path in paths))


def _size(path: str) -> int:
    """Returns the size of a file in bytes; -1 without it, or where asking for it takes long."""
    try:
        return -1 if "://" in path else os.stat(path).st_size
    except (OSError, ValueError):
        return -1


def check_items(rows: pd.DataFrame) -> pd.DataFrame:
    """Marks the rows whose item_id is empty, or is not what was meant."""
    empty = (rows["error"] == "") & (rows["item_id"] == "")
    rows = mark(rows, empty, "value", "field 'item_id': is empty")
    text = "field 'item_id': {item_id!r} is what programs write for"
    rows = mark(rows, files.is_nothing(rows["item_id"]), "value", f"{text} an empty cell")
    cure = "a long number: format the column as text, and fill it in anew"
    return mark(rows, rows["item_id"].str.fullmatch(_ROUNDED), "value", f"{text} {cure}")


def add_paths(rows: pd.DataFrame, folder: str) -> pd.DataFrame:
    """Adds where each image lies, and gives each the one spelling of its name."""
    text = "field 'image': expected a file, gs:// or s3://, got {image!r}: download it first"
    rows = mark(rows, rows["image"].str.fullmatch(_UNREAD), "value", text)
    _list_names.cache_clear()
    found = {cell: _find(folder, cell) for cell in rows["image"].unique()}
    names, paths, others = zip(*rows["image"].map(found), strict=True)
    rows = rows.assign(image=names, path=paths, other=others)
    rows = mark(rows, rows["other"] != "", "missing_image", "{image}: no such file, but {other}")
    return rows.drop(columns=["other", "error"])


def _find(folder: str, cell: str) -> tuple[str, str, str]:
    """Returns an image's name, its path, and that of another whose name differs by case alone."""
    if "://" in cell:
        return files.image_name(cell), cell, ""
    for told in (cell, cell.replace("\\", "/")):  # the latter: a path of Windows
        name, path = files.image_name(told), os.path.join(folder, told)
        if found := path if "://" in path else _spelled_on_disk(path):
            return name, found, found * (files.image_name(found) != files.image_name(path))
    return files.image_name(cell), os.path.join(folder, cell), ""


def _spelled_on_disk(path: str) -> str:
    """Returns the path of a file with letters composed or not, of either case; "" without it."""
    if os.path.exists(path):
        return path
    folder, name = os.path.split(path)
    parent = _spelled_on_disk(folder or ".") if name else ""
    names = _list_names(parent) if parent else {}
    found = names.get(name) or names.get(name.casefold())
    return os.path.join(parent, found) if found else ""


@functools.cache
def _list_names(folder: str) -> dict[str, str]:
    """Returns the names in a folder by their composed form, and by that in lower case."""
    try:
        names = {unicodedata.normalize("NFC", name): name for name in sorted(os.listdir(folder))}
    except OSError:
        return {}
    return {name.casefold(): found for name, found in names.items()} | names
