"""FindFashion, listed in a CSV as `manifest` reads it; its protocols need every photo's flags."""

import pandas as pd
from etils import epath

from input_pipeline.datasets import manifest
from input_pipeline.vocabulary import UNKNOWN, VIEWS, query_subsets

RELEASE = {  # in the paper, GRNet, Table 2
    "images": (None, 565_041),
    "pairs": (None, 382_230),
    "easy test queries": (None, 30_746),
    "hard_view test queries": (None, 11_383),
    "hard_occlusion test queries": (None, 1_250),
    "hard_cropping test queries": (None, 3_883),
    "easy val queries": (None, 125_863),
    "hard_view val queries": (None, 47_164),
    "hard_occlusion val queries": (None, 4_920),
    "hard_cropping val queries": (None, 15_883),
}
_REQUIRED = ("item_id", "domain", "view", "occluded", "cropped")

fingerprint = manifest.fingerprint


def to_table(source: epath.Path) -> pd.DataFrame:
    """Reads the rows of the CSV."""
    return manifest.to_table(source, _REQUIRED)


def count(table: pd.DataFrame) -> dict[str, int]:
    """Counts the images, the pairs of each item's, and each protocol's test and val queries."""
    domains = table.groupby(["item_id", "domain"]).size().unstack(fill_value=0)
    pairs = domains.get("customer", 0) * domains.get("shop", 0)
    queries = table[table["domain"] == "customer"]
    numbers = {name: number for number, name in enumerate(VIEWS)}
    flags = queries[["view", "occluded", "cropped"]].replace({"view": numbers})
    flags = flags.apply(pd.to_numeric, errors="coerce").fillna(UNKNOWN)
    subsets = query_subsets(*flags.to_numpy().T)
    splits = {split: (queries["split"] == split).to_numpy() for split in ("test", "val")}
    return {
        "images": table["image"].nunique(),
        "pairs": int(pairs.sum()),
        **{
            f"{name} {split} queries": int((chosen & of_split).sum())
            for split, of_split in splits.items()
            for name, chosen in subsets.items()
        },
    }
