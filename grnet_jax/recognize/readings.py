"""What a matcher recognises in a photo, by name and in the photo's pixels."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from grnet_jax.losses import VISIBILITIES
from grnet_jax.models import Predictions
from grnet_jax.training.labels import Labels
from input_pipeline.vocabulary import LANDMARKS

Named = tuple[str, float]


@dataclasses.dataclass(frozen=True)
class Landmark:
    """A landmark that the garment has.

    Attributes:
      name: as "left_sleeve".
      x: in pixels of the upright photo; may lie outside.
      y: likewise.
      visibility: "visible", "occluded" or "truncated".
      share: the softmax's of that visibility.
    """

    name: str
    x: float
    y: float
    visibility: str
    share: float


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is recognised in a photo.

    Attributes:
      categories: the likeliest with their shares of the softmax, the best first.
      attributes: those of the highest scores, each the sigmoid of its logit, the best first; empty
        of matchers that tell none, like the landmarks.
      landmarks: those that are not absent.
    """

    categories: list[Named]
    attributes: list[Named]
    landmarks: list[Landmark]


def read_photo(
    found: Predictions, row: int, labels: Labels, cut: Sequence[int], top: int
) -> Reading:
    """What predictions say of one photo.

    Args:
      found: of a batch, numpy leaves.
      row: of the photo in it.
      labels: of the run.
      cut: (left, top, right, bottom), the part of the photo that was seen, in its pixels.
      top: categories and attributes to name at most.
    """
    categories = _best(labels.categories, _softmax(np.asarray(found.category[row])), top)
    attributes: list[Named] = []
    if found.attributes is not None:
        scores = 1 / (1 + np.exp(-np.asarray(found.attributes[row], np.float64)))
        attributes = _best(labels.attributes, scores, top)
    landmarks: list[Landmark] = []
    if labels.landmarks and found.landmarks is not None and found.visibility is not None:
        landmarks = _landmarks(
            np.asarray(found.landmarks[row]), np.asarray(found.visibility[row]), cut
        )
    return Reading(categories, attributes, landmarks)


def _landmarks(points: np.ndarray, logits: np.ndarray, cut: Sequence[int]) -> list[Landmark]:
    left, top, right, bottom = cut
    # A landmark in the middle of a pixel has that pixel's number.
    pixels = points * [right - left, bottom - top] + [left, top] - 0.5  # [p, 2]
    shares = _softmax(logits)
    found = []
    for slot, (x, y) in enumerate(pixels.tolist()):
        told = int(np.argmax(shares[slot]))
        if VISIBILITIES[told] != "absent":
            share = float(shares[slot, told])
            found.append(Landmark(LANDMARKS[slot], x, y, VISIBILITIES[told], share))
    return found


def _best(names: Sequence[str], scores: np.ndarray, top: int) -> list[Named]:
    order = np.argsort(-scores, kind="stable")
    # A head may have more logits than there are labels.
    return [(names[i], float(scores[i])) for i in order if i < len(names)][:top]


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def format_reading(name: str, reading: Reading) -> str:
    """A photo's name and, below it, what it shows."""
    lines = [name, f"  category    {_listed(reading.categories)}"]
    if reading.attributes:
        lines.append(f"  attributes  {_listed(reading.attributes)}")
    for number, landmark in enumerate(reading.landmarks, start=1):
        head = "landmarks" if number == 1 else ""
        lines.append(
            f"  {head:<12}{number} {landmark.name:<16}{landmark.x:7.1f}{landmark.y:8.1f}  "
            f"{landmark.visibility} {100 * landmark.share:.0f}%"
        )
    return "\n".join(lines)


def _listed(named: Sequence[Named]) -> str:
    return ", ".join(f"{name} {100 * share:.0f}%" for name, share in named)
