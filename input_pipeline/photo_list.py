"""The photos of a catalog to be searched: of a CSV, a folder or a prepared data set."""

import dataclasses
import os
from collections.abc import Callable

import numpy as np
import pandas as pd
from etils import epath

from input_pipeline import files
from input_pipeline.datasets import folder, manifest
from input_pipeline.errors import AnnotationError, DatasetError
from input_pipeline.images import read_file
from input_pipeline.table import Problem, is_right, mark
from input_pipeline.vocabulary import BOX, CUSTOMER, DOMAINS, SHOP, VIEWS

_INFO = "dataset_info.json"  # in every prepared folder
_KNOWN = ("image", "item_id", "domain", *BOX)
_OF_CHECKS = ("source", "path", "error", "problems")


@dataclasses.dataclass(frozen=True)
class PhotoList:
    """The photos of a catalog, a row for each garment in a photo.

    Attributes:
      table: str columns image, path ("" where it is no file), item_id and source (FILE:LINE), and
        x_1, y_1, x_2, y_2: float64, NaN for the whole photo.
      fields: str columns, what else is known of each row; cells are "" where unknown.
      problems: of the rows that are left out.
      customers: rows of customer photos, which a catalog has not.
      read: row -> the bytes of its photo; raises ImageError.
    """

    table: pd.DataFrame
    fields: pd.DataFrame
    problems: list[Problem]
    customers: int
    read: Callable[[int], bytes]


def list_photos(
    source: str | os.PathLike, splits: tuple[str, ...] = (), customers: bool = False
) -> PhotoList:
    """Lists the photos of a CSV, a folder of photos or the folder of a prepared data set.

    A CSV has the column image, a path relative to the CSV, absolute, or of a bucket. It may have
    item_id, without which each photo is an item of its own; domain, of which "customer" rows are
    left out; and x_1, y_1, x_2, y_2. All other columns are fields to filter by. In a folder a photo
    is of the item that its sub-folder names, else of one of its own; in sub-folders called customer
    and shop, as `dataset.name=folder` has them, the customers' are left out.

    Args:
      source: path of this machine or of a bucket.
      splits: of a prepared data set; all where there are none.
      customers: whether the customers' photos are listed, and the shop's left out; of a CSV without
        domain, all.

    Raises:
      DatasetError: there is no such file, it lacks a column, or has no photo.
    """
    path = files.to_path(source, "--from")
    if not path.exists():
        raise DatasetError(f"{path}: no such file or folder (--from)")
    if found := next(iter([*path.glob(_INFO), *path.glob(f"*/{_INFO}")]), None):
        return _of_prepared(found.parent, splits, customers)
    if splits:
        raise DatasetError(f"{path}: has no splits: it is no folder of a prepared data set")
    table = _of_folder(path) if path.is_dir() else _of_csv(path)
    customer = (table["domain"] == DOMAINS[CUSTOMER]).to_numpy()
    if customers:
        customer = ~customer & customer.any()
    right = is_right(table).to_numpy()
    problems = [problem for row in table["problems"][~right] for problem in row]
    if customer.all() and not customers:
        raise DatasetError(f"{path}: has customer photos alone, and a catalog is of shop photos")
    listed = table[right & ~customer].reset_index(drop=True)
    paths = listed["path"].tolist()
    fields = listed[[name for name in listed if name not in (*_KNOWN, *_OF_CHECKS)]]
    return PhotoList(
        listed[["image", "path", "item_id", "source", *BOX]],
        fields,
        problems,
        int((right & customer).sum()),
        lambda row: read_file(paths[row]),
    )


def _of_csv(path: epath.Path) -> pd.DataFrame:
    rows = files.read_csv(path, _KNOWN)
    files.require_columns(rows, ["image", *(BOX if {*BOX} & {*rows} else ())])
    if rows.empty:
        raise AnnotationError([f"{rows.attrs['header']}: has a header and no rows"])
    others = [name for name in rows if name not in ("image", "item_id", "source", "error")]
    rows = files.clean_cells(rows, others)
    whole = rows["error"] == ""
    rows = mark(rows, ~whole, "format", "{error}")
    rows = mark(rows, whole & (rows["image"] == ""), "value", "field 'image': is empty")
    if "item_id" in rows:
        rows = manifest.check_items(rows)
    rows = manifest.add_paths(rows, os.fspath(path.parent))
    if "item_id" not in rows:
        rows = rows.assign(item_id=rows["image"])
    domain = rows["domain"].where(rows["domain"] != "", DOMAINS[SHOP]) if "domain" in rows else None
    rows = rows.assign(domain=DOMAINS[SHOP] if domain is None else domain)
    text = "field 'domain': expected customer or shop, got {domain!r}"
    rows = _check_boxes(mark(rows, ~rows["domain"].isin(DOMAINS), "value", text))
    again = is_right(rows) & rows.duplicated(["image", "item_id", *BOX])
    return mark(rows, again, "duplicate", "{image!r} of item {item_id!r} is listed already")


def _check_boxes(rows: pd.DataFrame) -> pd.DataFrame:
    """Makes numbers of the boxes; whether they lie in their photos is seen when these are read."""
    if BOX[0] not in rows:
        return rows.assign(**dict.fromkeys(BOX, np.nan))
    cells = rows[BOX]
    boxes = cells.apply(pd.to_numeric, errors="coerce").astype(np.float64)
    wrong = (cells != "").any(axis=1) & ~np.isfinite(boxes).all(axis=1)
    text = "fields 'x_1' to 'y_2': expected four numbers of pixels, got {x_1!r}, {y_1!r}, {x_2!r}, "
    rows = mark(rows, wrong, "box", text + "{y_2!r}")
    empty = (boxes["x_2"] <= boxes["x_1"]) | (boxes["y_2"] <= boxes["y_1"])
    text = "the box {x_1}, {y_1}, {x_2}, {y_2} has no size"
    return mark(rows, empty, "box", text).assign(**{name: boxes[name] for name in BOX})


def _of_folder(path: epath.Path) -> pd.DataFrame:
    names, _ = folder.find_images(path)
    _, domains, folders = zip(*map(folder.parse, names), strict=True)
    items = [
        inside or name.rpartition("/")[2].rpartition(".")[0]
        for inside, name in zip(folders, names, strict=True)
    ]
    rows = pd.DataFrame({"image": names, "path": [os.path.join(path, name) for name in names]})
    return rows.assign(
        item_id=items,
        source=rows["path"],
        domain=[domain or DOMAINS[SHOP] for domain in domains],
        problems=[()] * len(rows),
        **dict.fromkeys(BOX, np.nan),
    )


def _of_prepared(path: epath.Path, splits: tuple[str, ...], customers: bool) -> PhotoList:
    """The shop's or the customers' photos of a data set as it was prepared."""
    from input_pipeline.dataset import open_dataset  # which takes seconds to import

    dataset = open_dataset(path.parent.parent.name, path)
    split = dataset.joined(splits or dataset.splits)
    if not hasattr(split, "gallery_rows"):
        raise DatasetError(f"{path}: is a data set of objects, not of items")
    rows, index = split.query_rows() if customers else split.gallery_rows(), split.index
    names = index.photo_id[rows]
    table = pd.DataFrame({"image": names, "path": "", "item_id": index.items[index.item[rows]]})
    table = table.assign(source=[f"{path}: {name}" for name in names])
    table[BOX] = index.box[rows].astype(np.float64)
    fields = {
        "category": np.append(index.categories, "")[index.category[rows]],
        "view": np.append(VIEWS, "")[index.view[rows]],
    }
    return PhotoList(
        table.astype({"image": object, "item_id": object}),
        pd.DataFrame({name: cells.astype(object) for name, cells in fields.items()}),
        [],
        len(split) - len(rows),
        lambda row: split.record(int(rows[row])).image,
    )
