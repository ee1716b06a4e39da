"""Data sets of street and shop photos, and batches of them.

TensorFlow is imported by `train_batches` and `photo_batches` alone: opening a data set, its
index and its photos need none.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from input_pipeline.batches import photo_batches, train_batches
    from input_pipeline.dataset import Dataset, Split, load_dataset
    from input_pipeline.errors import DatasetError, ManifestError
    from input_pipeline.index import PhotoIndex
    from input_pipeline.object_index import ObjectSplit
    from input_pipeline.sampling import steps_per_epoch

__all__ = [
    "Dataset",
    "DatasetError",
    "ManifestError",
    "ObjectSplit",
    "PhotoIndex",
    "Split",
    "load_dataset",
    "photo_batches",
    "steps_per_epoch",
    "train_batches",
]

_HOMES = {
    "Dataset": "dataset",
    "DatasetError": "errors",
    "ManifestError": "errors",
    "ObjectSplit": "object_index",
    "PhotoIndex": "index",
    "Split": "dataset",
    "load_dataset": "dataset",
    "photo_batches": "batches",
    "steps_per_epoch": "sampling",
    "train_batches": "batches",
}


def __getattr__(name: str) -> Any:
    """Imports a name's module when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    except AttributeError as error:  # an import statement would take it for a missing name
        raise ImportError(f"{__name__}.{_HOMES[name]} cannot be imported: {error}") from error
    return getattr(module, name)
