"""Photos that strangers send: decoded within limits, and held for a while under a token."""

import asyncio
import io
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from grnet_jax.serving.problems import RefusedError
from input_pipeline import ImageError, load_image

MAX_BYTES = 10_000_000
MAX_PIXELS = 25_000_000
SECONDS_HELD = 600
_SHORTEST, _RATIO = 32, 10
_PURGE_SECONDS = 5.0
_LONGEST = 1600  # pixels, of what is held
_PHOTOS_HELD, _BYTES_HELD = 256, 512 << 20
_MAGIC = {
    "image/jpeg": (0, b"\xff\xd8\xff"),
    "image/png": (0, b"\x89PNG\r\n"),
    "image/webp": (8, b"WEBP"),
}
TYPES = tuple(_MAGIC)


class Upload(NamedTuple):
    """A photo as it is held.

    Attributes:
      picture: uint8 [h, w, 3], upright, its longer side 1,600 pixels at most.
      height: of the upright photo, in pixels.
      width: likewise.
    """

    picture: np.ndarray
    height: int
    width: int


def read_upload(data: bytes, declared: str) -> Upload:
    """Decodes a photo; what it is called, and its EXIF, are not kept.

    Args:
      data: of the file.
      declared: its media type.

    Raises:
      RefusedError: it is none, or exceeds a limit.
    """
    kind = next((kind for kind, (at, magic) in _MAGIC.items() if data[at:].startswith(magic)), "")
    if not kind or declared.partition(";")[0].strip().lower() not in (kind, ""):
        raise RefusedError(
            415, "unsupported-type", "expected a JPEG, PNG or WebP photo, and its type"
        )
    try:
        width, height = header = _header(data, kind)
        if width * height > MAX_PIXELS:
            raise RefusedError(
                422, "too-many-pixels", f"{width}x{height} pixels; at most {MAX_PIXELS:,} are read"
            )
        if min(header) < _SHORTEST or max(header) > _RATIO * min(header):
            raise RefusedError(
                422, "too-small",
                f"{width}x{height} pixels: a side has to be {_SHORTEST} or more, and at most "
                f"{_RATIO} times the other",
            )  # fmt: skip
        picture = Image.fromarray(load_image(data, MAX_PIXELS, "the photo"))
    except ImageError as error:
        raise RefusedError(422, "photo-unreadable", str(error)) from error
    width, height = picture.size
    picture.thumbnail((_LONGEST, _LONGEST), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return Upload(np.asarray(picture), height, width)


def _header(data: bytes, kind: str) -> tuple[int, int]:
    """Returns (width, height), before any pixel is decoded."""
    name = kind.removeprefix("image/")
    try:
        with Image.open(io.BytesIO(data), formats=[name]) as picture:
            return picture.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RefusedError(
            422, "too-many-pixels", f"at most {MAX_PIXELS:,} pixels are read"
        ) from error
    except Exception as error:  # a broken header raises nearly anything in Pillow's plug-ins
        raise RefusedError(422, "photo-unreadable", f"the photo cannot be read: {error}") from error


class HeldPhotos:
    """Uploads by their tokens: the latest, for ten minutes each; any thread may ask."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, tuple[float, Upload]] = OrderedDict()
        self._lock = threading.Lock()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def add(self, upload: Upload) -> str:
        """Holds a photo; returns its token, which nobody guesses."""
        token = f"ph_{secrets.token_urlsafe(16)}"
        with self._lock:
            self._held[token] = time.monotonic() + SECONDS_HELD, upload
            self._bytes += upload.picture.nbytes
            self._drop(lambda: len(self._held) > _PHOTOS_HELD or self._bytes > _BYTES_HELD)
        return token

    async def purge(self) -> None:
        """Lets go of what is held too long, until it is cancelled."""
        while True:
            await asyncio.sleep(_PURGE_SECONDS)
            with self._lock:
                self._drop(lambda: next(iter(self._held.values()))[0] < time.monotonic())

    def _drop(self, is_too_much: Callable[[], bool]) -> None:
        while self._held and is_too_much():
            _, (_, oldest) = self._held.popitem(last=False)
            self._bytes -= oldest.picture.nbytes

    def get(self, token: str) -> Upload:
        """Returns a photo; raises RefusedError where it is not held, or no longer."""
        until, upload = self._held.get(token, (0.0, None))
        if upload is None or until < time.monotonic():
            raise RefusedError(
                404, "photo-expired", "there is no such photo, or no longer: send it again"
            )
        return upload
