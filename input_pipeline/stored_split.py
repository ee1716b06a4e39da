"""A split of a prepared data set: an index, and the records beside it."""

import abc
from collections.abc import Sequence
from typing import ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
from etils import epath

from input_pipeline.errors import DatasetError
from input_pipeline.images import load_image
from input_pipeline.record_files import RecordFiles
from input_pipeline.stored_index import StoredIndex


class Photo(Protocol):
    """What every record says of its photo."""

    @property
    def image(self) -> bytes:
        """The encoded photo."""

    @property
    def photo_id(self) -> str:
        """Its name."""

    @property
    def height(self) -> int:
        """Of the upright photo, in pixels."""

    @property
    def width(self) -> int:
        """As height."""


Index = TypeVar("Index", bound=StoredIndex)
Record = TypeVar("Record", bound=Photo)


class StoredSplit(abc.ABC, Generic[Index, Record]):
    """The photos of one split.

    Subclasses say which index they have, and how a record is read.

    Attributes:
      name: "train", "val" or "test".
      index: a row of columns for each photo.
    """

    index_type: ClassVar[type[StoredIndex]]

    def __init__(self, name: str, index: Index, records: RecordFiles):
        self.name = name
        self.index = index
        self._records = records

    @classmethod
    def open(cls, name: str, index_path: epath.Path, records: RecordFiles) -> Self:
        """The split whose index lies there.

        Raises:
          DatasetError: the index is missing or damaged, or does not fit the records.
        """
        index = cls.index_type.load(index_path)
        if len(index) != len(records):
            raise DatasetError(f"{index_path}: has {len(index)} rows for {len(records)} records")
        return cls(name, index, records)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.index)

    def read(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        """The stored records of these rows, to be parsed by `parse`."""
        return self._records.read(rows)

    @staticmethod
    @abc.abstractmethod
    def parse(serialized: bytes) -> Record:
        """A stored record."""

    def record(self, row: int) -> Record:
        """One photo with all its labels."""
        return self.parse(self.read([row])[0])

    def picture(self, row: int) -> np.ndarray:
        """uint8 [H, W, 3]: a whole photo, upright."""
        record = self.record(row)
        return load_image(record.image, record.height * record.width, record.photo_id)
