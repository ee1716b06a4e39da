"""A photo with its annotations, and how the annotations follow from the rendered masks."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np

MUCH = 0.3  # the share of a garment hidden or cut off from which a photo counts as hard
SIDE_YAW = math.radians(45)
BACK_YAW = math.radians(135)
_NEAR = 2  # how far from the garment's visible pixels a landmark still counts as visible


@dataclasses.dataclass(frozen=True)
class Photo:
    """One photo and its annotations.

    image: uint8 [H, W, 3] RGB, before encoding. jpeg: the encoded picture, what is stored. box:
    x_1, y_1, x_2, y_2 of the garment within the picture, covered parts included, x_2 and y_2
    exclusive. landmarks: int32 [8, 3] rows (visibility, x, y) in the order of LANDMARKS, left and
    right being the WEARER's; visibility 0 visible, 1 covered, 2 out of the picture (x, y then lie
    outside it), -1 no such landmark for this clothes type (x = y = 0). mask: bool [H, W], the
    garment's visible pixels. domain: customer | shop. view: front | side | back. occluded: more
    than 30% of the garment's area in the picture is covered. cropped: more than 30% of its area
    lies outside the picture.

    Beyond the data set's annotations, what the flags were computed from: extent_mask, bool
    [H, W], the garment's pixels were nothing in front of it; garment_area, its area in pixels
    with what lies outside the picture. For detectors: owner, uint8 [H, W], the number of the
    object at each pixel, from 1 on, and objects, what each number is: a category, Bag or Shoe.
    """

    image: np.ndarray
    jpeg: bytes
    box: tuple[int, int, int, int]
    landmarks: np.ndarray
    mask: np.ndarray
    domain: str
    view: str
    occluded: bool
    cropped: bool
    extent_mask: np.ndarray | None = None
    garment_area: float = 0.0
    owner: np.ndarray | None = None
    objects: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Exposure:
    """A rendered picture before its camera effects: image uint8 [H, W, 3], masks uint8 0-255
    [H, W], the garment's whole area in picture pixels, landmarks as (x, y, faces) or None, and the
    objects as a Photo has them."""

    image: np.ndarray
    whole: np.ndarray
    visible: np.ndarray
    garment_area: float
    points: list[tuple[float, float, bool] | None]
    owner: np.ndarray
    objects: tuple[str, ...]


def view_of_yaw(yaw: float) -> str:
    """Returns front | side | back of a yaw in radians: side beyond 45 degrees, back from 135."""
    turned = abs(math.remainder(yaw, 2 * math.pi))
    if turned >= BACK_YAW:
        return "back"
    return "side" if turned > SIDE_YAW else "front"


def covered_share(extent: np.ndarray, mask: np.ndarray) -> float:
    """Returns the share of the garment's area in the picture that something covers (bool masks)."""
    area = int(np.count_nonzero(extent))
    return 1.0 - int(np.count_nonzero(mask)) / area if area else 1.0


def outside_share(extent: np.ndarray, garment_area: float) -> float:
    """Returns the share of the garment's area that lies outside the picture."""
    return 1.0 - int(np.count_nonzero(extent)) / max(garment_area, 1.0)


def masks_of(exposure: Exposure) -> tuple[np.ndarray, np.ndarray]:
    """Returns masks of the garment's pixels in the picture and of those not covered, bool."""
    extent = exposure.whole > 127
    return extent, extent & (exposure.visible > 127)


def _box(extent: np.ndarray) -> tuple[int, int, int, int]:
    x, y, width, height = cv2.boundingRect(extent.astype(np.uint8))
    return x, y, x + width, y + height


def _landmark_rows(exposure: Exposure, visible: np.ndarray) -> np.ndarray:
    height, width = visible.shape
    rows = np.zeros((len(exposure.points), 3), np.int32)
    for row, point in zip(rows, exposure.points, strict=True):
        if point is None:
            row[0] = -1
            continue
        x, y = math.floor(point[0]), math.floor(point[1])
        row[1:] = x, y
        if not (0 <= x < width and 0 <= y < height):
            row[0] = 2
            continue
        near = visible[max(y - _NEAR, 0) : y + _NEAR + 1, max(x - _NEAR, 0) : x + _NEAR + 1]
        row[0] = 0 if point[2] and near.any() else 1
    return rows


def annotate(exposure: Exposure, image: np.ndarray, quality: int, domain: str, yaw: float) -> Photo:
    """Returns the photo of an exposure; `image` has the camera effects, `quality` is the JPEG's."""
    extent, visible = masks_of(exposure)
    done, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    if not done:
        raise RuntimeError("the picture could not be encoded as JPEG")
    return Photo(
        image=image,
        jpeg=encoded.tobytes(),
        box=_box(extent),
        landmarks=_landmark_rows(exposure, visible),
        mask=visible,
        domain=domain,
        view=view_of_yaw(yaw),
        occluded=covered_share(extent, visible) > MUCH,
        cropped=outside_share(extent, exposure.garment_area) > MUCH,
        extent_mask=extent,
        garment_area=exposure.garment_area,
        owner=exposure.owner,
        objects=exposure.objects,
    )
