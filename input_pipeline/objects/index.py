"""Splits of images with many objects, and their index."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from input_pipeline.index import StoredIndex, digest, number_contents, stack_rows
from input_pipeline.records import ObjectRecord
from input_pipeline.stored_split import StoredSplit


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

    rows = ("photo_id", "size", "objects", "crowd", "content")

    photo_id: np.ndarray
    size: np.ndarray
    objects: np.ndarray
    crowd: np.ndarray
    content: np.ndarray
    categories: np.ndarray

    def counts(self) -> dict[str, int]:
        """Returns the numbers that a summary prints."""
        return count_objects(self.objects, self.crowd)


class ObjectSplit(StoredSplit[ObjectIndex, ObjectRecord]):
    """The images of one split, each with its objects."""

    index_type = ObjectIndex
    record_type = ObjectRecord


def count_objects(objects: np.ndarray, crowd: np.ndarray) -> dict[str, int]:
    """Returns the numbers that a summary prints, from each image's number of objects and crowds."""
    return {
        "photos": len(objects),
        "objects": int(objects.sum()),
        "crowd": int(crowd.sum()),
        "photos_without_objects": int((objects == 0).sum()),
        "most_objects": int(objects.max(initial=0)),
    }


def index_objects(
    records: Mapping[str, Iterable[ObjectRecord]], names: Mapping[str, Sequence[str]]
) -> dict[str, ObjectIndex]:
    """Builds each split's index; contents have one numbering in all.

    Args:
      records: of each split, in their order; each is read once.
      names: all "categories", in their order.
    """
    columns = {
        split: stack_rows(
            {
                "photo_id": np.str_(record.photo_id),
                "digest": digest(record.image),
                "size": np.array((record.height, record.width), np.int32),
                "objects": np.int32(len(record.categories)),
                "crowd": np.int32(record.crowd.sum()),
            }
            for record in part
        )
        for split, part in records.items()
    }
    contents = number_contents([rows.pop("digest") for rows in columns.values()])
    categories = np.array(names["categories"], np.str_)
    return {
        split: ObjectIndex(content=content, categories=categories, **rows)
        for (split, rows), content in zip(columns.items(), contents, strict=True)
    }
