"""DeepFashion2's annotation files: one of JSON a photo, with the photo's source and garments."""

import hashlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from input_pipeline.datasets.listing import (
    BOX_FIELDS,
    Location,
    PhotoRow,
    Problem,
    box_size_problems,
)
from input_pipeline.datasets.segmentation import Polygons, SegmentationError, parse_segmentation
from input_pipeline.errors import AnnotationError, one_of
from input_pipeline.vocabulary import FULL, LOWER, UNKNOWN, UPPER, VIEWS


class Category(NamedTuple):
    """A category, and the clothes type and number of landmarks of its garments."""

    name: str
    clothes_type: int
    landmarks: int


CATEGORIES = (  # in the order of category_id, from 1
    Category("short sleeve top", UPPER, 25),
    Category("long sleeve top", UPPER, 33),
    Category("short sleeve outwear", UPPER, 31),
    Category("long sleeve outwear", UPPER, 39),
    Category("vest", UPPER, 15),
    Category("sling", UPPER, 15),
    Category("shorts", LOWER, 10),
    Category("trousers", LOWER, 14),
    Category("skirt", LOWER, 8),
    Category("short sleeve dress", FULL, 29),
    Category("long sleeve dress", FULL, 37),
    Category("vest dress", FULL, 19),
    Category("sling dress", FULL, 19),
)
FOLDERS = {"train": "train", "validation": "test"}  # and their splits
_DOMAINS = {"user": "customer", "shop": "shop"}  # by source
_IDS = {category.name: number for number, category in enumerate(CATEGORIES, 1)}
_VIEWS = {1: VIEWS.index("front"), 2: VIEWS.index("front"), 3: VIEWS.index("side")}
_VISIBILITIES = {2: 0, 1: 1, 0: UNKNOWN}
_LEVELS = {  # fields of 1, 2 or 3, and the kind of problem where they are not
    "scale": "fields",
    "occlusion": "unknown occluded",
    "zoom_in": "unknown cropped",
    "viewpoint": "unknown view",
}
_FIELDS = (
    *("category_name", "category_id", "style", "bounding_box", "landmarks", "segmentation"),
    *_LEVELS,
)
_GARMENT = re.compile(r"item[1-9][0-9]{0,8}")
_FARTHEST = 100_000  # drawing walks along every edge of a polygon, in the photo or not
_NUMBER_LIMIT = 10**9  # fits the int32 of a record
_BOM = b"\xef\xbb\xbf"


class FileContent(NamedTuple):
    """What one annotation file holds.

    Attributes:
      rows: of the garments that are right, by their numbers.
      problems: of the others, and of the file.
      tolerated: how often each harmless oddity was met, by kind.
    """

    rows: list[PhotoRow]
    problems: list[Problem]
    tolerated: Counter[str]


def list_names(folder: epath.Path, suffix: str) -> tuple[list[str], int]:
    """Names of a folder's numbered files, as 000001.json, in order; how many others there are."""
    names = [name for name, _ in _entries(folder)]
    numbered = [name for name in names if _is_numbered(name, suffix)]
    return sorted(numbered), len(names) - len(numbered)


def digest_states(folders: Iterable[epath.Path]) -> str:
    """Returns a digest of annotation files' names, sizes and times; in a bucket of names alone."""
    digest = hashlib.blake2b(digest_size=16)
    for folder in folders:
        digest.update(f"{folder.parent.name}\0".encode())
        for name, state in sorted(_entries(folder, states=True)):
            if _is_numbered(name, ".json"):
                digest.update(f"{name} {state}\0".encode())
    return digest.hexdigest()


def read_garments(path: epath.Path) -> FileContent:
    """Reads and checks FOLDER/annos/NUMBER.json, which tells of FOLDER/image/NUMBER.jpg.

    Raises:
      AnnotationError: the file cannot be read at all.
    """
    text, content, problem = _read_object(path)
    if problem is not None:
        return FileContent([], [problem], Counter())
    tolerated: Counter[str] = Counter()
    problems = [
        Problem(_location(path, text, key), kind, message)
        for key, kind, message in _photo_problems(content)
    ]
    usable = not problems
    rows = []
    garments = sorted(filter(_GARMENT.fullmatch, content), key=lambda key: int(key[4:]))
    if not garments:
        tolerated["photo without a garment"] += 1
    problems += [
        Problem(
            _location(path, text, key), "fields", f"field {_describe(key)}: there is no such field"
        )
        for key in sorted(content.keys() - {"source", "pair_id", *garments})
    ]
    for key in garments:
        location = _location(path, text, key)._replace(part=sys.intern(key))
        found = [
            Problem(location, kind, message) for kind, message in _garment_problems(content[key])
        ]
        problems += found
        if usable and not found:
            rows.append(_to_row(location, key, content, tolerated))
    return FileContent(rows, problems, tolerated)


def read_polygons(row: PhotoRow) -> Polygons:
    """Reads the polygons of a row of `read_garments`, which does not keep them in memory.

    Raises:
      AnnotationError: the file cannot be read, or has changed.
    """
    _, content, problem = _read_object(row.location.path)
    garment = content.get(row.location.part)
    value = garment.get("segmentation") if isinstance(garment, dict) else None
    if problem is not None or any(_segmentation_problems(value, list(row.box or ()))):
        raise AnnotationError([f"{row.location}: has changed since it was checked"])
    return parse_segmentation(value)  # type: ignore[return-value]


def _entries(folder: epath.Path, *, states: bool = False) -> Iterator[tuple[str, str]]:
    """Yields the names in a folder, with sizes and times if the system lists these too."""
    try:
        if "://" in os.fspath(folder):
            yield from ((path.name, "") for path in folder.iterdir())
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                yield entry.name, _state(entry) if states else ""
    except OSError as error:
        raise AnnotationError([f"{folder}: cannot be read: {error}"]) from error


def _state(entry: os.DirEntry) -> str:
    try:
        state = entry.stat()
    except FileNotFoundError:
        return "missing"  # a link to nothing, which reading reports
    return f"{state.st_size} {state.st_mtime_ns}"


def _is_numbered(name: str, suffix: str) -> bool:
    stem = name.removesuffix(suffix)
    return stem != name and stem.isascii() and stem.isdigit()


def _read_object(path: epath.Path) -> tuple[str, dict[str, Any], Problem | None]:
    """Returns the file's text and the JSON object it holds, or the problem that there is none."""
    try:
        data = path.read_bytes().removeprefix(_BOM)
    except OSError as error:
        raise AnnotationError([f"{path}: cannot be read: {error}"]) from error
    line = 1
    try:
        text = data.decode()
        content = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        if isinstance(content, dict):
            return text, content, None
        message = f"expected an object, got {_describe(content)}"
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"not UTF-8: byte {data[error.start]:#04x}"
    except json.JSONDecodeError as error:
        line = error.lineno
        message = f"not JSON: {error.msg} (column {error.colno})" if data.strip() else "is empty"
    except _RefusedError as error:
        line, message = _line(text, error.key), str(error)
    except RecursionError:
        message = "is nested too deeply"
    except ValueError:  # Python's limit of digits
        message = "holds a number of too many digits"
    return "", {}, Problem(Location(path, line), "fields", message)


class _RefusedError(ValueError):
    """JSON that Python reads and that says two things, or nothing."""

    def __init__(self, key: str, message: str):
        self.key = key
        super().__init__(message)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise _RefusedError(key, f"field {_describe(key)}: is there twice")
    return content


def _refuse_constant(name: str) -> None:
    raise _RefusedError("", f"holds {name}, which is no number")


def _location(path: epath.Path, text: str, key: str) -> Location:
    return Location(path, _line(text, key))


def _line(text: str, key: str) -> int:
    """Returns the line where a key first occurs; 1 if it is written with escapes."""
    if "\n" not in text:  # as the release's files are
        return 1
    found = re.search(rf"{re.escape(json.dumps(key, ensure_ascii=False))}\s*:", text)
    return text.count("\n", 0, found.start()) + 1 if found else 1


def _photo_problems(content: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yields a field, a kind and a text for each problem of what is said of the whole photo."""
    for name in ("source", "pair_id"):
        if name not in content:
            yield name, "fields", f"field {name!r}: is missing"
    source = content.get("source", "user")
    if not isinstance(source, str):
        yield "source", "fields", f"field 'source': expected a text, got {_describe(source)}"
    elif source not in _DOMAINS:
        expected = one_of(tuple(_DOMAINS))
        text = f"field 'source': expected {expected}, got {_describe(source)}"
        yield "source", "unknown source", text
    if not _is_whole(content.get("pair_id", 0)):
        text = f"field 'pair_id': expected a whole number, got {_describe(content['pair_id'])}"
        yield "pair_id", "fields", text


def _garment_problems(garment: Any) -> Iterator[tuple[str, str]]:
    """Yields a kind and a text for each."""
    if not isinstance(garment, dict):
        yield "fields", f"expected an object, got {_describe(garment)}"
        return
    for name in _FIELDS:
        if name not in garment:
            yield "fields", f"field {name!r}: is missing"
    yield from _category_problems(garment)
    if "style" in garment and not _is_whole(garment["style"]):
        yield "fields", f"field 'style': expected a whole number, got {_describe(garment['style'])}"
    for name, kind in _LEVELS.items():
        if name in garment and not (_is_whole(garment[name]) and 1 <= garment[name] <= 3):
            yield kind, f"field {name!r}: expected 1, 2 or 3, got {_describe(garment[name])}"
    if "bounding_box" in garment:
        for text in _box_problems(garment["bounding_box"]):
            yield "box", text
    if "landmarks" in garment:
        for text in _landmark_problems(garment["landmarks"], garment.get("category_name")):
            yield "landmarks", text
    if "segmentation" in garment:
        for text in _segmentation_problems(garment["segmentation"], garment.get("bounding_box")):
            yield "outline", f"field 'segmentation': {text}"


def _category_problems(garment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    name: Any = garment.get("category_name")
    number: Any = garment.get("category_id")
    known = isinstance(name, str) and name in _IDS
    if "category_name" in garment and not known:
        text = f"expected one of the {len(CATEGORIES)} categories, got {_describe(name)}"
        yield "unknown category", f"field 'category_name': {text}"
    if "category_id" not in garment:
        return
    if not (_is_whole(number) and 1 <= number <= len(CATEGORIES)):
        text = f"expected 1 to {len(CATEGORIES)}, got {_describe(number)}"
        yield "unknown category", f"field 'category_id': {text}"
    elif known and CATEGORIES[number - 1].name != name:
        text = f"is {number}, which is {CATEGORIES[number - 1].name!r}"
        yield "category", f"field 'category_id': {text}; category_name is {name!r}"


def _box_problems(box: Any) -> Iterator[str]:
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_pixels, box)):
        text = f"expected [x_1, y_1, x_2, y_2], numbers of pixels, got {_describe(box)}"
        yield f"field 'bounding_box': {text}"
        return
    yield from box_size_problems(dict(zip(BOX_FIELDS, map(str, box), strict=True)))


def _landmark_problems(landmarks: Any, category: Any) -> Iterator[str]:
    if not isinstance(landmarks, list) or not all(map(_is_signed, landmarks)):
        text = f"expected whole numbers x, y, visibility, got {_describe(landmarks)}"
        yield f"field 'landmarks': {text}"
        return
    if isinstance(category, str) and category in _IDS:
        count = CATEGORIES[_IDS[category] - 1].landmarks
        if len(landmarks) != 3 * count:
            text = f"a {category} has {count}, which take {3 * count} numbers"
            yield f"field 'landmarks': {text}; got {len(landmarks)}"
    if strange := sorted(set(landmarks[2::3]) - _VISIBILITIES.keys()):
        yield f"field 'landmarks': expected a visibility of 0, 1 or 2, got {strange[0]}"


def _segmentation_problems(value: Any, box: Any) -> Iterator[str]:
    if not isinstance(value, list) or not value:
        yield f"expected a list of polygons, got {_describe(value)}"
        return
    try:
        polygons: Any = parse_segmentation(value)
    except SegmentationError as error:
        yield str(error)
        return
    points = np.concatenate(polygons).reshape(-1, 2)
    if (np.abs(points) > _FARTHEST).any():
        yield f"a point lies more than {_FARTHEST:,} pixels away"
    elif not any(_box_problems(box)):
        low, high = np.maximum(points.min(axis=0), box[:2]), np.minimum(points.max(axis=0), box[2:])
        if not (low < high).all():
            yield f"the polygons enclose nothing in the box {_describe(box)}"


def _to_row(
    location: Location, key: str, content: Mapping[str, Any], tolerated: Counter
) -> PhotoRow:
    garment = content[key]
    number, folder = location.path.stem, location.path.parent.parent.name
    category = CATEGORIES[garment["category_id"] - 1]
    item_id = f"{folder}/{content['pair_id']}/{garment['style']}"
    if not garment["style"]:  # no other photo shows it
        item_id += f"/{number}/{key}"
    if unknown := len(garment.keys() - set(_FIELDS)):
        tolerated["field of a garment that the format does not have"] += unknown
    x_1, y_1, x_2, y_2 = map(float, garment["bounding_box"])
    return PhotoRow(
        location=location,
        image=f"{folder}/image/{number}.jpg",
        item_id=item_id,
        domain=_DOMAINS[content["source"]],
        split=FOLDERS[folder],
        category=category.name,
        clothes_type=category.clothes_type,
        box=(x_1, y_1, x_2, y_2),
        landmarks=_to_landmarks(garment["landmarks"], tolerated),
        view=_VIEWS[garment["viewpoint"]],
        occluded=int(garment["occlusion"] >= 2),
        cropped=int(garment["zoom_in"] >= 2),
    )


def _to_landmarks(values: list[int], tolerated: Counter) -> np.ndarray:
    """Returns int32 [n, 3] (visibility, x, y) as in a record; the files have x, y, visibility."""
    given = np.array(values, np.int32).reshape(-1, 3)
    absent = given[:, 2] == 0
    if strange := int(given[absent, :2].any(axis=1).sum()):
        tolerated["place of a landmark that is not labeled"] += strange
    landmarks = np.zeros_like(given)
    landmarks[:, 0] = [_VISIBILITIES[visibility] for visibility in given[:, 2].tolist()]
    landmarks[~absent, 1:] = given[~absent, :2]
    return landmarks


def _is_signed(value: Any) -> bool:
    return type(value) is int and abs(value) < _NUMBER_LIMIT  # True is an int to isinstance


def _is_whole(value: Any) -> bool:
    return _is_signed(value) and value >= 0


def _is_pixels(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _NUMBER_LIMIT  # False for NaN too


def _describe(value: Any) -> str:
    """Returns what an error calls a value of JSON, however long or deep."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        simple = len(value) <= 4 and not any(isinstance(part, (list, dict)) for part in value)
        return f"[{', '.join(map(_describe, value))}]" if simple else f"a list of {len(value)}"
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
