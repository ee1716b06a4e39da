"""Reading images of every kind, and the twin of TensorFlow's crop and resize."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from input_pipeline import images
from input_pipeline.errors import InputError
from input_pipeline.images import (
    ImageError,
    ImageTransform,
    check_box,
    crop_and_resize,
    encode_png,
    inspect_image,
    load_crop,
    load_image,
    pixel_box,
)


def picture(height: int = 20, width: int = 30, seed: int = 0) -> np.ndarray:
    """Random but smooth pixels, which a JPEG keeps nearly unchanged."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_orientation(orientation: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(picture()), kind, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_orientation_is_applied(orientation, kind):
    data = with_orientation(orientation, kind)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(load_image(data), expected)
    header = inspect_image(data)
    assert header.orientation == orientation
    assert (header.height, header.width) == expected.shape[:2]


def test_impossible_orientation_is_upright():
    assert inspect_image(with_orientation(0)).orientation == 1
    assert load_image(with_orientation(0)).shape == (20, 30, 3)


def test_alpha_is_laid_on_white():
    rgba = np.dstack([picture(), np.full((20, 30), 255, np.uint8)])
    rgba[:5, :, 3] = 0
    rgba[5:10, :, 3] = 128
    read = load_image(encoded(Image.fromarray(rgba), "PNG"))
    assert (read[:5] == 255).all()
    half = (rgba[5:10, :, :3].astype(float) * 128 + 255.0 * 127) / 255
    assert np.abs(read[5:10] - half).max() <= 1
    np.testing.assert_array_equal(read[10:], rgba[10:, :, :3])
    np.testing.assert_array_equal(read, load_image(rgba))


def test_transparent_palette_and_gray():
    palette = Image.fromarray(picture()).convert("P")
    index = int(np.asarray(palette)[0, 0])
    read = load_image(encoded(palette, "PNG", transparency=index))
    assert (read[0, 0] == 255).all()
    opaque = load_image(encoded(palette, "PNG"))
    np.testing.assert_array_equal(opaque, np.asarray(palette.convert("RGB")))
    gray_alpha = Image.merge("LA", [Image.new("L", (4, 3), 10), Image.new("L", (4, 3), 0)])
    assert (load_image(encoded(gray_alpha, "PNG")) == 255).all()


def test_gray_and_array_sources():
    gray = picture()[:, :, 0]
    read = load_image(encoded(Image.fromarray(gray), "PNG"))
    np.testing.assert_array_equal(read, np.repeat(gray[:, :, None], 3, axis=2))
    np.testing.assert_array_equal(load_image(gray), read)
    np.testing.assert_array_equal(load_image(picture()), picture())


@pytest.mark.parametrize("kind", ["PNG", "PPM", "TIFF"])
def test_sixteen_bits_are_scaled(kind):
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    read = load_image(encoded(Image.fromarray(values), kind))
    np.testing.assert_array_equal(read[0, :, 0], [0, 1, 1, 128, 255])


def test_thirty_two_bits_are_refused():
    data = encoded(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF")
    with pytest.raises(ImageError, match="32-bit pixels"):
        load_image(data)


def test_cmyk_and_plain_jpegs():
    cmyk = Image.fromarray(picture()).convert("CMYK")
    data = encoded(cmyk, "JPEG", quality=95)
    assert np.abs(load_image(data).astype(int) - picture()).max() < 12
    assert not inspect_image(data).plain_jpeg
    for mode in ("RGB", "L"):
        assert inspect_image(encoded(Image.new(mode, (8, 8)), "JPEG")).plain_jpeg
        assert not inspect_image(encoded(Image.new(mode, (8, 8)), "PNG")).plain_jpeg


@pytest.mark.parametrize(("marker", "plain"), [(0xC0, True), (0xC2, True), (0xC3, False)])
def test_a_jpeg_that_not_every_decoder_reads_is_not_plain(monkeypatch, marker, plain):
    """Of a lossless frame (C3) Pillow decodes what TensorFlow does not; here its marker alone."""
    data = encoded(Image.new("L", (8, 8)), "JPEG", progressive=marker == 0xC2)
    place = data.index(bytes([0xFF, marker if plain else 0xC0]))
    changed = data[: place + 1] + bytes([marker]) + data[place + 2 :]
    assert images._frame(changed) == marker
    monkeypatch.setattr(images, "_frame", lambda _: marker)
    assert inspect_image(data).plain_jpeg == plain


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded():
    data = encoded(Image.fromarray(picture()), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageError, match=r"a JPEG of 2\d\d scans"):
        inspect_image(data[:-2] + 200 * scan + data[-2:])


def test_other_sources():
    data = encoded(Image.fromarray(picture()), "PNG")
    np.testing.assert_array_equal(load_image(io.BytesIO(data)), picture())
    np.testing.assert_array_equal(load_image(Image.fromarray(picture())), picture())
    turned = Image.open(io.BytesIO(with_orientation(6)))
    np.testing.assert_array_equal(load_image(turned), load_image(with_orientation(6)))
    for source, message in (
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is a HEIC photo: save it as JPEG"),
        ("a\0b.png", "cannot be read"),
        ("https://host/a.png", "cannot be read"),
        (3, "expected a path, bytes, an array or an image, got int"),
    ):
        with pytest.raises(ImageError, match=message):
            load_image(source)


@pytest.mark.parametrize("box", [(1, 2, 3), (0.1, 0.1, 0.5, 0.9), (3, 3, 2, 9)])
def test_wrong_boxes(box):
    with pytest.raises(InputError, match=r"box is .*: expected"):
        check_box(box, picture(), "box")


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    for kind in ("WEBP", "GIF", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert np.abs(load_image(data)[0, 0].astype(int) - [255, 0, 0]).max() < 3


def test_path_and_name(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(Image.fromarray(picture()), "WEBP", lossless=True))
    np.testing.assert_array_equal(load_image(path), picture())
    np.testing.assert_array_equal(load_image(str(path)), picture())
    path.write_bytes(b"no photo")
    with pytest.raises(ImageError, match=r"photo\.png: is not a photo that can be read"):
        load_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_truncated(kind):
    data = encoded(Image.fromarray(picture(200, 300)), kind)
    with pytest.raises(ImageError, match=r"shirt\.jpg: is (damaged or truncated|not a photo)"):
        load_image(data[: len(data) * 2 // 3], name="shirt.jpg")


def test_missing_empty_and_folder(tmp_path):
    with pytest.raises(ImageError, match=r"nothing\.jpg: no such file"):
        load_image(tmp_path / "nothing.jpg")
    with pytest.raises(ImageError, match="is a folder"):
        load_image(tmp_path)
    with pytest.raises(ImageError, match="/dev/zero: cannot be read: is a pipe or a device"):
        load_image("/dev/zero")  # it never ends
    with pytest.raises(ImageError, match="is empty"):
        load_image(b"")
    with pytest.raises(ImageError, match="has no pixels"):
        load_image(np.zeros((0, 4, 3), np.uint8))
    with pytest.raises(ImageError, match="float32"):
        load_image(np.zeros((4, 4, 3), np.float32))


def bomb(side: int) -> bytes:
    """A PNG whose header promises side x side pixels and which has none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_too_large_is_refused_by_its_header():
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(
        ImageError,
        match=r"30000x30000 pixels = 900 MP; limit 50 MP$",
    ):
        load_image(bomb(30000))
    assert limit == Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match="10x10 pixels"):
        load_image(picture(10, 10), max_pixels=99)
    assert load_image(picture(10, 10), max_pixels=100).shape == (10, 10, 3)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0.4, 0.6, 9.5, 8.5), (0, 1, 10, 8)),
        ((3.0, 3.0, 3.2, 3.2), (3, 3, 4, 4)),
        ((29.9, 19.9, 30.0, 20.0), (29, 19, 30, 20)),
        ((-4.0, -4.0, 99.0, 99.0), (0, 0, 30, 20)),
    ],
)
def test_pixel_box(box, expected):
    assert pixel_box(box, height=20, width=30) == expected


def test_crop_takes_the_box():
    image = np.zeros((20, 30, 3), np.uint8)
    image[5:10, 6:16] = (10, 20, 30)
    transform = ImageTransform(7, "box", "bilinear", 1.0)
    assert (crop_and_resize(image, (6, 5, 16, 10), transform) == (10, 20, 30)).all()
    assert crop_and_resize(image, None, transform).shape == (7, 7, 3)


def test_center_takes_the_middle_of_the_shorter_side():
    image = np.zeros((20, 30, 3), np.uint8)
    image[5:15, 10:20] = 200
    assert (crop_and_resize(image, None, ImageTransform(4, "center", "bilinear", 0.5)) == 200).all()
    # A box is no matter to it.
    assert (
        crop_and_resize(image, (0, 0, 5, 5), ImageTransform(4, "center", "bicubic", 0.5)) == 200
    ).all()


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(1, 1, 8), (1, 300, 16), (7, 5, 64), (64, 64, 64), (65, 63, 64), (700, 33, 32), (301, 400, 9)],
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resize_is_that_of_tensorflow(height, width, size, interpolation):
    tf = pytest.importorskip("tensorflow")
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    expected = tf.image.resize(image, [size, size], interpolation, antialias=True).numpy()
    expected = np.clip(np.round(expected), 0, 255)
    resized = crop_and_resize(image, None, ImageTransform(size, "none", interpolation, 1.0))
    assert np.abs(resized.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_decoding_is_that_of_tensorflow(subsampling, progressive):
    tf = pytest.importorskip("tensorflow")
    image = Image.fromarray(picture(61, 83))
    data = encoded(image, "JPEG", quality=80, subsampling=subsampling, progressive=progressive)
    expected = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    np.testing.assert_array_equal(load_image(data), expected)


def test_png_round_trip():
    np.testing.assert_array_equal(load_image(encode_png(picture())), picture())


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("box", [None, (200.0, 300.0, 1000.0, 1100.0)])
def test_a_large_jpeg_is_decoded_at_the_size_that_is_seen(orientation, box):
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (20, 16, 3), dtype=np.uint8))
    photo = small.resize((1200, 1600), Image.Resampling.BICUBIC)
    if orientation == 6:
        photo = photo.rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo.save(buffer := io.BytesIO(), "JPEG", quality=95, exif=exif)
    transform = ImageTransform(64, "box", "bilinear", 1.0)
    crop = load_crop(buffer.getvalue(), box, transform)
    assert (crop.height, crop.width) == (1600, 1200)
    assert crop.picture.shape == ((200, 150, 3) if box is None else (400, 300, 3))
    whole = crop_and_resize(load_image(buffer.getvalue()), box, transform)
    assert np.abs(crop.pixels.astype(int) - whole).max() <= 3
    with pytest.raises(InputError, match="within the photo of 1200x1600 pixels"):
        load_crop(buffer.getvalue(), (0, 0, 1201, 9), transform)


def test_other_images_are_cropped_as_they_are():
    transform = ImageTransform(32, "box", "bilinear", 1.0)
    photo = picture()
    for source in (photo, encode_png(photo)):
        crop = load_crop(source, (1.0, 0.0, 3.0, 2.0), transform)
        assert (crop.pixels == crop_and_resize(photo, (1.0, 0.0, 3.0, 2.0), transform)).all()
        with pytest.raises(InputError, match="within the photo"):
            load_crop(source, (0, 0, 9999, 9), transform)
