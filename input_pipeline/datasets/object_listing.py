"""BatchSpec with many objects each as files list them, and the checks that need the photo."""

import dataclasses
import posixpath
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from input_pipeline.datasets.listing import Checked, Listing, Place, Problem, inspect_photos
from input_pipeline.datasets.outlines import Outline, Runs, rasterise
from input_pipeline.images import Box, ImageError, ImageHeader, MissingImageError
from input_pipeline.object_index import object_counts
from input_pipeline.vocabulary import SPLITS

_FAR = 1e9  # pixels; float32 has no numbers beyond 3e38


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ListedObject:
    """An object as it is listed.

    Attributes:
      place: where it is listed.
      label: what messages call it.
      box: (x_1, y_1, x_2, y_2) in pixels of the photo that the file speaks of.
      category: its number.
      crowd: whether it is several objects in one box.
      outline: None where unknown.
    """

    place: Place
    label: str
    box: Box
    category: int
    crowd: bool
    outline: Outline | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRow:
    """A photo as it is listed.

    Attributes:
      place: where it is listed.
      label: what messages call it.
      image: path of the photo, below the folder that the list speaks of.
      split: "train", "val" or "test".
      size: (height, width) that the file states; None where it states none.
      objects: in it.
    """

    place: Place
    label: str
    image: str
    split: str
    size: tuple[int, int] | None
    objects: tuple[ListedObject, ...]


class Faults:
    """Collects problems.

    Attributes:
      problems: in the order they were found.
      lost: how many right objects were lost with their photo.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.lost = 0

    def add(self, place: Place, label: str, kind: str, text: str) -> None:
        """Notes what is wrong with an entry."""
        self.problems.append(Problem(place._replace(part=label), kind, text))

    def lose(self, objects: Sequence[ListedObject]) -> None:
        """Counts the objects of a photo that is left out."""
        self.lost += len(objects)


@dataclasses.dataclass(kw_only=True)
class ObjectListing(Listing):
    """What files list, before any photo was looked at.

    Attributes:
      rows: the photos that are right in themselves; the category of an object is an index into
        `categories`.
      categories: their names.
      faults: the problems; `problems` is its list.
    """

    rows: list[ObjectRow]  # type: ignore[assignment]
    categories: tuple[str, ...]
    faults: Faults


class CheckedObject(NamedTuple):
    """An object whose box is within its upright photo; fields as in `ListedObject`.

    Attributes:
      mask: its pixels in the photo as the file speaks of it; None where unknown.
    """

    box: Box
    category: int
    crowd: bool
    mask: Runs | None


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
class CheckedObjects(Checked):
    """A listing of objects after all checks.

    Attributes:
      categories: names of the objects' categories.
    """

    rows: list[CheckedPhoto]  # type: ignore[assignment]
    categories: tuple[str, ...] = ()

    def split_counts(self) -> dict[str, dict[str, int]]:
        """For each split what `ObjectIndex.counts` will count."""
        return {
            split: object_counts(
                np.array([len(photo.objects) for photo in photos]),
                np.array([sum(found.crowd for found in photo.objects) for photo in photos]),
            )
            for split in SPLITS
            if (photos := self._of(split))
        }

    def category_counts(self) -> dict[str, dict[str, int]]:
        """For each category how many objects each split has."""
        numbers = {
            split: Counter(found.category for photo in photos for found in photo.objects)
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
) -> CheckedObjects:
    """Decodes every photo, and checks its objects against it.

    A problem of a photo costs the photo and all its objects; one of an object costs it alone.

    Args:
      listing: as read.
      locate: where the photo of a path in the list lies.
      max_pixels: larger photos are problems.
      overhang: by how many pixels a box or outline may leave its photo to be cut at the edge, and
        counted, instead of being a problem.
    """
    faults, tolerated = listing.faults, Counter(listing.tolerated)
    rows = _without_repeats(listing.rows, faults)
    good, missing = [], []
    images = [row.image for row in rows]
    for row, header in zip(rows, inspect_photos(images, locate, max_pixels), strict=True):
        if isinstance(header, ImageError):
            gone = isinstance(header, MissingImageError)
            missing += [row.image] * gone
            kind = "missing photo" if gone else "unreadable photo"
            faults.add(row.place, row.label, kind, f"field 'file_name': {header}")
            faults.lose(row.objects)
            continue
        turn = _turn(row, header, faults, tolerated)
        if turn is None:
            faults.lose(row.objects)
            continue
        objects = _fit_objects(row, header, turn, overhang, faults, tolerated)
        good.append(CheckedPhoto(row, header, objects, turn))
    problems = sorted(faults.problems, key=lambda found: found.place.order())
    facts: Mapping[str, int] = {**listing.facts, "objects_of_left_out_photos": faults.lost}
    return CheckedObjects(good, problems, tolerated, facts, {}, missing, listing.categories)


def turn_box(box: Box, turn: int, height: int, width: int) -> Box:
    """A box of a stored photo, in its upright picture of this size."""
    x_1, y_1, x_2, y_2 = box
    if turn >= 5:
        x_1, y_1, x_2, y_2 = y_1, x_1, y_2, x_2
    if turn in (2, 3, 6, 7):
        x_1, x_2 = width - x_2, width - x_1
    if turn in (3, 4, 7, 8):
        y_1, y_2 = height - y_2, height - y_1
    return x_1, y_1, x_2, y_2


def turn_mask(mask: np.ndarray, turn: int) -> np.ndarray:
    """A mask [H, W] of a stored photo, as that of its upright picture."""
    mask = mask.T if turn >= 5 else mask
    mask = mask[:, ::-1] if turn in (2, 3, 6, 7) else mask
    return mask[::-1] if turn in (3, 4, 7, 8) else mask


def _without_repeats(rows: Sequence[ObjectRow], faults: Faults) -> list[ObjectRow]:
    first: dict[str, ObjectRow] = {}
    good = []
    for row in rows:
        other = first.setdefault(posixpath.normpath(row.image), row)
        if other is row:
            good.append(row)
            continue
        text = f"{row.image!r} is {other.label} ({other.place}, split {other.split!r}) already"
        faults.add(row.place, row.label, "duplicate row", f"field 'file_name': {text}")
        faults.lose(row.objects)
    return good


def _turn(
    row: ObjectRow, header: ImageHeader, faults: Faults, tolerated: Counter[str]
) -> int | None:
    """The orientation that the photo's objects still have to be turned by; 1: none.

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
    faults.add(row.place, row.label, "photo size", text)
    return None


def _fit_objects(
    row: ObjectRow,
    header: ImageHeader,
    turn: int,
    overhang: int,
    faults: Faults,
    tolerated: Counter[str],
) -> tuple[CheckedObject, ...]:
    size = (header.width, header.height) if turn >= 5 else (header.height, header.width)
    fitted = []
    for found in row.objects:
        before = len(faults.problems)
        box = _fit_box(found, size, overhang, faults, tolerated)
        mask = _fit_outline(found, box, size, overhang, faults, tolerated)
        if len(faults.problems) == before:
            upright = turn_box(box, turn, header.height, header.width)
            fitted.append(CheckedObject(upright, found.category, found.crowd, mask))
    return tuple(fitted)


def _fit_box(
    found: ListedObject,
    size: tuple[int, int],
    overhang: int,
    faults: Faults,
    tolerated: Counter[str],
) -> Box:
    """The box within the photo, as float32 has it."""
    # So that sums of decimals end where they should.
    box = np.clip(found.box, -_FAR, _FAR).astype(np.float32)
    limits = np.array([size[1], size[0]] * 2, np.float32)
    inside = np.clip(box, 0, limits)
    if (np.abs(inside - box) > overhang).any():
        text = f"{_numbers(box)} (x_1, y_1, x_2, y_2) leaves {_photo(size)}"
        faults.add(found.place, found.label, "box", f"field 'bbox': {text}")
    elif not (inside[:2] < inside[2:]).all():
        text = f"{_numbers(box)} (x_1, y_1, x_2, y_2): nothing of it lies in {_photo(size)}"
        faults.add(found.place, found.label, "box", f"field 'bbox': {text}")
    elif (inside != box).any():
        tolerated["box moved to the photo's edge"] += 1
    x_1, y_1, x_2, y_2 = inside.tolist()
    return x_1, y_1, x_2, y_2


def _fit_outline(
    found: ListedObject,
    box: Box,
    size: tuple[int, int],
    overhang: int,
    faults: Faults,
    tolerated: Counter[str],
) -> Runs | None:
    def fault(text: str) -> None:
        faults.add(found.place, found.label, "outline", f"field 'segmentation': {text}")

    outline = found.outline
    if outline is None:
        return None
    if not isinstance(outline, Runs):
        points = np.concatenate(outline).reshape(-1, 2)
        outside = np.abs(points - np.clip(points, 0, (size[1], size[0]))).max()
        if outside > overhang:
            fault(f"a point of it lies {outside:g} pixels outside {_photo(size)}")
            return None
        if outside > 0:
            tolerated["outline moved to the photo's edge"] += 1
        outline = rasterise(outline, *size)
    elif (outline.height, outline.width) != size:
        fault(f"a mask of {outline.width}x{outline.height} pixels for {_photo(size)}")
        return None
    left, top, right, bottom = outline.extent()
    if right <= left:
        fault("no pixel lies in it")
    elif left >= box[2] + 1 or right <= box[0] - 1 or top >= box[3] + 1 or bottom <= box[1] - 1:
        fault(f"all of it lies outside the object's box {_numbers(box)}")
    return outline


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"


def _photo(size: tuple[int, int]) -> str:
    return f"the photo of {size[1]}x{size[0]} pixels"
