"""DeepFashion2: street and shop images of several garments each; a row for each garment.

Train is the training split and validation the test split; the test images have no public labels.

Garments are of one item where pair_id and style are the same, whatever their categories, as in the
release's evaluation. Those of style 0 have no partner: each is an item of its own. Items are named
by folder, pair_id and style, for both folders count pair_ids from 1.

The flags of FindFashion's protocols are derived: viewpoint 3 (side or back) is side, 2 (front) and
1 (not worn) are front; occlusion 2 and 3 (medium, heavy) are occluded; zoom_in 2 and 3 (medium,
large) are cropped. Landmarks are in the category's own order and number.
"""

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import pydantic
from etils import epath
from tqdm import tqdm

from input_pipeline.datasets import find_files
from input_pipeline.entries import Entry, Four, Whole, declare, validate
from input_pipeline.errors import AnnotationError, DatasetError
from input_pipeline.files import read_json, short
from input_pipeline.masks import to_arrays
from input_pipeline.parallel import ordered_map
from input_pipeline.table import THREADS, Problem
from input_pipeline.vocabulary import BOX, FULL, LOWER, OCCLUDED, UNKNOWN, UPPER, VISIBLE

TITLE = "DeepFashion2-derived"
RELEASE = {
    "train images": (191_961, 390_884),
    "train garments": (312_186, 636_624),
    "validation images": (32_153, 33_669),
    "validation garments": (52_490, 54_910),
}
_SPLITS = {"train": "train", "validation": "test"}  # by folder
REQUIRED = ()  # one of the two folders is enough
FILES = tuple(f"{folder}/annos/[0-9]*.json" for folder in _SPLITS)
CATEGORIES = {  # in the order of category_id, from 1: clothes type, number of landmarks
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


def _to_landmarks(numbers: list[int]) -> np.ndarray:
    """Returns landmarks of x, y, visibility as int32 [n, 3], or raises ValueError."""
    x, y, visibility = np.array(numbers, np.int32).reshape(-1, 3).T
    if not np.isin(visibility, (0, 1, 2)).all():
        raise ValueError("no such visibility")
    seen = visibility > 0
    return np.column_stack([_VISIBILITIES[visibility], x * seen, y * seen])


_Level = Annotated[int, declare("value", "1, 2 or 3", ge=1, le=3)]
_Pixels = Annotated[int, pydantic.Field(gt=-(10**9), lt=10**9)]


class _Image(Entry):
    source: Literal["user", "shop"] = declare("value", "user or shop")
    pair_id: Whole = declare("value", "a whole number")


class _Garment(Entry):
    style: Whole = declare("value", "a whole number")
    category_id: int = declare("value", "1 to 13", ge=1, le=13)
    category_name: Literal[*CATEGORIES] = declare(  # type: ignore[valid-type]
        "value", "one of the 13 categories"
    )
    scale: _Level
    occlusion: _Level
    zoom_in: _Level
    viewpoint: _Level
    bounding_box: Four = declare("box", "[x_1, y_1, x_2, y_2] in pixels")
    segmentation: Annotated[list, pydantic.AfterValidator(to_arrays)] = declare(
        "mask", "a list of polygons", min_length=1
    )
    landmarks: Annotated[list[_Pixels], pydantic.AfterValidator(_to_landmarks)] = declare(
        "landmarks", "whole numbers x, y, visibility (0, 1 or 2)"
    )


def to_table(root: epath.Path) -> pd.DataFrame:
    """Reads the garments in the order of the files and, within a file, of their numbers."""
    rows, empty = [], 0
    for folder, pattern in zip(_SPLITS, FILES, strict=True):
        paths, images = find_files(root, pattern), find_files(root, f"{folder}/image/[0-9]*.jpg")
        for name in sorted({path.stem for path in images} - {path.stem for path in paths}):
            path = root / f"{folder}/annos/{name}.json"
            text = f"no such file, for {folder}/image/{name}.jpg"
            rows.append(_to_row(path, Problem("reference", f"{path}", text)))
        with ThreadPoolExecutor(THREADS) as pool:
            files = ordered_map(pool, _read_file, paths, 8 * THREADS)
            for found in tqdm(files, f"Reading {folder}/annos", len(paths), disable=not paths):
                rows += found
                empty += not found
    if not rows:
        raise DatasetError(f"{root} (dataset.source): no garment in {' or '.join(FILES)}")
    table = pd.DataFrame(rows, dtype=object)
    table.attrs["notes"] = {"image without a garment": empty} if empty else {}
    return table


def count(table: pd.DataFrame) -> dict[str, int]:
    """Counts the images and garments of each folder."""
    images = table["image"].groupby(table["image"].str.split("/").str[0])
    counts = {"images": images.nunique(), "garments": images.size()}
    return {f"{name} {what}": int(counts[what][name]) for name in images.groups for what in counts}


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
    wrong = validate(_Image, content, f"{path}")[1]
    content = content if isinstance(content, dict) else {}
    keys = sorted(filter(_GARMENT.fullmatch, content), key=lambda key: int(key[4:]))
    rows = [_to_row(path, *wrong) | _read_garment(path, key, content, wrong) for key in keys]
    if strange := content.keys() - {*_Image.model_fields, *keys}:
        text = f"field {short(min(strange))}: there is no such field"
        wrong = (*wrong, Problem("format", f"{path}", text))
    return [*rows, _to_row(path, *wrong)] if wrong else rows


def _read_garment(
    path: epath.Path, key: str, content: Mapping[str, Any], wrong: tuple[Problem, ...]
) -> dict[str, Any]:
    """Returns the cells of a garment's row, or what is wrong with it or its file."""
    source = f"{path}: {key}"
    garment, problems = validate(_Garment, content[key], source)
    if problems := wrong or problems:
        return {"source": source, "problems": problems}
    category, style, points = (garment[name] for name in ("category_name", "style", "landmarks"))
    clothes_type, count = CATEGORIES[category]
    if garment["category_id"] != (number := list(CATEGORIES).index(category) + 1):
        text = f"field 'category_id': expected {number}, {category}, got {garment['category_id']}"
        problems = (Problem("contradiction", source, text),)
    elif len(points) != count:
        text = f"field 'landmarks': expected {count} of a {category}, got {len(points)}"
        problems = (Problem("landmarks", source, text),)
    item_id = f"{path.parent.parent.name}/{content['pair_id']}/{style}"
    return {
        "source": source,
        "problems": problems,
        "item_id": item_id if style else f"{item_id}/{path.stem}/{key}",
        "domain": _DOMAINS[content["source"]],
        "category": category,
        "clothes_type": clothes_type,
        **dict(zip(BOX, garment["bounding_box"], strict=True)),
        "landmarks": points,
        "segmentation": garment["segmentation"],
        "view": _VIEWS[garment["viewpoint"]],
        "occluded": int(garment["occlusion"] >= 2),
        "cropped": int(garment["zoom_in"] >= 2),
    }
