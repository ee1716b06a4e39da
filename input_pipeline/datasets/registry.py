"""The data sets by name; imports none of them."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from input_pipeline.errors import DatasetError, one_of

_OPTIONS = ("on_bad_row", "max_pixels", "long_side")
_DOWNLOAD = ("source", *_OPTIONS)


@dataclass(frozen=True)
class Registered:
    """A data set that can be prepared.

    Attributes:
      module: below input_pipeline.datasets; its `from_data(config.data)` returns the TFDS builder's
        class and config.
      fields: those of config.data that say which data it is, beside `dir`.
      kind: "pairs" for items with customer and shop photos, which matchers train on; "photos" for
        photos with a category; "objects" for photos with the boxes of many objects.
      title: what headings of figures call it, where that is not its name.
    """

    module: str
    fields: tuple[str, ...]
    kind: str = "pairs"
    title: str = ""

    def describe(self, data: Any) -> tuple[Any, Any]:
        """The builder's class and config for these fields of config.data."""
        module = importlib.import_module(f"input_pipeline.datasets.{self.module}")
        return module.from_data(data)


REGISTRY: Mapping[str, Registered] = {
    "synthetic": Registered("synthetic", ("size", "train_items", "seed")),
    "manifest": Registered("manifest", ("manifest", *_OPTIONS)),
    "findfashion": Registered("findfashion", ("manifest", *_OPTIONS)),
    "deepfashion_c2s": Registered("deepfashion_c2s", _DOWNLOAD),
    "deepfashion_inshop": Registered("deepfashion_inshop", _DOWNLOAD),
    "deepfashion_attributes": Registered("deepfashion_attributes", _DOWNLOAD, "photos"),
    "deepfashion_fine": Registered("deepfashion_fine", _DOWNLOAD, "photos"),
    "deepfashion2": Registered("deepfashion2", _DOWNLOAD, title="DeepFashion2-derived"),
    "street2shop": Registered("street2shop", _DOWNLOAD),
    "coco": Registered("coco", _DOWNLOAD, "objects"),
    "modanet": Registered("modanet", _DOWNLOAD, "objects"),
}


def find_dataset(name: str) -> Registered:
    """The data set of this name.

    Raises:
      DatasetError: naming the data sets there are.
    """
    if name not in REGISTRY:
        raise DatasetError(f"config.data.name={name!r}: expected {one_of(tuple(REGISTRY))}")
    return REGISTRY[name]
