"""Data sets of street and shop images, and batches of them: the names that other packages use.

A name is imported when it is first used. Only the batches import TensorFlow: opening a data set,
its index and its images need none.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from input_pipeline.batches import eval_batch_spec, image_batches, image_labels, train_batches
    from input_pipeline.config import (
        ANNOTATED,
        AugmentConfig,
        DatasetConfig,
        ImageConfig,
        SamplerConfig,
        Section,
        field,
    )
    from input_pipeline.crops import CropBoxes
    from input_pipeline.dataset import Dataset, Split, load_dataset
    from input_pipeline.datasets.registry import benchmark_protocol, dataset_names
    from input_pipeline.errors import DatasetError, InputError, ManifestError
    from input_pipeline.images import (
        MAX_PIXELS,
        Box,
        ImageError,
        ImageSource,
        ImageTransform,
        build_transform,
        check_box,
        crop_and_resize,
        encode_png,
        load_image,
        pixel_box,
    )
    from input_pipeline.index import PhotoIndex
    from input_pipeline.keypoints import keypoint_names
    from input_pipeline.object_index import ObjectSplit
    from input_pipeline.sampling import steps_per_epoch
    from input_pipeline.vocabulary import (
        CUSTOMER,
        DOMAINS,
        LANDMARKS,
        SHOP,
        SPLITS,
        UNKNOWN,
        VIEWS,
        VISIBILITIES,
        VISIBLE,
        query_subsets,
    )

__all__ = [
    "ANNOTATED",
    "CUSTOMER",
    "DOMAINS",
    "LANDMARKS",
    "MAX_PIXELS",
    "SHOP",
    "SPLITS",
    "UNKNOWN",
    "VIEWS",
    "VISIBILITIES",
    "VISIBLE",
    "AugmentConfig",
    "Box",
    "CropBoxes",
    "Dataset",
    "DatasetConfig",
    "DatasetError",
    "ImageConfig",
    "ImageError",
    "ImageSource",
    "ImageTransform",
    "InputError",
    "ManifestError",
    "ObjectSplit",
    "PhotoIndex",
    "SamplerConfig",
    "Section",
    "Split",
    "benchmark_protocol",
    "build_transform",
    "check_box",
    "crop_and_resize",
    "dataset_names",
    "encode_png",
    "eval_batch_spec",
    "field",
    "image_batches",
    "image_labels",
    "keypoint_names",
    "load_dataset",
    "load_image",
    "pixel_box",
    "query_subsets",
    "steps_per_epoch",
    "train_batches",
]

_MODULES = {
    "batches": ("eval_batch_spec", "image_batches", "image_labels", "train_batches"),
    "config": (
        "ANNOTATED",
        "AugmentConfig",
        "DatasetConfig",
        "ImageConfig",
        "SamplerConfig",
        "Section",
        "field",
    ),
    "crops": ("CropBoxes",),
    "dataset": ("Dataset", "Split", "load_dataset"),
    "datasets.registry": ("benchmark_protocol", "dataset_names"),
    "errors": ("DatasetError", "InputError", "ManifestError"),
    "images": (
        "Box",
        "ImageError",
        "ImageSource",
        "ImageTransform",
        "MAX_PIXELS",
        "build_transform",
        "check_box",
        "crop_and_resize",
        "encode_png",
        "load_image",
        "pixel_box",
    ),
    "index": ("PhotoIndex",),
    "keypoints": ("keypoint_names",),
    "object_index": ("ObjectSplit",),
    "sampling": ("steps_per_epoch",),
    "vocabulary": (
        "CUSTOMER",
        "DOMAINS",
        "LANDMARKS",
        "SHOP",
        "SPLITS",
        "UNKNOWN",
        "VIEWS",
        "VISIBILITIES",
        "VISIBLE",
        "query_subsets",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Imports a name's module when the name is first used (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_MODULE_OF[name]}")
    except AttributeError as error:  # an import statement would take it for a missing name
        raise ImportError(f"{__name__}.{_MODULE_OF[name]} cannot be imported: {error}") from error
    return getattr(module, name)
