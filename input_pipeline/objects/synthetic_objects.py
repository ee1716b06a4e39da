"""The synthetic photos with every garment, bag and shoe that is drawn, under ModaNet's names.

An object's mask is what is seen of it, its box that of the mask. What covers less than a hundredth
of the photo is left out: most shoes.
"""

from collections.abc import Mapping

import numpy as np

from input_pipeline.builder import Contents
from input_pipeline.config import PrepareOptions
from input_pipeline.datasets import synthetic
from input_pipeline.objects.modanet import CLASSES
from input_pipeline.records import ObjectRecord
from input_pipeline.synthetic import CATEGORIES
from input_pipeline.synthetic.rendering import RenderedPhoto

KIND = "objects"
_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("Tee", "Shirt", "Sweater", "Hoodie", "Tank"), "top"),
    **dict.fromkeys(("Jacket", "Coat"), "outer"),
    **dict.fromkeys(("Trousers", "Joggers"), "pants"),
    **dict.fromkeys(("Dress", "Jumpsuit"), "dress"),
    **{"Shorts": "shorts", "Skirt": "skirt", "Bag": "bag", "Shoe": "footwear"},
}
_CATEGORIES = tuple(CLASSES.values())
# For each category of the pairs of `synthetic` the class that shows it.
SYNTHETIC_CLASSES: Mapping[str, tuple[str, ...]] = {
    category: (_NAMES[category],) for category in CATEGORIES
}

folder_name = synthetic.folder_name


def contents(source: str, options: PrepareOptions) -> Contents:
    """Plans the records: the photos of the synthetic set of this size."""
    splits = synthetic.split_sizes(source, options)
    shards = {
        split: synthetic.plan_shards(split, size, options, _record, objects=True)
        for split, size in splits.items()
    }
    return Contents(ObjectRecord, shards, {"kind": KIND}, {"categories": _CATEGORIES})


def _record(photo: RenderedPhoto, photo_id: str, category: str) -> ObjectRecord:
    del category  # the photographed garment's; here all that is seen counts
    kinds = [kind for kind, _, _ in photo.objects]
    return ObjectRecord(
        image=photo.jpeg,
        photo_id=photo_id,
        height=photo.size[0],
        width=photo.size[1],
        orientation=1,
        boxes=np.array([box for _, box, _ in photo.objects], np.float32).reshape(-1, 4),
        categories=np.array([_CATEGORIES.index(_NAMES[kind]) for kind in kinds], np.int32),
        crowd=np.zeros(len(kinds), bool),
        masks=tuple(mask for _, _, mask in photo.objects),
    )
