"""Photos stored smaller than they were found, with boxes, landmarks and masks to match."""

import dataclasses
import io

import numpy as np
from PIL import Image

from input_pipeline.images import Box, encode_png
from input_pipeline.vocabulary import UNKNOWN

_QUALITY = 95


@dataclasses.dataclass(frozen=True)
class Resize:
    """Reduces a photo and its labels.

    Attributes:
      scales: (width, height) of the reduced photo by those of the original.
      height: of the reduced photo, in pixels.
      width: of the reduced photo, in pixels.
    """

    scales: tuple[float, float]
    height: int
    width: int

    @property
    def scale(self) -> float:
        """Returns the reduced photo's longer side by that of the original."""
        return self.scales[0] if self.width > self.height else self.scales[1]

    @classmethod
    def to_max_side(cls, height: int, width: int, max_side: int) -> "Resize":
        """Returns the resize that gives a photo this longer side, in pixels."""
        scale = max_side / max(height, width)
        new = max(round(width * scale), 1), max(round(height * scale), 1)
        return cls((new[0] / width, new[1] / height), height=new[1], width=new[0])

    def jpeg(self, picture: np.ndarray) -> bytes:
        """Reduces a photo, uint8 [H, W, 3], and encodes it as JPEG."""
        buffer = io.BytesIO()
        small = Image.fromarray(picture).resize((self.width, self.height), Image.Resampling.LANCZOS)
        small.save(buffer, format="JPEG", quality=_QUALITY)
        return buffer.getvalue()

    def box(self, box: Box) -> Box:
        """Reduces a box, in pixels."""
        (across, down), (left, top, right, bottom) = self.scales, box
        return left * across, top * down, right * across, bottom * down

    def landmarks(self, landmarks: np.ndarray) -> np.ndarray:
        """Reduces landmarks int32 [n, 3] (visibility, x, y), rounded down to pixels."""
        moved = landmarks.copy()
        known = landmarks[:, 0] != UNKNOWN
        moved[known, 1:] = np.floor(landmarks[known, 1:] * self.scales)
        return moved

    def mask(self, mask: bytes) -> bytes:
        """Reduces a mask, a PNG of 0 and 255; b"" stays."""
        if not mask:
            return mask
        picture = Image.open(io.BytesIO(mask)).resize(
            (self.width, self.height), Image.Resampling.BOX
        )
        return encode_png(np.where(np.asarray(picture) >= 128, 255, 0).astype(np.uint8))
