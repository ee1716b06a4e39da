"""DeepFashion2: street and shop images of several garments each; a row for each garment.

Train is the training split and validation the test split; the test images have no public labels.

Garments are of one item where pair_id and style are the same, whatever their categories, as in the
release's evaluation. Those of style 0 have no partner: each is an item of its own. Items are named
by folder, pair_id and style, for both folders count pair_ids from 1.

The flags of FindFashion's protocols are derived: viewpoint 3 (side or back, not told apart) is side,
1 (not worn) and 2 front; occlusion 2 and 3 (medium, heavy) are occluded; zoom_in 2 and 3 (medium,
large) cropped. Landmarks are in the category's own order and number.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
from etils import epath
from tqdm import tqdm

from input_pipeline import datasets
from input_pipeline.errors import AnnotationError, DatasetError
from input_pipeline.files import is_number, is_whole, read_json, short
from input_pipeline.parallel import ordered_map
from input_pipeline.table import BOX, THREADS, Problem
from input_pipeline.vocabulary import FULL, LOWER, OCCLUDED, UNKNOWN, UPPER, VISIBLE

TITLE = "DeepFashion2-derived"
RELEASE = {
    "train images": (191_961, 390_884),
    "train garments": (312_186, 636_624),
    "validation images": (32_153, 33_669),
    "validation garments": (52_490, 54_910),
}
_SPLITS = {"train": "train", "validation": "test"}  # by folder
_CATEGORIES = {  # in the order of category_id, from 1: clothes type, number of landmarks
    **{"short sleeve top": (UPPER, 25), "long sleeve top": (UPPER, 33)},
    **{"short sleeve outwear": (UPPER, 31), "long sleeve outwear": (UPPER, 39)},
    **{"vest": (UPPER, 15), "sling": (UPPER, 15)},
    **{"shorts": (LOWER, 10), "trousers": (LOWER, 14), "skirt": (LOWER, 8)},
    **{"short sleeve dress": (FULL, 29), "long sleeve dress": (FULL, 37)},
    **{"vest dress": (FULL, 19), "sling dress": (FULL, 19)},
}
_DOMAINS = {"user": "customer", "shop": "shop"}  # by source
_VIEWS = {1: "front", 2: "front", 3: "side"}  # by viewpoint
_VISIBILITIES = np.array([UNKNOWN, OCCLUDED, VISIBLE], np.int32)  # by the files'
_GARMENT = re.compile(r"item[1-9][0-9]{0,8}")
_SHARED = ("source", "pair_id")  # fields of the file, beside its garments


def _is_box(value: list) -> bool:
    return len(value) == 4 and all(map(is_number, value))


def _are_points(value: list) -> bool:
    whole = all(is_whole(number, 1 - 10**9) for number in value)
    return whole and len(value) % 3 == 0 and set(value[2::3]) <= {0, 1, 2}


# Of each field: its type, what is right, the kind of problem if not, and what messages say.
_FIELDS: Mapping[str, tuple[type, Callable[[Any], bool], str, str]] = {
    "source": (str, _DOMAINS.__contains__, "value", "user or shop"),
    **dict.fromkeys(("pair_id", "style"), (int, is_whole, "value", "a whole number")),
    "category_id": (int, range(1, 14).__contains__, "value", "1 to 13"),
    "category_name": (str, _CATEGORIES.__contains__, "value", "one of the 13 categories"),
    **dict.fromkeys(
        ("scale", "occlusion", "zoom_in", "viewpoint"),
        (int, _VIEWS.__contains__, "value", "1, 2 or 3"),
    ),
    "bounding_box": (list, _is_box, "box", "[x_1, y_1, x_2, y_2] in pixels"),
    "segmentation": (list, bool, "mask", "a list of polygons"),
    "landmarks": (list, _are_points, "landmarks", "whole numbers x, y, visibility (0, 1 or 2)"),
}


def fingerprint(root: epath.Path) -> str:
    """Returns a digest of the annotation files' names and sizes."""
    files = _list_files(root, "annos/*.json")
    return datasets.fingerprint(path for paths in files.values() for path in paths)


def to_table(root: epath.Path) -> pd.DataFrame:
    """Reads the garments in the order of the files and, within a file, of their numbers."""
    rows, empty = [], 0
    annotations, images = (_list_files(root, files) for files in ("annos/*.json", "image/*.jpg"))
    for folder, paths in annotations.items():
        for name in sorted({path.stem for path in images[folder]} - {path.stem for path in paths}):
            path = root / f"{folder}/annos/{name}.json"
            text = f"no such file, for {folder}/image/{name}.jpg"
            rows.append(_to_row(path, Problem("reference", f"{path}", text)))
        with ThreadPoolExecutor(THREADS) as pool:
            files = ordered_map(pool, _read_file, paths, 8 * THREADS)
            for found in tqdm(files, f"Reading {folder}/annos", len(paths), unit=" files"):
                rows += found
                empty += not found
    if not rows:
        raise AnnotationError([f"{root}: no image has a garment"])
    table = pd.DataFrame(rows, dtype=object)
    table.attrs["notes"] = {"image without a garment": empty} if empty else {}
    return table


def count(table: pd.DataFrame) -> dict[str, int]:
    """Counts the images and garments of each folder."""
    images = table["image"].groupby(table["image"].str.partition("/")[0])
    counts = pd.DataFrame({"images": images.nunique(), "garments": images.size()}).stack()
    return {f"{folder} {what}": int(number) for (folder, what), number in counts.items()}


def _list_files(root: epath.Path, pattern: str) -> dict[str, list[epath.Path]]:
    """Returns the numbered files of train and validation, or raises DatasetError."""
    folders = [folder for folder in _SPLITS if (root / folder).exists()]
    files = {folder: datasets.find_files(root, f"{folder}/{pattern}") for folder in folders}
    found = {
        folder: [path for path in paths if re.fullmatch("[0-9]+", path.stem)]
        for folder, paths in files.items()
    }
    if not found or not all(found.values()):
        which = " and ".join(folder for folder in _SPLITS if not found.get(folder))
        text = f"no files as {pattern.replace('*', '000001')} in {which}"
        raise DatasetError(f"{root} (dataset.source): {text}")
    return found


def _to_row(path: epath.Path, *problems: Problem) -> dict[str, Any]:
    """Returns what an annotation file's name tells, with what is wrong with the file."""
    folder, name = path.parent.parent, f"image/{path.stem}.jpg"
    image = {"image": f"{folder.name}/{name}", "path": f"{folder}/{name}"}
    return {**image, "source": f"{path}", "split": _SPLITS[folder.name], "problems": problems}


def _read_file(path: epath.Path) -> list[dict[str, Any]]:
    """Reads FOLDER/annos/NUMBER.json: a row for each garment, and one for what is wrong besides."""
    try:
        content = read_json(path)
    except AnnotationError as error:
        return [_to_row(path, Problem("format", *error.problems[0].split(": ", 1)))]
    if not isinstance(content, dict):
        text = f"expected an object, got {short(content)}"
        return [_to_row(path, Problem("format", f"{path}", text))]
    row = _to_row(path, *_check(content, _SHARED, f"{path}"))
    keys = sorted(filter(_GARMENT.fullmatch, content), key=lambda key: int(key[4:]))
    rows = [row | _read_garment(path, key, content, row["problems"]) for key in keys]
    strange = [
        Problem("format", f"{path}", f"field {short(key)}: there is no such field")
        for key in sorted(content.keys() - {*_SHARED, *keys})
    ]
    return (
        [*rows, _to_row(path, *row["problems"], *strange)] if row["problems"] or strange else rows
    )


def _check(fields: Mapping[str, Any], names: Iterable[str], source: str) -> list[Problem]:
    """Returns what is wrong with these fields."""
    problems = []
    for name in names:
        (type_, is_right, kind, expected), value = _FIELDS[name], fields.get(name)
        typed = type(value) is type_
        if not (typed and is_right(value)):
            text = f"field {name!r}: expected {expected}, got {short(value)}"
            problems.append(Problem(kind if typed else "format", source, text))
    return problems


def _read_garment(
    path: epath.Path, key: str, content: Mapping[str, Any], problems: Sequence[Problem]
) -> dict[str, Any]:
    """Returns the cells of a garment's row, or what is wrong with it and, `problems`, its file."""
    source, garment = f"{path}: {key}", content[key]
    if not isinstance(garment, dict):
        text = f"expected an object, got {short(garment)}"
        return {"source": source, "problems": (Problem("format", source, text),)}
    problems = [*problems, *_check(garment, _FIELDS.keys() - _SHARED, source)]
    if problems:
        return {"source": source, "problems": tuple(problems)}
    category, style = garment["category_name"], garment["style"]
    clothes_type, count = _CATEGORIES[category]
    number = list(_CATEGORIES).index(category) + 1
    if garment["category_id"] != number:
        text = f"field 'category_id': {category!r} is {number}, got {garment['category_id']}"
        problems.append(Problem("contradiction", source, text))
    points = np.array(garment["landmarks"], np.int32).reshape(-1, 3)
    if len(points) != count:
        text = f"field 'landmarks': a {category} has {count}, got {len(points)}"
        problems.append(Problem("landmarks", source, text))
    landmarks = np.column_stack([_VISIBILITIES[points[:, 2]], points[:, :2]])
    landmarks[landmarks[:, 0] == UNKNOWN, 1:] = 0
    item_id = f"{path.parent.parent.name}/{content['pair_id']}/{style}"
    return {
        "source": source,
        "problems": tuple(problems),
        "item_id": item_id if style else f"{item_id}/{path.stem}/{key}",
        "domain": _DOMAINS[content["source"]],
        "category": category,
        "clothes_type": clothes_type,
        **dict(zip(BOX, map(float, garment["bounding_box"]), strict=True)),
        "landmarks": landmarks,
        "segmentation": list(map(_to_polygon, garment["segmentation"])),
        "view": _VIEWS[garment["viewpoint"]],
        "occluded": int(garment["occlusion"] >= 2),
        "cropped": int(garment["zoom_in"] >= 2),
    }


def _to_polygon(points: Any) -> Any:
    """Returns a polygon's numbers as float64, an eighth of a list's memory; else what it is."""
    numbers = isinstance(points, list) and all(map(is_number, points))
    return np.array(points, np.float64) if numbers else points
