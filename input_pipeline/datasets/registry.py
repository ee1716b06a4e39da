"""The data sets by name; imports none of them."""

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from input_pipeline.errors import DatasetError, one_of


class Registered(NamedTuple):
    """A data set that can be prepared.

    Attributes:
      module: below input_pipeline.datasets; its `describe(source, options)` returns the TFDS
        builder's class and config.
      kind: "pairs" for items with customer and shop images, which matchers train on; "images" for
        images with a category; "objects" for images with the boxes of many objects.
      title: what headings call it, where that is not its name.
      protocol: fields of `eval.protocol` as its benchmark has them.
    """

    module: str
    kind: str = "pairs"
    title: str = ""
    protocol: Mapping[str, Any] = {}

    def describe(self, source: str, options: Any) -> tuple[Any, Any]:
        """Returns the builder's class and config for a source and `PrepareOptions`."""
        module = importlib.import_module(f"input_pipeline.datasets.{self.module}")
        return module.describe(source, options)


REGISTRY: Mapping[str, Registered] = {
    "synthetic": Registered("synthetic"),
    "manifest": Registered("manifest"),
    "findfashion": Registered("findfashion"),
    "deepfashion_c2s": Registered("deepfashion_c2s"),
    "deepfashion_inshop": Registered("deepfashion_inshop"),
    "deepfashion_attributes": Registered("deepfashion_attributes", "images"),
    "deepfashion_fine": Registered("deepfashion_fine", "images"),
    "deepfashion2": Registered("deepfashion2", title="DeepFashion2-derived"),
    # Kiapour et al.: per category, with all its shop images.
    "street2shop": Registered("street2shop", protocol={"gallery": "all", "same_category": True}),
    "coco": Registered("coco", "objects"),
    "modanet": Registered("modanet", "objects"),
}


def find_dataset(name: str) -> Registered:
    """Returns the data set of this name.

    Raises:
      DatasetError: naming the data sets there are.
    """
    if name not in REGISTRY:
        raise DatasetError(f"dataset.name={name!r}: expected {one_of(tuple(REGISTRY))}")
    return REGISTRY[name]


def dataset_names(*kinds: str) -> tuple[str, ...]:
    """Returns the names of the data sets of these kinds."""
    return tuple(name for name, entry in REGISTRY.items() if entry.kind in kinds)


def benchmark_protocol(name: str) -> dict[str, Any]:
    """Returns the fields of `eval.protocol` as this data set's benchmark has them."""
    return dict(REGISTRY[name].protocol) if name in REGISTRY else {}
