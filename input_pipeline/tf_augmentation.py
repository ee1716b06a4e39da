"""Rotates, shears and recolors training images, as TensorFlow operations."""

import numpy as np
import tensorflow as tf

from input_pipeline.config import AugmentConfig


def augment_image(image: tf.Tensor, draws: tf.Tensor, augment: AugmentConfig) -> tf.Tensor:
    """Returns an image sheared, rotated and with other colors.

    Colors change in the order brightness, contrast (about the image's mean), saturation and hue,
    as float32, and are clipped to 0..255 at the end. Where a rotated image shows what was outside
    of it, its edge is repeated.

    Args:
      image: uint8 [s, s, 3].
      draws: float32 [6] in -1..1, how much of the largest rotation, shear, brightness, contrast,
        saturation and hue.
      augment: the largest changes.

    Returns:
      uint8 [s, s, 3].
    """
    rotation, shear, brightness, contrast, saturation, hue = tf.unstack(draws)
    if augment.rotation_degrees or augment.shear:
        image = _warp(image, rotation * augment.rotation_degrees, shear * augment.shear)
    if not augment.color_jitter and not augment.hue_jitter:
        return image
    x = tf.cast(image, tf.float32) / 255.0
    if augment.color_jitter:
        x = x * (1.0 + brightness * augment.color_jitter)
        mean = tf.reduce_mean(x)
        x = mean + (x - mean) * (1.0 + contrast * augment.color_jitter)
        gray = tf.image.rgb_to_grayscale(x)
        x = gray + (x - gray) * (1.0 + saturation * augment.color_jitter)
    if augment.hue_jitter:
        x = tf.image.adjust_hue(tf.clip_by_value(x, 0.0, 1.0), hue * augment.hue_jitter)
    return tf.cast(tf.clip_by_value(tf.round(255.0 * x), 0.0, 255.0), tf.uint8)


def _warp(image: tf.Tensor, degrees: tf.Tensor, shear: tf.Tensor) -> tf.Tensor:
    """Shears, then rotates about the center; y points down, so positive degrees are clockwise."""
    angle = degrees * (np.pi / 180)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    # The inverse map, from a pixel shown to the pixel read: first the rotation is undone.
    a, b = cosine + shear * sine, sine - shear * cosine
    c, d = -sine, cosine
    center = (tf.cast(tf.shape(image)[1], tf.float32) - 1.0) / 2.0
    left, top = center - (a + b) * center, center - (c + d) * center
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(image, tf.float32)[None],
        transforms=tf.stack([a, b, left, c, d, top, 0.0, 0.0])[None],
        output_shape=tf.shape(image)[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
    return tf.cast(tf.round(warped[0]), tf.uint8)
