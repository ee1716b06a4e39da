"""What was found in a photo, in its own pixels, and in the form of COCO's result files."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from grnet_jax.detection.masks import paste_mask

NOT_A_CLASS = "N/A"  # the name of numbers that a checkpoint's data set did not use


@dataclasses.dataclass(frozen=True)
class PhotoDetections:
    """The k objects found in one photo, the best first.

    Attributes:
      size: (height, width) of the upright photo, in pixels.
      box: float32 [k, 4], (x_1, y_1, x_2, y_2) in its pixels.
      score: float32 [k], probability of the category.
      category: str [k], names.
      objectness: float32 [k], probability that there is any object.
      mask: float32 [k, m, m], probabilities within the box; None of detectors without masks.
    """

    size: tuple[int, int]
    box: np.ndarray
    score: np.ndarray
    category: np.ndarray
    objectness: np.ndarray
    mask: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.box)

    def take(self, chosen: np.ndarray) -> "PhotoDetections":
        """Returns those of these places, or where bools hold."""
        parts = {name: value for name, value in vars(self).items() if name != "size"}
        parts = {name: value if value is None else value[chosen] for name, value in parts.items()}
        return PhotoDetections(self.size, **parts)

    def resized(self, scale: float) -> "PhotoDetections":
        """Returns them in the photo made larger by `scale`."""
        height, width = (round(side * scale) for side in self.size)
        box = self.box * np.float32(scale)
        return dataclasses.replace(self, size=(height, width), box=box)

    def pixels(self, place: int) -> np.ndarray | None:
        """Returns an object's pixels in the photo, bool [height, width]; None without masks."""
        if self.mask is None:
            return None
        return paste_mask(self.mask[place], self.box[place], *self.size)


def photo_detections(
    found: Any, place: int, size: tuple[int, int], canvas: tuple[int, int], names: Sequence[str]
) -> PhotoDetections:
    """Returns what was found in one photo of a batch.

    Args:
      found: `models.detector.Detections`, as NumPy arrays.
      place: the photo's in the batch.
      size: (height, width) of the photo.
      canvas: (height, width) that it was scaled to fit.
      names: of the categories.
    """
    scale = min(side / own for side, own in zip(canvas, size, strict=True))
    limits = np.array([*size[::-1]] * 2, np.float32)
    # A detector may have more outputs than there are categories.
    category = np.array([*names, NOT_A_CLASS])[np.minimum(found.category[place], len(names))]
    return PhotoDetections(
        size,
        np.minimum(found.box[place] / np.float32(scale), limits),
        found.score[place],
        category,
        found.objectness[place],
        None if found.mask is None else found.mask[place],
    ).take(found.valid[place] & (category != NOT_A_CLASS))


def coco_results(
    found: PhotoDetections, image: Any, numbers: Mapping[str, int], *, masks: bool = True
) -> list[dict[str, Any]]:
    """Returns a photo's detections in the form of COCO's result files.

    Args:
      found: in the photo.
      image: its id.
      numbers: the ids of categories by name; others are left out.
      masks: whether masks are drawn and encoded, where there are any.
    """
    from pycocotools import mask as coco_mask

    results = []
    for place, name in enumerate(found.category.tolist()):
        if name not in numbers:
            continue
        x_1, y_1, x_2, y_2 = found.box[place].tolist()
        result = {
            "image_id": image,
            "category_id": numbers[name],
            "bbox": [x_1, y_1, x_2 - x_1, y_2 - y_1],
            "score": float(found.score[place]),
        }
        pixels = found.pixels(place) if masks else None
        if pixels is not None:
            runs = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
            result["segmentation"] = {**runs, "counts": runs["counts"].decode()}
        results.append(result)
    return results
