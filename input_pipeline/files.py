"""Reads text, CSV and JSON files; mistakes are named by file and line."""

import contextlib
import csv
import io
import json
import os
import pathlib
import posixpath
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from etils import epath

from input_pipeline.errors import AnnotationError, InputError

_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # what .xlsx and .xls begin with
_DELIMITERS = ",;\t"
# Marks of byte order, width and direction come with copied text; nobody sees them.
_BLANKS = string.whitespace + "\xa0\u200b\u200c\u200d\u200e\u200f\u202a\u202c\u2060\u3000\ufeff"
_SEPARATOR_LINE = re.compile(r'"?sep=([^\r\n])"?[^\r\n]*(?:\r\n|\r|\n)', re.IGNORECASE)
_HEADER_LINE = re.compile(r"[^\s,;][^\r\n]*")
_DECIMAL_COMMA = re.compile(r"^([+-]?[0-9]+),([0-9]+)$")
_NOTHING = ("nan", "null", "none", "na", "n/a", "#n/a", "<na>")
_TWICE = frozenset(["two values"])  # no value of JSON is one


def image_name(path: str) -> str:
    """Returns the one spelling of an image's path: without "./" and "//", letters composed."""
    bucket, mark, path = unicodedata.normalize("NFC", path).rpartition("://")
    return bucket + mark + (posixpath.normpath(path) if path else "")


def to_path(text: str | os.PathLike, what: str) -> epath.Path:
    """Returns the path that a user wrote, of a file system or a bucket.

    Args:
      text: the path.
      what: the flag or field, for messages.

    Raises:
      InputError: it holds a NUL or has a scheme that nothing here reads.
    """
    try:
        return parse_path(text)
    except ValueError as error:
        raise InputError(f"{what}={os.fspath(text)!r}: {error}") from error


def parse_path(text: str | os.PathLike) -> epath.Path:
    """Returns the path; raises ValueError, for callers who name the field themselves."""
    if "\0" in os.fspath(text):
        raise ValueError("a path cannot hold a NUL")
    try:
        os.fspath(text).encode()  # libraries that write take UTF-8 alone
        return epath.Path(text).expanduser()
    except (KeyError, ValueError, ImportError, RuntimeError) as error:
        raise ValueError(f"expected a path of this machine, gs:// or s3:// ({error})") from error


def write_file(path: epath.Path, content: str | bytes) -> None:
    """Writes a file whole or not at all: aside first, so that an older one stays until then.

    Raises:
      InputError: it cannot be written; folders on its way are made.
    """
    aside = path.parent / f"{path.name}.{os.getpid()}.tmp"  # another process may write it too
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def check_folder(folder: epath.Path) -> None:
    """Raises InputError unless files can be written to a folder, which is made; for long work."""
    write_file(folder / ".writable", "")
    (folder / ".writable").unlink()


def check_file(path: str | os.PathLike) -> None:
    """Raises OSError for a pipe or a device: reading it may never end."""
    local = pathlib.Path(path)
    if local.exists() and not (local.is_file() or local.is_dir()):
        raise OSError("is a pipe or a device, expected a file")


def read_text(path: epath.Path) -> str:
    """Reads a text file in UTF-8 or UTF-16.

    Raises:
      AnnotationError: it cannot be read, is no text, or is in another encoding.
    """
    try:
        check_file(path)
        data = path.read_bytes()
    except FileNotFoundError:
        raise AnnotationError([f"{path}: no such file"]) from None
    except (OSError, ValueError) as error:
        raise AnnotationError([f"{path}: cannot be read: {error}"]) from error
    if data.startswith(_WORKBOOKS):
        wanted = "expected text in UTF-8, tables as CSV"
        raise AnnotationError([f"{path}:1: is a workbook or an archive, {wanted}"])
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff")) or data[1:2] == b"\0"
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = f"byte {data[error.start]:#04x}"
        raise AnnotationError([f"{path}:{line}: not UTF-8: {byte}; save it as UTF-8"]) from None


def read_lines(path: epath.Path) -> list[str]:
    """Reads the lines of a text file that a user wrote.

    Raises:
      InputError: as `read_text`, in one line.
    """
    try:
        return read_text(path).splitlines()
    except AnnotationError as error:
        raise InputError(error.problems[0]) from error


def read_csv(path: epath.Path, known: Sequence[str]) -> pd.DataFrame:
    """Reads a CSV with a header line, as people and spreadsheets write it.

    Cells are text with composed letters (NFC), without the blanks and invisible characters around
    them. They are separated by commas, semicolons or tabs, whichever cuts out the names of the
    header, or by what a first line `sep=` says. Empty rows, rows of separators alone, and columns
    without a name are left out. Names of known columns may be in upper case.

    Args:
      path: of the file.
      known: names of the columns that are read.

    Returns:
      A column of text for each of the file, `source`, FILE:LINE of each row's first line, and
      `error`: what is wrong with the row as a whole, "" for nothing. Its `attrs` hold "header",
      FILE:LINE of the header, and "delimiter".

    Raises:
      AnnotationError: it cannot be read as a whole.
    """
    text, name = unicodedata.normalize("NFC", read_text(path)), str(path)
    if told := _SEPARATOR_LINE.match(text):
        text, delimiter, skipped = text[told.end() :], told[1], 1
    else:
        delimiter, skipped = _delimiter(text, known), 0
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    attrs, line = {"delimiter": delimiter}, 1 + skipped
    header, rows = list[str](), list[list[str]]()
    try:
        for cells in reader:
            source, line = f"{name}:{line}", reader.line_num + 1 + skipped
            cells = [cell.strip(_BLANKS) for cell in cells]
            if not any(cells):
                continue
            if not header:
                header, attrs["header"] = _check_header(source, cells, known), source
                continue
            count, rest = len(header), any(cells[len(header) :])
            wrong = f"expected {count} cells, got {len(cells)}" * (rest or len(cells) < count)
            rows.append([*(cells + [""] * count)[:count], source, wrong])
    except csv.Error as error:
        raise AnnotationError([f"{name}:{line}: not a CSV row: {error}"]) from error
    if not header:
        raise AnnotationError([f"{path}:1: is empty"])
    table = pd.DataFrame(rows, columns=[*header, "source", "error"], dtype=object)
    # The last of a name: a file may have a column source too.
    table = table.loc[:, (table.columns != "") & ~table.columns.duplicated("last")]
    table.attrs = attrs
    return table


def require_columns(table: pd.DataFrame, names: Sequence[str]) -> None:
    """Raises AnnotationError if a table of `read_csv` lacks any of these columns."""
    if missing := [name for name in names if name not in table]:
        there = ", ".join(table.columns.drop(["source", "error"]))
        where = table.attrs["header"]
        raise AnnotationError(
            [f"{where}: column {name!r} is missing; the columns are {there}" for name in missing]
        )


def clean_cells(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Returns a table of `read_csv` with some columns' cells as they were meant.

    What programs write for nothing, such as nan and NULL, becomes empty. A number's decimal comma
    becomes a point, where commas do not separate the cells.
    """
    for name in [name for name in names if name in table]:
        cells = table[name].mask(is_nothing(table[name]), "")
        if table.attrs["delimiter"] != ",":
            cells = cells.str.replace(_DECIMAL_COMMA, r"\1.\2", regex=True)
        table = table.assign(**{name: cells})
    return table


def is_nothing(cells: pd.Series) -> pd.Series:
    """Returns which cells hold what programs write for nothing."""
    return cells.str.casefold().isin(_NOTHING)


def _delimiter(text: str, known: Sequence[str]) -> str:
    """Returns what cuts the most known names out of the header, or is there the most."""
    line = _HEADER_LINE.search(text)
    header = line[0].casefold() if line else ""

    def names(delimiter: str) -> int:
        return sum(cell.strip(_BLANKS + '"') in known for cell in header.split(delimiter))

    return max(_DELIMITERS, key=lambda delimiter: (names(delimiter), header.count(delimiter)))


def _check_header(source: str, header: list[str], known: Sequence[str]) -> list[str]:
    """Returns the names of the columns; those without a name at the end are left out."""
    while not header[-1]:
        header.pop()
    header = [name.casefold() if name.casefold() in known else name for name in header]
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise AnnotationError([f"{source}: column {name!r} is there twice" for name in repeated])
    return header


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


def read_object(path: epath.Path, what: str) -> dict[str, Any]:
    """Reads a JSON file of one object, which a command wrote.

    Raises:
      InputError: it holds something else, in one line that names `what` it has to be.
    """
    try:
        content = read_json(path)
    except AnnotationError as error:
        raise InputError(f"{error.problems[0]}; expected {what}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}:1: expected {what}, got {short(content)}")
    return content


def _to_integer(digits: str) -> int | float:
    """Reads very long numbers as floats: Python refuses to read thousands of digits."""
    return int(digits) if len(digits) <= 20 else float(digits)


def short(value: object) -> str:
    """Returns what messages call a value, however long or deep it is."""
    if value is _TWICE:
        return "two values"
    if isinstance(value, Mapping | list | tuple | np.ndarray):
        fields = value if isinstance(value, Mapping) else dict(enumerate(value))
        if len(fields) > 4 or any(isinstance(part, list | Mapping) for part in fields.values()):
            return "an object" if fields is value else f"a list of {len(value)}"
        if fields is value:
            return f"{{{', '.join(f'{short(name)}: {short(fields[name])}' for name in fields)}}}"
        return f"[{', '.join(map(short, value))}]"
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
