"""Records as they are stored: schema, writing and reading, the latter without TensorFlow.

TFDS is imported where it is used: it takes seconds, and the index needs the names here alone.
"""

import dataclasses
from dataclasses import field
from typing import Any, TypeVar

import numpy as np

from input_pipeline.images import Box
from input_pipeline.vocabulary import LANDMARKS, UNKNOWN

NO_LANDMARKS = np.full((len(LANDMARKS), 3), UNKNOWN, np.int32)

Record = TypeVar("Record")


def _array(dtype: Any, *shape: int) -> dict[str, Any]:
    """Returns what says that a field is an array of this type, [n, *shape]."""
    return {"dtype": dtype, "shape": shape}


@dataclasses.dataclass(frozen=True)
class PhotoRecord:
    """One image of one garment with its labels.

    Attributes:
      image: a JPEG as it was found, a PNG of upright RGB pixels, or an upright JPEG made smaller.
      photo_id: unique within the data set together with item and box.
      item_id: images of one item show the same product.
      domain: "customer" (queries) or "shop" (gallery).
      height: of the upright image, in pixels.
      width: of the upright image, in pixels.
      orientation: EXIF orientation of the stored pixels, 1 to 8.
      resize_scale: longer side of the stored image by that of the original; 1 if not reduced.
      box: (x_1, y_1, x_2, y_2) in pixels of the upright image, x_2 and y_2 exclusive.
      category: "" where unknown.
      clothes_type: 1 upper body, 2 lower body, 3 full body; -1 unknown.
      attributes: names of the attributes the item has.
      unknown_attributes: names of those of which it is not known.
      landmarks: int32 [n, 3] (visibility, x, y); -1 in an absent slot. n is 8 (collars, sleeves,
        waistlines, hems, left before right), or the data set's own.
      mask: PNG of the garment's pixels (0 or 255) in the upright image; b"" where unknown.
      view: position in VIEWS; -1 unknown.
      occluded: 1 more than 30% hidden, 0 not, -1 unknown.
      cropped: 1 more than 30% outside the image, 0 not, -1 unknown.
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
    landmarks: np.ndarray = field(metadata=_array(np.int32, 3), default_factory=NO_LANDMARKS.copy)
    mask: bytes = b""
    view: int = UNKNOWN
    occluded: int = UNKNOWN
    cropped: int = UNKNOWN


@dataclasses.dataclass(frozen=True)
class ObjectRecord:
    """One image with its n objects, n from 0 on; fields of the same name as in `PhotoRecord`.

    Attributes:
      boxes: float32 [n, 4].
      categories: int32 [n], indices into the data set's categories.
      crowd: bool [n], whether a box holds several objects that were not told apart.
      masks: of each object, as `PhotoRecord.mask`.
    """

    image: bytes
    photo_id: str
    height: int
    width: int
    orientation: int
    boxes: np.ndarray = field(metadata=_array(np.float32, 4))
    categories: np.ndarray = field(metadata=_array(np.int32))
    crowd: np.ndarray = field(metadata=_array(np.bool_))
    masks: tuple[bytes, ...] = ()


def features(kind: type) -> Any:
    """Returns the TFDS schema of a kind of record, field for field: a `FeaturesDict`."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {each.name: _feature(each) for each in dataclasses.fields(kind)}
    )


def _feature(declared: dataclasses.Field) -> Any:
    import tensorflow_datasets as tfds

    if declared.name == "image":
        # Without a fixed encoding the bytes of a file are stored untouched.
        return tfds.features.Image(shape=(None, None, 3))
    if declared.metadata:
        shape = (None, *declared.metadata["shape"])
        return tfds.features.Tensor(shape=shape, dtype=declared.metadata["dtype"])
    if declared.type in (int, float):
        return tfds.features.Scalar(np.int32 if declared.type is int else np.float32)
    if declared.type == Box:
        return tfds.features.Tensor(shape=(4,), dtype=np.float32)
    text = tfds.features.Text()
    return text if declared.type in (str, bytes) else tfds.features.Sequence(text)


def to_example(record: Any) -> dict[str, Any]:
    """Returns a record as a TFDS example."""
    example = dict(vars(record))
    if "box" in example:
        example["box"] = np.asarray(record.box, np.float32)
    return {name: list(value) if type(value) is tuple else value for name, value in example.items()}


def parse(kind: type[Record], serialized: bytes) -> Record:
    """Reads one stored record of a kind."""
    from tensorflow_datasets.proto import tf_example_pb2

    stored = tf_example_pb2.Example.FromString(serialized).features.feature
    fields: Any = dataclasses.fields(kind)  # type: ignore[arg-type]
    return kind(**{each.name: _parse_field(each, stored[each.name]) for each in fields})


def _parse_field(declared: dataclasses.Field, stored: Any) -> Any:
    if declared.metadata:
        dtype, shape = declared.metadata["dtype"], declared.metadata["shape"]
        floats = np.issubdtype(dtype, np.floating)
        values = (stored.float_list if floats else stored.int64_list).value
        return np.array(values, dtype).reshape(-1, *shape)
    if declared.type is int:
        return stored.int64_list.value[0]
    if declared.type is float:
        return stored.float_list.value[0]
    if declared.type == Box:
        return tuple(stored.float_list.value)
    values = tuple(stored.bytes_list.value)
    if declared.type in (str, tuple[str, ...]):
        values = tuple(value.decode() for value in values)
    return values[0] if declared.type in (str, bytes) else values
