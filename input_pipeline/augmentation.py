"""How training photos are changed beside cut and flip, tilt, skew and colours, and their landmarks.

How far each photo is changed is drawn by the sampler, from the seed and the step alone.
`pixel_changes.augment` changes the pixels.
"""

from typing import Any, NamedTuple

import numpy as np

from input_pipeline.datasets.listing import TRUNCATED
from input_pipeline.datasets.records import UNKNOWN
from input_pipeline.errors import DatasetError

# Each field of config.data and what it has to be less than.
_LIMITS = {"tilt": 180.0, "skew": 1.0, "colour": 1.0, "hue": 0.5}


class Augmentation(NamedTuple):
    """The largest changes; fields of config.data, 0 for none.

    Attributes:
      tilt: degrees by which a photo is turned about its centre, to either side.
      skew: of a shear: how far rows move, as a share of their distance from the centre.
      colour: brightness, contrast and saturation are each multiplied by 1 - colour to 1 + colour.
      hue: by which all hues turn, to either side, as a share of the colour circle.
    """

    tilt: float = 0.0
    skew: float = 0.0
    colour: float = 0.0
    hue: float = 0.0


def make_augmentation(data: Any) -> Augmentation:
    """The changes that `config.data` describes.

    Raises:
      DatasetError: naming the field that cannot be.
    """
    for field, limit in _LIMITS.items():
        if not 0 <= data[field] < limit:
            raise DatasetError(
                f"config.data.{field}={data[field]}: expected 0 to less than {limit:g}"
            )
    return Augmentation(*(float(data[field]) for field in Augmentation._fields))


def move_landmarks(
    points: np.ndarray, visibility: np.ndarray, drawn: np.ndarray, largest: Augmentation
) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks where `augment` moves what they mark.

    Args:
      points: float32 [n, 8, 2] of `cut_landmarks`.
      visibility: int32 [n, 8].
      drawn: float32 [n, 6], as `augment` takes them.
      largest: changes.

    Returns:
      As points and visibility; what is outside the photo now is truncated.
    """
    if not largest.tilt and not largest.skew:
        return points, visibility
    angle = np.deg2rad(drawn[:, 0] * largest.tilt)
    shear = drawn[:, 1] * largest.skew
    cosine, sine, one = np.cos(angle), np.sin(angle), np.ones_like(angle)
    turn = np.stack([cosine, -sine, sine, cosine], axis=-1).reshape(-1, 2, 2)
    skew = np.stack([one, shear, 0 * one, one], axis=-1).reshape(-1, 2, 2)
    # [n, 2, 2] each, and [n, landmarks, 2]
    moved = np.einsum("nij,njk,nlk->nli", turn, skew, points - 0.5) + 0.5
    known = visibility != UNKNOWN
    outside = ((moved < 0) | (moved >= 1)).any(axis=-1)
    return (
        np.where(known[..., None], moved, points).astype(np.float32),
        np.where(outside & known, TRUNCATED, visibility).astype(visibility.dtype),
    )
