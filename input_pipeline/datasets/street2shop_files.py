"""Exact Street2Shop's files: JSON lists of photos, the list of URLs, and the photos' folder."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from etils import epath

from input_pipeline.datasets.listing import Location, Problem
from input_pipeline.errors import AnnotationError, DatasetError
from input_pipeline.images import Box

PHOTO_LIST = "photos/photos.txt"
_FOLDERS = ("photos", "images")  # the lists' own archive, and where the usual scripts download to
_NAME = re.compile(r"([0-9]{1,9})\.(?:jpe?g|png)", re.IGNORECASE)
_URL_ROW = re.compile(rb"\s*([0-9]{1,9})\s*,")  # what follows is a URL, which may hold commas
_BLANKS = re.compile(r"[ \t\r\n]*")
_BOM = b"\xef\xbb\xbf"
_LAST_ID = 999_999_999
_MOST_PIXELS = 10**9
_DIGITS = 20  # of an integer: Python refuses to read thousands
_SIDES = ("left", "top", "width", "height")


class ListedPhoto(NamedTuple):
    """An element whose numbers are right; bbox as it stands there, None where it is not there."""

    location: Location
    photo: int
    product: int
    bbox: object


class PhotoFolder(NamedTuple):
    """The folder of the photos.

    Attributes:
      path: of the folder.
      names: of the files in it, by the number of the photo, sorted.
      others: how many more files there are of these photos.
    """

    path: epath.Path
    names: dict[int, str]
    others: int


def find_photos(root: epath.Path) -> PhotoFolder:
    """Lists photos/ or images/, whichever holds the photos, as 000000001.jpg.

    Raises:
      DatasetError: neither holds photos, or both do.
      AnnotationError: the folder cannot be listed.
    """
    found = [
        (root / folder, names) for folder in _FOLDERS if (names := _photo_names(root / folder))
    ]
    if not found:
        raise DatasetError(
            f"{root} (dataset.source): neither photos/ nor images/ holds a photo, named as "
            "000000001.jpg (or .jpeg or .png)"
        )
    if len(found) > 1:
        raise DatasetError(
            f"{root} (dataset.source): photos/ and images/ both hold photos; keep all in one"
        )
    ((path, names),) = found
    by_number: dict[int, str] = {}
    for name in sorted(names):
        by_number.setdefault(int(name.partition(".")[0]), name)
    return PhotoFolder(path, by_number, len(names) - len(by_number))


def read_photo_list(
    path: epath.Path, problems: list[Problem], tolerated: Counter[str]
) -> set[int] | None:
    """Reads the numbers of the photos that rows `id,url` list; None without the file.

    Args:
      path: of photos.txt.
      problems: takes those of the rows.
      tolerated: takes the counts of harmless oddities.
    """
    if not path.exists():
        return None
    numbers: set[int] = set()
    with path.open("rb") as file:
        for line, content in enumerate(file, 1):
            row = content.removeprefix(_BOM) if line == 1 else content
            if not row.strip():
                continue
            if not (match := _URL_ROW.match(row)):
                start = row[:40].decode(errors="replace").strip()
                text = f"expected id,url with an id of one to nine digits, got {start!r}"
                problems.append(Problem(Location(path, line), "fields", text))
            elif (number := int(match[1])) in numbers:
                tolerated["photo listed twice in photos.txt"] += 1
            else:
                numbers.add(number)
    return numbers


def read_photos(
    path: epath.Path, keys: tuple[str, ...], problems: list[Problem], tolerated: Counter[str]
) -> Iterator[ListedPhoto]:
    """Yields the elements of a list whose photo and product are right.

    Args:
      path: of the JSON file.
      keys: of an element; photo and product have to be there.
      problems: takes those of the other elements.
      tolerated: takes the counts of harmless oddities.

    Raises:
      AnnotationError: the file is no JSON list as a whole.
    """
    location = None
    for location, value in _read_list(path):
        texts = list(_number_problems(value, keys))
        problems += [Problem(location, "fields", text) for text in texts]
        if not texts:
            if unused := value.keys() - keys:
                tolerated["field that is not used"] += len(unused)
            yield ListedPhoto(location, value["photo"], value["product"], value.get("bbox"))
    if location is None:
        tolerated["list without elements"] += 1


def read_box(bbox: object) -> tuple[Box | None, list[str]]:
    """Parses the box {"left": .., "top": .., "width": .., "height": ..}, or says why it is none."""
    if not isinstance(bbox, dict):
        return None, [f"field 'bbox': expected {', '.join(_SIDES)}, got {_short(bbox)}"]
    if missing := [name for name in _SIDES if name not in bbox]:
        return None, [f"field 'bbox': has no {' and no '.join(missing)}"]
    texts = [
        f"field 'bbox': expected a number of pixels as {name}, got {_short(bbox[name])}"
        for name in _SIDES
        if not _is_number(bbox[name]) or not abs(bbox[name]) <= _MOST_PIXELS
    ]
    if not texts:
        texts = [
            f"field 'bbox': the box has no size: {name}={bbox[name]} is not above 0"
            for name in _SIDES[2:]
            if bbox[name] <= 0
        ]
    if texts:
        return None, texts
    left, top, width, height = (float(bbox[name]) for name in _SIDES)
    return (left, top, left + width, top + height), []


def _photo_names(folder: epath.Path) -> list[str]:
    try:
        if not folder.is_dir():
            return []
        return [path.name for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    except OSError as error:
        raise AnnotationError([f"{folder}: cannot be listed: {error}"]) from error


def _read_list(path: epath.Path) -> Iterator[tuple[Location, Any]]:
    """Yields the location and value of each element."""
    text = _read_text(path)
    line, counted, number = 1, 0, 0
    at = _skip_blanks(text, 0)
    if not text.startswith("[", at):
        raise _not_json(path, text, at, "expected a list, which begins with [")
    at = _skip_blanks(text, at + 1)
    more = not text.startswith("]", at)
    while more:
        line += text.count("\n", counted, at)
        counted = at
        try:
            value, at = _DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise _not_json(path, text, error.pos, error.msg) from None
        except RecursionError:
            raise _not_json(path, text, at, "lists in lists, too many to read") from None
        number += 1
        yield Location(path, line, f"element {number}"), value
        at = _skip_blanks(text, at)
        if text[at : at + 1] not in (",", "]") or at == len(text):
            raise _not_json(path, text, at, f"expected , or ] after element {number}")
        more = text[at] == ","
        at = _skip_blanks(text, at + 1) if more else at
    if (at := _skip_blanks(text, at + 1)) < len(text):
        raise _not_json(path, text, at, "more text after the list")


def _read_text(path: epath.Path) -> str:
    try:
        data = path.read_bytes().removeprefix(_BOM)
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = f"byte {data[error.start]:#04x}"
        raise AnnotationError([f"{path}:{line}: not UTF-8: {byte}"]) from None
    except OSError as error:
        raise AnnotationError([f"{path}: cannot be read: {error}"]) from error


def _skip_blanks(text: str, at: int) -> int:
    match = _BLANKS.match(text, at)
    return match.end() if match else at


def _not_json(path: epath.Path, text: str, at: int, what: str) -> AnnotationError:
    line = text.count("\n", 0, at) + 1
    column = at - text.rfind("\n", 0, at)
    here = "the file ends" if at >= len(text) else f"got {text[at : at + 20]!r}"
    return AnnotationError([f"{path}:{line}: not a JSON list: column {column}: {what}; {here}"])


def _number_problems(value: object, keys: tuple[str, ...]) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"expected an object with {', '.join(keys)}, got {_short(value)}"
        return
    for name in ("photo", "product"):
        if name not in value:
            yield f"field {name!r}: is missing"
        elif not (type(value[name]) is int and 0 <= value[name] <= _LAST_ID):
            text = f"expected a whole number from 0 to {_LAST_ID}, got {_short(value[name])}"
            yield f"field {name!r}: {text}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: object) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _to_integer(digits: str) -> int | float:
    """A float where there are too many digits: it is too large either way."""
    return int(digits) if len(digits) <= _DIGITS else float(digits)


def _to_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A key that is there twice gets a value that no field can have."""
    result = dict(pairs)
    if len(result) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        result |= {name: "two values" for name, count in counts.items() if count > 1}
    return result


_DECODER = json.JSONDecoder(object_pairs_hook=_to_object, parse_int=_to_integer)
