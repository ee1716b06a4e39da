"""Reads and checks a manifest: the CSV beside a user's own photos."""

import csv
import hashlib
import io
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from etils import epath
from tqdm import tqdm

from grnet_jax.photos import Box, PhotoError, PhotoHeader, inspect_photo
from input_pipeline.datasets.base import SPLITS
from input_pipeline.datasets.records import DOMAINS, UNKNOWN, VIEWS
from input_pipeline.errors import ManifestError
from input_pipeline.parallel import ordered_map

_REQUIRED = ("image", "item_id", "domain", "split")
_BOX = ("x_1", "y_1", "x_2", "y_2")
_OPTIONAL = ("category", *_BOX, "view", "occluded", "cropped")
_FLAGS = ("0", "1")
THREADS = 8  # each may hold a photo of max_pixels
_AHEAD = 4 * THREADS


class Problem(NamedTuple):
    """What is wrong with one row; line is the physical line of the CSV where the row begins."""

    line: int
    text: str


class TableRow(NamedTuple):
    """A row as it stands in the CSV."""

    line: int
    cells: dict[str, str]


class Table(NamedTuple):
    """A manifest as it stands in the CSV: its rows, and the rows with a wrong number of cells."""

    path: epath.Path
    data: bytes
    rows: list[TableRow]
    problems: list[Problem]

    def message(self, problem: Problem) -> str:
        """The problem with its place: FILE:LINE: text."""
        return f"{self.path}:{problem.line}: {problem.text}"

    def photo_path(self, image: str) -> epath.Path:
        """Where the photo of a cell `image` lies: the path is relative to the CSV."""
        return self.path.parent / image


class ManifestRow(NamedTuple):
    """A row whose cells are right; header is that of its photo."""

    line: int
    image: str
    item_id: str
    domain: str
    split: str
    category: str
    box: Box | None
    view: int
    occluded: int
    cropped: int
    header: PhotoHeader


def read_table(path: epath.PathLike) -> Table:
    """Reads a CSV in UTF-8 with a header line. Blanks around a cell are no part of it.

    Raises:
      ManifestError: it cannot be read as a whole: missing, empty, not UTF-8, a column missing.
    """
    path = epath.Path(path)
    data = _read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ManifestError([f"{path}:{line}: not UTF-8: byte {data[error.start]:#04x}"]) from None
    lines = _csv_lines(path, text)
    line, header = next(lines, (1, []))
    _check_header(path, line, header)
    rows, problems = [], []
    for line, cells in lines:
        if len(cells) == len(header):
            rows.append(TableRow(line, dict(zip(header, cells, strict=True))))
        else:
            problems.append(Problem(line, f"expected {len(header)} cells, got {len(cells)}"))
    if not rows and not problems:
        raise ManifestError([f"{path}:{line}: has a header and no rows"])
    return Table(path, data, rows, problems)


def fingerprint(table: Table) -> str:
    """A digest that changes when the CSV, or the size or time of one of its photos, changes."""
    digest = hashlib.blake2b(table.data, digest_size=16)
    images = sorted({row.cells["image"] for row in table.rows} - {""})
    with ThreadPoolExecutor(THREADS) as pool:
        states = ordered_map(pool, _state, map(table.photo_path, images), _AHEAD)
        for image, state in zip(images, states, strict=True):
            digest.update(f"{image}\0{state}\0".encode())
    return digest.hexdigest()


def check_table(table: Table, max_pixels: int) -> tuple[list[ManifestRow], list[Problem]]:
    """Checks every row and decodes every photo.

    Returns:
      The rows that are right, with their photos' headers, and all problems, both in the order
      of the lines.
    """
    problems = list(table.problems)
    readable = []
    for row in table.rows:
        found = list(_cell_problems(row.cells))
        problems += [Problem(row.line, text) for text in found]
        if not found:
            readable.append(row)
    rows, photo_problems = _check_photos(table, readable, max_pixels)
    rows, relation_problems = _check_relations(rows)
    problems += photo_problems + relation_problems
    return rows, sorted(problems, key=lambda problem: problem.line)


def _read_bytes(path: epath.Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ManifestError([f"{path}: no such file (config.data.manifest)"]) from None
    except OSError as error:
        raise ManifestError([f"{path}: cannot be read: {error}"]) from error
    if not data.strip():
        raise ManifestError([f"{path}: is empty"])
    return data


def _csv_lines(path: epath.Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yields each row's first physical line and its cells; blank lines are no rows."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ManifestError([f"{path}:{line}: not a CSV row: {error}"]) from error
        if cells:
            yield line, [cell.strip() for cell in cells]


def _check_header(path: epath.Path, line: int, header: Sequence[str]) -> None:
    problems = [f"column {name!r} is missing" for name in _REQUIRED if name not in header]
    repeated = sorted({name for name in header if header.count(name) > 1})
    problems += [f"column {name!r} is there twice" for name in repeated]
    box = [name for name in _BOX if name in header]
    if box and len(box) < len(_BOX):
        problems.append(f"a box needs all of {', '.join(_BOX)}; there is {', '.join(box)}")
    if problems:
        columns = f"the columns are {', '.join(header)}"
        raise ManifestError([f"{path}:{line}: {problem}; {columns}" for problem in problems])
    ignored = [name for name in header if name not in _REQUIRED + _OPTIONAL]
    if ignored:
        print(f"{path}: columns that are not used: {', '.join(map(repr, ignored))}")


def _state(path: epath.Path) -> str:
    try:
        state = path.stat()
    except OSError:
        return "missing"  # `check_table` reports it
    return f"{state.length} {state.mtime}"


def _cell_problems(cells: dict[str, str]) -> Iterator[str]:
    for name in ("image", "item_id"):
        if not cells[name]:
            yield f"field {name!r}: is empty"
    if posixpath.isabs(cells["image"]) or "://" in cells["image"]:
        yield f"field 'image': expected a path relative to the CSV, got {cells['image']!r}"
    choices = {"domain": DOMAINS, "split": SPLITS}
    optional_choices = {"view": VIEWS, "occluded": _FLAGS, "cropped": _FLAGS}
    choices |= {name: values for name, values in optional_choices.items() if cells.get(name)}
    for name, allowed in choices.items():
        if cells[name] not in allowed:
            expected = f"{', '.join(allowed[:-1])} or {allowed[-1]}"
            yield f"field {name!r}: expected {expected}, got {cells[name]!r}"
    yield from _box_problems(cells)


def _box_problems(cells: dict[str, str]) -> Iterator[str]:
    given = [name for name in _BOX if cells.get(name)]
    if not given:
        return
    missing = [name for name in _BOX if name not in given]
    if missing:
        yield f"field {missing[0]!r}: is empty, but {', '.join(given)} given"
    wrong = [name for name in given if not _is_number(cells[name])]
    for name in wrong:
        yield f"field {name!r}: expected a number of pixels, got {cells[name]!r}"
    if missing or wrong:
        return
    for low, high in (("x_1", "x_2"), ("y_1", "y_2")):
        if float(cells[high]) <= float(cells[low]):
            yield (
                f"field {high!r}: the box has no size: {high}={cells[high]} is not above "
                f"{low}={cells[low]}"
            )


def _is_number(text: str) -> bool:
    try:
        value = float(text)
    except ValueError:
        return False
    return abs(value) < float("inf")  # False for NaN too


def _to_row(row: TableRow, header: PhotoHeader) -> ManifestRow:
    cells = row.cells
    box = None
    if cells.get(_BOX[0]):
        x_1, y_1, x_2, y_2 = (float(cells[name]) for name in _BOX)
        box = (x_1, y_1, x_2, y_2)
    return ManifestRow(
        line=row.line,
        image=cells["image"],
        item_id=cells["item_id"],
        domain=cells["domain"],
        split=cells["split"],
        category=cells.get("category", ""),
        box=box,
        view=_place(VIEWS, cells.get("view")),
        occluded=_place(_FLAGS, cells.get("occluded")),
        cropped=_place(_FLAGS, cells.get("cropped")),
        header=header,
    )


def _place(values: Sequence[str], cell: str | None) -> int:
    return values.index(cell) if cell else UNKNOWN


def _check_photos(
    table: Table, rows: Sequence[TableRow], max_pixels: int
) -> tuple[list[ManifestRow], list[Problem]]:
    images = list(dict.fromkeys(row.cells["image"] for row in rows))
    headers = dict(zip(images, _inspect(table, images, max_pixels), strict=True))
    good, problems = [], []
    for table_row in rows:
        header = headers[table_row.cells["image"]]
        if isinstance(header, PhotoError):
            problems.append(Problem(table_row.line, f"field 'image': {header}"))
            continue
        row = _to_row(table_row, header)
        outside = list(_outside(row.box, header)) if row.box else []
        problems += [Problem(row.line, text) for text in outside]
        if not outside:
            good.append(row)
    return good, problems


def _inspect(
    table: Table, images: Sequence[str], max_pixels: int
) -> Iterator[PhotoHeader | PhotoError]:
    def inspect(image: str) -> PhotoHeader | PhotoError:
        try:
            return inspect_photo(table.photo_path(image), max_pixels, image)
        except PhotoError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        headers = ordered_map(pool, inspect, images, _AHEAD)
        yield from tqdm(headers, "Checking photos", len(images), unit=" photos")


def _outside(box: Box, header: PhotoHeader) -> Iterator[str]:
    limits = (header.width, header.height, header.width, header.height)
    for name, value, limit in zip(_BOX, box, limits, strict=True):
        if not 0 <= value <= limit:
            yield (
                f"field {name!r}: {value:g} is outside the picture, which is "
                f"{header.width}x{header.height} pixels (upright)"
            )


def _check_relations(rows: Iterable[ManifestRow]) -> tuple[list[ManifestRow], list[Problem]]:
    """Checks rows against the rows before them."""
    good, problems = [], []
    seen: dict[tuple[str, str], int] = {}
    homes: dict[str, ManifestRow] = {}
    for row in rows:
        photo = (posixpath.normpath(row.image), row.item_id)
        home = homes.setdefault(row.item_id, row)
        if photo in seen:
            text = f"field 'image': {row.image!r} of item {row.item_id!r} is on line {seen[photo]}"
            problems.append(Problem(row.line, f"{text} already"))
        elif home.split != row.split:
            text = f"item {row.item_id!r} is in split {home.split!r} on line {home.line}"
            problems.append(Problem(row.line, f"field 'split': {text}, here in {row.split!r}"))
        else:
            seen[photo] = row.line
            good.append(row)
    return good, problems
