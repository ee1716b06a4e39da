"""The one table: every benchmark and every user's images, one row per garment in an image.

A converter (`datasets/NAME.py`) returns the columns that it knows; `complete` adds the others:

  image                     name of the image: the path by which the annotations call it
  path                      where the file lies
  item_id, domain, split    images of one item show the same product; customer or shop; train, val
                            or test
  category, attributes, unknown_attributes, clothes_type
                            "" and () where unknown; clothes_type is 1 upper body, 2 lower body, 3
                            full body, -1 unknown
  x_1, y_1, x_2, y_2        the garment's box in pixels of the upright image; empty: the whole image
  view, occluded, cropped   one of VIEWS; 0 or 1; empty where unknown
  landmarks                 int32 [n, 3] (visibility, x, y), or None
  segmentation, crowd       polygons or a run-length mask as COCO writes them, or None; whether a
                            box holds several objects that were not told apart
  height, width             of the image, as the annotations say; empty where they do not
  source                    FILE:LINE where the row stands; image_source, box_source and
                            landmarks_source where these stand elsewhere
  problems                  a tuple of `Problem`, what the converter found wrong: see `mark`

Its `attrs` may hold "attributes" and "categories", all names there are in the order of the
annotations (attributes with the name of their type), and "notes", how often each harmless oddity
was met.
"""

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from etils import epath
from tqdm import tqdm

from input_pipeline.errors import DatasetError, one_of
from input_pipeline.files import image_name
from input_pipeline.images import (
    ImageError,
    ImageHeader,
    LargeImageError,
    MissingImageError,
    inspect_image,
)
from input_pipeline.masks import MaskError, to_mask, turn_box
from input_pipeline.parallel import ordered_map
from input_pipeline.vocabulary import BOX, DOMAINS, SPLITS, TRUNCATED, UNKNOWN, VIEWS

KINDS: Mapping[str, str] = {
    "format": "a line, entry or field that the format does not allow",
    "value": "a value that is not allowed: a split, domain, view, category, level",
    "box": "not four numbers of pixels, without size, or outside the image",
    "landmarks": "not the garment's number of them, not numbers, or outside the image",
    "mask": "an invalid outline or mask, or one that has no pixel in its box",
    "missing_image": "no such file",
    "unreadable_image": "not a whole image, larger than --max_pixels, or of another size than said",
    "duplicate": "the same garment of an image listed twice",
    "contradiction": "two places that disagree: an item in two splits, an image with two boxes",
    "reference": "an image, item or category that another file does not list",
}
THREADS = 8  # each may hold an image of max_pixels
_EDGE = 1  # pixels: releases count from 0 or from 1, and some count the last pixel in
_FAR = 1e9  # pixels; fits the int32 of a record
_FLAGS = ["occluded", "cropped"]
_NUMBERS = [*BOX, *_FLAGS, "height", "width"]
_DEFAULTS: Mapping[str, Any] = {
    **dict.fromkeys(("image", "path", "item_id", "split", "category", "view", "source"), ""),
    **dict.fromkeys(_NUMBERS, np.nan),
    **dict.fromkeys(("landmarks", "segmentation"), None),
    "domain": "shop",
    "clothes_type": UNKNOWN,
    "crowd": False,
}
_SOURCES = ("image_source", "box_source", "landmarks_source")
_OF_CHECKS = {
    *("source", *_SOURCES, "problems", "turn", "header", "said_height", "said_width"),
    *("first", "there", "text"),
}
_DIGITS = re.compile(r"([0-9]+)")


class Problem(NamedTuple):
    """What is wrong with a row: its kind, one of KINDS; FILE:LINE; and a text."""

    kind: str
    source: str
    text: str

    def __str__(self) -> str:
        return f"{self.source}: {self.text}"


class Checked(NamedTuple):
    """A table after all checks.

    Attributes:
      table: the rows that are right. Boxes are float64 within the image or NaN, flags and views
        int8 (positions in VIEWS; -1 unknown), height and width those of the upright image. New
        columns: orientation, plain_jpeg and file_bytes, as in `ImageHeader`, and mask: compressed
        counts of a run-length mask of the upright image, or b"".
      problems: of the other rows, in the order of the files.
      notes: how often each harmless oddity was met.
    """

    table: pd.DataFrame
    problems: list[Problem]
    notes: dict[str, int]

    def kinds(self) -> dict[str, int]:
        """Returns how many problems there are of each kind."""
        return dict(sorted(Counter(problem.kind for problem in self.problems).items()))

    def bad_rows(self) -> int:
        """Returns how many lines or entries have a problem."""
        return len({problem.source for problem in self.problems})


def mark(
    rows: pd.DataFrame,
    bad: Any,
    kind: str,
    text: str,
    source: str = "source",
    *,
    further: bool = False,
) -> pd.DataFrame:
    """Returns the rows with a problem in those that are bad.

    Args:
      rows: of a table.
      bad: bool, for each row.
      kind: one of KINDS.
      text: a format of the row's columns, as "field 'split': got {split!r}".
      source: the column that says where the problem stands.
      further: whether rows that have a problem already get another.
    """
    if "problems" not in rows:
        rows = rows.assign(problems=[()] * len(rows))
    bad = np.asarray(bad, bool)
    bad = np.flatnonzero(bad if further else bad & is_right(rows).to_numpy())
    if not bad.size:
        return rows
    problems = rows["problems"].to_numpy(object, copy=True)
    for index, row in zip(bad, rows.iloc[bad].to_dict("records"), strict=True):
        problems[index] = (*problems[index], Problem(kind, row[source], text.format_map(row)))
    return rows.assign(problems=problems)


def is_right(rows: pd.DataFrame) -> pd.Series:
    """Returns which rows have no problem, bool."""
    return ~rows["problems"].astype(bool)


def parse_on_error(on_error: str, known: Iterable[str]) -> frozenset[str]:
    """Returns the kinds of problems whose rows are left out; all others stop a preparation.

    Args:
      on_error: "error" for none, "skip" for all, kinds joined by commas, or "" for `known`.
      known: the kinds that the data set is known to have.

    Raises:
      DatasetError: there is no such kind.
    """
    if on_error in ("error", "skip"):
        return frozenset(KINDS if on_error == "skip" else ())
    kinds = [kind.strip() for kind in on_error.split(",")] if on_error else known
    if unknown := sorted(set(kinds) - KINDS.keys()):
        raise DatasetError(
            f"--on_error={on_error!r}: {unknown[0]!r} is neither error nor skip nor "
            f"a kind of problem; the kinds are {', '.join(KINDS)}"
        )
    return frozenset(kinds)


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the table with all columns; NaN, as merging tables leaves it, is in numbers alone."""
    table = table.reset_index(drop=True)
    lists = dict.fromkeys(("attributes", "unknown_attributes", "problems"), ())
    for name, default in {**_DEFAULTS, **lists}.items():
        kind = object if default in (None, ()) else None
        if name not in table:
            table[name] = pd.Series([default] * len(table), dtype=kind)
        elif name not in _NUMBERS and (lacks := table[name].isna()).any():
            told = "" if name == "domain" else default
            cells = [told if lack else cell for cell, lack in zip(table[name], lacks, strict=True)]
            table[name] = pd.Series(cells, dtype=kind)
    places = {name: table.get(name, table["source"]).astype(object) for name in _SOURCES}
    return table.assign(**{name: place.fillna(table["source"]) for name, place in places.items()})


def check_table(table: pd.DataFrame, max_pixels: int) -> Checked:
    """Checks every row against the schema, its image and the other rows; decodes every image.

    Args:
      table: as a converter returns it.
      max_pixels: larger images are problems.
    """
    notes = Counter(table.attrs.get("notes", {}))
    checks: Sequence[Callable[[pd.DataFrame], pd.DataFrame]] = (
        lambda rows: rows,
        _check_cells,
        functools.partial(_check_images, max_pixels=max_pixels, notes=notes),
        functools.partial(_fit_boxes, notes=notes),
        functools.partial(_fit_landmarks, notes=notes),
        _fit_masks,
        _check_relations,
    )
    rows, problems = complete(table), []
    for check in checks:
        if rows.empty:
            break
        rows = check(rows)
        right = is_right(rows)
        problems += [problem for row in rows["problems"][~right] for problem in row]
        rows = rows[right]
    rows = rows[[name for name in rows if name not in _OF_CHECKS]].reset_index(drop=True)
    rows.attrs = dict(table.attrs)
    problems = sorted(dict.fromkeys(problems), key=lambda problem: _natural(problem.source))
    return Checked(rows, problems, dict(sorted((+notes).items())))


def _natural(text: str) -> list[tuple[int, str]]:
    """Returns a key to sort by, in which numbers are numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _DIGITS.split(text)]


@functools.cache
def schema() -> Any:
    """Returns the pandera schema of a table; its checks say what is expected of a cell."""
    import pandera.pandas as pa  # takes half a second

    def column(expected: str, check: Callable[[pd.Series], pd.Series]) -> pa.Column:
        return pa.Column(checks=pa.Check(check, error=f"expected {expected}"), nullable=True)

    def choice(*values: str) -> pa.Column:
        return column(one_of(values), lambda cells: cells.isin(values))

    printable = column("printable characters", lambda cells: cells.map(str.isprintable))
    pixels = column("a number of pixels", lambda cells: _to_numbers(cells).abs() < _FAR)
    flag = column("0 or 1", lambda cells: _to_numbers(cells).isin([0, 1]))
    return pa.DataFrameSchema(
        {
            **dict.fromkeys(("image", "item_id", "category"), printable),
            "domain": choice(*DOMAINS),
            "split": choice(*SPLITS),
            "view": choice(*VIEWS),
            **dict.fromkeys([*BOX, "height", "width"], pixels),
            **dict.fromkeys(_FLAGS, flag),
        }
    )


def _to_numbers(cells: pd.Series) -> pd.Series:
    return pd.to_numeric(cells, errors="coerce").astype(np.float64)


def _check_cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Checks the cells against the schema, all failures at once, and types them."""
    import pandera.errors

    may_lack = rows[["view", *_NUMBERS]].astype(object)
    rows = rows.assign(**may_lack.where(may_lack != "", None))
    try:
        schema().validate(rows, lazy=True)
    except pandera.errors.SchemaErrors as error:
        for (column, expected), cases in error.failure_cases.groupby(
            ["column", "check"], sort=False
        ):
            kind, source = ("box", "box_source") if column in BOX else ("value", "source")
            source = "image_source" if column in ("height", "width") else source
            text = f"field {column!r}: {expected}, got {{{column}!r}}"
            bad = rows.index.isin(cases["index"])
            rows = mark(rows, bad, kind, text, source, further=True)
    numbers = rows[_NUMBERS].apply(_to_numbers)
    numbers.loc[~is_right(rows)] = np.nan
    numbers[_FLAGS] = numbers[_FLAGS].fillna(UNKNOWN).astype(np.int8)
    views = rows["view"].map({view: index for index, view in enumerate(VIEWS)})
    names = rows["image"].map(image_name)
    return rows.assign(**numbers, view=views.fillna(UNKNOWN).astype(np.int8), image=names)


def _check_images(rows: pd.DataFrame, max_pixels: int, notes: Counter[str]) -> pd.DataFrame:
    """Decodes each image once; adds what its file says, and turns boxes upright with it."""
    paths = rows["path"].drop_duplicates()
    names = rows["image"][paths.index]

    def inspect(job: tuple[str, str]) -> ImageHeader | ImageError:
        try:
            return inspect_image(epath.Path(job[0]), max_pixels, job[1])
        except LargeImageError as error:
            return ImageError(f"{error}, --max_pixels")
        except ImageError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        results = ordered_map(pool, inspect, zip(paths, names, strict=True), 4 * THREADS)
        found = dict(
            zip(paths, tqdm(results, "Checking images", len(paths), unit=" images"), strict=True)
        )
    headers = rows["path"].map(found)
    failed = headers.map(lambda header: isinstance(header, ImageError))
    missing = headers.map(lambda header: isinstance(header, MissingImageError))
    rows = rows.assign(header=headers, said_height=rows["height"], said_width=rows["width"])
    rows = mark(rows, missing, "missing_image", "{header}", "image_source")
    rows = mark(rows, failed & ~missing, "unreadable_image", "{header}", "image_source")
    for name in ("height", "width", "orientation", "plain_jpeg", "file_bytes"):
        rows[name] = [getattr(header, name, 0) for header in headers]
    return _turn_upright(rows, notes)


def _turn_upright(rows: pd.DataFrame, notes: Counter[str]) -> pd.DataFrame:
    """Adds `turn`, the EXIF orientation by which what is annotated has to be turned; 1: not.

    Annotations that say the image's size tell by it whether they were made on the image as stored
    or as seen.
    """
    size, swapped = rows[["height", "width"]], rows[["width", "height"]]
    told = rows[["said_height", "said_width"]].to_numpy()
    said, orientation = ~np.isnan(told).all(axis=1), rows["orientation"]
    upright = (told == size).all(axis=1)
    stored = (told == np.where(orientation.to_numpy()[:, None] >= 5, swapped, size)).all(axis=1)
    text = (
        "fields 'height' and 'width': {said_width:g}x{said_height:g}, but the image has "
        "{width}x{height} pixels (upright)"
    )
    rows = mark(rows, said & ~upright & ~stored, "unreadable_image", text, "image_source")
    turned = said & stored & ~upright
    unknown = said & stored & upright & (orientation > 1)
    notes["image turned upright with its objects"] += rows["image"][turned].nunique()
    notes["turned image, its objects taken as upright"] += rows["image"][unknown].nunique()
    return rows.assign(turn=orientation.where(turned, 1))


def _fit_boxes(rows: pd.DataFrame, notes: Counter[str]) -> pd.DataFrame:
    """Turns boxes upright and moves their edges into the image, if they are near it."""
    if (turned := rows["turn"] > 1).any():
        size = rows.loc[turned, ["turn", "height", "width"]].to_numpy()
        boxes = rows.loc[turned, BOX].to_numpy()
        boxes = [turn_box(box, *where) for box, where in zip(boxes, size, strict=True)]
        rows.loc[turned, BOX] = np.array(boxes)
    boxes = rows[BOX].to_numpy()
    lacks = np.isnan(boxes)
    partly = lacks.any(axis=1) & ~lacks.all(axis=1)
    rows = mark(rows, partly, "box", "the box lacks a number", "box_source")
    for low, high in (("x_1", "x_2"), ("y_1", "y_2")):
        text = f"field {high!r}: the box has no size: {{{high}:g}} is not above {low}={{{low}:g}}"
        rows = mark(rows, rows[high] <= rows[low], "box", text, "box_source")
    text = "the box {x_1:g}, {y_1:g}, {x_2:g}, {y_2:g} is smaller than a pixel; boxes are in pixels"
    small = (boxes[:, 2:] - boxes[:, :2] < 1).any(axis=1)
    rows = mark(rows, small, "box", text, "box_source")
    limits = rows[["width", "height", "width", "height"]].to_numpy(np.float64)
    fitted = np.clip(boxes, 0, limits)
    text = (
        "field {name!r}: {{{name}:g}} is outside the image of {{width}}x{{height}} pixels (upright)"
    )
    for column, name in enumerate(BOX):
        outside = np.abs(boxes - fitted)[:, column] > _EDGE + 1e-3
        rows = mark(rows, outside, "box", text.format(name=name), "box_source")
    empty = (fitted[:, 2] <= fitted[:, 0]) | (fitted[:, 3] <= fitted[:, 1])
    text = "nothing of the box lies in the image of {width}x{height} pixels (upright)"
    rows = mark(rows, empty, "box", text, "box_source")
    moved = (np.abs(boxes - fitted) > 0).any(axis=1) & is_right(rows)
    notes["box moved to the image's edge"] += int(moved.sum())
    return rows.assign(**dict(zip(BOX, fitted.T, strict=True)))


def _fit_landmarks(rows: pd.DataFrame, notes: Counter[str]) -> pd.DataFrame:
    """Moves landmarks that are just outside the image to its edge."""
    where = np.flatnonzero(rows["landmarks"].notna())
    if not where.size:
        return rows
    landmarks = rows["landmarks"].to_numpy(object, copy=True)
    texts, moved = np.full(len(rows), "", object), 0
    sizes = rows[["width", "height"]].to_numpy(np.int64)
    for index in where:
        points = landmarks[index].copy()
        seen = ~np.isin(points[:, 0], (UNKNOWN, TRUNCATED))
        points[seen, 1:] = np.clip(points[seen, 1:], 0, sizes[index] - 1)
        distance = np.abs(points - landmarks[index])[:, 1:].max(axis=1, initial=0)
        if distance.max(initial=0) > _EDGE:
            _, x, y = landmarks[index][distance.argmax()]
            texts[index] = f"landmark ({x}, {y})"
        moved += bool(0 < distance.max(initial=0) <= _EDGE)
        landmarks[index] = points
    notes["landmark moved to the image's edge"] += moved
    text = "{text} is outside the image of {width}x{height} pixels (upright)"
    rows = mark(rows.assign(text=texts), texts != "", "landmarks", text, "landmarks_source")
    return rows.assign(landmarks=landmarks)


def _fit_masks(rows: pd.DataFrame) -> pd.DataFrame:
    """Draws each garment's mask, and checks that it has pixels in its box."""
    masks, texts = np.full(len(rows), b"", object), np.full(len(rows), "", object)
    columns = ["segmentation", *BOX, "height", "width", "turn"]
    where = np.flatnonzero(rows["segmentation"].notna())
    for index, row in zip(where, rows.iloc[where][columns].itertuples(index=False), strict=True):
        try:
            masks[index] = to_mask(row.segmentation, row[1:5], row.height, row.width, row.turn)
        except MaskError as error:
            texts[index] = str(error)
    rows = rows.drop(columns="segmentation").assign(mask=masks, text=texts)
    return mark(rows, texts != "", "mask", "field 'segmentation': {text}")


def _check_relations(rows: pd.DataFrame) -> pd.DataFrame:
    """Checks rows that have an item against the rows before them."""
    has_item = rows["item_id"] != ""
    for column, key in (("split", ["item_id"]), ("domain", ["image", "item_id"])):
        first = rows.groupby(key, sort=False)[["source", column]].transform("first")
        rows = rows.assign(first=first["source"], there=first[column])
        what = "item {item_id!r}" if column == "split" else "{image!r}"
        text = f"{what} is in {column} {{there!r}} at {{first}}, here in {{{column}!r}}"
        rows = mark(rows, has_item & (rows[column] != rows["there"]), "contradiction", text)
    key = ["image", "item_id", *BOX]
    right = rows[is_right(rows) & has_item]
    first = right.groupby(key, sort=False, dropna=False)["source"].transform("first")
    again = right.duplicated(key).reindex(rows.index, fill_value=False)
    text = "{image!r} of item {item_id!r} is listed at {first} already"
    return mark(rows.assign(first=first), again, "duplicate", text, "image_source")
