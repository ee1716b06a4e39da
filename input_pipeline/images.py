"""Reads images as upright RGB pixels, crops and resizes them; without TensorFlow.

`crop_and_resize` gives the same pixels, within one gray level, as the training pipeline's
TensorFlow operations: a model sees in a demo what it saw in training.
"""

import functools
import io
import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, NamedTuple, TypeAlias

import numpy as np
from etils import epath
from PIL import Image, UnidentifiedImageError

from input_pipeline.config import MAX_PIXELS, ImageConfig
from input_pipeline.errors import InputError
from input_pipeline.files import check_file

Box: TypeAlias = tuple[float, float, float, float]
ImageSource: TypeAlias = str | os.PathLike | bytes | IO[bytes] | Image.Image | np.ndarray

_ORIENTATION_TAG = 0x0112
# Not ImageOps.exif_transpose, which also rewrites the EXIF block and fails where it is broken.
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_HEIC = (b"heic", b"heix", b"hevc", b"mif1", b"msf1")
# Of JPEGs: Huffman-coded baseline, extended and progressive frames, which every decoder reads.
_PLAIN_FRAMES = (0xC0, 0xC1, 0xC2)
_SCAN, _MOST_SCANS = b"\xff\xda", 100
_OVERSAMPLING = 2  # a JPEG is decoded at a size at which its crop has so many pixels for each seen
_BOMB_LIMIT_LOCK = threading.Lock()


class ImageError(InputError):
    """An image cannot be used; the message names the file and says why."""


class MissingImageError(ImageError):
    """There is no such file."""


class LargeImageError(ImageError):
    """It has more pixels than are read."""


@dataclass(frozen=True)
class ImageTransform:
    """How an image becomes the square that a model sees; built from the `image` section.

    Attributes:
      size: side of the square, in pixels.
      crop: "box" takes the garment's box, "detected" the box of a detector, "none" the whole image,
        "center" the central square.
      interpolation: of the resizing, "bilinear" or "bicubic", antialiased.
      center_fraction: side of the central square as a fraction of the image's shorter side.
      square: whether only the central square of the crop is taken, of its shorter side.
    """

    size: int
    crop: str
    interpolation: str
    center_fraction: float
    square: bool = False

    @property
    def takes_boxes(self) -> bool:
        """Whether a garment's box says what is seen."""
        return self.crop in ("box", "detected")

    def box(self, box: Box | None, height: int, width: int) -> Box:
        """Returns the crop of an image of this size, in pixels; without a box all of it."""
        left, top, right, bottom = self._crop_box(box, height, width)
        if not self.square:
            return left, top, right, bottom
        side = min(right - left, bottom - top)
        left, top = (left + right - side) / 2, (top + bottom - side) / 2
        return left, top, left + side, top + side

    def _crop_box(self, box: Box | None, height: int, width: int) -> Box:
        if self.takes_boxes and box is not None:
            return box
        if self.crop != "center":
            return 0.0, 0.0, float(width), float(height)
        side = self.center_fraction * min(height, width)
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side


def build_transform(image: ImageConfig, shop: bool = False) -> ImageTransform:
    """Builds the transform of customer images or, with `shop`, of shop images."""
    crop = (shop and image.shop_crop) or image.crop
    return ImageTransform(
        image.size,
        crop,
        image.interpolation or "bilinear",
        image.center_fraction or 1.0,
        image.square == "always",
    )


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says about itself before its pixels are decoded.

    Attributes:
      height: of the upright image, in pixels.
      width: of the upright image, in pixels.
      orientation: EXIF orientation of the stored pixels, 1 (upright) to 8.
      plain_jpeg: a JPEG of gray or RGB pixels, which any JPEG decoder reads alike.
      file_bytes: size of the file.
    """

    height: int
    width: int
    orientation: int
    plain_jpeg: bool
    file_bytes: int


class Crop(NamedTuple):
    """What a model sees of an image, and the image.

    Attributes:
      pixels: uint8 [size, size, 3], cropped and resized.
      picture: uint8 [h, w, 3], the whole upright image; of a large JPEG a half, quarter or eighth.
      height: of the upright image, in pixels.
      width: of the upright image, in pixels.
    """

    pixels: np.ndarray
    picture: np.ndarray
    height: int
    width: int


def load_image(source: ImageSource, max_pixels: int = MAX_PIXELS, name: str = "") -> np.ndarray:
    """Reads an image as upright RGB pixels.

    The EXIF orientation is applied; transparent pixels become white; gray, palette, CMYK and
    16-bit pixels become 8-bit RGB; of an animation the first frame is read. Color profiles
    (ICC) are ignored: the stored numbers are taken as sRGB.

    Args:
      source: a path (local or of a bucket), the bytes of an image file, a file that is open, an
        image of Pillow, or an array uint8 [H, W, 3 (RGB) or 4 (RGBA)] or [H, W] (gray).
      max_pixels: larger images are refused before they are decoded.
      name: what an error calls an image given as bytes or as an array.

    Returns:
      uint8 [H, W, 3].

    Raises:
      ImageError: missing, unreadable, truncated, empty or too large.
    """
    if isinstance(source, Image.Image):  # as Pillow has it in memory
        picture = _picture_in_rgb(source, name or "the given image")
        _check_size(picture.size, max_pixels, name or "the given image")
        return np.asarray(picture)
    if isinstance(source, np.ndarray):
        name = name or "the given array"
        picture = _picture_of_array(source, name)
        _check_size(picture.size, max_pixels, name)
        return np.asarray(_to_rgb(picture))
    data, name = _read(source, name)
    picture, _ = _decode(data, max_pixels, name)
    return np.asarray(_picture_in_rgb(picture, name))


def _picture_in_rgb(picture: Image.Image, name: str) -> Image.Image:
    if picture.mode in ("I", "F") and picture.format != "PPM":  # whose "I" has 16 bits
        raise ImageError(f"{name}: 32-bit pixels have no agreed white; save it with 8 or 16 bits")
    if (orientation := _orientation(picture)) in _TRANSPOSES:
        picture = picture.transpose(_TRANSPOSES[orientation])
    return _to_rgb(picture)


def load_crop(
    source: ImageSource,
    box: Box | None,
    transform: ImageTransform,
    name: str = "",
    box_name: str = "box",
) -> Crop:
    """Reads what a model sees of an image, at the cost of little more than its size.

    A JPEG whose crop has many times the pixels that are seen is decoded at a half, a quarter or an
    eighth of its size: pixels differ by a gray level or two from those of `load_image` and
    `crop_and_resize`, and are the same where it is not.

    Args:
      source: of `load_image`.
      box: of the garment, in pixels of the upright image, or None.
      transform: what is cropped, and how it is resized.
      name: what an error calls an image given as bytes or as an array.
      box_name: what an error calls the box.

    Raises:
      ImageError: as `load_image` does.
      InputError: a box that is none, or not within the image.
    """

    def crop_size(height: int, width: int) -> tuple[float, float]:
        if box is not None:
            _check_box(box, height, width, box_name)
        left, top, right, bottom = transform.box(box, height, width)
        return bottom - top, right - left

    if isinstance(source, Image.Image | np.ndarray):
        picture = load_image(source, name=name)
        height, width = picture.shape[:2]
    else:
        data, name = _read(source, name)

        def reduce(height: int, width: int) -> float:
            return min(crop_size(height, width)) / (_OVERSAMPLING * transform.size)

        decoded, header = _decode(data, MAX_PIXELS, name, reduce)
        picture = np.asarray(_picture_in_rgb(decoded, name))
        height, width = header.height, header.width
    crop_size(height, width)  # of all but JPEGs the box has not been checked yet
    if box is not None:
        across, down = picture.shape[1] / width, picture.shape[0] / height
        box = box[0] * across, box[1] * down, box[2] * across, box[3] * down
    return Crop(crop_and_resize(picture, box, transform), picture, height, width)


def inspect_image(
    source: str | os.PathLike | bytes, max_pixels: int = MAX_PIXELS, name: str = ""
) -> ImageHeader:
    """Decodes a whole image file, to know that it can be, and returns its size and kind.

    See `load_image` for arguments and errors.
    """
    data, name = _read(source, name)
    return _decode(data, max_pixels, name)[1]


def read_file(path: str | os.PathLike) -> bytes:
    """Reads the bytes of an image's file; raises ImageError, naming it, where they cannot be."""
    return _read(path, "")[0]


def crop_and_resize(image: np.ndarray, box: Box | None, transform: ImageTransform) -> np.ndarray:
    """Crops an image and resizes the crop to a square, with an antialiasing filter.

    Args:
      image: uint8 [H, W, 3].
      box: of the garment, (x_1, y_1, x_2, y_2) in pixels, x_2 and y_2 exclusive; rounded to
        whole pixels as `pixel_box` does. None takes the whole image.
      transform: what is cropped, and how it is resized.

    Returns:
      uint8 [size, size, 3]. The aspect ratio is not kept.
    """
    crop = transform.box(box, image.shape[0], image.shape[1])
    left, top, right, bottom = pixel_box(crop, image.shape[0], image.shape[1])
    size = (transform.size, transform.size)
    return _resize(image[top:bottom, left:right], size, transform.interpolation)


def fit_on_canvas(
    image: np.ndarray, canvas: tuple[int, int], interpolation: str
) -> tuple[np.ndarray, tuple[int, int]]:
    """Scales an image as large as fits on a black canvas, at its left and top, as detectors see it.

    Args:
      image: uint8 [H, W, 3].
      canvas: (height, width) in pixels.
      interpolation: "bilinear" or "bicubic".

    Returns:
      uint8 [height, width, 3], and (height, width) of the image on it.
    """
    height, width = image.shape[:2]
    scale = min(canvas[0] / height, canvas[1] / width)
    down, across = (max(math.ceil(side * scale - 0.5), 1) for side in (height, width))
    # The last pixels may reach beyond the image, by half of one.
    missing = [max(math.ceil(down / scale) - height, 0), max(math.ceil(across / scale) - width, 0)]
    padded = np.pad(image, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="edge")
    result = np.zeros((*canvas, 3), np.uint8)
    box = (0, 0, across / scale, down / scale)
    result[:down, :across] = _resize(padded, (down, across), interpolation, box)
    return result, (down, across)


def _resize(
    image: np.ndarray, size: tuple[int, int], interpolation: str, box: Box | None = None
) -> np.ndarray:
    """Returns uint8 of (height, width) `size`, of a box of an image or of all of it."""
    resized = np.empty((*size, 3), np.float32)
    # In float32, a channel at a time: Pillow rounds and clips 8-bit pixels between its two passes.
    for index in range(3):
        channel = Image.fromarray(image[:, :, index]).convert("F")
        scaled = channel.resize(size[::-1], _FILTERS[interpolation], box)
        resized[:, :, index] = np.asarray(scaled)
    return np.clip(np.rint(resized), 0, 255).astype(np.uint8)


def pixel_box(box: Box, height: int, width: int) -> tuple[int, int, int, int]:
    """Rounds a box (half to even) to whole pixels of an image; at least one pixel remains.

    Returns:
      (left, top, right, bottom) with 0 <= left < right <= width, 0 <= top < bottom <= height.
    """
    x_1, y_1, x_2, y_2 = (int(edge) for edge in np.rint(np.asarray(box, np.float32)))
    left, top = min(max(x_1, 0), width - 1), min(max(y_1, 0), height - 1)
    return left, top, min(max(x_2, left + 1), width), min(max(y_2, top + 1), height)


def check_box(box: Box, image: np.ndarray, what: str) -> None:
    """Raises InputError, which calls it `what`, unless a box is within an image uint8 [H, W, 3]."""
    _check_box(box, image.shape[0], image.shape[1], what)


def _check_box(box: Box, height: int, width: int, what: str) -> None:
    if len(box) != 4:
        raise InputError(f"{what} is {tuple(box)}: expected (x_1, y_1, x_2, y_2), in pixels")
    x_1, y_1, x_2, y_2 = box
    if 0 < max(box) <= 1 < min(height, width):
        raise InputError(f"{what} is {tuple(box)}: expected pixels, not shares of the photo")
    if not (0 <= x_1 < x_2 <= width and 0 <= y_1 < y_2 <= height):
        raise InputError(
            f"{what} is {tuple(box)}: expected (x_1, y_1, x_2, y_2) with x_1 < x_2 and "
            f"y_1 < y_2 within the photo of {width}x{height} pixels"
        )


def encode_png(image: np.ndarray) -> bytes:
    """Encodes as PNG uint8 [H, W, 3] (RGB) or [H, W] (gray), or of a bool mask [H, W]."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def _read(source: Any, name: str) -> tuple[bytes, str]:
    if isinstance(source, bytes):
        return source, name or "the given bytes"
    if hasattr(source, "read"):
        return source.read(), name or "the given file"
    if not isinstance(source, str | os.PathLike):
        raise ImageError(
            f"expected a path, bytes, an array or an image, got {type(source).__name__}"
        )
    name = name or os.fspath(source)
    try:
        check_file(source)
        return epath.Path(source).read_bytes(), name
    except FileNotFoundError:
        raise MissingImageError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{name}: is a folder, expected a photo") from None
    except Exception as error:  # a bucket's library raises its own
        raise ImageError(f"{name}: cannot be read: {error}") from error


def _decode(
    data: bytes,
    max_pixels: int,
    name: str,
    reduce: Callable[[int, int], float] | None = None,
) -> tuple[Image.Image, ImageHeader]:
    """Returns a decoded picture, not yet upright, and what its file says.

    Args:
      data: of the file.
      max_pixels: larger images are refused.
      name: for errors.
      reduce: (height, width) of the upright image -> by how much its sides may shrink.
    """
    if not data:
        raise ImageError(f"{name}: is empty (0 bytes)")
    try:
        picture = _open_unlimited(data)
    except UnidentifiedImageError:
        if data[4:8] == b"ftyp" and data[8:12] in _HEIC:
            raise ImageError(f"{name}: is a HEIC photo: save it as JPEG") from None
        kinds = ", ".join(_formats())
        raise ImageError(f"{name}: is not a photo that can be read ({kinds})") from None
    except Exception as error:  # a broken header raises nearly anything in Pillow's plug-ins
        raise ImageError(f"{name}: is not a photo that can be read: {error}") from error
    _check_size(picture.size, max_pixels, name)
    if picture.mode in ("I", "F") and picture.format != "PPM":
        raise ImageError(f"{name}: 32-bit pixels have no agreed white; save it with 8 or 16 bits")
    if picture.format == "JPEG" and (scans := data.count(_SCAN)) > _MOST_SCANS:
        raise ImageError(f"{name}: a JPEG of {scans} scans, which take long; save it anew")
    try:
        size = picture.size
        if reduce is not None and picture.format in ("JPEG", "MPO"):
            upright = size if _orientation(picture) < 5 else size[::-1]
            factor = max(reduce(upright[1], upright[0]), 1.0)
            least = math.ceil(size[0] / factor), math.ceil(size[1] / factor)
            picture.draft(picture.mode, least)
        picture.load()
        orientation = _orientation(picture)
    except InputError:
        raise
    except Exception as error:  # as above, and in the pixels
        raise ImageError(f"{name}: is damaged or truncated: {error}") from error
    width, height = size if orientation < 5 else size[::-1]
    # MPO is a JPEG followed by others (phones write it): the first is the photo.
    plain_jpeg = (
        picture.format in ("JPEG", "MPO")
        and picture.mode in ("L", "RGB")
        and _frame(data) in _PLAIN_FRAMES
    )
    return picture, ImageHeader(height, width, orientation, plain_jpeg, len(data))


def _frame(data: bytes) -> int:
    """Returns the marker of a JPEG's frame, which says how it is coded; 0 without one."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return marker
        if marker == 0xFF:  # a byte that fills
            place += 1
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return 0


def _open_unlimited(data: bytes) -> Image.Image:
    """Reads the header without Pillow's own limit, whose error does not tell the size.

    `_check_size` checks our limit before any pixel is decoded.
    """
    with _BOMB_LIMIT_LOCK:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=_formats())
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@functools.cache
def _formats() -> tuple[str, ...]:
    """Returns the formats that are read: none, like EPS, for which Pillow runs other programs."""
    Image.init()
    names = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
    return tuple(name for name in names if name in Image.OPEN)


def _check_size(size: tuple[int, int], max_pixels: int, name: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: has no pixels ({width}x{height})")
    if width * height > max_pixels:
        raise LargeImageError(
            f"{name}: a picture of {width}x{height} pixels = {width * height / 1e6:.4g} MP; "
            f"limit {max_pixels / 1e6:.4g} MP"
        )


def _orientation(picture: Image.Image) -> int:
    value = picture.getexif().get(_ORIENTATION_TAG, 1)
    return value if value in range(1, 9) else 1


def _picture_of_array(array: np.ndarray, name: str) -> Image.Image:
    shape_fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not shape_fits:
        raise ImageError(
            f"{name}: expected uint8 [H, W, 3], [H, W, 4] or [H, W], "
            f"got {array.dtype} {list(array.shape)}"
        )
    if array.size == 0:
        raise ImageError(f"{name}: has no pixels ({list(array.shape)})")
    return Image.fromarray(array)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # of 16 bits
        # Pillow's own conversion clips at 255 instead of scaling.
        values = np.asarray(picture).astype(np.uint32)
        picture = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture.convert("RGB")
