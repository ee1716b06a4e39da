"""The record files of a split, read by row."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from input_pipeline.errors import DatasetError


class RecordFiles:
    """Records of several ArrayRecord files, read by row; reading is thread-safe.

    Raises:
      DatasetError: a file is missing, truncated, or holds another number of records.
    """

    def __init__(self, paths: Sequence[epath.Path], lengths: Sequence[int]):
        self._paths = [str(path) for path in paths]
        self._ends = np.cumsum(lengths)
        self._files = [
            _open(path, length) for path, length in zip(self._paths, lengths, strict=True)
        ]

    @classmethod
    def join(cls, parts: Sequence["RecordFiles"]) -> "RecordFiles":
        """Concatenates the files of several splits, without opening them again."""
        joined = cls([], [])
        joined._paths = [path for part in parts for path in part._paths]
        joined._files = [file for part in parts for file in part._files]
        lengths = [np.diff(part._ends, prepend=0) for part in parts]
        joined._ends = np.cumsum(np.concatenate(lengths))
        return joined

    def __len__(self) -> int:
        return int(self._ends[-1:].sum())  # of no files 0

    def read(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        """Reads the records of these rows, in this order; a row may occur twice.

        Raises:
          DatasetError: a row outside the split, or a damaged file.
        """
        rows = np.asarray(rows, np.int64).reshape(-1)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise DatasetError(f"rows {rows.min()}..{rows.max()} of a split of {len(self)}")
        files = np.searchsorted(self._ends, rows, side="right")
        result: list[bytes] = [b""] * len(rows)
        for file in np.unique(files):
            indices = np.flatnonzero(files == file)
            first = int(self._ends[file - 1]) if file else 0
            try:
                records = self._files[file].__getitems__(
                    [int(row) - first for row in rows[indices]]
                )
            except Exception as error:  # the C++ reader raises bare RuntimeErrors
                raise DatasetError(
                    f"{self._paths[file]}: damaged ({error}); delete its folder and run again"
                ) from error
            for index, record in zip(indices, records, strict=True):
                result[index] = record
        return result


def open_records(paths: Sequence[epath.Path | str]) -> Any:
    """Opens ArrayRecord files as one sequence of bytes."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    return ArrayRecordDataSource([str(path) for path in paths])


def _open(path: str, length: int) -> Any:
    if not epath.Path(path).exists():
        raise DatasetError(f"{path}: missing, expected {length} records")
    try:
        file = open_records([path])
    except Exception as error:  # the C++ reader raises bare RuntimeErrors
        raise DatasetError(
            f"{path}: truncated or damaged, expected {length} records ({error})"
        ) from error
    if len(file) != length:
        raise DatasetError(f"{path}: holds {len(file)} records, expected {length}")
    return file
