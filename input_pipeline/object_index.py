"""Splits of images with many objects, and their index."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from input_pipeline.datasets.object_records import ObjectRecord, parse_object_record
from input_pipeline.stored_index import DIGEST, StoredIndex, number_contents
from input_pipeline.stored_split import StoredSplit

_COLUMNS = {  # dtype and shape of one row
    "size": (np.int32, (2,)),
    "objects": (np.int32, ()),
    "crowd": (np.int32, ()),
}


@dataclasses.dataclass(frozen=True)
class ObjectIndex(StoredIndex):
    """Columns over the N images of a split; row i is record i.

    Attributes:
      photo_id: str [N].
      size: int32 [N, 2], (height, width) of the upright image in pixels.
      objects: int32 [N], how many the image has.
      crowd: int32 [N], how many of them are crowds.
      content: int32 [N], equal exactly where the stored image bytes are equal, in all splits.
      categories: str [number of categories in the data set], the same in each split.
    """

    rows = ("photo_id", "content", *_COLUMNS)

    photo_id: np.ndarray
    size: np.ndarray
    objects: np.ndarray
    crowd: np.ndarray
    content: np.ndarray
    categories: np.ndarray

    def counts(self) -> dict[str, int]:
        """Returns the numbers that a summary prints."""
        return object_counts(self.objects, self.crowd)


class ObjectSplit(StoredSplit[ObjectIndex, ObjectRecord]):
    """The images of one split, each with its objects."""

    index_type = ObjectIndex
    parse = staticmethod(parse_object_record)


def object_counts(objects: np.ndarray, crowd: np.ndarray) -> dict[str, int]:
    """Returns the numbers that a summary prints, from each image's number of objects and crowds."""
    return {
        "photos": len(objects),
        "objects": int(objects.sum()),
        "crowd": int(crowd.sum()),
        "photos_without_objects": int((objects == 0).sum()),
        "most_objects": int(objects.max(initial=0)),
    }


def build_object_indices(
    records: Mapping[str, Iterable[ObjectRecord]], categories: Sequence[str]
) -> dict[str, ObjectIndex]:
    """Builds each split's index, reading each record once; contents have one numbering in all."""
    columns = {split: _columns(split_records) for split, split_records in records.items()}
    digests = [rows.pop("digest") for rows in columns.values()]
    contents = number_contents(digests)
    names = np.array(categories, np.str_)
    return {
        split: ObjectIndex(content=content, categories=names, **rows)
        for (split, rows), content in zip(columns.items(), contents, strict=True)
    }


def _columns(records: Iterable[ObjectRecord]) -> dict[str, np.ndarray]:
    names, digests, rows = [], [], []
    for record in records:
        names.append(record.photo_id)
        digests.append(hashlib.blake2b(record.image, digest_size=16).digest())
        counts = len(record.categories), int(record.crowd.sum())
        rows.append(((record.height, record.width), *counts))
    parts = zip(*rows, strict=True)
    columns = {
        name: np.array(part, dtype).reshape(-1, *shape)
        for (name, (dtype, shape)), part in zip(_COLUMNS.items(), parts, strict=True)
    }
    digest = np.frombuffer(b"".join(digests), DIGEST)
    return {"photo_id": np.array(names, np.str_), "digest": digest, **columns}
