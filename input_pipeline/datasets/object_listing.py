"""Photos with many objects each as files list them, and the checks that need the photo."""

import dataclasses
import posixpath
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from input_pipeline.datasets.listing import (
    Listing,
    Location,
    Problem,
    ValidationReport,
    inspect_photos,
)
from input_pipeline.datasets.segmentation import RLE, Segmentation, rasterize
from input_pipeline.images import Box, ImageError, ImageHeader, MissingImageError
from input_pipeline.object_index import object_counts
from input_pipeline.vocabulary import SPLITS

_FAR = 1e9  # pixels; float32 has no numbers beyond 3e38


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ListedObject:
    """An object as it is listed.

    Attributes:
      location: where it is listed.
      label: what messages call it.
      box: (x_1, y_1, x_2, y_2) in pixels of the photo that the file speaks of.
      category: its number.
      crowd: whether it is several objects in one box.
      segmentation: None where unknown.
    """

    location: Location
    label: str
    box: Box
    category: int
    crowd: bool
    segmentation: Segmentation | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRow:
    """A photo as it is listed.

    Attributes:
      location: where it is listed.
      label: what messages call it.
      image: path of the photo, below the folder that the list speaks of.
      split: "train", "val" or "test".
      size: (height, width) that the file states; None where it states none.
      objects: in it.
    """

    location: Location
    label: str
    image: str
    split: str
    size: tuple[int, int] | None
    objects: tuple[ListedObject, ...]


class ProblemLog:
    """Collects problems.

    Attributes:
      problems: in the order they were found.
      objects_of_bad_photos: how many correct objects are left out with their photo.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.objects_of_bad_photos = 0

    def add(self, location: Location, label: str, kind: str, text: str) -> None:
        """Notes what is wrong with an entry."""
        self.problems.append(Problem(location._replace(part=label), kind, text))

    def count_left_out(self, objects: Sequence[ListedObject]) -> None:
        """Counts the objects of a photo that is left out."""
        self.objects_of_bad_photos += len(objects)


@dataclasses.dataclass(kw_only=True)
class ObjectListing(Listing):
    """What files list, before any photo was looked at.

    Attributes:
      rows: the photos that are right in themselves; the category of an object is an index into
        `categories`.
      categories: their names.
      log: the problems; `problems` is its list.
    """

    rows: list[ObjectRow]  # type: ignore[assignment]
    categories: tuple[str, ...]
    log: ProblemLog


class CheckedObject(NamedTuple):
    """An object whose box is within its upright photo; fields as in `ListedObject`.

    Attributes:
      mask: its pixels in the photo as the file speaks of it; None where unknown.
    """

    box: Box
    category: int
    crowd: bool
    mask: RLE | None


class CheckedPhoto(NamedTuple):
    """A photo that is right, its header and objects.

    Attributes:
      row: as listed.
      header: of its file.
      objects: those that are right.
      turn: EXIF orientation that takes masks from what the file speaks of to the upright photo.
    """

    row: ObjectRow
    header: ImageHeader
    objects: tuple[CheckedObject, ...]
    turn: int


@dataclasses.dataclass(frozen=True)
class ObjectValidationReport(ValidationReport):
    """A listing of objects after all checks.

    Attributes:
      categories: names of the objects' categories.
    """

    rows: list[CheckedPhoto]  # type: ignore[assignment]
    categories: tuple[str, ...] = ()

    def split_counts(self) -> dict[str, dict[str, int]]:
        """Returns what `ObjectIndex.counts` will count, by split."""
        return {
            split: object_counts(
                np.array([len(photo.objects) for photo in photos]),
                np.array([sum(listed.crowd for listed in photo.objects) for photo in photos]),
            )
            for split in SPLITS
            if (photos := self._of(split))
        }

    def category_counts(self) -> dict[str, dict[str, int]]:
        """Returns how many objects of each category each split has."""
        numbers = {
            split: Counter(listed.category for photo in photos for listed in photo.objects)
            for split in SPLITS
            if (photos := self._of(split))
        }
        return {
            name: {split: counted[number] for split, counted in numbers.items()}
            for number, name in enumerate(self.categories)
        }

    def _of(self, split: str) -> list[CheckedPhoto]:
        return [photo for photo in self.rows if photo.row.split == split]


def check_objects(
    listing: ObjectListing,
    locate: Callable[[str], epath.Path],
    max_pixels: int,
    overhang: int,
) -> ObjectValidationReport:
    """Decodes every photo, and checks its objects against it.

    A problem of a photo costs the photo and all its objects; one of an object costs it alone.

    Args:
      listing: as read.
      locate: where the photo of a path in the list lies.
      max_pixels: larger photos are problems.
      overhang: by how many pixels a box or outline may leave its photo to be cut at the edge, and
        counted, instead of being a problem.
    """
    log, tolerated = listing.log, Counter(listing.tolerated)
    rows = _without_repeats(listing.rows, log)
    good, missing = [], []
    images = [row.image for row in rows]
    for row, header in zip(rows, inspect_photos(images, locate, max_pixels), strict=True):
        if isinstance(header, ImageError):
            gone = isinstance(header, MissingImageError)
            missing += [row.image] * gone
            kind = "missing photo" if gone else "unreadable photo"
            log.add(row.location, row.label, kind, f"field 'file_name': {header}")
            log.count_left_out(row.objects)
            continue
        turn = _turn(row, header, log, tolerated)
        if turn is None:
            log.count_left_out(row.objects)
            continue
        objects = _fit_objects(row, header, turn, overhang, log, tolerated)
        good.append(CheckedPhoto(row, header, objects, turn))
    problems = sorted(log.problems, key=lambda listed: listed.location.order())
    facts: Mapping[str, int] = {
        **listing.facts,
        "objects_of_left_out_photos": log.objects_of_bad_photos,
    }
    return ObjectValidationReport(good, problems, tolerated, facts, {}, missing, listing.categories)


def turn_box(box: Box, turn: int, height: int, width: int) -> Box:
    """Returns a box of a stored photo, in its upright picture of this size."""
    x_1, y_1, x_2, y_2 = box
    if turn >= 5:
        x_1, y_1, x_2, y_2 = y_1, x_1, y_2, x_2
    if turn in (2, 3, 6, 7):
        x_1, x_2 = width - x_2, width - x_1
    if turn in (3, 4, 7, 8):
        y_1, y_2 = height - y_2, height - y_1
    return x_1, y_1, x_2, y_2


def turn_mask(mask: np.ndarray, turn: int) -> np.ndarray:
    """Returns a mask [H, W] of a stored photo, as that of its upright picture."""
    mask = mask.T if turn >= 5 else mask
    mask = mask[:, ::-1] if turn in (2, 3, 6, 7) else mask
    return mask[::-1] if turn in (3, 4, 7, 8) else mask


def _without_repeats(rows: Sequence[ObjectRow], log: ProblemLog) -> list[ObjectRow]:
    first: dict[str, ObjectRow] = {}
    good = []
    for row in rows:
        other = first.setdefault(posixpath.normpath(row.image), row)
        if other is row:
            good.append(row)
            continue
        text = f"{row.image!r} is {other.label} ({other.location}, split {other.split!r}) already"
        log.add(row.location, row.label, "duplicate row", f"field 'file_name': {text}")
        log.count_left_out(row.objects)
    return good


def _turn(
    row: ObjectRow, header: ImageHeader, log: ProblemLog, tolerated: Counter[str]
) -> int | None:
    """Returns the orientation that the photo's objects still have to be turned by; 1: none.

    A file tells by the size it states whether its annotator saw the photo upright or as stored.
    """
    upright = header.height, header.width
    stored = upright[::-1] if header.orientation >= 5 else upright
    if row.size in (None, upright):
        if header.orientation > 1 and (row.size is None or stored == upright):
            tolerated["objects of a turned photo taken as upright"] += 1
        return 1
    if row.size == stored:
        tolerated["objects turned upright with their photo"] += 1
        return header.orientation
    height, width = row.size or upright
    text = f"fields 'height' and 'width': {width}x{height}, but the photo has "
    text += f"{header.width}x{header.height} pixels (upright)"
    log.add(row.location, row.label, "photo size", text)
    return None


def _fit_objects(
    row: ObjectRow,
    header: ImageHeader,
    turn: int,
    overhang: int,
    log: ProblemLog,
    tolerated: Counter[str],
) -> tuple[CheckedObject, ...]:
    size = (header.width, header.height) if turn >= 5 else (header.height, header.width)
    fitted = []
    for listed in row.objects:
        before = len(log.problems)
        box = _fit_box(listed, size, overhang, log, tolerated)
        mask = _fit_segmentation(listed, box, size, overhang, log, tolerated)
        if len(log.problems) == before:
            upright = turn_box(box, turn, header.height, header.width)
            fitted.append(CheckedObject(upright, listed.category, listed.crowd, mask))
    return tuple(fitted)


def _fit_box(
    listed: ListedObject,
    size: tuple[int, int],
    overhang: int,
    log: ProblemLog,
    tolerated: Counter[str],
) -> Box:
    """Returns the box clipped to the photo, in float32."""
    # So that sums of decimals end where they should.
    box = np.clip(listed.box, -_FAR, _FAR).astype(np.float32)
    limits = np.array([size[1], size[0]] * 2, np.float32)
    inside = np.clip(box, 0, limits)
    if (np.abs(inside - box) > overhang).any():
        text = f"{_numbers(box)} (x_1, y_1, x_2, y_2) leaves {_photo(size)}"
        log.add(listed.location, listed.label, "box", f"field 'bbox': {text}")
    elif not (inside[:2] < inside[2:]).all():
        text = f"{_numbers(box)} (x_1, y_1, x_2, y_2): nothing of it lies in {_photo(size)}"
        log.add(listed.location, listed.label, "box", f"field 'bbox': {text}")
    elif (inside != box).any():
        tolerated["box moved to the photo's edge"] += 1
    x_1, y_1, x_2, y_2 = inside.tolist()
    return x_1, y_1, x_2, y_2


def _fit_segmentation(
    listed: ListedObject,
    box: Box,
    size: tuple[int, int],
    overhang: int,
    log: ProblemLog,
    tolerated: Counter[str],
) -> RLE | None:
    def fault(text: str) -> None:
        log.add(listed.location, listed.label, "outline", f"field 'segmentation': {text}")

    mask = listed.segmentation
    if mask is None:
        return None
    if not isinstance(mask, RLE):
        points = np.concatenate(mask).reshape(-1, 2)
        outside = np.abs(points - np.clip(points, 0, (size[1], size[0]))).max()
        if outside > overhang:
            fault(f"a point of it lies {outside:g} pixels outside {_photo(size)}")
            return None
        if outside > 0:
            tolerated["outline moved to the photo's edge"] += 1
        mask = rasterize(mask, *size)
    elif (mask.height, mask.width) != size:
        fault(f"a mask of {mask.width}x{mask.height} pixels for {_photo(size)}")
        return None
    left, top, right, bottom = mask.bounding_box()
    if right <= left:
        fault("no pixel lies in it")
    elif left >= box[2] + 1 or right <= box[0] - 1 or top >= box[3] + 1 or bottom <= box[1] - 1:
        fault(f"all of it lies outside the object's box {_numbers(box)}")
    return mask


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"


def _photo(size: tuple[int, int]) -> str:
    return f"the photo of {size[1]}x{size[0]} pixels"
