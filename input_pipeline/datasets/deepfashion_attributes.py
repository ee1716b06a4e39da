"""DeepFashion: Category and Attribute Prediction.

The release has no items and no roles: its folders are search words, and a folder's images are
spread over the splits. Each image is an item of its own here, and a shop image. Where an image has
landmarks its clothes type is theirs, otherwise its category's.
"""

import pandas as pd
from etils import epath

from input_pipeline.datasets import _deepfashion as lists
from input_pipeline.datasets import find_file
from input_pipeline.vocabulary import SPLITS

_CATEGORIES = "Anno/list_category_cloth.txt"
_IMAGE_CATEGORIES = "Anno/list_category_img.txt"
_BOXES = "Anno/list_bbox.txt"
_LANDMARKS = "Anno/list_landmarks.txt"
_ATTRIBUTES = ("Anno/list_attr_cloth.txt", "Anno/list_attr_img.txt")
KIND = "images"
REQUIRED = (lists.PARTITION, _CATEGORIES, _IMAGE_CATEGORIES, _BOXES)
FILES = (*REQUIRED, _LANDMARKS, *_ATTRIBUTES)
RELEASE = {"images": (289_222, 63_720)}
_TYPES = {"1": "texture", "2": "fabric", "3": "shape", "4": "part", "5": "style"}  # of attributes


def to_table(root: epath.Path) -> pd.DataFrame:
    """Reads the list of images, in its order."""
    rows = lists.read_partition(root, ["image"], SPLITS)
    rows = lists.add_paths(rows.rename(columns={"evaluation_status": "split"}), root)
    labels = lists.read_list(find_file(root, _IMAGE_CATEGORIES), ["image", "category_label"])
    rows = lists.join(rows, labels, "image", "category", required=True)
    rows = lists.add_boxes(rows, find_file(root, _BOXES), {})
    rows = lists.add_landmarks(rows, find_file(root, _LANDMARKS), variation=False)
    rows = lists.add_categories(rows, lists.read_categories(find_file(root, _CATEGORIES)))
    names, values = (find_file(root, name) for name in _ATTRIBUTES)
    if names and values:
        rows = lists.add_attributes(rows, "image", lists.read_names(names), values, _TYPES)
    return rows.assign(item_id=rows["image"])


def count(table: pd.DataFrame) -> dict[str, int]:
    """Counts the images."""
    return {"images": table["image"].nunique()}
