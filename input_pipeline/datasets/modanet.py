"""ModaNet (Zheng et al., 2018): street photos with polygons of 13 kinds of garments.

SOURCE holds `annotations/modanet2018_instances_train.json`, or the file itself, and the photos,
which come from PaperDoll, in `images`. The release's validation file lists photos without
annotations and is not read: a twentieth of the annotated photos, chosen by a hash of their id, is
val instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from etils import epath

from input_pipeline.config import PrepareOptions
from input_pipeline.datasets.coco import Coco, CocoConfig
from input_pipeline.datasets.download import download_config
from input_pipeline.errors import DatasetError

# By the ids of the annotation file, which spells the last one in another way.
CLASSES: Mapping[int, str] = {
    1: "bag",
    2: "belt",
    3: "boots",
    4: "footwear",
    5: "outer",
    6: "dress",
    7: "sunglasses",
    8: "pants",
    9: "top",
    10: "shorts",
    11: "skirt",
    12: "headwear",
    13: "scarf & tie",
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


@dataclass(kw_only=True)
class ModanetConfig(CocoConfig):
    """Which download, and how to take it: see `download_config`."""

    benchmark = "ModaNet"
    skips = frozenset({"missing photo"})  # PaperDoll's photos are another download
    shares: ClassVar[Mapping[str, float]] = {"train": 0.95, "val": 0.05}
    names = CLASSES

    @classmethod
    def files(cls, root: epath.Path) -> dict[str, epath.Path]:
        """Returns the one file with annotations."""
        for path in (root / "annotations" / _FILE, root / _FILE):
            if path.exists():
                return {"": path}
        raise DatasetError(f"{root} (dataset.source): annotations/{_FILE} missing")


class Modanet(Coco):
    """ModaNet's photos with their garments."""

    name = "modanet"


def describe(source: str, options: PrepareOptions) -> tuple[type[Modanet], ModanetConfig]:
    """Returns the builder and its config."""
    return Modanet, download_config(ModanetConfig, source, options)
