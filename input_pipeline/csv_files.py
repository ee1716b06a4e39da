"""CSV files of images that a field of the config names; mistakes are named by file and line."""

import csv
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from input_pipeline.errors import DatasetError


def read_csv(path: epath.Path, field: str) -> csv.DictReader:
    """Opens a CSV with a header line, for `csv_rows`.

    Args:
      path: of the file.
      field: of the config that names it, for messages.

    Raises:
      DatasetError: it cannot be read, or is not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({field}): {error}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8: byte {error.object[error.start]:#04x}") from None
    return csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)


def csv_rows(path: epath.Path, reader: csv.DictReader) -> Iterator[dict[Any, Any]]:
    """Yields the cells of each row by column.

    Raises:
      DatasetError: a row is no CSV row, or has more cells than there are columns.
    """
    try:
        for cells in reader:
            if None in cells:
                raise DatasetError(
                    f"{path}:{reader.line_num}: has more cells than there are columns"
                )
            yield cells
    except csv.Error as error:
        raise DatasetError(f"{path}:{reader.line_num}: not a CSV row: {error}") from error


def number_cell(path: epath.Path, line: int, cells: dict[str, Any], name: str) -> float:
    """Returns a cell's number.

    Raises:
      DatasetError: it is none, or not finite.
    """
    try:
        value = float(cells[name])
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value):
        raise DatasetError(f"{path}:{line}: field {name!r}: expected a number, got {cells[name]!r}")
    return value
