"""Reads a COCO file: its photos, categories and annotations, with the line of each."""

import json
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, TypeGuard

from etils import epath

from input_pipeline.datasets.listing import Location
from input_pipeline.datasets.object_listing import ListedObject, ObjectRow, ProblemLog
from input_pipeline.datasets.segmentation import (
    SegmentationError,
    is_integer,
    is_number,
    parse_segmentation,
    short,
)
from input_pipeline.errors import AnnotationError, one_of
from input_pipeline.vocabulary import SPLITS

LISTS = {"images": "image", "annotations": "annotation", "categories": "category"}
_SPACE = re.compile(r"[ \t\n\r]*")

SplitOf = Callable[[int | str], str]  # the split of an image's id


class Entry(NamedTuple):
    """An entry of one of the lists: where it stands, what messages call it, its fields."""

    location: Location
    label: str
    fields: dict[str, Any]


class Categories:
    """The categories of all files of a data set.

    Attributes:
      names: by id.
    """

    def __init__(self, fixed: Mapping[int, str] | None = None):
        """`fixed`: the categories there are, whatever files call them; None: those of the files."""
        self.names = dict(fixed or {})
        self._fixed = fixed is not None

    def add(self, key: int, name: object) -> Iterator[tuple[str, str]]:
        """Adds one as a file lists it; yields the kind and text of what is wrong with it."""
        if self._fixed:
            if key not in self.names:
                known = f"{min(self.names)} to {max(self.names)}"
                yield "unknown category", f"field 'id': expected {known} ({short(name)})"
        elif not _is_text(name):
            yield "fields", f"field 'name': expected a name, got {short(name)}"
        elif self.names.setdefault(key, str(name)) != name:
            yield "category", f"field 'name': {name!r} is {self.names[key]!r} in another file"
        elif list(self.names.values()).count(str(name)) > 1:
            del self.names[key]
            yield "category", f"field 'name': {name!r} is the name of another category"


class CocoFile:
    """Takes one file apart.

    Args:
      path: of the file.
      categories: of the data set; this file's are added.
      log: collects problems.
    """

    def __init__(self, path: epath.Path, categories: Categories, log: ProblemLog):
        self._path = path
        self._categories = categories
        self._log = log
        self._own: set[int] = set()  # categories that this file lists
        self._keys: dict[str, set[object]] = {name: set() for name in LISTS}
        self._repeated: set[object] = set()  # ids of images that several have

    def rows(self, split_of: SplitOf, *, own_splits: bool) -> list[ObjectRow]:
        """Returns the photos that are correct in themselves, in order, each with its objects.

        Args:
          split_of: the split of each photo.
          own_splits: whether photos may name their split in a field `split`; then all have to.

        Returns:
          Rows whose objects' category is the file's id.

        Raises:
          AnnotationError: the file cannot be read as a whole.
        """
        images: list[Entry] = []
        found: list[tuple[int | str, ListedObject]] = []  # with the id of the image
        for name, location, number, value in read_lists(self._path):
            entry = self._entry(name, location, number, value)
            if entry is None:
                continue
            if name == "images":
                images.append(entry)
            elif name == "categories":
                self._add_category(entry)
            elif (listed := self._object(entry)) is not None:
                found.append((entry.fields["image_id"], listed))
        objects = self._by_image(found)
        own_splits = own_splits and any("split" in entry.fields for entry in images)
        rows = (
            self._row(entry, split_of, own_splits, tuple(objects.get(entry.fields["id"], ())))
            for entry in images
        )
        return [row for row in rows if row is not None]

    def _fault(self, entry: Entry | ListedObject, kind: str, text: str) -> None:
        self._log.add(entry.location, entry.label, kind, text)

    def _entry(self, name: str, location: Location, number: int, value: Any) -> Entry | None:
        """Returns the entry, or None if it cannot be used."""
        entry = Entry(location, f"{name}[{number}]", value)
        if not isinstance(value, dict):
            self._fault(entry, "fields", f"expected fields in braces, got {short(value)}")
            return None
        key = value.get("id")
        if name == "annotations" and key is None:
            return entry  # nothing refers to it
        if not (is_integer(key, 0) or (name != "categories" and _is_text(key))):
            expected = "an integer from 0 on" + (" or a text" if name != "categories" else "")
            self._fault(entry, "fields", f"field 'id': expected {expected}, got {short(key)}")
            return None
        named = entry._replace(label=f"{LISTS[name]} {short(key)}")
        if key in self._keys[name]:
            self._fault(entry, "duplicate row", f"field 'id': there is {named.label} already")
            if name == "images":
                self._repeated.add(key)
            elif name == "categories":
                self._own.discard(key)  # which of them an annotation means cannot be told
            return None
        self._keys[name].add(key)
        return named

    def _add_category(self, entry: Entry) -> None:
        key = entry.fields["id"]
        problems = list(self._categories.add(key, entry.fields.get("name")))
        for kind, text in problems:
            self._fault(entry, kind, text)
        if not problems:
            self._own.add(key)

    def _object(self, entry: Entry) -> ListedObject | None:
        fields, before = entry.fields, len(self._log.problems)

        def fault(kind: str, field: str, text: str) -> None:
            self._fault(entry, kind, f"field {field!r}: {text}")

        image, category = fields.get("image_id"), fields.get("category_id", -1)
        if not (is_integer(image, 0) or _is_text(image)):
            expected = "an integer from 0 on or a text"
            fault("fields", "image_id", f"expected {expected}, got {short(image)}")
        if not is_integer(category, 0):
            fault("fields", "category_id", f"expected an integer from 0 on, got {short(category)}")
        crowd = fields.get("iscrowd", 0)
        if crowd not in (0, 1):
            fault("fields", "iscrowd", f"expected 0 or 1, got {short(crowd)}")
        box = fields.get("bbox", [])
        if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
            fault("box", "bbox", f"expected [x, y, width, height], got {short(box)}")
        elif not (box[2] > 0 and box[3] > 0):
            fault("box", "bbox", f"{short(box)} has no size")
        segmentation = None
        try:
            segmentation = parse_segmentation(fields.get("segmentation"))
        except SegmentationError as error:
            fault("outline", "segmentation", str(error))
        if len(self._log.problems) > before:
            return None
        x, y, width, height = map(float, box)
        return ListedObject(
            location=entry.location,
            label=entry.label,
            box=(x, y, x + width, y + height),
            category=category,
            crowd=bool(crowd),
            segmentation=segmentation,
        )

    def _by_image(
        self, found: Sequence[tuple[int | str, ListedObject]]
    ) -> dict[int | str, list[ListedObject]]:
        """Groups objects by image, once all lists are read: they come in any order."""
        objects: dict[int | str, list[ListedObject]] = {}
        for image, listed in found:
            if listed.category not in self._own:
                text = f"field 'category_id': there is no category {short(listed.category)}"
                self._fault(listed, "unknown category", text)
            elif image not in self._keys["images"]:
                text = f"field 'image_id': there is no image {short(image)}"
                self._fault(listed, "unknown photo", text)
            else:
                objects.setdefault(image, []).append(listed)
        return objects

    def _row(
        self,
        entry: Entry,
        split_of: SplitOf,
        own_splits: bool,
        objects: tuple[ListedObject, ...],
    ) -> ObjectRow | None:
        fields, before = entry.fields, len(self._log.problems)
        if fields["id"] in self._repeated:
            # Whose the objects are cannot be told.
            self._fault(entry, "duplicate row", "field 'id': another image has it too")
        image = fields.get("file_name", "")
        if not _is_text(image):
            self._fault(entry, "fields", f"field 'file_name': expected a path, got {short(image)}")
        elif not _is_inside(image):
            text = f"field 'file_name': expected a path below the folder, got {short(image)}"
            self._fault(entry, "path", text)
        split = fields.get("split") if own_splits else split_of(fields["id"])
        if split not in SPLITS:
            text = f"field 'split': expected {one_of(SPLITS)}, got {short(split)}"
            self._fault(entry, "unknown split", text)
        size = _size(fields)
        if size is not None and not all(is_integer(side, 1) for side in size):
            text = f"fields 'height' and 'width': expected numbers of pixels, got {short(size)}"
            self._fault(entry, "fields", text)
        if len(self._log.problems) > before:
            self._log.count_left_out(objects)
            return None
        return ObjectRow(
            location=entry.location,
            label=entry.label,
            image=image,
            split=str(split),
            size=size,
            objects=objects,
        )


def read_lists(path: epath.Path) -> Iterator[tuple[str, Location, int, Any]]:
    """Yields the entries of the lists of a COCO file in its order: list, location, number, value.

    Raises:
      AnnotationError: it is not a JSON file with these lists.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise AnnotationError([f"{path}: cannot be read: {error}"]) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise AnnotationError([f"{path}:{line}: not a text in UTF-8 ({error.reason})"]) from error
    return _Scanner(path, text).lists()


class _Scanner:
    """Steps through a JSON object one entry of its lists at a time.

    `json.load` would hold a large file's entries all at once, and tell the line of none.
    """

    def __init__(self, path: epath.Path, text: str):
        self._path = path
        self._text = text
        self._decoder = json.JSONDecoder(parse_constant=_refuse_constant)
        self._at = _skip(text, 0)
        self._line, self._counted = 1, 0

    def lists(self) -> Iterator[tuple[str, Location, int, Any]]:
        """See `read_lists`."""
        found: set[str] = set()
        for _ in self._items("{", "}"):
            name = self._value()
            if not isinstance(name, str):
                self._fail(f"expected a name in double quotes, got {short(name)}")
            self._expect(":")
            if name not in LISTS:
                self._value()
                continue
            if name in found:
                self._fail(f"{name!r} is there twice")
            found.add(name)
            if self._text[self._at : self._at + 1] != "[":
                self._fail(f"{name!r}: expected a list")
            for number in self._items("[", "]"):
                location = self._location()
                yield name, location, number, self._value()
        if self._at != len(self._text):
            self._fail("there is more after its end")
        if missing := [name for name in LISTS if name not in found]:
            raise AnnotationError([f"{self._path}:1: {', '.join(missing)} missing"])

    def _items(self, opening: str, closing: str) -> Iterator[int]:
        """Counts the items between brackets; the caller reads each."""
        self._expect(opening)
        if self._text[self._at : self._at + 1] == closing:
            self._expect(closing)
            return
        number = 0
        while True:
            yield number
            number += 1
            if self._text[self._at : self._at + 1] == closing:
                self._expect(closing)
                return
            self._expect(",")

    def _expect(self, mark: str) -> None:
        found = self._text[self._at : self._at + 1]
        if found != mark:
            self._fail(f"expected {mark!r}, got {found!r}" if found else "it breaks off")
        self._at = _skip(self._text, self._at + 1)

    def _value(self) -> Any:
        try:
            value, end = self._decoder.raw_decode(self._text, self._at)
        except json.JSONDecodeError as error:
            self._at = min(error.pos, len(self._text))
            self._fail(error.msg)
        except (ValueError, RecursionError) as error:  # a constant or too many digits; too deep
            self._fail(str(error))
        self._at = _skip(self._text, end)
        return value

    def _location(self) -> Location:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return Location(self._path, self._line)

    def _fail(self, text: str) -> NoReturn:
        raise AnnotationError([f"{self._location()}: not a COCO file in JSON: {text}"])


def _skip(text: str, start: int) -> int:
    """Returns the index of the next character that is no white space."""
    found = _SPACE.match(text, start)
    return found.end() if found else start


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value.isprintable() and bool(value.strip())


def _size(fields: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """Returns (height, width) as stated; None where neither is."""
    size = fields.get("height"), fields.get("width")
    return None if size == (None, None) else size


def _is_inside(path: str) -> bool:
    """Returns whether a path leads to something below the folder it is relative to."""
    normal = posixpath.normpath(path)
    return not (
        posixpath.isabs(path) or normal in (".", "..") or normal.startswith("../") or "://" in path
    )
