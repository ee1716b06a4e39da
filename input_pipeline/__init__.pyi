from .batches import eval_batch_spec, image_batches, image_labels, train_batches
from .config import (
    ANNOTATED,
    AugmentConfig,
    DatasetConfig,
    ImageConfig,
    PrepareOptions,
    SamplerConfig,
    Section,
    field,
)
from .crops import CropBoxes
from .dataset import Dataset, Split, load_dataset
from .datasets.registry import benchmark_protocol, dataset_names
from .errors import DatasetError, InputError, ManifestError
from .images import (
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
from .index import PhotoIndex
from .keypoints import keypoint_names
from .object_index import ObjectSplit
from .sampling import steps_per_epoch
from .vocabulary import (
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
    "PrepareOptions",
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
