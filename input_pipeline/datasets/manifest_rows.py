"""Reads and checks a manifest: the CSV beside a user's own photos."""

import csv
import hashlib
import io
import posixpath
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from etils import epath

from input_pipeline.datasets.listing import (
    AHEAD,
    BOX_FIELDS,
    THREADS,
    Listing,
    Location,
    PhotoRow,
    Problem,
    box_size_problems,
)
from input_pipeline.errors import ManifestError, one_of
from input_pipeline.parallel import ordered_map
from input_pipeline.vocabulary import DOMAINS, SPLITS, UNKNOWN, VIEWS

_REQUIRED = ("image", "split")
# Retrieval needs the first two, classification the last alone.
_RETRIEVAL = ("item_id", "domain")
_OPTIONAL = ("category", *BOX_FIELDS, "view", "occluded", "cropped")
_FLAGS = ("0", "1")


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

    def photo_path(self, image: str) -> epath.Path:
        """Returns where the photo of a cell `image` lies, whose path is relative to the CSV."""
        return self.path.parent / image


def read_table(path: epath.PathLike, needed: Sequence[str] = ()) -> Table:
    """Reads a CSV in UTF-8 with a header line. Blanks around a cell are no part of it.

    Its columns are image and split, and item_id and domain or, for classification alone,
    category.

    Args:
      path: of the CSV.
      needed: other columns that have to be there.

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
    _check_header(path, line, header, needed)
    rows, problems = [], []
    for line, cells in lines:
        if len(cells) == len(header):
            rows.append(TableRow(line, dict(zip(header, cells, strict=True))))
        else:
            text = f"expected {len(header)} cells, got {len(cells)}"
            problems.append(Problem(Location(path, line), "number of cells", text))
    if not rows and not problems:
        raise ManifestError([f"{path}:{line}: has a header and no rows"])
    return Table(path, data, rows, problems)


def fingerprint(table: Table) -> str:
    """Returns a digest that changes with the CSV and the size or time of any of its photos."""
    digest = hashlib.blake2b(table.data, digest_size=16)
    images = sorted({row.cells["image"] for row in table.rows} - {""})
    with ThreadPoolExecutor(THREADS) as pool:
        states = ordered_map(pool, _state, map(table.photo_path, images), AHEAD)
        for image, state in zip(images, states, strict=True):
            digest.update(f"{image}\0{state}\0".encode())
    return digest.hexdigest()


def read_listing(table: Table) -> Listing:
    """Returns the rows whose cells are right, and the problems of the others."""
    problems = list(table.problems)
    rows = []
    for row in table.rows:
        location = Location(table.path, row.line)
        row_problems = [Problem(location, kind, text) for kind, text in _cell_problems(row.cells)]
        problems += row_problems
        if not row_problems:
            rows.append(_to_row(location, row.cells))
    return Listing(rows=rows, problems=problems)


def _read_bytes(path: epath.Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ManifestError([f"{path}: no such file (dataset.source)"]) from None
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


def _check_header(
    path: epath.Path, line: int, header: Sequence[str], needed: Sequence[str]
) -> None:
    labels = () if "category" in header and not set(_RETRIEVAL) & set(header) else _RETRIEVAL
    required = dict.fromkeys((*_REQUIRED, *labels, *needed))
    problems = [f"column {name!r} is missing" for name in required if name not in header]
    repeated = sorted({name for name in header if header.count(name) > 1})
    problems += [f"column {name!r} is there twice" for name in repeated]
    box = [name for name in BOX_FIELDS if name in header]
    if box and len(box) < len(BOX_FIELDS):
        problems.append(f"a box needs all of {', '.join(BOX_FIELDS)}; there is {', '.join(box)}")
    if problems:
        columns = f"the columns are {', '.join(header)}"
        raise ManifestError([f"{path}:{line}: {problem}; {columns}" for problem in problems])
    ignored = [name for name in header if name not in _REQUIRED + _RETRIEVAL + _OPTIONAL]
    if ignored:
        print(f"{path}: columns that are not used: {', '.join(map(repr, ignored))}")


def _state(path: epath.Path) -> str:
    try:
        state = path.stat()
    except OSError:
        return "missing"  # `check_listing` reports it
    return f"{state.length} {state.mtime}"


def _cell_problems(cells: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yields a kind and a text for each."""
    for name in ("image", "item_id" if "item_id" in cells else "category"):
        if not cells[name]:
            yield "empty cell", f"field {name!r}: is empty"
    if posixpath.isabs(cells["image"]) or "://" in cells["image"]:
        text = f"field 'image': expected a path relative to the CSV, got {cells['image']!r}"
        yield "path", text
    choices: dict[str, tuple[str, ...]] = {"split": SPLITS}
    if "domain" in cells:
        choices["domain"] = DOMAINS
    optional_choices = {"view": VIEWS, "occluded": _FLAGS, "cropped": _FLAGS}
    choices |= {name: values for name, values in optional_choices.items() if cells.get(name)}
    for name, allowed in choices.items():
        if cells[name] not in allowed:
            text = f"field {name!r}: expected {one_of(allowed)}, got {cells[name]!r}"
            yield f"unknown {name}", text
    for text in _box_problems(cells):
        yield "box", text


def _box_problems(cells: dict[str, str]) -> Iterator[str]:
    present = [name for name in BOX_FIELDS if cells.get(name)]
    if not present:
        return
    missing = [name for name in BOX_FIELDS if name not in present]
    if missing:
        yield f"field {missing[0]!r}: is empty, but {', '.join(present)} given"
    wrong = [name for name in present if not _is_number(cells[name])]
    for name in wrong:
        yield f"field {name!r}: expected a number of pixels, got {cells[name]!r}"
    if not missing and not wrong:
        yield from box_size_problems(cells)


def _is_number(text: str) -> bool:
    try:
        value = float(text)
    except ValueError:
        return False
    return abs(value) < float("inf")  # False for NaN too


def _to_row(location: Location, cells: dict[str, str]) -> PhotoRow:
    box = None
    if cells.get(BOX_FIELDS[0]):
        x_1, y_1, x_2, y_2 = (float(cells[name]) for name in BOX_FIELDS)
        box = (x_1, y_1, x_2, y_2)
    return PhotoRow(
        location=location,
        image=cells["image"],
        # A photo without item is one of its own, and nobody's question.
        item_id=cells.get("item_id", cells["image"]),
        domain=cells.get("domain", "shop"),
        split=cells["split"],
        category=cells.get("category", ""),
        box=box,
        view=_index_in(VIEWS, cells.get("view")),
        occluded=_index_in(_FLAGS, cells.get("occluded")),
        cropped=_index_in(_FLAGS, cells.get("cropped")),
    )


def _index_in(values: Sequence[str], cell: str | None) -> int:
    return values.index(cell) if cell else UNKNOWN
