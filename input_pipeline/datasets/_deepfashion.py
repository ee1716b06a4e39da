"""What DeepFashion's four benchmarks share: text files of a count, column names and rows."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from etils import epath

from input_pipeline.errors import AnnotationError, DatasetError, one_of
from input_pipeline.table import BOX, is_right, mark
from input_pipeline.vocabulary import FULL, LANDMARKS, LOWER, UNKNOWN, UPPER, VISIBLE

PARTITION = "Eval/list_eval_partition.txt"
CLOTHES_TYPES = ("1", "2", "3")
# For each clothes type the slots of its landmarks, in the order of the files, among LANDMARKS.
SLOTS = {UPPER: (0, 1, 2, 3, 6, 7), LOWER: (4, 5, 6, 7), FULL: tuple(range(8))}
_WHOLE = re.compile(r"[+-]?[0-9]{1,9}")  # fits the int32 of a record


def read_lines(path: epath.Path) -> Iterator[tuple[int, str]]:
    """Yields the number and text of each line that is not blank.

    Raises:
      AnnotationError: the file cannot be read.
    """
    number = 1
    try:
        with path.open("rb") as file:
            for number, data in enumerate(file, 1):
                text = data.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    yield number, text
    except UnicodeDecodeError as error:
        byte = f"byte {error.object[error.start]:#04x}"
        raise AnnotationError([f"{path}:{number}: not UTF-8: {byte}"]) from None
    except OSError as error:
        raise AnnotationError([f"{path}: cannot be read: {error}"]) from error


def read_list(
    path: epath.Path,
    columns: Sequence[str],
    *,
    header: bool = True,
    rest: bool = False,
    parse: Callable[[str], Any] | None = None,
) -> pd.DataFrame:
    """Reads a file whose first line is the number of its rows.

    Args:
      path: of the file.
      columns: names of the fields, which blanks separate.
      header: whether the second line names the columns.
      rest: whether the last column takes all fields that are left over.
      parse: as `rest`, and the column holds what this returns: rows of thousands of characters
        need not be kept.

    Returns:
      The columns as text, `source` and `problems`.

    Raises:
      AnnotationError: the file cannot be read as a whole.
    """
    lines = read_lines(path)
    line, text = next(lines, (1, ""))
    if not text.strip().isdecimal():
        raise AnnotationError([f"{path}:{line}: expected the number of rows, got {text[:80]!r}"])
    count = int(text.strip())  # by itself int strips fewer kinds of blanks
    line, text = next(lines, (2, "")) if header else (2, "_")
    if header and not ("_name" in text or "item_id" in text):
        raise AnnotationError(
            [f"{path}:{line}: expected the names of the columns, got {text[:80]!r}"]
        )
    width = len(columns)
    rows, sources, wrong = [], [], []
    for line, text in lines:
        fields: list[Any] = text.split(maxsplit=width - 1 if rest or parse else -1)
        right = len(fields) == width and text.strip().replace("\t", " ").isprintable()
        if right and parse:
            fields[-1] = parse(fields[-1])
        wrong.append(
            "" if right else f"expected {width} fields ({', '.join(columns)}), got {len(fields)}"
        )
        rows.append((fields + [""] * width)[:width])
        sources.append(f"{path}:{line}")
    if not rows:
        raise AnnotationError([f"{path}:1: has no rows, expected {count}"])
    if len(rows) != count:
        rows.append([""] * width)
        sources.append(f"{path}:1")
        wrong.append(f"says that there are {count} rows; there are {len(wrong)}")
    table = pd.DataFrame(rows, columns=list(columns), dtype=object).assign(
        source=sources, wrong=wrong
    )
    return mark(table, table["wrong"] != "", "format", "{wrong}").drop(columns="wrong")


def read_names(path: epath.Path, types: Sequence[str] = ()) -> list[tuple[str, int]]:
    """Reads a list of categories or attributes: names, which may hold blanks, and types.

    Args:
      path: of the file.
      types: the types there are; any number where that is not said.

    Raises:
      AnnotationError: any row is wrong. Other files name rows by their place: without one of them
        every later name would belong to its neighbor.
    """
    table = read_list(path, ["text"], rest=True)
    parts = table["text"].str.rsplit(n=1)
    kinds = parts.str[-1].fillna("")
    right = kinds.isin(types) if types else kinds.str.fullmatch(r"-?[0-9]{1,9}")
    expected = f"expected a name and a type{f' ({one_of(types)})' if types else ''}, got {{text!r}}"
    table = mark(table, ~right | (parts.str.len() != 2), "value", expected)
    if problems := [str(problem) for row in table["problems"] for problem in row]:
        raise AnnotationError(problems)
    return list(zip(parts.str[0], kinds.astype(int), strict=True))


def read_partition(
    root: epath.Path, columns: Sequence[str], statuses: Sequence[str]
) -> pd.DataFrame:
    """Reads the rows of the benchmark; their last column is the evaluation status."""
    path = root / PARTITION
    rows = read_list(path, columns)
    text = f"field {columns[-1]!r}: expected {one_of(statuses)}, got {{{columns[-1]}!r}}"
    return mark(rows, ~rows[columns[-1]].isin(statuses), "value", text)


def check_items(rows: pd.DataFrame, path: epath.Path | None) -> pd.DataFrame:
    """Marks the rows whose item is not in the list of items, if there is one."""
    if path is None:
        return rows
    return join(rows, read_list(path, ["item_id"], header=False), "item_id", "item", required=True)


def add_paths(rows: pd.DataFrame, root: epath.Path) -> pd.DataFrame:
    """Adds where each image lies: the archives unpack to img/, beside Anno/ or inside Img/.

    Raises:
      DatasetError: there is no such folder.
    """
    folder = next((path for path in (root, root / "Img") if (path / "img").is_dir()), None)
    if folder is None:
        raise DatasetError(f"{root} (dataset.source): has neither a folder img nor Img/img")
    inside = rows["image"].str.startswith("img/") & ~rows["image"].str.contains(
        r"(?:^|/)\.\.(?:/|$)"
    )
    rows = mark(rows, ~inside, "value", "field 'image_name': expected img/..., got {image!r}")
    return rows.assign(path=f"{folder}/" + rows["image"].astype(object))


def folder_category(images: pd.Series) -> pd.Series:
    """Returns the category of each path, TOPS/T_Shirt of img/TOPS/T_Shirt/id_1/x.jpg; or ""."""
    return images.map(lambda image: "/".join(image.split("/")[1:-2]))


def join(
    rows: pd.DataFrame, other: pd.DataFrame, key: str, what: str, *, required: bool
) -> pd.DataFrame:
    """Adds to each row what another file says of it.

    Args:
      rows: of the table; `rows.attrs["notes"]` counts what is odd and harmless.
      other: has the column `key`, and others that are added; with its `source` as WHAT_source.
      key: name of the column.
      what: the other file tells, as "box".
      required: whether rows without it are wrong.

    Returns:
      The rows, and at the end the wrong ones of the other file.
    """
    told = other[key] != ""
    values = [name for name in other if name not in ("source", "problems", "landmarks")]
    repeated = told & other.duplicated(values)
    other = other.assign(first=other.groupby(key)["source"].transform("first"))[~repeated]
    again = other[key].where(is_right(other) & told).dropna().duplicated()
    again = again.reindex(other.index, fill_value=False)
    text = f"field {key!r}: {{{key}!r}} has another {what} at {{first}}"
    other = mark(other, again, "contradiction", text).drop(columns="first")
    right = is_right(other)
    good, wrong = other[right].drop(columns="problems"), other[~right]
    notes = Counter(rows.attrs.get("notes", {}))
    notes[f"repeated row of {what}"] += int(repeated.sum())
    notes[f"{what} of no listed {key}"] += int((~good[key].isin(rows[key])).sum())
    merged = rows.merge(
        good.rename(columns={"source": f"{what}_source"}), how="left", on=key, validate="m:1"
    )
    lacks = merged[f"{what}_source"].isna()
    if required:
        # What is wrong in the other file is told once, where it stands.
        known = dict(zip(wrong[key], wrong["problems"], strict=True))
        theirs = merged[key].where(lacks & is_right(merged)).map(known)
        merged["problems"] = merged["problems"].where(theirs.isna(), theirs)
        file = other["source"].iloc[0].rpartition(":")[0]
        text = f"field {key!r}: {{{key}!r}} is not in {file}"
        merged = mark(merged, lacks, "reference", text)
    else:
        notes[f"{key} without {what}"] += int((lacks & is_right(merged)).sum())
    empty = dict.fromkeys(rows.columns.difference(["source", "problems"]), "")
    extra = wrong[["source", "problems"]].assign(**empty)
    merged = pd.concat([merged, extra], ignore_index=True)
    merged.attrs = {**rows.attrs, "notes": dict(+notes)}
    return merged


def add_boxes(
    rows: pd.DataFrame, path: epath.Path, kinds: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """Adds each image's box, and the columns before it, with the values that each may have."""
    boxes = read_list(path, ["image", *kinds, *BOX])
    for name, values in kinds.items():
        text = f"field {name!r}: expected {one_of(values)}, got {{{name}!r}}"
        boxes = mark(boxes, ~boxes[name].isin(values), "value", text)
    return join(rows, boxes, "image", "box", required=True)


def add_landmarks(rows: pd.DataFrame, path: epath.Path | None, *, variation: bool) -> pd.DataFrame:
    """Adds each image's landmarks, where a file tells them, and takes its clothes type from them.

    Args:
      rows: with boxes; their `clothes_type`, if they have one, must be that of the landmarks.
      path: of the file.
      variation: whether the file has the column variation_type.
    """
    if path is None:
        return rows
    before = ["image", "landmarks_type", *["variation_type"] * variation]
    table = read_list(path, [*before, "points"], rest=True)
    points, texts = zip(*map(_parse_points, table["landmarks_type"], table["points"]), strict=True)
    table = table.assign(text=texts)
    table = mark(table, table["text"] != "", "landmarks", "{text}").drop(columns="text")
    landmarks = pd.Series(points, table.index, dtype=object)
    table = table.assign(landmarks=landmarks, points=table["points"].str.split().str.join(" "))
    rows = join(rows, table, "image", "landmarks", required=False)
    given = rows["landmarks_type"].fillna("")
    if "clothes_type" in rows:
        known = (given != "") & rows["box_source"].notna()
        differs = known & (given != rows["clothes_type"])
        text = "field 'clothes_type': is {landmarks_type} here and {clothes_type} at {box_source}"
        rows = mark(rows, differs, "contradiction", text, "landmarks_source")
        given = given.where(given != "", rows["clothes_type"])
    return rows.assign(
        clothes_type=given, landmarks=rows["landmarks"].where(rows["landmarks"].notna(), None)
    )


def _parse_points(clothes_type: str, text: str) -> tuple[np.ndarray | None, str]:
    """Returns a garment's landmarks in their slots, int32 [8, 3], or None and what is wrong.

    The finer annotations tell no visibility, and absent landmarks as 0 0.
    """
    if clothes_type not in CLOTHES_TYPES:
        expected = one_of(CLOTHES_TYPES)
        return None, f"field 'clothes_type': expected {expected}, got {clothes_type!r}"
    slots = list(SLOTS[int(clothes_type)])
    fields = text.split()
    if len(fields) not in (2 * len(slots), 3 * len(slots)):
        return None, (
            f"clothes type {clothes_type} has {len(slots)} landmarks, which take "
            f"{3 * len(slots)} fields; got {len(fields)}"
        )
    for field in fields:
        if not _WHOLE.fullmatch(field):
            return None, f"expected a whole number, got {field!r}"
    told = np.array(fields, np.int64).reshape(len(slots), -1)
    if told.shape[1] == 2:
        told = np.column_stack([np.where(told.any(axis=1), VISIBLE, UNKNOWN), told])
    elif strange := set(told[:, 0].tolist()) - {0, 1, 2}:
        return None, f"expected a visibility of 0, 1 or 2, got {min(strange)}"
    points = np.zeros((len(LANDMARKS), 3), np.int32)
    points[:, 0] = UNKNOWN
    points[slots] = told
    return points, ""


def read_categories(path: epath.Path) -> pd.DataFrame:
    """Reads the categories: name and clothes type by label, which counts the rows from 1."""
    names = read_names(path, CLOTHES_TYPES)
    labels = [str(label) for label in range(1, len(names) + 1)]
    return pd.DataFrame(names, columns=["category", "category_type"], index=labels, dtype=object)


def add_categories(rows: pd.DataFrame, categories: pd.DataFrame) -> pd.DataFrame:
    """Adds the name and, where landmarks do not tell it, the clothes type of `category_label`."""
    labels = rows["category_label"].fillna("").str.lstrip("0")
    bad = ~labels.isin(categories.index)
    text = f"field 'category_label': expected 1 to {len(categories)}, got {{category_label!r}}"
    source = "category_source" if "category_source" in rows else "source"
    rows = mark(rows, bad, "value", text, source)
    types = labels.map(categories["category_type"])
    if "clothes_type" in rows:
        types = rows["clothes_type"].where(rows["clothes_type"].fillna("") != "", types)
    rows = rows.assign(category=labels.map(categories["category"]).fillna(""), clothes_type=types)
    rows.attrs["categories"] = list(categories["category"])
    return rows


def read_attributes(
    names: Sequence[str], path: epath.Path, key: str, *, header: bool = True
) -> pd.DataFrame:
    """Reads the attributes that each image or item has, and those that are not known of it.

    Args:
      names: of all attributes.
      path: of the file: a row's key, and for each attribute 1, -1 for no, or 0 for unknown.
      key: name of the first column.
      header: see `read_list`.
    """

    def parse(text: str) -> tuple[tuple[str, ...], tuple[str, ...], str]:
        values = text.split()
        if len(values) != len(names):
            return (), (), f"expected {len(names)} values, got {len(values)}"
        if strange := sorted(set(values) - {"1", "0", "-1"}):
            return (), (), f"expected 1, -1 or 0, got {strange[0]!r}"
        has, unknown = (
            tuple(itertools.compress(names, [value == sign for value in values])) for sign in "10"
        )
        return has, unknown, ""

    table = read_list(path, [key, "values"], header=header, parse=parse)
    parsed = table["values"].map(lambda value: value or ((), (), ""))
    table = table.assign(
        attributes=parsed.str[0], unknown_attributes=parsed.str[1], text=parsed.str[2]
    )
    return mark(table, table["text"] != "", "value", "{text}").drop(columns=["values", "text"])


def add_attributes(
    rows: pd.DataFrame,
    names_path: epath.Path | None,
    path: epath.Path | None,
    key: str,
    types: Mapping[int, str] | None = None,
) -> pd.DataFrame:
    """Adds the attributes of each image or item (`key`), where both files are there."""
    if names_path is None or path is None:
        return rows
    names = read_names(names_path)
    rows.attrs["attributes"] = {name: (types or {}).get(kind, kind) for name, kind in names}
    table = read_attributes([name for name, _ in names], path, key)
    rows = join(rows, table, key, "attributes", required=False)
    columns = ("attributes", "unknown_attributes")
    return rows.assign(
        **{
            name: rows[name].map(lambda value: value if type(value) is tuple else ())
            for name in columns
        }
    )
