"""From stored records to the pixels that a model sees, as TensorFlow operations."""

import numpy as np
import tensorflow as tf

from input_pipeline.config import AugmentConfig
from input_pipeline.images import ImageTransform

KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic"}  # as `tf.image.resize` calls them
# Pixels around a crop that are decoded with it: a JPEG's colors are interpolated across its edge.
_MARGIN = 2


def crop_image(
    record: tf.Tensor, crop: tf.Tensor, flip: tf.Tensor, transform: ImageTransform
) -> tf.Tensor:
    """Decodes, crops, resizes and, with `flip`, mirrors a stored record: uint8 [size, size, 3]."""
    kinds = {"image": tf.string, "orientation": tf.int64}
    features = {name: tf.io.FixedLenFeature([], kind) for name, kind in kinds.items()}
    stored = tf.io.parse_single_example(record, features)
    data, orientation = stored["image"], stored["orientation"]
    image = tf.cond(
        tf.io.is_jpeg(data) & (orientation == 1),
        lambda: _decode_crop(data, crop),
        lambda: _slice(turn_upright(decode(data), orientation), crop),
    )
    image = resize(image, transform)
    # Not image[:, ::-1], which takes twenty times as long.
    return tf.cond(flip, lambda: tf.reverse(image, [1]), lambda: image)


def resize(image: tf.Tensor, transform: ImageTransform) -> tf.Tensor:
    """Returns what `tf.image.resize` gives, antialiased, in half the time: uint8 [size, size, 3].

    Its operation filters down the columns many values at a time, but along the rows one pixel at a
    time; so the image is transposed between the two.
    """
    transposed = tf.transpose(_resize_columns(image, transform), [1, 0, 2])
    return tf.transpose(_to_uint8(_resize_columns(transposed, transform)), [1, 0, 2])


def _resize_columns(image: tf.Tensor, transform: ImageTransform) -> tf.Tensor:
    """Returns float32 [size, n, 3] of an image [m, n, 3]."""
    height, width = tf.unstack(tf.shape(image)[:2])
    columns = tf.raw_ops.ScaleAndTranslate(
        images=tf.reshape(image, [1, height, 1, 3 * width]),  # one pixel wide, of many channels
        size=[transform.size, 1],
        scale=tf.stack([transform.size / tf.cast(height, tf.float32), 1.0]),
        translation=[0.0, 0.0],
        kernel_type=KERNELS[transform.interpolation],
        antialias=True,
    )
    return tf.reshape(columns, [transform.size, width, 3])


def decode(data: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG or PNG as Pillow does: uint8 [H, W, 3]."""
    return tf.cond(
        tf.io.is_jpeg(data),
        lambda: tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_png(data, channels=3),
    )


def _decode_crop(data: tf.Tensor, crop: tf.Tensor) -> tf.Tensor:
    """Returns the pixels that `decode` gives in a crop of an upright JPEG, without the others."""
    shape = tf.io.extract_jpeg_shape(data)
    low = tf.maximum(crop[:2] - _MARGIN, 0)
    high = tf.minimum(crop[2:] + _MARGIN, shape[1::-1])
    window = tf.stack([low[1], low[0], high[1] - low[1], high[0] - low[0]])
    image = tf.image.decode_and_crop_jpeg(data, window, channels=3, dct_method="INTEGER_ACCURATE")
    return _slice(image, crop - tf.tile(low, [2]))


def _slice(image: tf.Tensor, crop: tf.Tensor) -> tf.Tensor:
    return image[crop[1] : crop[3], crop[0] : crop[2]]


def _to_uint8(image: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.uint8)


def turn_upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Undoes an EXIF orientation: a transposition (5 to 8), then flips."""
    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    mirrored = tf.reduce_any(orientation == [2, 3, 6, 7])
    upside_down = tf.reduce_any(orientation == [3, 4, 7, 8])
    image = tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)
    return tf.cond(upside_down, lambda: tf.reverse(image, [0]), lambda: image)


def augment_image(image: tf.Tensor, draws: tf.Tensor, augment: AugmentConfig) -> tf.Tensor:
    """Returns an image sheared, rotated and with other colors, uint8 [s, s, 3].

    Colors change in the order brightness, contrast (about the image's mean), saturation and hue,
    as float32, and are clipped to 0..255 at the end. Where a rotated image shows what was outside
    of it, its edge is repeated.

    Args:
      image: uint8 [s, s, 3].
      draws: float32 [6] in -1..1, how much of the largest rotation, shear, brightness, contrast,
        saturation and hue.
      augment: the largest changes.
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
    return _to_uint8(255.0 * x)


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
    return _to_uint8(warped[0])
