"""Photos that files list: a row for each, and the checks that need the photo or other rows."""

import dataclasses
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from etils import epath
from tqdm import tqdm

from input_pipeline.images import Box, ImageError, ImageHeader, MissingImageError, inspect_image
from input_pipeline.parallel import ordered_map
from input_pipeline.vocabulary import DOMAINS, SPLITS, TRUNCATED, UNKNOWN

BOX_FIELDS = ("x_1", "y_1", "x_2", "y_2")
THREADS = 8  # each may hold a photo of max_pixels
AHEAD = 4 * THREADS  # photos in the queue before them
_LAST_NUMBER = re.compile(r"[0-9]+$")


class Location(NamedTuple):
    """A line of a file, counted from 1; part names what of it, where a line holds much."""

    path: epath.Path
    line: int
    part: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}" + (f": {self.part}" if self.part else "")

    def order(self) -> tuple[str, int, int]:
        """Returns a key to sort by; parts by the number at their end."""
        digits = _LAST_NUMBER.search(self.part)
        return str(self.path), self.line, int(digits[0]) if digits else 0


class Problem(NamedTuple):
    """What is wrong with one row; kind is what a summary counts it under."""

    location: Location
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.location}: {self.text}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PhotoRow:
    """A photo as it is listed; fields of the same name are those of `PhotoRecord`.

    Attributes:
      location: where it is listed.
      image: path of the photo, below the folder that the list speaks of.
      split: "train", "val" or "test".
      box: None where the garment's box is unknown.
      landmarks: int32 [n, 3], or None where unknown.
      image_field: what the list calls the column of `image`.
      box_location: where the box is listed; None: at `location`.
      landmarks_location: as box_location.
    """

    location: Location
    image: str
    item_id: str
    domain: str
    split: str
    category: str = ""
    clothes_type: int = UNKNOWN
    attributes: tuple[str, ...] = ()
    unknown_attributes: tuple[str, ...] = ()
    box: Box | None = None
    landmarks: np.ndarray | None = None
    view: int = UNKNOWN
    occluded: int = UNKNOWN
    cropped: int = UNKNOWN
    image_field: str = "image"
    box_location: Location | None = None
    landmarks_location: Location | None = None


@dataclasses.dataclass(kw_only=True)
class Listing:
    """What files list, before any photo was looked at.

    Attributes:
      rows: those that are right in themselves, in order.
      problems: of the other rows.
      tolerated: how often each harmless oddity was met, by kind.
      facts: numbers that only the files tell.
      attribute_types: of each attribute that the files list, in their order, the name of its type,
        or the type's number where it has no name.
      split_field: what the list calls the column of the split.
    """

    rows: list[PhotoRow]
    problems: list[Problem]
    tolerated: Counter[str] = dataclasses.field(default_factory=Counter)
    facts: dict[str, int] = dataclasses.field(default_factory=dict)
    attribute_types: dict[str, str | int] = dataclasses.field(default_factory=dict)
    split_field: str = "split"


class CheckedRow(NamedTuple):
    """A row that is right, and the header of its photo."""

    row: PhotoRow
    header: ImageHeader


@dataclasses.dataclass(frozen=True)
class ValidationReport:
    """A listing after all checks; fields as in `Listing`.

    Attributes:
      missing: the photos that are not there.
    """

    rows: list[CheckedRow]
    problems: list[Problem]
    tolerated: Counter[str]
    facts: Mapping[str, int]
    attribute_types: Mapping[str, str | int]
    missing: list[str] = dataclasses.field(default_factory=list)

    def bad_rows(self) -> int:
        """Returns how many lines, or parts of lines, have a problem."""
        return len({problem.location for problem in self.problems})

    def problem_counts(self) -> dict[str, int]:
        """Returns how many problems there are of each kind."""
        return dict(sorted(Counter(problem.kind for problem in self.problems).items()))

    def split_counts(self) -> dict[str, dict[str, int]]:
        """Returns what `PhotoIndex.counts` will count, by split."""
        return {
            split: _counts(rows)
            for split in SPLITS
            if (rows := [checked.row for checked in self.rows if checked.row.split == split])
        }


def check_listing(
    listing: Listing,
    locate: Callable[[str], epath.Path],
    max_pixels: int,
    *,
    overhang: int = 0,
    many_boxes: bool = False,
) -> ValidationReport:
    """Decodes every photo, and checks each row against its photo and the rows before it.

    Args:
      listing: as read.
      locate: where the photo of a path in the list lies.
      max_pixels: larger photos are problems.
      overhang: by how many pixels a box or landmark may be outside its photo to be moved to the
        edge, and counted, instead of being a problem.
      many_boxes: whether a photo may be listed several times for one item, with different boxes.
    """
    tolerated = Counter(listing.tolerated)
    missing: list[str] = []
    rows, photo_problems = _check_photos(
        listing.rows, locate, max_pixels, overhang, tolerated, missing
    )
    rows, relation_problems = _check_relations(rows, listing.split_field, many_boxes)
    problems = [*listing.problems, *photo_problems, *relation_problems]
    problems.sort(key=lambda problem: problem.location.order())
    return ValidationReport(
        rows, problems, tolerated, listing.facts, listing.attribute_types, missing
    )


def box_size_problems(box: Mapping[str, str]) -> Iterator[str]:
    """Yields what is wrong with the size of a box, whose numbers are texts by field."""
    for low, high in (("x_1", "x_2"), ("y_1", "y_2")):
        if float(box[high]) <= float(box[low]):
            yield (
                f"field {high!r}: the box has no size: {high}={box[high]} is not above "
                f"{low}={box[low]}"
            )


def _counts(rows: Sequence[PhotoRow]) -> dict[str, int]:
    customers, shops = (
        Counter(row.item_id for row in rows if row.domain == domain) for domain in DOMAINS
    )
    return {
        "photos": len(rows),
        "categories": len({row.category for row in rows} - {""}),
        "items": len({*customers, *shops}),
        "customer_photos": customers.total(),
        "shop_photos": shops.total(),
        "pairs": sum(count * shops[item] for item, count in customers.items()),
        "queries": customers.total(),
        "gallery": shops.total(),
        "queries_without_match": sum(count for item, count in customers.items() if not shops[item]),
    }


def _check_photos(
    rows: Sequence[PhotoRow],
    locate: Callable[[str], epath.Path],
    max_pixels: int,
    overhang: int,
    tolerated: Counter[str],
    missing: list[str],
) -> tuple[list[CheckedRow], list[Problem]]:
    images = list(dict.fromkeys(row.image for row in rows))
    headers = dict(zip(images, inspect_photos(images, locate, max_pixels), strict=True))
    missing += [image for image in images if isinstance(headers[image], MissingImageError)]
    good, problems = [], []
    for row in rows:
        header = headers[row.image]
        if isinstance(header, ImageError):
            missing_file = isinstance(header, MissingImageError)
            kind = "missing photo" if missing_file else "unreadable photo"
            problems.append(Problem(row.location, kind, f"field {row.image_field!r}: {header}"))
            continue
        fitted, row_problems = _fit(row, header, overhang, tolerated)
        problems += row_problems
        if not row_problems:
            good.append(CheckedRow(fitted, header))
    return good, problems


def inspect_photos(
    images: Sequence[str], locate: Callable[[str], epath.Path], max_pixels: int
) -> Iterator[ImageHeader | ImageError]:
    """Decodes photos, several at a time; yields each header, or why there is none, in order."""

    def inspect(image: str) -> ImageHeader | ImageError:
        try:
            return inspect_image(locate(image), max_pixels, image)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        headers = ordered_map(pool, inspect, images, AHEAD)
        yield from tqdm(headers, "Checking photos", len(images), unit=" photos")


def _fit(
    row: PhotoRow, header: ImageHeader, overhang: int, tolerated: Counter[str]
) -> tuple[PhotoRow, list[Problem]]:
    """Returns the row with its box and landmarks within the photo, or why they are not."""
    problems = []
    if row.box is not None:
        box, texts = _fit_box(row.box, header, overhang)
        problems += [Problem(row.box_location or row.location, "box", text) for text in texts]
        if not texts and box != row.box:
            tolerated["box moved to the photo's edge"] += 1
            row = dataclasses.replace(row, box=box)
    if row.landmarks is not None:
        landmarks, texts = _fit_landmarks(row.landmarks, header, overhang)
        location = row.landmarks_location or row.location
        problems += [Problem(location, "landmarks", text) for text in texts]
        if not texts and (landmarks != row.landmarks).any():
            tolerated["landmark moved to the photo's edge"] += 1
            row = dataclasses.replace(row, landmarks=landmarks)
    return row, problems


def _fit_box(box: Box, header: ImageHeader, overhang: int) -> tuple[Box, list[str]]:
    limits = (header.width, header.height, header.width, header.height)
    texts = [
        f"field {name!r}: {value:g} is outside {_picture(header)}"
        for name, value, limit in zip(BOX_FIELDS, box, limits, strict=True)
        if not -overhang <= value <= limit + overhang
    ]
    x_1, y_1, x_2, y_2 = (
        min(max(value, 0.0), float(limit)) for value, limit in zip(box, limits, strict=True)
    )
    if not texts and not (x_1 < x_2 and y_1 < y_2):
        texts.append(f"box {box}: nothing of it lies in {_picture(header)}")
    return (x_1, y_1, x_2, y_2), texts


def _fit_landmarks(
    landmarks: np.ndarray, header: ImageHeader, overhang: int
) -> tuple[np.ndarray, list[str]]:
    fitted, texts = landmarks.copy(), []
    last = np.array([header.width - 1, header.height - 1])
    for slot, (visibility, *point) in enumerate(landmarks.tolist()):
        if visibility in (UNKNOWN, TRUNCATED):
            continue
        fitted[slot, 1:] = np.clip(point, 0, last)
        if (np.abs(fitted[slot, 1:] - point) > overhang).any():
            texts.append(f"landmark ({point[0]}, {point[1]}) is outside {_picture(header)}")
    return fitted, texts


def _picture(header: ImageHeader) -> str:
    return f"the picture, which is {header.width}x{header.height} pixels (upright)"


def _check_relations(
    rows: Iterable[CheckedRow], split_field: str, many_boxes: bool
) -> tuple[list[CheckedRow], list[Problem]]:
    """Checks rows against the rows before them."""
    good, problems = [], []
    seen: dict[tuple[str, str, Box | None], Location] = {}
    homes: dict[str, PhotoRow] = {}
    for checked in rows:
        row = checked.row
        photo = (posixpath.normpath(row.image), row.item_id, row.box if many_boxes else None)
        home = homes.setdefault(row.item_id, row)
        if photo in seen:
            where = _where(seen[photo], row.location)
            text = f"{row.image!r} of item {row.item_id!r} is {where} already"
            text = f"field {row.image_field!r}: {text}"
            problems.append(Problem(row.location, "duplicate row", text))
        elif home.split != row.split:
            where = _where(home.location, row.location)
            text = f"item {row.item_id!r} is in split {home.split!r} {where}"
            text = f"field {split_field!r}: {text}, here in {row.split!r}"
            problems.append(Problem(row.location, "item in two splits", text))
        else:
            seen[photo] = row.location
            good.append(checked)
    return good, problems


def _where(location: Location, seen_from: Location) -> str:
    """Returns a location for a message, short if it is in the same file."""
    if location.part or location.path != seen_from.path:
        return f"at {location}"
    return f"on line {location.line}"
