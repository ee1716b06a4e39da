"""How training photos are changed beside cut and flip: tilt, skew and colours, in TensorFlow ops.

How far each photo is changed is drawn by the sampler, from the seed and the step alone.
"""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

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


def augment(image: tf.Tensor, drawn: tf.Tensor, largest: Augmentation) -> tf.Tensor:
    """A photo tilted, skewed and with other colours.

    Colours change in the order brightness, contrast (about the photo's mean), saturation and hue,
    in float and cut to 0..255 at the end. Where a tilted photo shows what was outside, its edge is
    repeated.

    Args:
      image: uint8 [s, s, 3].
      drawn: float32 [6] in -1..1, how much of the largest tilt, skew, brightness, contrast,
        saturation and hue.
      largest: changes.

    Returns:
      uint8 [s, s, 3].
    """
    tilt, skew, brightness, contrast, saturation, hue = tf.unstack(drawn)
    if largest.tilt or largest.skew:
        image = _warp(image, tilt * largest.tilt, skew * largest.skew)
    if not largest.colour and not largest.hue:
        return image
    x = tf.cast(image, tf.float32) / 255.0
    if largest.colour:
        x = x * (1.0 + brightness * largest.colour)
        mean = tf.reduce_mean(x)
        x = mean + (x - mean) * (1.0 + contrast * largest.colour)
        grey = tf.image.rgb_to_grayscale(x)
        x = grey + (x - grey) * (1.0 + saturation * largest.colour)
    if largest.hue:
        x = tf.image.adjust_hue(tf.clip_by_value(x, 0.0, 1.0), hue * largest.hue)
    return tf.cast(tf.clip_by_value(tf.round(255.0 * x), 0.0, 255.0), tf.uint8)


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


def _warp(image: tf.Tensor, degrees: tf.Tensor, shear: tf.Tensor) -> tf.Tensor:
    """Sheared, then turned about the centre: y down, so that positive degrees are clockwise."""
    angle = degrees * (np.pi / 180)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    # From where it is shown to where it is read: the shear undone after the turn is.
    a, b = cosine + shear * sine, sine - shear * cosine
    c, d = -sine, cosine
    centre = (tf.cast(tf.shape(image)[1], tf.float32) - 1.0) / 2.0
    left, top = centre - (a + b) * centre, centre - (c + d) * centre
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(image, tf.float32)[None],
        transforms=tf.stack([a, b, left, c, d, top, 0.0, 0.0])[None],
        output_shape=tf.shape(image)[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
    return tf.cast(tf.round(moved[0]), tf.uint8)
