"""Photos of one garment each as photos with one object, for detectors.

Whatever else such a photo shows is not annotated, and so background to a detector.
"""

from collections.abc import Sequence

import numpy as np

from input_pipeline.index import PhotoIndex
from input_pipeline.objects.index import ObjectIndex, ObjectSplit
from input_pipeline.records import PhotoRecord
from input_pipeline.stored_split import StoredSplit
from input_pipeline.vocabulary import UNKNOWN

_CLOTHES_TYPES = ("upper body", "lower body", "full body")  # from 1
_SAME = ("image", "photo_id", "height", "width", "orientation")  # in both kinds of records


class SingleObjectSplit(ObjectSplit):
    """The photos of a split, whose garments are their objects.

    Objects are of the data set's categories, or else of the three clothes types; what is of none
    counts as a crowd: neither to be found nor background.

    Args:
      split: of a data set of pairs or images.
    """

    def __init__(self, split: StoredSplit[PhotoIndex, PhotoRecord]):
        index = split.index
        named = len(index.categories) > 0
        clothes_type = np.where(index.clothes_type > 0, index.clothes_type - 1, UNKNOWN)
        self._category = index.category if named else clothes_type
        categories = index.categories if named else np.array(_CLOTHES_TYPES)
        objects = ObjectIndex(
            photo_id=index.photo_id,
            size=index.size,
            objects=np.ones(len(index), np.int32),
            crowd=(self._category == UNKNOWN).astype(np.int32),
            content=index.content,
            categories=categories,
        )
        super().__init__(split.name, objects, split._records)

    def read(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        """Reads these rows as records of photos with objects."""
        rows = np.asarray(rows).reshape(-1).tolist()
        return [self._convert(*one) for one in zip(rows, super().read(rows), strict=True)]

    def _convert(self, row: int, serialized: bytes) -> bytes:
        from tensorflow_datasets.proto import tf_example_pb2

        stored = tf_example_pb2.Example.FromString(serialized).features.feature
        example, category = tf_example_pb2.Example(), int(self._category[row])
        feature = example.features.feature
        for name in _SAME:
            feature[name].CopyFrom(stored[name])
        feature["boxes"].CopyFrom(stored["box"])
        feature["masks"].CopyFrom(stored["mask"])
        feature["categories"].int64_list.value.append(max(category, 0))
        feature["crowd"].int64_list.value.append(int(category == UNKNOWN))
        return example.SerializeToString()
