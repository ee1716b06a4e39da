"""DeepFashion: the finer annotations of Category and Attribute Prediction, with 26 attributes.

Line by line the files of a split speak of the same image. Every image is a shop image and an item
of its own. Where it has landmarks its clothes type is theirs, otherwise its category's.
"""

import numpy as np
import pandas as pd
from etils import epath

from input_pipeline.datasets import _deepfashion as lists
from input_pipeline.datasets import find_file
from input_pipeline.errors import AnnotationError
from input_pipeline.table import mark
from input_pipeline.vocabulary import BOX, SPLITS

_CATEGORIES = "Anno_fine/list_category_cloth.txt"
_ATTRIBUTES = "Anno_fine/list_attr_cloth.txt"
_LANDMARKS = "Anno_fine/list_landmarks.txt"
_PARTS = ("", "_cate", "_bbox", "_attr")
KIND = "images"
REQUIRED = (
    _CATEGORIES,
    _ATTRIBUTES,
    *(f"Anno_fine/{split}{part}.txt" for split in SPLITS for part in _PARTS),
)
FILES = (*REQUIRED, _LANDMARKS)
_KINDS = ("texture", "sleeve", "length", "neckline", "fabric", "fit")  # of attributes
_TYPES = {str(number): kind for number, kind in enumerate(_KINDS, 1)}


def to_table(root: epath.Path) -> pd.DataFrame:
    """Reads the images, split by split, in the order of the files."""
    names = lists.read_names(root / _ATTRIBUTES)
    rows = pd.concat([_read_split(root, split, names) for split in SPLITS], ignore_index=True)
    rows = lists.add_paths(rows.assign(item_id=rows["image"]), root)
    rows = lists.add_landmarks(rows, find_file(root, _LANDMARKS), variation=False)
    rows = lists.add_categories(rows, lists.read_categories(root / _CATEGORIES))
    rows.attrs["attributes"] = {name: _TYPES.get(kind, kind) for name, kind in names}
    return rows


def _read_split(root: epath.Path, split: str, names: list[tuple[str, str]]) -> pd.DataFrame:
    """Reads the four files of a split.

    Raises:
      AnnotationError: a file has another number of lines than there are images, or a line where no
        image is. Which line is wrong cannot be told, so each could belong to its neighbor.
    """
    paths = [root / f"Anno_fine/{split}{part}.txt" for part in _PARTS]
    files = [dict(lists.read_lines(path)) for path in paths]
    if not files[0]:
        raise AnnotationError([f"{paths[0]}:1: has no rows"])
    wrong = [
        f"{path}:{min(files[0].keys() ^ lines.keys())}: has {len(lines)} lines, expected "
        f"{len(files[0])}, one for each image of {paths[0].name} and on the same line"
        for path, lines in zip(paths, files, strict=True)
        if lines.keys() != files[0].keys()
    ]
    if wrong:
        raise AnnotationError(wrong)
    table = pd.DataFrame(files).T.set_axis(["image", "category_label", "box", "values"], axis=1)
    table = table.apply(lambda column: column.str.strip())
    sources = {
        name: f"{path}:" + table.index.astype(str)
        for name, path in zip(
            ("source", "category_source", "box_source", "values_source"), paths, strict=True
        )
    }
    table = table.assign(**sources, split=split)
    fields = table["box"].str.split()
    table = mark(
        table, fields.str.len() != 4, "box", "expected 4 numbers, got {box!r}", "box_source"
    )
    values = table["values"].str.split()
    bad = values.map(lambda row: len(row) != len(names) or bool(set(row) - {"0", "1"}))
    text = f"expected {len(names)} values of 1 or 0, got {{values!r}}"
    table = mark(table, bad, "value", text, "values_source")
    has = np.array([name for name, _ in names], object)
    boxes = {name: fields.str[place].astype(object).fillna("") for place, name in enumerate(BOX)}
    attributes = [
        () if wrong else tuple(has[np.array(row) == "1"])
        for row, wrong in zip(values, bad, strict=True)
    ]
    return table.assign(**boxes, attributes=attributes).drop(columns="values")
