"""DeepFashion: Consumer-to-shop Clothes Retrieval.

The pairs are listed by item: every customer image of an item is paired with every shop image of it,
here as there, and each image is a row for each of its items. The category is that of the image's
folders, as TOPS/T_Shirt; the attributes are the item's.
"""

import pandas as pd
from etils import epath

from input_pipeline.datasets import _deepfashion as lists
from input_pipeline.datasets import find_file
from input_pipeline.table import is_right, mark
from input_pipeline.vocabulary import DOMAINS, SPLITS

_BOXES = "Anno/list_bbox_consumer2shop.txt"
_LANDMARKS = "Anno/list_landmarks_consumer2shop.txt"
_ITEMS = "Anno/list_item_consumer2shop.txt"
_ATTRIBUTES = ("Anno/list_attr_cloth.txt", "Anno/list_attr_items.txt")
REQUIRED = (lists.PARTITION, _BOXES)
FILES = (*REQUIRED, _LANDMARKS, _ITEMS, *_ATTRIBUTES)
RELEASE = {  # as GRNet's paper counts it
    "images": (239_557, None),
    "shop images": (45_392, None),
    "pairs": (195_540, 251_361),
}
_PAIRS = ["image_pair_name_1", "image_pair_name_2"]
_SOURCES = {"1": "shop", "2": "customer"}  # source_type


def to_table(root: epath.Path) -> pd.DataFrame:
    """Reads the pairs, and returns each image and item in the order in which they name them."""
    pairs = lists.read_partition(root, [*_PAIRS, "item_id"], SPLITS)
    pairs = lists.check_items(pairs, find_file(root, _ITEMS))
    pairs = pairs.rename(columns={"evaluation_status": "split"})
    rows = pd.concat(
        [pairs.rename(columns={name: "image"}) for name in _PAIRS], keys=["customer", "shop"]
    )
    rows = rows.reset_index(names=["domain", "pair"]).sort_values("pair", kind="stable")
    rows = rows.drop(columns=[*_PAIRS, "pair"], errors="ignore")
    # An image is listed in many pairs.
    repeated = rows[is_right(rows)].duplicated(["image", "item_id", "split", "domain"])
    rows = rows[~repeated.reindex(rows.index, fill_value=False)]
    rows = lists.add_paths(rows, root)
    kinds = {"clothes_type": lists.CLOTHES_TYPES, "source_type": tuple(_SOURCES)}
    rows = lists.add_boxes(rows, find_file(root, _BOXES), kinds)
    domain = rows["source_type"].map(_SOURCES)
    text = "{image!r} is a {domain} image here, but of source_type {source_type} at {box_source}"
    rows = mark(rows, domain.notna() & (domain != rows["domain"]), "contradiction", text)
    rows = lists.add_landmarks(rows, find_file(root, _LANDMARKS), variation=True)
    names, values = (find_file(root, name) for name in _ATTRIBUTES)
    if names and values:
        rows = lists.add_attributes(rows, "item_id", lists.read_names(names), values)
    return rows.assign(category=lists.folder_category(rows["image"]))


def count(table: pd.DataFrame) -> dict[str, int]:
    """Counts the images, those of shops, and the pairs of each item's."""
    images = table.drop_duplicates(["item_id", "domain", "image"])
    of_item = pd.crosstab(images["item_id"], images["domain"]).reindex(
        columns=DOMAINS, fill_value=0
    )
    return {
        "images": table["image"].nunique(),
        "shop images": table.loc[table["domain"] == "shop", "image"].nunique(),
        "pairs": int(of_item.prod(axis=1).sum()),
    }
