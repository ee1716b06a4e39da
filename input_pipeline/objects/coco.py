"""Images with the boxes and masks of many objects, in the form of COCO's files.

SOURCE holds either `annotations/{train,val,test}.json` or `{train,val,test}.json`, of which any
may lack, or one `annotations.json`. Where the images of that one have a field `split`, it is their
split; else a hash of their id makes a tenth val and a tenth test. `file_name` is a path below
SOURCE/images or, where no such file is there, below SOURCE.

The table has a row for each image, without category and box, and a row for each of its objects.
"""

import hashlib
import posixpath
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import pydantic
from etils import epath

from input_pipeline.entries import Entry, Four, Whole, declare, to_rows
from input_pipeline.errors import AnnotationError, DatasetError, one_of
from input_pipeline.files import image_name, read_json, short
from input_pipeline.masks import to_arrays
from input_pipeline.table import is_right, mark
from input_pipeline.vocabulary import BOX, SPLITS

KIND = "objects"
_ALL = "annotations.json"
FILES = (*(f"{folder}{split}.json" for folder in ("annotations/", "") for split in SPLITS), _ALL)
REQUIRED = ()
_SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}  # of the images, where files tell no split


def _check_inside(path: str) -> str:
    """Returns a path below a folder, or raises ValueError."""
    first = posixpath.normpath(path).partition("/")[0]
    if posixpath.isabs(path) or "://" in path or first in (".", ".."):
        raise ValueError("not below the folder")
    return path


_Text = Annotated[str, pydantic.Field(pattern=r"\S")]
_Key = Annotated[int, pydantic.Field(ge=0, le=2**64)] | _Text
_Flag = Annotated[Literal[0, 1] | None, declare("value", "0 or 1")]
# Of what is checked against other entries too: the kind of problem, and what is expected.
_OWN = ("duplicate", "one that no other has")
_OF_IMAGE = ("reference", "the id of an image")
_OF_CATEGORY = ("reference", "the id of a category")


class _Image(Entry):
    id: _Key = declare("format", "a whole number or a text")
    file_name: Annotated[_Text, pydantic.AfterValidator(_check_inside)] = declare(
        "value", "a path below the folder of the images"
    )
    height: Any = None
    width: Any = None
    split: Any = None


class _Category(Entry):
    id: Whole = declare("format", "a whole number")
    name: Any = None  # what it is matters only where the caller does not name the categories


class _Annotation(Entry):
    id: _Key | None = declare("format", "a whole number or a text", default=None)
    image_id: _Key = declare(*_OF_IMAGE)
    category_id: _Key = declare(*_OF_CATEGORY)
    bbox: Four = declare("box", "[x, y, width, height]")
    iscrowd: _Flag = None
    ignore: _Flag = None
    segmentation: Any = None


_LISTS: Mapping[str, type[Entry]] = {
    "images": _Image,
    "categories": _Category,
    "annotations": _Annotation,
}
_READ = {"size", "counts", *_LISTS}.union(*(entry.model_fields for entry in _LISTS.values()))


def to_table(root: epath.Path) -> pd.DataFrame:
    """Reads the images and objects.

    Raises:
      DatasetError: the annotation files are in none of the layouts, or in two.
    """
    found = [root / name for name in FILES if (root / name).exists()]
    if len({(path.parent, path.name == _ALL) for path in found}) != 1:
        layouts = "annotations/{train,val,test}.json, {train,val,test}.json or annotations.json"
        there = ", ".join(map(str, found)) or "none"
        raise DatasetError(f"{root} (dataset.source): expected one of {layouts}; there is {there}")
    return read_files(root, {"" if path.name == _ALL else path.stem: path for path in found})


def read_files(
    root: epath.Path,
    files: Mapping[str, epath.Path],
    shares: Mapping[str, float] = _SHARES,
    names: Mapping[int, str] | None = None,
) -> pd.DataFrame:
    """Reads annotation files.

    Args:
      root: the folder with the images.
      files: by the split of their images; of one with "" see `shares`.
      shares: of the images in each split, where they name none.
      names: the categories by id, whatever the files call them; None: the files' own.
    """
    read = [_read_file(path, split) for split, path in files.items()]
    lists = {name: pd.concat([file[name] for file in read], ignore_index=True) for name in _LISTS}
    images = _check_images(lists["images"], root, shares)
    categories, names = _check_categories(lists["categories"], names)
    objects = _check_objects(lists["annotations"], images, categories)
    table = pd.concat([images, objects, categories[~is_right(categories)]], ignore_index=True)
    unsized = int((is_right(images) & images[["height", "width"]].isna().all(axis=1)).sum())
    table.attrs["categories"] = [names[key] for key in sorted(names)]
    table.attrs["notes"] = {"image of no stated size": unsized} if unsized else {}
    return table


def split_of(key: int | str, shares: Mapping[str, float]) -> str:
    """Returns the split of an image's id where files do not tell: a pure function of it."""
    digest = hashlib.blake2b(str(key).encode(), digest_size=8).digest()
    ends = np.cumsum(list(shares.values()))[:-1]
    return list(shares)[np.searchsorted(ends, int.from_bytes(digest, "big") / 2**64, "right")]


def _compact(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields that are read, with polygons as float64 arrays."""
    return {
        name: to_arrays(value) if name == "segmentation" else value
        for name, value in fields.items()
        if name in _READ
    }


def _read_file(path: epath.Path, split: str) -> dict[str, pd.DataFrame]:
    """Reads the lists of a file: their fields, and where each entry stands."""
    content, tables = read_json(path, _compact), {}
    for name, entry in _LISTS.items():
        values = content.get(name) if isinstance(content, dict) else None
        if values is None and name == "annotations":
            values = []  # of images without objects
        if not isinstance(values, list):
            raise AnnotationError([f"{path}:1: expected a list {name!r}, got {short(values)}"])
        rows = to_rows(entry, values, f"{path}: {name}[{{}}]", 0)
        # Whose the objects of two images with one id are cannot be told.
        again = rows["id"].duplicated(keep="first" if name == "annotations" else False)
        rows = _expect(rows, ~again | rows["id"].isna(), "id", *_OWN)
        tables[name] = rows.assign(file=split)
    if split:
        tables["images"]["split"] = split
    return tables


def _expect(rows: pd.DataFrame, right: pd.Series, field: str, kind: str, what: str) -> pd.DataFrame:
    """Marks rows in which a field is not right."""
    bad = ~right.astype(bool) & is_right(rows)
    rows = rows.assign(got=rows.loc[bad, field].map(short))
    text = f"field {field!r}: expected {what}, got {{got}}"
    return mark(rows, bad, kind, text).drop(columns="got")


def _check_images(
    rows: pd.DataFrame, root: epath.Path, shares: Mapping[str, float]
) -> pd.DataFrame:
    """Returns a row of the table for each image, with its `id` and `file`."""
    if rows["split"].isna().all():
        rows["split"] = rows["id"].map(lambda key: split_of(key, shares))
    rows = _expect(rows, rows["split"].map(SPLITS.__contains__), "split", "value", one_of(SPLITS))
    good = rows["file_name"].where(is_right(rows))
    rows["image"] = good.map(image_name, na_action="ignore")
    rows["path"] = good.map(lambda name: _find_image(root, name), na_action="ignore")
    again = rows["image"].duplicated() & good.notna()
    rows = _expect(rows, ~again, "file_name", *_OWN)
    sizes = {side: rows[side].where(rows[side] != -1) for side in ("height", "width")}
    rows = rows.assign(category="", crowd=False, image_source=rows["source"], **sizes)
    return rows.drop(columns="file_name")


def _find_image(root: epath.Path, name: str) -> str:
    path = root / "images" / name
    return str(path if path.exists() else root / name)


def _check_categories(
    rows: pd.DataFrame, names: Mapping[int, str] | None
) -> tuple[pd.DataFrame, Mapping[int, str]]:
    """Returns the files' categories, and the names of all by id."""
    if names is None:
        named = rows["name"].map(
            lambda name: isinstance(name, str) and name.isprintable() and name.strip() != ""
        )
        rows = _expect(rows, named, "name", "format", "a name")
        good = rows[is_right(rows)].drop_duplicates("id").drop_duplicates("name")
        names = dict(zip(good["id"], good["name"], strict=True))
        same = rows["id"].map(names).astype(object) == rows["name"]
        rows = _expect(rows, same, "name", "contradiction", "one name for each id in all files")
    rows["category"] = rows["id"].map(names)
    return _expect(rows, rows["category"].notna(), "id", *_OF_CATEGORY), names


def _check_objects(
    rows: pd.DataFrame, images: pd.DataFrame, categories: pd.DataFrame
) -> pd.DataFrame:
    """Returns a row of the table for each object of the images that are right."""
    images = images[images["id"].notna()].drop_duplicates(["file", "id"])
    images = images.rename(columns={"id": "image_id"}).assign(right=is_right(images))
    images = images.drop(columns=["source", "problems", "category", "crowd"])
    categories = categories[is_right(categories)].rename(columns={"id": "category_id"})
    categories = categories[["file", "category_id", "category"]]
    rows = rows.drop(columns="id").merge(images, "left").merge(categories, "left")
    rows = _expect(rows, rows["image_source"].notna(), "image_id", *_OF_IMAGE)
    rows = _expect(rows, rows["category"].notna(), "category_id", *_OF_CATEGORY)
    rows = rows[~is_right(rows) | rows["right"].eq(True)]
    box = np.array([box or [np.nan] * 4 for box in rows["bbox"]], np.float64).reshape(-1, 4)
    box[:, 2:] += box[:, :2]
    box = np.clip(box, -1e9, 1e9).astype(np.float32)  # sums of decimals end where they should
    return rows.assign(
        **dict(zip(BOX, box.T.astype(np.float64), strict=True)),
        crowd=(rows[["iscrowd", "ignore"]] == 1).any(axis=1),
        segmentation=rows["segmentation"].map(lambda value: None if value == [] else value),
    ).drop(columns="bbox")
