"""Reads text, CSV and JSON files; mistakes are named by file and line."""

import csv
import io
import json
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from etils import epath

from input_pipeline.errors import AnnotationError

_WORKBOOK = b"PK\x03\x04"  # what an Excel workbook begins with
_DELIMITERS = ",;\t"
_TWICE = frozenset(["two values"])  # no value of JSON is one


def image_name(path: str) -> str:
    """Returns the one spelling of an image's path: without "./" and "//", letters composed."""
    return posixpath.normpath(unicodedata.normalize("NFC", path)) if path else path


def read_text(path: epath.Path) -> str:
    """Reads a text file in UTF-8, or in UTF-16 with its byte order mark.

    Raises:
      AnnotationError: it cannot be read, is no text, or is in another encoding.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise AnnotationError([f"{path}: no such file"]) from None
    except (OSError, ValueError) as error:
        raise AnnotationError([f"{path}: cannot be read: {error}"]) from error
    if data.startswith(_WORKBOOK):
        raise AnnotationError([f"{path}:1: is a workbook or archive: save it as CSV (UTF-8)"])
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = f"byte {data[error.start]:#04x}"
        raise AnnotationError([f"{path}:{line}: not UTF-8: {byte}; save it as UTF-8"]) from None


def read_csv(path: epath.Path, known: Sequence[str]) -> pd.DataFrame:
    """Reads a CSV with a header line, as people and spreadsheets write it.

    Cells are text without the blanks around them. They are separated by commas, semicolons or
    tabs, whichever the header has, or what a first line `sep=` says. Empty rows, and columns
    without a name or a cell, are left out.

    Args:
      path: of the file.
      known: names of the columns that are read, for messages.

    Returns:
      A column of text for each of the file, `source`, FILE:LINE of each row's first line, and
      `error`: what is wrong with the row as a whole, "" for nothing.

    Raises:
      AnnotationError: it cannot be read as a whole.
    """
    text = read_text(path)
    first, _, rest = text.partition("\n")
    delimiter, skipped = _delimiter(first), 0
    if first.strip().lower().startswith("sep="):
        delimiter, skipped, text = first.strip()[4:5] or ",", 1, rest
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    rows, sources, errors = [], [], []
    while True:
        line = reader.line_num + 1 + skipped
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            break
        except csv.Error as error:
            raise AnnotationError([f"{path}:{line}: not a CSV row: {error}"]) from error
        if not any(cells):
            continue
        if not header:
            header = _check_header(path, line, cells, known)
            continue
        extra = any(cells[len(header) :])
        wrong = f"expected {len(header)} cells, got {len(cells)}"
        errors.append(wrong if extra or len(cells) < len(header) else "")
        rows.append((cells + [""] * len(header))[: len(header)])
        sources.append(f"{path}:{line}")
    if not header:
        raise AnnotationError([f"{path}:1: is empty"])
    table = pd.DataFrame(rows, columns=header, dtype=object)
    table = table[[name for name in header if name]]
    return table.assign(source=sources, error=errors)


def _delimiter(header: str) -> str:
    return max(_DELIMITERS, key=header.count)


def _check_header(path: epath.Path, line: int, header: list[str], known: Sequence[str]) -> list:
    """Returns the names of the columns; those without a name at the end have none."""
    while header and not header[-1]:
        header.pop()
    header = [name.casefold() if name.casefold() in known else name for name in header]
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise AnnotationError([f"{path}:{line}: column {name!r} is there twice" for name in repeated])
    return header


def to_numbers(cells: pd.Series) -> pd.Series:
    """Returns float64 numbers of cells; NaN for what is empty, not a number or not finite."""
    numbers = pd.to_numeric(cells, errors="coerce").astype(np.float64)
    return numbers.where(np.isfinite(numbers))


def read_json(path: epath.Path, compact: Any = None) -> Any:
    """Reads a JSON file in UTF-8.

    Args:
      path: of the file.
      compact: called with the fields of each object as a dict, as soon as it is read; what it
        returns takes the object's place. Large files stay small in memory by it.

    Raises:
      AnnotationError: it is no JSON. A field that an object has twice gets a value that no field
        can have.
    """
    text = read_text(path)

    def to_object(pairs: list[tuple[str, Any]]) -> Any:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            fields |= {name: _TWICE for name, count in counts.items() if count > 1}
        return compact(fields) if compact else fields

    try:
        return json.loads(text, object_pairs_hook=to_object, parse_int=_to_integer)
    except json.JSONDecodeError as error:
        where, what = f"{path}:{error.lineno}", f"{error.msg} (column {error.colno})"
        if not text.strip():
            what = "is empty"
        raise AnnotationError([f"{where}: not JSON: {what}"]) from None
    except RecursionError:
        raise AnnotationError([f"{path}:1: not read: lists in lists, too many"]) from None


def _to_integer(digits: str) -> int | float:
    """Reads very long numbers as floats: Python refuses to read thousands of digits."""
    return int(digits) if len(digits) <= 20 else float(digits)


def is_number(value: object) -> bool:
    """Returns whether a JSON value is a finite number."""
    return type(value) in (int, float) and abs(value) < float("inf")  # type: ignore[arg-type]


def is_whole(value: object, least: int = 0, most: int = 10**9 - 1) -> bool:
    """Returns whether a JSON value is a whole number in a range."""
    return type(value) is int and least <= value <= most


def short(value: object) -> str:
    """Returns what messages call a value, however long or deep it is."""
    if value is _TWICE:
        return "two values"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple | np.ndarray):
        if len(value) > 4 or any(isinstance(part, list | Mapping) for part in value):
            return f"a list of {len(value)}"
        return f"[{', '.join(map(short, value))}]"
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
