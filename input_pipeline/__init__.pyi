from .batches import eval_batch_spec, image_batches, image_labels, train_batches, view_batches
from .config import (
    ANNOTATED,
    MAX_PIXELS,
    AugmentConfig,
    DatasetConfig,
    ImageConfig,
    PathText,
    PrepareOptions,
    SamplerConfig,
    Section,
    field,
)
from .dataset import Dataset, Split, load_dataset
from .datasets import benchmark_protocol, dataset_names
from .errors import AnnotationError, ArgumentParser, DatasetError, InputError
from .files import check_file, check_folder, read_object, read_text, to_path, write_file
from .images import (
    Box,
    Crop,
    ImageError,
    ImageSource,
    ImageTransform,
    build_transform,
    check_box,
    crop_and_resize,
    encode_png,
    fit_on_canvas,
    load_crop,
    load_image,
    pixel_box,
)
from .index import PhotoIndex
from .locks import preparation_lock
from .objects.batches import ObjectShape, object_batches, object_train_batches
from .objects.index import ObjectSplit
from .objects.modanet import STREET2SHOP_CLASSES
from .objects.synthetic_objects import SYNTHETIC_CLASSES
from .parallel import ordered_map
from .photo_list import PhotoList, list_photos
from .sampling import steps_per_epoch
from .transforms import CropBoxes, keypoint_names
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
    "STREET2SHOP_CLASSES",
    "SYNTHETIC_CLASSES",
    "UNKNOWN",
    "VIEWS",
    "VISIBILITIES",
    "VISIBLE",
    "AnnotationError",
    "ArgumentParser",
    "AugmentConfig",
    "Box",
    "Crop",
    "CropBoxes",
    "Dataset",
    "DatasetConfig",
    "DatasetError",
    "ImageConfig",
    "ImageError",
    "ImageSource",
    "ImageTransform",
    "InputError",
    "ObjectShape",
    "ObjectSplit",
    "PathText",
    "PhotoIndex",
    "PhotoList",
    "PrepareOptions",
    "SamplerConfig",
    "Section",
    "Split",
    "benchmark_protocol",
    "build_transform",
    "check_box",
    "check_file",
    "check_folder",
    "crop_and_resize",
    "dataset_names",
    "encode_png",
    "eval_batch_spec",
    "field",
    "fit_on_canvas",
    "image_batches",
    "image_labels",
    "keypoint_names",
    "list_photos",
    "load_crop",
    "load_dataset",
    "load_image",
    "object_batches",
    "object_train_batches",
    "ordered_map",
    "pixel_box",
    "preparation_lock",
    "query_subsets",
    "read_object",
    "read_text",
    "steps_per_epoch",
    "to_path",
    "train_batches",
    "view_batches",
    "write_file",
]
