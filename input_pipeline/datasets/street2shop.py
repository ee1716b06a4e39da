"""Exact Street2Shop (Kiapour et al., Where to Buy It, ICCV 2015), of up to 11 categories.

Customer images are the street photos, a row for each product and box in them. Products are numbered
within their category: an item is category/product. A shop image is listed once for each product, in
train if a training pair names the product, else in test; the release has no val. The gallery of a
category's queries is all of its shop images, those of both splits.
"""

import re

import numpy as np
import pandas as pd
from etils import epath

from input_pipeline import datasets
from input_pipeline.entries import Entry, Whole, declare, to_rows
from input_pipeline.errors import AnnotationError, DatasetError
from input_pipeline.files import read_json, short
from input_pipeline.table import is_right, mark

_LISTS = {"train_pairs": "train", "test_pairs": "test", "retrieval": "shop"}
_URLS = "photos/photos.txt"  # rows of a number and a URL, which may hold commas
_URL = re.compile(rb"^(?:\xef\xbb\xbf)?\s*([0-9]{1,9})\s*,", re.MULTILINE)
_IMAGE = re.compile(r"([0-9]{1,9})\.(?:jpe?g|png)", re.IGNORECASE)
_CATEGORIES = (
    *("bags", "belts", "dresses", "eyewear", "footwear", "hats"),
    *("leggings", "outerwear", "pants", "skirts", "tops"),
)
_QUERIES = {  # of each category
    "test": (174, 89, 3_292, 138, 2_178, 86, 517, 666, 130, 604, 763),
    "train": (579, 235, 12_875, 358, 6_486, 400, 1_641, 1_945, 600, 3_337, 2_173),
}
PROTOCOL = {"gallery": "all", "same_category": True}
# Many images' pages are gone, and one of the boxes has no size.
KNOWN_FAULTS = ("missing_image", "unreadable_image", "box", "duplicate")
RELEASE = {
    f"{category}: {split} queries": (number, None)
    for split, numbers in _QUERIES.items()
    for category, number in zip(_CATEGORIES, numbers, strict=True)
} | {
    **{f"{split} queries": (sum(numbers), None) for split, numbers in _QUERIES.items()},
    "queries": (39_266, 39_479),
    "street images": (20_357, None),
    "shop images": (None, 404_683),
}


class _Element(Entry):
    photo: Whole = declare("format", "a whole number of up to 9 digits")
    product: Whole = declare("format", "a whole number of up to 9 digits")


class _Box(Entry):
    left: float
    top: float
    width: float
    height: float


class _Pair(_Element):
    bbox: _Box = declare("box", "numbers as left, top, width and height")


def fingerprint(root: epath.Path) -> str:
    """Returns a digest of the lists and of the images' names: more of them may arrive later."""
    folder, names = _find_images(root)
    files = sum(_find_lists(root).values(), datasets.find_files(root, _URLS))
    return datasets.fingerprint(files, folder.name, *names.values())


def to_table(root: epath.Path) -> pd.DataFrame:
    """Reads each category's training pairs, test pairs and shop images."""
    (folder, names), lists = _find_images(root), _find_lists(root)
    parts = [
        _read_list(path, pairs=part != "shop").assign(category=category, part=part)
        for category, paths in lists.items()
        for part, path in zip(_LISTS.values(), paths, strict=True)
    ]
    rows = pd.concat(parts, ignore_index=True)
    rows["item_id"] = rows["category"] + "/" + rows["product"].astype(str)
    train = rows[(rows["part"] == "train") & (rows[["photo", "product"]] >= 0).all(axis=1)]
    rows["first"] = rows["item_id"].map(train.groupby("item_id")["source"].first())
    trained, shop = rows["first"].notna(), rows["part"] == "shop"
    text = "field 'product': {product} has a training pair at {first}"
    rows = mark(rows, (rows["part"] == "test") & trained, "contradiction", text)
    if (urls := root / _URLS).exists():
        listed = {int(number) for number in _URL.findall(urls.read_bytes())}
        unknown = ~rows["photo"].isin(listed | names.keys())
        text = f"field 'photo': {{photo}} is not in {_URLS}, and {folder.name}/ has no such image"
        rows = mark(rows, unknown, "reference", text)
    rows["image"] = [names.get(photo, f"{photo:09d}.jpg") for photo in rows["photo"]]
    rows["path"] = [f"{folder}/{name}" for name in rows["image"]]
    rows["domain"] = np.where(shop, "shop", "customer")
    rows["split"] = np.where(shop, np.where(trained, "train", "test"), rows["part"])
    rows.attrs["categories"] = list(lists)
    return rows


def count(table: pd.DataFrame) -> dict[str, int]:
    """Counts the queries of each category and split, and the images."""
    queries, shops = (table[table["domain"] == domain] for domain in ("customer", "shop"))
    names = queries["category"] + ": " + queries["split"] + " queries"
    every = [f"{name}: {split} queries" for name in table.attrs["categories"] for split in _QUERIES]
    return {
        **names.value_counts().reindex(every, fill_value=0).to_dict(),
        **{f"{split} queries": int((queries["split"] == split).sum()) for split in _QUERIES},
        "queries": len(queries),
        "street images": queries["image"].nunique(),
        "shop images": shops["image"].nunique(),
    }


def _find_lists(root: epath.Path) -> dict[str, list[epath.Path]]:
    """Returns the three lists of each category that has them, or raises DatasetError."""
    every = {
        name: [root / f"meta/json/{part}_{name}.json" for part in _LISTS] for name in _CATEGORIES
    }
    found = {name: paths for name, paths in every.items() if any(path.exists() for path in paths)}
    wanted = [path for paths in (found or every).values() for path in paths]
    if missing := [path.name for path in wanted if not path.exists()]:
        raise DatasetError(f"{root} (dataset.source): meta/json/ lacks {', '.join(missing)}")
    return found


def _find_images(root: epath.Path) -> tuple[epath.Path, dict[int, str]]:
    """Returns the folder of the images and its files by number, or raises DatasetError."""
    found: dict[str, dict[int, str]] = {}
    for folder in ("photos", "images"):
        files = datasets.find_files(root, f"{folder}/*")
        matches = [match for file in files if (match := _IMAGE.fullmatch(file.name))]
        # Of several files of an image the first is taken.
        found[folder] = {int(match[1]): match[0] for match in reversed(matches)}
    used = [folder for folder, names in found.items() if names]
    if len(used) != 1:
        text = "both hold images: keep all in one" if used else "hold no image, as 000000001.jpg"
        raise DatasetError(f"{root} (dataset.source): photos/ and images/ {text}")
    return root / used[0], found[used[0]]


def _read_list(path: epath.Path, *, pairs: bool) -> pd.DataFrame:
    """Reads a list: photos and products, -1 where these are wrong, and the boxes of pairs."""
    elements = read_json(path)
    if not isinstance(elements, list):
        raise AnnotationError([f"{path}:1: expected a list, got {short(elements)}"])
    rows = to_rows(_Pair if pairs else _Element, elements, f"{path}: element {{}}", 1)
    rows[["photo", "product"]] = rows[["photo", "product"]].fillna(-1).astype(int)
    if not pairs:
        return rows
    boxes = [vars(box) for box in rows.pop("bbox")[is_right(rows)]]
    sides = pd.DataFrame(boxes, rows.index[is_right(rows)], _Box.model_fields, float)
    x_1, y_1 = sides["left"], sides["top"]
    return rows.assign(x_1=x_1, y_1=y_1, x_2=x_1 + sides["width"], y_2=y_1 + sides["height"])
