"""Columns over the images of a split, in one file beside the records."""

import dataclasses
import io
from typing import ClassVar, Self

import numpy as np
from etils import epath

from input_pipeline.errors import DatasetError

DIGEST = np.dtype([("high", "<u8"), ("low", "<u8")])  # of 16 bytes; NumPy strips zeros from bytes


@dataclasses.dataclass(frozen=True)
class StoredIndex:
    """NumPy arrays, the fields of a subclass; those named in `rows` have one element per image."""

    rows: ClassVar[tuple[str, ...]]

    def __len__(self) -> int:
        return len(getattr(self, self.rows[0]))

    def save(self, path: epath.PathLike) -> None:
        """Writes the index, atomically on a local disk."""
        path = epath.Path(path)
        buffer = io.BytesIO()
        columns = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        np.savez_compressed(buffer, **columns)
        unfinished = path.parent / f"{path.name}.tmp"
        unfinished.write_bytes(buffer.getvalue())
        unfinished.replace(path)

    @classmethod
    def load(cls, path: epath.PathLike) -> Self:
        """Reads an index that `save` wrote.

        Raises:
          DatasetError: the file is missing, damaged or not an index.
        """
        try:
            content = io.BytesIO(epath.Path(path).read_bytes())
            with np.load(content, allow_pickle=False) as stored:
                columns = {field.name: stored[field.name] for field in dataclasses.fields(cls)}
        except FileNotFoundError:
            raise DatasetError(f"{path}: missing") from None
        except Exception as error:  # a damaged zip raises nearly anything
            raise DatasetError(f"{path}: damaged ({error})") from error
        index = cls(**columns)
        if len({len(getattr(index, name)) for name in cls.rows}) != 1:
            raise DatasetError(f"{path}: damaged (columns of different lengths)")
        return index


def number_contents(digests: list[np.ndarray]) -> list[np.ndarray]:
    """Numbers the digests of all splits, equal ones alike; int32 for each split."""
    numbers = np.unique(np.concatenate(digests), return_inverse=True)[1].astype(np.int32)
    return np.split(numbers, np.cumsum([len(part) for part in digests])[:-1])
