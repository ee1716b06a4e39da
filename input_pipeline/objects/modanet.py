"""ModaNet (Zheng et al., 2018): street images with polygons of 13 kinds of garments.

SOURCE holds `annotations/modanet2018_instances_train.json`, or the file itself, and the images,
which come from PaperDoll, in `images`. The release's validation file lists images without
annotations and is not read: a twentieth of the annotated images, chosen by a hash of their id, is
val instead.
"""

from collections.abc import Mapping

import pandas as pd
from etils import epath

from input_pipeline import datasets
from input_pipeline.errors import DatasetError
from input_pipeline.objects import coco

KIND = "objects"
KNOWN_FAULTS = ("missing_image",)  # PaperDoll's images are another download
# By the ids of the annotation file, which spells the last one in another way.
CLASSES: Mapping[int, str] = {
    **{1: "bag", 2: "belt", 3: "boots", 4: "footwear", 5: "outer", 6: "dress", 7: "sunglasses"},
    **{8: "pants", 9: "top", 10: "shorts", 11: "skirt", 12: "headwear", 13: "scarf & tie"},
}
# For each category of Street2Shop the classes that show it, the likeliest first.
STREET2SHOP_CLASSES: Mapping[str, tuple[str, ...]] = {
    "bags": ("bag",),
    "belts": ("belt",),
    "dresses": ("dress",),
    "eyewear": ("sunglasses",),
    "footwear": ("footwear", "boots"),
    "hats": ("headwear",),
    "leggings": ("pants",),
    "outerwear": ("outer",),
    "pants": ("pants", "shorts"),
    "skirts": ("skirt",),
    "tops": ("top",),
}
_FILE = "modanet2018_instances_train.json"
_SHARES = {"train": 0.95, "val": 0.05}


def fingerprint(root: epath.Path) -> str:
    """Returns a digest of the annotations and of which images are there: more may arrive."""
    folder = root / "images"
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return datasets.fingerprint([_find(root)], *names)


def to_table(root: epath.Path) -> pd.DataFrame:
    """Reads the images and their garments."""
    return coco.read_files(root, {"": _find(root)}, _SHARES, CLASSES)


def _find(root: epath.Path) -> epath.Path:
    for path in (root / "annotations" / _FILE, root / _FILE):
        if path.exists():
            return path
    raise DatasetError(f"{root} (dataset.source): annotations/{_FILE} missing")
