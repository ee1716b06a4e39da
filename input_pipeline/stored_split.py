"""A split of a prepared data set: an index, and the records beside it."""

from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from etils import epath

from input_pipeline.errors import DatasetError
from input_pipeline.images import load_image
from input_pipeline.index import StoredIndex
from input_pipeline.record_files import RecordFiles
from input_pipeline.records import ObjectRecord, PhotoRecord, parse

Index = TypeVar("Index", bound=StoredIndex)
Record = TypeVar("Record", PhotoRecord, ObjectRecord)


class StoredSplit(Generic[Index, Record]):
    """The images of one split; subclasses name the types of the index and of a record.

    Attributes:
      name: "train", "val" or "test".
      index: columns with an element per image.
    """

    index_type: ClassVar[type[StoredIndex]]
    record_type: ClassVar[type]

    def __init__(self, name: str, index: Index, records: RecordFiles):
        self.name = name
        self.index = index
        self._records = records

    @classmethod
    def open(cls, name: str, index_path: epath.Path, records: RecordFiles) -> Self:
        """Opens a split from its index file and its records.

        Raises:
          DatasetError: the index is missing or damaged, or does not fit the records.
        """
        index: Any = cls.index_type.load(index_path)
        if len(index) != len(records):
            raise DatasetError(f"{index_path}: has {len(index)} rows for {len(records)} records")
        return cls(name, index, records)

    def __len__(self) -> int:
        return len(self.index)

    def read(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        """Reads the stored records of these rows."""
        return self._records.read(rows)

    def record(self, row: int) -> Record:
        """Reads one image with all its labels."""
        return parse(self.record_type, self.read([row])[0])

    def picture(self, row: int) -> np.ndarray:
        """Reads a whole image, upright, uint8 [H, W, 3]."""
        record = self.record(row)
        return load_image(record.image, record.height * record.width, record.photo_id)
