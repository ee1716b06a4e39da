"""DeepFashion2's photos with all their garments, 13 categories with masks, to train detectors on.

The files are those of `deepfashion2`. Train is the training split and validation is val; the test
images have no public labels. What marks a garment as an item's is not read.
"""

import pandas as pd
from etils import epath

from input_pipeline.datasets import deepfashion2
from input_pipeline.table import is_right
from input_pipeline.vocabulary import BOX

KIND = "objects"
TITLE = "DeepFashion2's objects"
FILES, REQUIRED = deepfashion2.FILES, deepfashion2.REQUIRED
_OF_IMAGE = ["image", "path", "split", "source"]


def to_table(root: epath.Path) -> pd.DataFrame:
    """Reads the photos that have a garment that is right, and the garments."""
    table = deepfashion2.to_table(root)
    objects = table.reindex(columns=[*_OF_IMAGE, "category", *BOX, "segmentation", "problems"])
    objects["split"] = objects["split"].replace("test", "val")
    photos = objects.loc[is_right(objects), _OF_IMAGE].drop_duplicates("image")
    joined = pd.concat([photos, objects], ignore_index=True)
    joined.attrs = {"categories": list(deepfashion2.CATEGORIES), "notes": table.attrs["notes"]}
    return joined
