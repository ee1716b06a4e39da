"""The record of a photo with many objects: its schema, and reading it without TensorFlow."""

from dataclasses import dataclass

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2


@dataclass(frozen=True)
class ObjectRecord:
    """One photo with its n objects, n from 0 on, as stored.

    Attributes:
      image: a JPEG as it was found, a PNG of upright RGB pixels, or an upright JPEG made smaller.
      photo_id: unique within the data set.
      height: of the upright photo, in pixels.
      width: of the upright photo, in pixels.
      orientation: EXIF orientation of the stored pixels, 1 to 8.
      boxes: float32 [n, 4], (x_1, y_1, x_2, y_2) in pixels of the upright photo, x_2 and y_2
        exclusive.
      categories: int32 [n], indices into the data set's categories.
      crowd: bool [n], whether a box holds several objects that were not told apart.
      masks: PNG of each object's pixels (0 or 255) in the upright photo; b"" where unknown.
    """

    image: bytes
    photo_id: str
    height: int
    width: int
    orientation: int
    boxes: np.ndarray
    categories: np.ndarray
    crowd: np.ndarray
    masks: tuple[bytes, ...]


def object_features() -> tfds.features.FeaturesDict:
    """Returns the schema; field for field that of `ObjectRecord`."""
    integer = tfds.features.Scalar(np.int32)
    text = tfds.features.Text()
    return tfds.features.FeaturesDict(
        {
            # Without a fixed encoding the bytes of a file are stored untouched.
            "image": tfds.features.Image(shape=(None, None, 3)),
            "photo_id": text,
            "height": integer,
            "width": integer,
            "orientation": integer,
            "boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
            "categories": tfds.features.Tensor(shape=(None,), dtype=np.int32),
            "crowd": tfds.features.Tensor(shape=(None,), dtype=np.bool_),
            "masks": tfds.features.Sequence(tfds.features.Text()),
        }
    )


def to_example(record: ObjectRecord) -> dict[str, object]:
    """Returns the record as a TFDS example."""
    return {**vars(record), "masks": list(record.masks)}


def parse_object_record(serialized: bytes) -> ObjectRecord:
    """Reads one stored record; needs no TensorFlow."""
    stored = tf_example_pb2.Example.FromString(serialized).features.feature
    boxes = np.array(stored["boxes"].float_list.value, np.float32)
    return ObjectRecord(
        image=stored["image"].bytes_list.value[0],
        photo_id=stored["photo_id"].bytes_list.value[0].decode(),
        boxes=boxes.reshape(-1, 4),
        categories=np.array(stored["categories"].int64_list.value, np.int32),
        crowd=np.array(stored["crowd"].int64_list.value, np.bool_),
        masks=tuple(stored["masks"].bytes_list.value),
        **{name: stored[name].int64_list.value[0] for name in ("height", "width", "orientation")},
    )
