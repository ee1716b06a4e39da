"""Training photos tilted, skewed and with other colors, as TensorFlow operations."""

import numpy as np
import tensorflow as tf

from input_pipeline.config import AugmentConfig


def augment(image: tf.Tensor, drawn: tf.Tensor, largest: AugmentConfig) -> tf.Tensor:
    """A photo tilted, skewed and with other colors.

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
    if largest.rotation_degrees or largest.shear:
        image = _warp(image, tilt * largest.rotation_degrees, skew * largest.shear)
    if not largest.color_jitter and not largest.hue_jitter:
        return image
    x = tf.cast(image, tf.float32) / 255.0
    if largest.color_jitter:
        x = x * (1.0 + brightness * largest.color_jitter)
        mean = tf.reduce_mean(x)
        x = mean + (x - mean) * (1.0 + contrast * largest.color_jitter)
        gray = tf.image.rgb_to_grayscale(x)
        x = gray + (x - gray) * (1.0 + saturation * largest.color_jitter)
    if largest.hue_jitter:
        x = tf.image.adjust_hue(tf.clip_by_value(x, 0.0, 1.0), hue * largest.hue_jitter)
    return tf.cast(tf.clip_by_value(tf.round(255.0 * x), 0.0, 255.0), tf.uint8)


def _warp(image: tf.Tensor, degrees: tf.Tensor, shear: tf.Tensor) -> tf.Tensor:
    """Sheared, then turned about the center: y down, so that positive degrees are clockwise."""
    angle = degrees * (np.pi / 180)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    # From where it is shown to where it is read: the shear undone after the turn is.
    a, b = cosine + shear * sine, sine - shear * cosine
    c, d = -sine, cosine
    center = (tf.cast(tf.shape(image)[1], tf.float32) - 1.0) / 2.0
    left, top = center - (a + b) * center, center - (c + d) * center
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(image, tf.float32)[None],
        transforms=tf.stack([a, b, left, c, d, top, 0.0, 0.0])[None],
        output_shape=tf.shape(image)[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
    return tf.cast(tf.round(moved[0]), tf.uint8)
