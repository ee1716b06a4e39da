"""BatchSpec stored smaller than they were found, with boxes, landmarks and masks to match."""

import dataclasses
import io

import numpy as np
from PIL import Image

from input_pipeline.images import Box, encode_png
from input_pipeline.vocabulary import UNKNOWN

_QUALITY = 95


@dataclasses.dataclass(frozen=True)
class Shrinking:
    """From a photo's own size to a smaller one.

    Attributes:
      factors: (width, height) after it by those before it.
      height: after it, in pixels.
      width: after it, in pixels.
    """

    factors: tuple[float, float]
    height: int
    width: int

    @property
    def factor(self) -> float:
        """The longer side after it by that before it."""
        return self.factors[0] if self.width > self.height else self.factors[1]

    @classmethod
    def to_long_side(cls, height: int, width: int, max_side: int) -> "Shrinking":
        """The one that gives a photo this longer side, in pixels."""
        scale = max_side / max(height, width)
        new = max(round(width * scale), 1), max(round(height * scale), 1)
        return cls((new[0] / width, new[1] / height), height=new[1], width=new[0])

    def jpeg(self, picture: np.ndarray) -> bytes:
        """The photo, uint8 [H, W, 3], as a JPEG."""
        buffer = io.BytesIO()
        small = Image.fromarray(picture).resize((self.width, self.height), Image.Resampling.LANCZOS)
        small.save(buffer, format="JPEG", quality=_QUALITY)
        return buffer.getvalue()

    def box(self, box: Box) -> Box:
        """A box, in pixels."""
        (across, down), (left, top, right, bottom) = self.factors, box
        return left * across, top * down, right * across, bottom * down

    def landmarks(self, landmarks: np.ndarray) -> np.ndarray:
        """Landmarks int32 [n, 3] (visibility, x, y), rounded down to pixels."""
        moved = landmarks.copy()
        there = landmarks[:, 0] != UNKNOWN
        moved[there, 1:] = np.floor(landmarks[there, 1:] * self.factors)
        return moved

    def mask(self, mask: bytes) -> bytes:
        """A mask as PNG of 0 and 255; none stays none."""
        if not mask:
            return mask
        picture = Image.open(io.BytesIO(mask)).resize(
            (self.width, self.height), Image.Resampling.BOX
        )
        return encode_png(np.where(np.asarray(picture) >= 128, 255, 0).astype(np.uint8))
