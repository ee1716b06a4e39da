"""A small download in the form of Exact Street2Shop's."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.input_pipeline.conftest import photo_bytes

PHOTO_LIST = "photos/photos.txt"
BOX = (2, 3, 20, 30)  # left, top, width, height in a photo of 24 x 36 pixels (width x height)
OTHER_BOX = (4, 5, 10, 12)
PAIRS = {  # photo, product, box
    "train_pairs_bags": [(1, 10, BOX), (1, 10, OTHER_BOX), (2, 11, BOX)],
    "test_pairs_bags": [(3, 20, BOX), (4, 20, BOX)],
    "train_pairs_dresses": [(5, 30, BOX)],
    # Product 10 of the dresses is another one than that of the bags.
    "test_pairs_dresses": [(1, 10, BOX), (6, 31, BOX)],
}
SHOP_PHOTOS = {  # photo, product
    "retrieval_bags": [(101, 10), (102, 10), (103, 11), (104, 20), (105, 21)],
    "retrieval_dresses": [(106, 30), (107, 10), (108, 31)],
}
PHOTOS = (*range(1, 7), *range(101, 109))


def element(photo: int, product: int, box: Sequence[float] | None = None) -> dict[str, Any]:
    """An element of a list, its keys in the order of the release."""
    if box is None:
        return {"photo": photo, "product": product}
    left, top, width, height = box
    bbox = {"width": width, "top": top, "left": left, "height": height}
    return {"photo": photo, "product": product, "bbox": bbox}


def list_path(root: Path, name: str) -> Path:
    """Where a list lies."""
    return root / "meta" / "json" / f"{name}.json"


def write_list(root: Path, name: str, elements: Sequence[Any], one_line: bool = True) -> Path:
    """A list on one line, as the release has it, or with each element on its own."""
    path = list_path(root, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if one_line:
        path.write_text(json.dumps(elements), encoding="utf-8")
    else:
        rows = ",\n".join(map(json.dumps, elements))
        path.write_text(f"[\n{rows}\n]\n", encoding="utf-8")
    return path


def read_list(root: Path, name: str) -> list[Any]:
    """The elements of a list."""
    return json.loads(list_path(root, name).read_text(encoding="utf-8"))


def photo_path(root: Path, photo: int) -> Path:
    """Where a photo lies."""
    return root / "photos" / f"{photo:09d}.jpg"


def write_photo(path: Path, photo: int, kind: str = "JPEG") -> None:
    """A photo of 24 x 36 pixels (width x height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(photo_bytes(photo, size=(36, 24), kind=kind))


def write_photo_list(root: Path, photos: Sequence[int]) -> Path:
    """photos.txt, whose URLs hold commas."""
    path = root / PHOTO_LIST
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{photo:09d},http://shop.example/{photo}/w_300,h_400.jpg?a,b\n" for photo in photos]
    path.write_text("".join(rows), encoding="utf-8")
    return path


def write_street2shop(root: Path) -> Path:
    """Bags and dresses; photos 901 and 902, which no list names, have no file."""
    for name, pairs in PAIRS.items():
        write_list(root, name, [element(*pair) for pair in pairs])
    for name, photos in SHOP_PHOTOS.items():
        write_list(root, name, [element(*photo) for photo in photos])
    write_photo_list(root, [*PHOTOS, 901, 902])
    for photo in PHOTOS:
        write_photo(photo_path(root, photo), photo)
    return root
