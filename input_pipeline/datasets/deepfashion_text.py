"""DeepFashion's annotation files: a count, a line of column names, then fields between blanks."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from etils import epath

from input_pipeline.datasets.listing import (
    BOX_FIELDS,
    Listing,
    Location,
    PhotoRow,
    Problem,
    box_size_problems,
)
from input_pipeline.errors import AnnotationError, one_of
from input_pipeline.images import Box
from input_pipeline.vocabulary import FULL, LOWER, TRUNCATED, UNKNOWN, UPPER

CLOTHES_TYPES = ("1", "2", "3")
# For each clothes type the slots of its landmarks, in the order of the files, among a record's
# eight: collars, sleeves, waistlines, hems, left before right.
LANDMARK_SLOTS = {UPPER: (0, 1, 2, 3, 6, 7), LOWER: (4, 5, 6, 7), FULL: tuple(range(8))}
_NUMBER = re.compile(r"[+-]?[0-9]{1,9}")  # nine digits fit the int32 of a record
_BOM = b"\xef\xbb\xbf"


class BoxRow(NamedTuple):
    """A row of a file of boxes; kinds are the numbers before the box, by column."""

    location: Location
    box: Box
    kinds: dict[str, int]


class LandmarkRow(NamedTuple):
    """A row of a file of landmarks; points as in a record."""

    location: Location
    clothes_type: int
    points: np.ndarray


class AttributeRow(NamedTuple):
    """Names of the attributes that a photo or item has, and of those not known of it."""

    attributes: tuple[str, ...] = ()
    unknown_attributes: tuple[str, ...] = ()


class Annotations:
    """Reads the files of one benchmark and collects what is wrong with their rows.

    Attributes:
      problems: of the rows read so far.
      tolerated: how often each harmless oddity was met, by kind.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.tolerated: Counter[str] = Counter()
        # None where the photo's row is bad: that problem is told already.
        self._boxes: dict[str, BoxRow | None] = {}
        self._landmarks: dict[str, LandmarkRow | None] = {}
        self._boxes_file: epath.Path | None = None
        self._listed: set[str] = set()
        self._attribute_types: dict[str, int] = {}

    def add(self, location: Location, kind: str, text: str) -> None:
        """Notes a problem."""
        self.problems.append(Problem(location, kind, text))

    def rows(
        self,
        path: epath.Path,
        columns: Sequence[str],
        *,
        header: bool = True,
        blanks_in_first: bool = False,
        open_ended: bool = False,
        bad: set[str] | None = None,
    ) -> Iterator[tuple[Location, list[str]]]:
        """Yields the rows that have as many fields as there are columns.

        Args:
          path: of the file; read line by line, for one of them has a thousand columns.
          columns: names of the columns.
          header: whether the file's second line names its columns.
          blanks_in_first: whether the first field may hold blanks itself.
          open_ended: whether more fields may follow; they are yielded too.
          bad: takes the first fields of rows that are not yielded.

        Raises:
          AnnotationError: the file cannot be read as a whole.
        """
        lines = read_lines(path)
        expected = _read_count(path, lines)
        if header:
            _check_header(path, lines, columns[0])
        found = 0
        ends = True
        for line, text in lines:
            found += 1
            ends = text.endswith("\n")
            fields = text.split()
            if blanks_in_first and len(fields) > len(columns):
                fields = text.rsplit(maxsplit=len(columns) - 1)
            right = len(fields) == len(columns) or (open_ended and len(fields) > len(columns))
            if right and all(map(str.isprintable, fields)):
                yield Location(path, line), fields
                continue
            if bad is not None:
                bad.add(fields[0])
            if right:
                self.add(Location(path, line), "fields", "holds a control character")
            else:
                least = "at least " if open_ended else ""
                names = ", ".join(columns)
                text = f"expected {least}{len(columns)} fields ({names}), got {len(fields)}"
                self.add(Location(path, line), "fields", text)
        if not ends:
            self.tolerated["last line without an end, perhaps cut"] += 1
        if not found:
            raise AnnotationError([f"{path}:1: has no rows, expected {expected}"])
        if found != expected:
            text = f"says that there are {expected} rows; there are {found}"
            self.add(Location(path, 1), "row count", text)

    def read_boxes(self, path: epath.Path, kinds: Mapping[str, Sequence[str]]) -> None:
        """Reads a file of boxes, to be used by `photo`.

        Args:
          path: of the file.
          kinds: the columns between the photo and its box, with the values each may have.
        """
        bad: set[str] = set()
        self._boxes_file = path
        for location, fields in self.rows(path, ("image_name", *kinds, *BOX_FIELDS), bad=bad):
            self.take_box(location, fields[0], fields[1:], kinds)
        self._boxes |= dict.fromkeys(bad)

    def take_box(
        self,
        location: Location,
        image: str,
        numbers: Sequence[str],
        kinds: Mapping[str, Sequence[str]],
    ) -> None:
        """Takes a photo's box, to be used by `photo`; arguments as of `read_boxes`.

        Args:
          location: where the box is listed.
          image: the photo.
          numbers: the kinds and the box.
          kinds: the columns before the box.
        """
        columns = (*kinds, *BOX_FIELDS)
        row = None
        if len(numbers) == len(columns):
            row = self._box_row(location, numbers, kinds)
        else:
            text = f"expected {len(columns)} fields ({', '.join(columns)}), got {len(numbers)}"
            self.add(location, "fields", text)
        known = self._boxes.get(image)
        if known is None or row is None:
            self._boxes[image] = None if image in self._boxes else row
        elif (known.box, known.kinds) == (row.box, row.kinds):
            self.tolerated["repeated row of a box"] += 1
        else:
            self.add(location, "duplicate row", _another("box", image, known.location, location))

    def read_landmarks(self, path: epath.Path, *, variation: bool) -> None:
        """Reads a file of landmarks, to be used by `photo`; variation: it has variation_type."""
        bad: set[str] = set()
        columns = ("image_name", "clothes_type", *(["variation_type"] if variation else []))
        for location, fields in self.rows(path, columns, open_ended=True, bad=bad):
            image = fields[0]
            row = self._landmark_row(location, fields[1:], columns[1:])
            known = self._landmarks.get(image)
            if known is None or row is None:
                self._landmarks[image] = None if image in self._landmarks else row
            elif (known.points == row.points).all() and known.clothes_type == row.clothes_type:
                self.tolerated["repeated row of landmarks"] += 1
            else:
                self.add(
                    location,
                    "duplicate row",
                    _another("landmarks", image, known.location, location),
                )
        self._landmarks |= dict.fromkeys(bad)

    def read_items(self, path: epath.Path | None) -> set[str] | None:
        """Returns the ids of a list of items; None without one."""
        if path is None:
            return None
        return {fields[0] for _, fields in self.rows(path, ("item_id",), header=False)}

    def read_names(
        self, path: epath.Path, what: str, types: Sequence[str] = ()
    ) -> list[tuple[str, int]]:
        """Reads a list of attributes or categories: names, which may hold blanks, and types.

        Args:
          path: of the file.
          what: "attribute" or "category".
          types: the types there are; any number where that is not said.

        Raises:
          AnnotationError: any row is wrong. Other files name rows by their place: without one
            of them every later name would belong to its neighbor.
        """
        before = len(self.problems)
        names = []
        columns = (f"{what}_name", f"{what}_type")
        for location, (name, kind) in self.rows(path, columns, blanks_in_first=True):
            if kind in types or (not types and _NUMBER.fullmatch(kind)):
                names.append((name, int(kind)))
            else:
                expected = one_of(types) if types else "a number"
                text = f"field {columns[1]!r}: expected {expected}, got {kind!r}"
                self.add(location, "type of a name", text)
        if found := self.problems[before:]:
            raise AnnotationError([str(problem) for problem in found])
        return names

    def read_categories(self, path: epath.Path) -> dict[str, tuple[str, int]]:
        """Reads the categories: name and clothes type by label, from "1" on."""
        names = self.read_names(path, "category", CLOTHES_TYPES)
        return {str(label): name for label, name in enumerate(names, 1)}

    def category(
        self, location: Location, categories: Mapping[str, tuple[str, int]], label: str
    ) -> tuple[str, int] | None:
        """Returns the category of a label; None, with a problem added, without it."""
        found = categories.get(label.lstrip("0"))
        if found is None:
            text = f"field 'category_label': expected 1 to {len(categories)}, got {label!r}"
            self.add(location, "category", text)
        return found

    def read_attribute_names(self, path: epath.Path) -> list[str]:
        """Reads the names of the attributes; `listing` returns their types."""
        types = self.read_names(path, "attribute")
        self._attribute_types = dict(types)
        return [name for name, _ in types]

    def read_attributes(
        self, names_path: epath.Path | None, table_path: epath.Path | None, first: str
    ) -> dict[str, "AttributeRow"]:
        """Reads the attributes of each photo or item; none if a file is missing.

        Args:
          names_path: the list of the attributes.
          table_path: each of its rows has 1, -1 or 0 for each attribute.
          first: name of the table's first column.
        """
        table: dict[str, AttributeRow] = {}
        if names_path is None or table_path is None:
            return table
        names = self.read_attribute_names(names_path)
        for location, fields in self.rows(table_path, (first,), open_ended=True):
            key, values = fields[0], fields[1:]
            strange = sorted(set(values) - {"1", "-1", "0"})
            if len(values) != len(names):
                text = f"expected {len(names)} values after {key!r}, got {len(values)}"
                self.add(location, "attributes", text)
            elif strange:
                self.add(location, "attributes", f"expected 1, -1 or 0, got {strange[0]!r}")
            elif key in table:
                self.add(location, "duplicate row", f"field {first!r}: {key!r} is there already")
            else:
                table[key] = AttributeRow(
                    with_value("1", names, values), with_value("0", names, values)
                )
        return table

    def box_kinds(self, image: str) -> Mapping[str, int]:
        """Returns the numbers before a photo's box; none without a correct row."""
        row = self._boxes.get(image)
        return row.kinds if row else {}

    def photo(
        self, location: Location, field: str, image: str, item_id: str, domain: str, split: str
    ) -> PhotoRow | None:
        """Returns a row with its box and landmarks; None, with a problem added, without a box.

        Args:
          location: where the photo is listed.
          field: name of the photo's column there.
          image: the photo's path.
          item_id: of the photo's item.
          domain: "customer" or "shop".
          split: "train", "val" or "test".
        """
        self._listed.add(image)
        if not image.startswith("img/") or ".." in image.split("/"):
            self.add(location, "path", f"field {field!r}: expected img/..., got {image!r}")
            return None
        if image not in self._boxes:
            text = f"field {field!r}: {image!r} has no box in {self._boxes_file}"
            self.add(location, "photo without a box", text)
        box = self._boxes.get(image)
        if box is None:
            return None
        clothes_type = box.kinds.get("clothes_type", UNKNOWN)
        landmarks = self._landmarks.get(image)
        if landmarks is None:
            if image not in self._landmarks:
                self.tolerated["photo without landmarks"] += 1
        elif clothes_type in (UNKNOWN, landmarks.clothes_type):
            clothes_type = landmarks.clothes_type
        else:
            text = f"is {landmarks.clothes_type} here and {clothes_type} at {box.location}"
            self.add(landmarks.location, "clothes type", f"field 'clothes_type': {text}")
            return None
        return PhotoRow(
            location=location,
            image=image,
            item_id=item_id,
            domain=domain,
            split=split,
            clothes_type=clothes_type,
            box=box.box,
            landmarks=None if landmarks is None else landmarks.points,
            image_field=field,
            box_location=box.location,
            landmarks_location=None if landmarks is None else landmarks.location,
        )

    def is_status(self, location: Location, status: str, known: Sequence[str]) -> bool:
        """Returns whether a row's evaluation_status is known; if not, adds a problem."""
        if status in known:
            return True
        text = f"field 'evaluation_status': expected {one_of(known)}, got {status!r}"
        self.add(location, "unknown status", text)
        return False

    def is_item(self, location: Location, item_id: str, items: set[str] | None, file: str) -> bool:
        """Returns whether a row's item is among those of `read_items`; if not, adds a problem."""
        if items is None or item_id in items:
            return True
        self.add(location, "unknown item", f"field 'item_id': {item_id!r} is not in {file}")
        return False

    def listing(
        self,
        rows: list[PhotoRow],
        types: Mapping[int, str] = MappingProxyType({}),
        **facts: int,
    ) -> Listing:
        """Returns these rows and all problems, once all files are read and all photos asked for.

        Args:
          rows: of the photos.
          types: names of the types of attributes, by number.
          facts: numbers that only the files tell.
        """
        self._count_unlisted()
        return Listing(
            rows=rows,
            problems=self.problems,
            tolerated=self.tolerated,
            facts=facts,
            attribute_types={
                name: types.get(number, number) for name, number in self._attribute_types.items()
            },
            split_field="evaluation_status",
        )

    def _count_unlisted(self) -> None:
        """Notes the boxes and landmarks of photos that were never asked for."""
        for what, table in (("box", self._boxes), ("landmarks", self._landmarks)):
            if unlisted := len(table.keys() - self._listed):
                self.tolerated[f"{what} of a photo in no split"] += unlisted

    def _box_row(
        self, location: Location, fields: Sequence[str], kinds: Mapping[str, Sequence[str]]
    ) -> BoxRow | None:
        columns = dict(zip((*kinds, *BOX_FIELDS), fields, strict=True))
        box = {name: columns[name] for name in BOX_FIELDS}
        found = [
            ("box", f"field {name!r}: expected a whole number of pixels, got {text!r}")
            for name, text in box.items()
            if not _NUMBER.fullmatch(text)
        ]
        found = found or [("box", text) for text in box_size_problems(box)]
        for name, values in kinds.items():
            if columns[name] not in values:
                text = f"field {name!r}: expected {one_of(values)}, got {columns[name]!r}"
                found.append((name.replace("_", " "), text))
        for kind, text in found:
            self.add(location, kind, text)
        if found:
            return None
        x_1, y_1, x_2, y_2 = (float(text) for text in box.values())
        return BoxRow(location, (x_1, y_1, x_2, y_2), {name: int(columns[name]) for name in kinds})

    def _landmark_row(
        self, location: Location, fields: Sequence[str], columns: Sequence[str]
    ) -> LandmarkRow | None:
        clothes_type, texts = fields[0], fields[len(columns) :]
        if clothes_type not in CLOTHES_TYPES:
            text = f"field 'clothes_type': expected {one_of(CLOTHES_TYPES)}, got {clothes_type!r}"
            self.add(location, "clothes type", text)
            return None
        slots = LANDMARK_SLOTS[int(clothes_type)]
        if len(texts) != 3 * len(slots):
            text = (
                f"clothes type {clothes_type} has {len(slots)} landmarks, which take "
                f"{3 * len(slots)} fields after {columns[-1]}; got {len(texts)}"
            )
            self.add(location, "landmarks", text)
            return None
        for text in (*fields[1 : len(columns)], *texts):
            if not _NUMBER.fullmatch(text):
                self.add(location, "landmarks", f"expected a whole number, got {text!r}")
                return None
        points = np.zeros((8, 3), np.int32)
        points[:, 0] = UNKNOWN
        points[list(slots)] = np.array([int(text) for text in texts]).reshape(-1, 3)
        strange = set(points[list(slots), 0].tolist()) - {0, 1, TRUNCATED}
        if strange:
            text = f"expected a visibility of 0, 1 or 2, got {min(strange)}"
            self.add(location, "landmarks", text)
            return None
        return LandmarkRow(location, int(clothes_type), points)


def read_lines(path: epath.Path) -> Iterator[tuple[int, str]]:
    """Yields the number and text of each line that is not blank.

    Raises:
      AnnotationError: the file cannot be read.
    """
    line = 0
    try:
        with path.open("rb") as file:
            for line, data in enumerate(file, 1):
                content = data.removeprefix(_BOM) if line == 1 else data
                text = content.decode()
                if text.strip():
                    yield line, text
    except UnicodeDecodeError as error:
        byte = f"byte {error.object[error.start]:#04x}"
        raise AnnotationError([f"{path}:{line}: not UTF-8: {byte}"]) from None
    except OSError as error:
        raise AnnotationError([f"{path}: cannot be read: {error}"]) from error


def _read_count(path: epath.Path, lines: Iterator[tuple[int, str]]) -> int:
    line, text = next(lines, (1, ""))
    if not _NUMBER.fullmatch(text.strip()):
        what = f"got {_short(text)}" if text else "the file is empty"
        raise AnnotationError([f"{path}:{line}: expected the number of rows, {what}"])
    return int(text.strip())  # by itself int strips fewer kinds of blanks


def _check_header(path: epath.Path, lines: Iterator[tuple[int, str]], first: str) -> None:
    line, text = next(lines, (2, ""))
    if text.split()[:1] != [first]:
        what = f"got {_short(text)}" if text else "the file ends"
        raise AnnotationError(
            [f"{path}:{line}: expected the names of the columns, from {first!r} on; {what}"]
        )


def labeled(row: PhotoRow, category: tuple[str, int], attributes: AttributeRow) -> PhotoRow:
    """Returns the row with its labels; its clothes type is the landmarks' where it has one."""
    name, clothes_type = category
    if row.clothes_type != UNKNOWN:
        clothes_type = row.clothes_type
    return dataclasses.replace(
        row, category=name, clothes_type=clothes_type, **attributes._asdict()
    )


def with_value(value: str, names: Sequence[str], values: Sequence[str]) -> tuple[str, ...]:
    """Returns the names whose value is this one."""
    return tuple(name for name, given in zip(names, values, strict=True) if given == value)


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 80 else f"{text[:80]}...")


def _another(what: str, image: str, location: Location, here: Location) -> str:
    there = f"on line {location.line}" if location.path == here.path else f"at {location}"
    return f"field 'image_name': {image!r} has another {what} {there}"
