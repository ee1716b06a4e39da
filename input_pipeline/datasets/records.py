"""The record of one photo: its schema, and reading it without TensorFlow."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from input_pipeline.images import Box
from input_pipeline.vocabulary import LANDMARKS, UNKNOWN

NO_LANDMARKS = np.full((len(LANDMARKS), 3), UNKNOWN, np.int32)


@dataclass(frozen=True)
class PhotoRecord:
    """One photo with its labels, as stored.

    Attributes:
      image: a JPEG as it was found, a PNG of upright RGB pixels, or an upright JPEG made smaller.
      photo_id: unique within the data set together with the item.
      item_id: photos of one item show the same article.
      domain: "customer" (queries) or "shop" (gallery).
      height: of the upright photo, in pixels.
      width: of the upright photo, in pixels.
      orientation: EXIF orientation of the stored pixels, 1 to 8.
      resize_scale: longer side of the stored photo by that of the original; 1 if not reduced.
      box: (x_1, y_1, x_2, y_2) in pixels of the upright photo, x_2 and y_2 exclusive.
      category: "" where unknown.
      clothes_type: 1 upper body, 2 lower body, 3 full body; -1 unknown.
      attributes: names of the attributes the item has.
      unknown_attributes: names of those of which it is not known.
      landmarks: int32 [n, 3] (visibility, x, y); -1 in an absent slot. n is 8 (collars, sleeves,
        waistlines, hems, left before right), or the data set's own.
      mask: PNG of the garment's pixels (0 or 255) in the upright photo; b"" where unknown.
      view: 0 front, 1 side, 2 back, -1 unknown.
      occluded: 1 more than 30% hidden, 0 not, -1 unknown.
      cropped: 1 more than 30% outside the photo, 0 not, -1 unknown.
    """

    image: bytes
    photo_id: str
    item_id: str
    domain: str
    height: int
    width: int
    box: Box
    orientation: int = 1
    resize_scale: float = 1.0
    category: str = ""
    clothes_type: int = UNKNOWN
    attributes: tuple[str, ...] = ()
    unknown_attributes: tuple[str, ...] = ()
    landmarks: np.ndarray = field(default_factory=NO_LANDMARKS.copy)
    mask: bytes = b""
    view: int = UNKNOWN
    occluded: int = UNKNOWN
    cropped: int = UNKNOWN


def photo_features() -> tfds.features.FeaturesDict:
    """Returns the schema that every builder writes; field for field that of `PhotoRecord`."""
    integer = tfds.features.Scalar(np.int32)
    text = tfds.features.Text()
    return tfds.features.FeaturesDict(
        {
            # Without a fixed encoding the bytes of a file are stored untouched.
            "image": tfds.features.Image(shape=(None, None, 3)),
            "photo_id": text,
            "item_id": text,
            "domain": text,
            "height": integer,
            "width": integer,
            "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
            "orientation": integer,
            "resize_scale": tfds.features.Scalar(np.float32),
            "category": text,
            "clothes_type": integer,
            "attributes": tfds.features.Sequence(tfds.features.Text()),
            "unknown_attributes": tfds.features.Sequence(tfds.features.Text()),
            "landmarks": tfds.features.Tensor(shape=(None, 3), dtype=np.int32),
            "mask": text,
            "view": integer,
            "occluded": integer,
            "cropped": integer,
        }
    )


def to_example(record: PhotoRecord) -> dict[str, object]:
    """Returns the record as a TFDS example."""
    example = dict(vars(record))
    example["box"] = np.asarray(record.box, np.float32)
    example["attributes"] = list(record.attributes)
    example["unknown_attributes"] = list(record.unknown_attributes)
    return example


def parse_record(serialized: bytes) -> PhotoRecord:
    """Reads one stored record; needs no TensorFlow."""
    stored = tf_example_pb2.Example.FromString(serialized).features.feature
    integers = ("height", "width", "orientation", "clothes_type", "view", "occluded", "cropped")
    texts = ("photo_id", "item_id", "domain", "category")
    x_1, y_1, x_2, y_2 = stored["box"].float_list.value
    return PhotoRecord(
        image=stored["image"].bytes_list.value[0],
        mask=stored["mask"].bytes_list.value[0],
        resize_scale=stored["resize_scale"].float_list.value[0],
        box=(x_1, y_1, x_2, y_2),
        attributes=_texts(stored["attributes"]),
        unknown_attributes=_texts(stored["unknown_attributes"]),
        landmarks=np.array(stored["landmarks"].int64_list.value, np.int32).reshape(-1, 3),
        **{name: stored[name].int64_list.value[0] for name in integers},
        **{name: stored[name].bytes_list.value[0].decode() for name in texts},
    )


def _texts(feature: Any) -> tuple[str, ...]:
    return tuple(value.decode() for value in feature.bytes_list.value)
