"""What DeepFashion's four benchmarks share: text files of a count, column names and rows."""

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from etils import epath

from input_pipeline.errors import AnnotationError, DatasetError, one_of
from input_pipeline.table import is_right, mark
from input_pipeline.vocabulary import BOX, FULL, LANDMARKS, LOWER, UNKNOWN, UPPER, VISIBLE

PARTITION = "Eval/list_eval_partition.txt"
CLOTHES_TYPES = ("1", "2", "3")
# For each clothes type the slots of its landmarks, in the order of the files, among LANDMARKS.
SLOTS = {UPPER: (0, 1, 2, 3, 6, 7), LOWER: (4, 5, 6, 7), FULL: tuple(range(8))}
_COUNT = re.compile("[0-9]{1,9}")
_WHOLE = re.compile("[+-]?[0-9]{1,9}")  # fits the int32 of a record


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
    parse: Callable[[str], Any] | None = None,
) -> pd.DataFrame:
    """Reads a file whose first line is the number of its rows.

    Args:
      path: of the file.
      columns: names of the fields, which blanks separate.
      header: whether the second line names the columns.
      parse: the last column takes all fields that are left over, as what this returns of them.

    Returns:
      The columns as text, `source` and `problems`.

    Raises:
      AnnotationError: the file cannot be read as a whole.
    """
    lines = read_lines(path)
    line, text = next(lines, (1, ""))
    if not _COUNT.fullmatch(text.strip()):
        raise AnnotationError([f"{path}:{line}: expected the number of rows, got {text[:80]!r}"])
    count = int(text.strip())  # by itself int strips fewer kinds of blanks
    line, text = next(lines, (2, "")) if header else (2, "item_id")
    if "_name" not in text and "item_id" not in text:
        wrong_header = f"expected the names of the columns, got {text[:80]!r}"
        raise AnnotationError([f"{path}:{line}: {wrong_header}"])
    width = len(columns)
    rows, sources, wrong = [], [], []
    for line, text in lines:
        fields: list[Any] = text.split(maxsplit=width - 1 if parse else -1)
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
    table = pd.DataFrame(rows, columns=list(columns), dtype=object)
    table = table.assign(source=sources, wrong=wrong)
    return mark(table, table["wrong"] != "", "format", "{wrong}").drop(columns="wrong")


def read_names(
    path: epath.Path, types: Sequence[str] = (), *, typed: bool = True
) -> list[tuple[str, str]]:
    """Reads a list of categories or attributes: names, which may hold blanks, and types.

    Args:
      path: of the file.
      types: the types there are; any number where that is not said.
      typed: whether the rows have a type; else it is "".

    Raises:
      AnnotationError: any row is wrong. Other files name rows by their place: without one of them
        every later name would belong to its neighbor.
    """
    table = read_list(path, ["text"], parse=str.strip)
    kinds = "|".join(types) if types else "-?[0-9]{1,9}"
    names = table["text"].str.extract(rf"^(.*\S)\s+({kinds})$" if typed else "^(.*)()$")
    text = f"expected a name and a type{f' ({one_of(types)})' if types else ''}, got {{text!r}}"
    table = mark(table, names[0].isna(), "value", text)
    if problems := [str(problem) for row in table["problems"] for problem in row]:
        raise AnnotationError(problems)
    return list(names.itertuples(index=False, name=None))


def read_partition(
    root: epath.Path, columns: Sequence[str], statuses: Sequence[str]
) -> pd.DataFrame:
    """Reads the rows of the benchmark: these columns, and evaluation_status."""
    rows = read_list(root / PARTITION, [*columns, "evaluation_status"])
    text = f"field 'evaluation_status': expected {one_of(statuses)}, got {{evaluation_status!r}}"
    return mark(rows, ~rows["evaluation_status"].isin(statuses), "value", text)


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
    table = read_list(path, [*before, "points"], parse=lambda text: " ".join(text.split()))
    fields = table["points"].str.split()
    counts = table["landmarks_type"].map({str(kind): len(slots) for kind, slots in SLOTS.items()})
    counts = fields.str.len() / counts
    parse = functools.partial(_parse_points, 2 if (counts == 2).sum() > (counts == 3).sum() else 3)
    points, texts = zip(*map(parse, table["landmarks_type"], fields), strict=True)
    table = table.assign(text=texts, landmarks=pd.Series(points, table.index, dtype=object))
    table = mark(table, table["text"] != "", "landmarks", "{text}").drop(columns="text")
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


def _parse_points(
    width: int, clothes_type: str, fields: list[str]
) -> tuple[np.ndarray | None, str]:
    """Returns a garment's landmarks in their slots, int32 [8, 3], or None and what is wrong.

    Args:
      width: numbers of a landmark, 3 or 2: the finer annotations tell no visibility, and absent
        landmarks as 0 0.
      clothes_type: which of the landmarks these are.
      fields: the numbers.
    """
    if clothes_type not in CLOTHES_TYPES:
        expected = one_of(CLOTHES_TYPES)
        return None, f"field 'clothes_type': expected {expected}, got {clothes_type!r}"
    slots = list(SLOTS[int(clothes_type)])
    if len(fields) != width * len(slots):
        what = f"clothes type {clothes_type} has {len(slots)} landmarks"
        return None, f"{what}, which take {width * len(slots)} fields; got {len(fields)}"
    if strange := [field for field in fields if not _WHOLE.fullmatch(field)]:
        return None, f"expected a whole number, got {strange[0]!r}"
    told = np.array(fields, np.int64).reshape(len(slots), width)
    if width == 2:
        told = np.column_stack([np.where(told.any(axis=1), VISIBLE, UNKNOWN), told])
    elif wrong := set(told[:, 0].tolist()) - {0, 1, 2}:
        return None, f"expected a visibility of 0, 1 or 2, got {min(wrong)}"
    points = np.array([[UNKNOWN, 0, 0]] * len(LANDMARKS), np.int32)
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
    names = labels.map(categories["category"]).astype(object).fillna("")
    rows = rows.assign(category=names, clothes_type=types)
    rows.attrs["categories"] = list(categories["category"])
    return rows


def add_attributes(
    rows: pd.DataFrame,
    key: str,
    names: Sequence[tuple[str, str]],
    path: epath.Path,
    types: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Adds the attributes that each image or item has, and those that are not known of it.

    Args:
      rows: of the table.
      key: name of the file's first column.
      names: of all attributes, with their types.
      path: of the file: the key, and for each attribute 1, -1 for no, or 0 for unknown.
      types: names of the types.
    """

    def parse(text: str) -> tuple[tuple[str, ...], tuple[str, ...], str]:
        values = text.split()
        if len(values) != len(names):
            return (), (), f"expected {len(names)} values, got {len(values)}"
        if strange := sorted(set(values) - {"1", "0", "-1"}):
            return (), (), f"expected 1, -1 or 0, got {strange[0]!r}"
        has, unknown = (
            tuple(name for (name, _), value in zip(names, values, strict=True) if value == sign)
            for sign in "10"
        )
        return has, unknown, ""

    columns = ["attributes", "unknown_attributes", "text"]
    table = read_list(path, [key, "values"], parse=parse)
    parsed = table["values"].map(lambda value: value or ((), (), ""))
    table = table.assign(**{name: parsed.str[place] for place, name in enumerate(columns)})
    table = mark(table, table["text"] != "", "value", "{text}").drop(columns=["values", "text"])
    rows = join(rows, table, key, "attributes", required=False)
    rows.attrs["attributes"] = {name: (types or {}).get(kind, kind) for name, kind in names}
    lists = rows[columns[:2]].map(lambda value: value if type(value) is tuple else ())
    return rows.assign(**lists)
