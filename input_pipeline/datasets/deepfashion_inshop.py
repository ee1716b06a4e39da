"""DeepFashion: In-shop Clothes Retrieval.

All images are a shop's. The test items' queries are the customer images here, their gallery the
shop images. Those of the training items have no such roles in the release: an item's images
alternate in the order of the list, the first a shop image, the second a customer image, so that the
pairs of train are images of one item as those of test are. The category is that of the image's
folders, as WOMEN/Dresses.
"""

import pandas as pd
from etils import epath

from input_pipeline.datasets import _deepfashion as lists
from input_pipeline.datasets import find_file
from input_pipeline.table import mark
from input_pipeline.vocabulary import VIEWS

_BOXES = "Anno/list_bbox_inshop.txt"
_LANDMARKS = "Anno/list_landmarks_inshop.txt"
_ITEMS = "Anno/list_item_inshop.txt"
_ATTRIBUTES = ("list_attr_cloth.txt", "list_attr_items.txt")  # in either of these folders
_FOLDERS = ("Anno", "Anno/attributes")
REQUIRED = (lists.PARTITION, _BOXES)
FILES = (
    *(*REQUIRED, _LANDMARKS, _ITEMS),
    *(f"{folder}/{name}" for folder in _FOLDERS for name in _ATTRIBUTES),
)
RELEASE = {
    "images": (52_712, 54_642),
    "train images": (25_882, None),
    "query images": (14_218, None),
    "gallery images": (12_612, None),
    "items": (7_982, 11_735),
    "train items": (3_997, None),
    "test items": (3_985, None),
}
_STATUSES = {"train": "train", "query": "test", "gallery": "test"}  # evaluation_status, split
_DOMAINS = {"query": "customer", "gallery": "shop"}
_POSES = {str(pose): view for pose, view in enumerate(VIEWS, 1)}  # pose_type


def to_table(root: epath.Path) -> pd.DataFrame:
    """Reads the list of images, in its order."""
    rows = lists.read_partition(root, ["image", "item_id"], tuple(_STATUSES))
    rows = lists.check_items(rows, find_file(root, _ITEMS))
    status = rows["evaluation_status"]
    # Said here: the next of the alternating roles would make it a contradiction.
    again = rows.duplicated(["image", "item_id", "evaluation_status"])
    rows = mark(rows, again, "duplicate", "{image!r} of item {item_id!r} is listed twice")
    alternating = rows.groupby(["item_id", "evaluation_status"]).cumcount() % 2
    domain = alternating.map({0: "shop", 1: "customer"})
    rows = rows.assign(
        split=status.map(_STATUSES).fillna(""), domain=status.map(_DOMAINS).fillna(domain)
    )
    rows = lists.add_paths(rows, root)
    kinds = {"clothes_type": lists.CLOTHES_TYPES, "pose_type": tuple(_POSES)}
    rows = lists.add_boxes(rows, find_file(root, _BOXES), kinds)
    rows = lists.add_landmarks(rows, find_file(root, _LANDMARKS), variation=True)
    for folder in _FOLDERS:
        names, values = (find_file(root, f"{folder}/{name}") for name in _ATTRIBUTES)
        if names and values:
            names = lists.read_names(names, typed=False)
            rows = lists.add_attributes(rows, "item_id", names, values)
    views = rows["pose_type"].map(_POSES).fillna("")
    return rows.assign(category=lists.folder_category(rows["image"]), view=views)


def count(table: pd.DataFrame) -> dict[str, int]:
    """Counts images and items of each part."""
    parts = table.assign(part=table["split"].where(table["split"] == "train", table["domain"]))
    images = parts.groupby("part")["image"].nunique()
    items = table.groupby("split")["item_id"].nunique()
    names = {"train": "train", "customer": "query", "shop": "gallery"}
    return {
        "images": table["image"].nunique(),
        **{f"{name} images": int(images.get(part, 0)) for part, name in names.items()},
        "items": table["item_id"].nunique(),
        **{f"{split} items": int(items.get(split, 0)) for split in ("train", "test")},
    }
