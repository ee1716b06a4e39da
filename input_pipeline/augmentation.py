"""How training photos are changed beside cut and flip, tilt, skew and colours, and their landmarks.

How far each photo is changed is drawn by the sampler, from the seed and the step alone.
`pixel_changes.augment` changes the pixels.
"""

import numpy as np

from input_pipeline.config import AugmentConfig
from input_pipeline.vocabulary import TRUNCATED, UNKNOWN


def move_landmarks(
    points: np.ndarray, visibility: np.ndarray, drawn: np.ndarray, largest: AugmentConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks where `augment` moves what they mark.

    Args:
      points: float32 [n, 8, 2] of `transform_landmarks`.
      visibility: int32 [n, 8].
      drawn: float32 [n, 6], as `augment` takes them.
      largest: changes.

    Returns:
      As points and visibility; what is outside the photo now is truncated.
    """
    if not largest.rotation_degrees and not largest.shear:
        return points, visibility
    angle = np.deg2rad(drawn[:, 0] * largest.rotation_degrees)
    shear = drawn[:, 1] * largest.shear
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
