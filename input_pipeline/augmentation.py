"""Random changes of training images and where their landmarks move, in NumPy.

The sampler draws how much each image changes, from the seed and the step alone;
`tf_augmentation.augment_image` changes the pixels.
"""

import numpy as np

from input_pipeline.config import AugmentConfig
from input_pipeline.vocabulary import TRUNCATED, UNKNOWN, VISIBLE


def augment_landmarks(
    points: np.ndarray, visibility: np.ndarray, draws: np.ndarray, augment: AugmentConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Returns where `augment_image` moves landmarks, and which are visible then.

    Args:
      points: float32 [n, 8, 2] of `transform_landmarks`.
      visibility: int32 [n, 8].
      draws: float32 [n, 6], as `augment_image` takes them.
      augment: the largest changes.

    Returns:
      As points and visibility; a landmark that left the image is truncated.
    """
    if not augment.rotation_degrees and not augment.shear:
        return points, visibility
    angle = np.deg2rad(draws[:, 0] * augment.rotation_degrees)
    shear = draws[:, 1] * augment.shear
    cosine, sine, one = np.cos(angle), np.sin(angle), np.ones_like(angle)
    rotation = np.stack([cosine, -sine, sine, cosine], axis=-1).reshape(-1, 2, 2)
    shearing = np.stack([one, shear, 0 * one, one], axis=-1).reshape(-1, 2, 2)
    # [n, 2, 2] each, and [n, landmarks, 2]
    moved = np.einsum("nij,njk,nlk->nli", rotation, shearing, points - 0.5) + 0.5
    known = visibility != UNKNOWN
    outside = ((moved < 0) | (moved >= 1)).any(axis=-1)
    return (
        np.where(known[..., None], moved, points).astype(np.float32),
        np.where(outside & known, TRUNCATED, visibility).astype(visibility.dtype),
    )


def augment_keypoints(
    points: np.ndarray, visible: np.ndarray, draws: np.ndarray, augment: AugmentConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the same for keypoints: float32 [n, P, 2], and bool [n, P], whether each is visible.

    Args:
      points: float32 [n, P, 2] of `Keypoints.crop`.
      visible: bool [n, P] of the same.
      draws: float32 [n, 6], as `augment_image` takes them.
      augment: the largest changes.
    """
    visibility = np.where(visible, VISIBLE, UNKNOWN)
    points, visibility = augment_landmarks(points, visibility, draws, augment)
    return points, visibility == VISIBLE
