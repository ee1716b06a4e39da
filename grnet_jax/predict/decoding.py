"""What predictions say of an image, by name and in the image's pixels."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from grnet_jax.models import Predictions
from grnet_jax.training.label_names import LabelNames
from input_pipeline import LANDMARKS, VISIBILITIES

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
class Prediction:
    """What an image shows.

    Attributes:
      categories: the likeliest with their shares of the softmax, the best first.
      attributes: those of the highest scores, each the sigmoid of its logit, the best first; empty
        of matchers that tell none, like the landmarks.
      landmarks: those that are not absent.
    """

    categories: list[Named]
    attributes: list[Named]
    landmarks: list[Landmark]


def decode(
    predictions: Predictions, row: int, labels: LabelNames, box: Sequence[int], top: int
) -> Prediction:
    """Returns what predictions say of one image.

    Args:
      predictions: of a batch, numpy leaves.
      row: of the image in it.
      labels: of the run.
      box: (left, top, right, bottom), the part of the image that was seen, in its pixels.
      top: categories and attributes to name at most.
    """
    categories = _best(labels.categories, _softmax(np.asarray(predictions.category[row])), top)
    attributes: list[Named] = []
    if predictions.attributes is not None:
        scores = 1 / (1 + np.exp(-np.asarray(predictions.attributes[row], np.float64)))
        attributes = _best(labels.attributes, scores, top)
    landmarks: list[Landmark] = []
    if (
        labels.landmarks
        and predictions.landmarks is not None
        and predictions.visibility is not None
    ):
        landmarks = _landmarks(
            np.asarray(predictions.landmarks[row]), np.asarray(predictions.visibility[row]), box
        )
    return Prediction(categories, attributes, landmarks)


def _landmarks(points: np.ndarray, logits: np.ndarray, box: Sequence[int]) -> list[Landmark]:
    left, top, right, bottom = box
    # A landmark in the middle of a pixel has that pixel's number.
    pixels = points * [right - left, bottom - top] + [left, top] - 0.5  # [p, 2]
    shares = _softmax(logits)
    landmarks = []
    for slot, (x, y) in enumerate(pixels.tolist()):
        state = int(np.argmax(shares[slot]))
        if VISIBILITIES[state] != "absent":
            share = float(shares[slot, state])
            landmarks.append(Landmark(LANDMARKS[slot], x, y, VISIBILITIES[state], share))
    return landmarks


def _best(names: Sequence[str], scores: np.ndarray, top: int) -> list[Named]:
    order = np.argsort(-scores, kind="stable")
    # A head may have more logits than there are labels.
    return [(names[i], float(scores[i])) for i in order if i < len(names)][:top]


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def format_prediction(name: str, prediction: Prediction) -> str:
    """Returns an image's name and, below it, what it shows."""
    lines = [name, f"  category    {_listed(prediction.categories)}"]
    if prediction.attributes:
        lines.append(f"  attributes  {_listed(prediction.attributes)}")
    for number, landmark in enumerate(prediction.landmarks, start=1):
        head = "landmarks" if number == 1 else ""
        lines.append(
            f"  {head:<12}{number} {landmark.name:<16}{landmark.x:7.1f}{landmark.y:8.1f}  "
            f"{landmark.visibility} {100 * landmark.share:.0f}%"
        )
    return "\n".join(lines)


def _listed(named: Sequence[Named]) -> str:
    return ", ".join(f"{name} {100 * share:.0f}%" for name, share in named)
