"""PyTorch's checkpoint files as arrays, read without PyTorch.

Such a file is a pickle in which tensors are views of storages: numbers that lie in a zip archive
beside it, or in the older form behind it. No name but those of `_NAMES` is looked up, so that
nothing in a file is run.
"""

import argparse
import collections
import io
import pickle
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

from grnet_jax.errors import InputError

_MAGIC = 0x1950A86A20F9469CFC6C  # what the older form begins with
_STORAGES = {
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "BoolStorage": np.dtype(np.bool_),
    "ByteStorage": np.dtype("u1"),
    "CharStorage": np.dtype("i1"),
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "IntStorage": np.dtype("<i4"),
    "LongStorage": np.dtype("<i8"),
    "ShortStorage": np.dtype("<i2"),
}


def _rebuild_tensor(
    storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> np.ndarray:
    """Returns a view of a storage; offset and strides count numbers."""
    spans = [(size - 1) * stride for size, stride in zip(shape, strides, strict=True)]
    last = offset + sum(spans)
    if min((offset, *shape, *strides)) < 0 or (0 not in shape and last >= len(storage)):
        raise ValueError("a tensor reaches beyond its storage")
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps)


def _rebuild_parameter(tensor: np.ndarray, *_: Any) -> np.ndarray:
    return tensor


_NAMES = {
    ("argparse", "Namespace"): argparse.Namespace,  # training scripts' options
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): tuple,
    ("torch", "device"): str,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Reads a pickle of tensors; the numbers in `storages` are filled in afterwards."""

    def __init__(self, stream: Any, length: int):
        super().__init__(stream)
        self.storages: dict[str, np.ndarray] = {}
        self._length = length

    def find_class(self, module: str, name: str) -> Any:
        """Returns what a name stands for."""
        if (module, name) not in _NAMES:
            raise InputError(
                f"holds {module}.{name}, which is no tensor and could run code. If you trust the "
                "file, load it with PyTorch and save its state_dict() alone"
            )
        return _NAMES[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        """Returns a storage's array."""
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or any(view) or not isinstance(dtype, np.dtype):
            raise ValueError(f"a {kind} of {dtype} is no storage of numbers")
        if count * dtype.itemsize > self._length:
            raise ValueError("a storage is larger than the file")
        return self.storages.setdefault(key, np.zeros(count, dtype))


def load_torch(data: bytes) -> Any:
    """Returns what a file of PyTorch's holds, with arrays in the place of tensors.

    Raises:
      InputError: it is damaged, of another form, or names what is no tensor.
    """
    try:
        return _load_zip(data) if data.startswith(b"PK") else _load_older(data)
    except InputError:
        raise
    except Exception as error:  # damaged bytes raise nearly anything
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise InputError(f"cannot be read; damaged or cut off? {reason}") from error


def _load_zip(data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        unpickler = _Unpickler(io.BytesIO(archive.read(name)), len(data))
        value = unpickler.load()
        for key, storage in unpickler.storages.items():
            _fill(storage, archive.read(f"{name.removesuffix('.pkl')}/{key}"))
    return value


def _load_older(data: bytes) -> Any:
    stream = io.BytesIO(data)
    unpicklers = [_Unpickler(stream, len(data)) for _ in range(5)]
    magic, _, _, value, keys = (unpickler.load() for unpickler in unpicklers)
    if magic != _MAGIC:
        raise ValueError("it does not begin as PyTorch's files do")
    for key in keys:
        storage = unpicklers[3].storages[key]
        stream.read(8)  # how many numbers follow
        _fill(storage, stream.read(storage.nbytes))
    return value


def _fill(storage: np.ndarray, data: bytes) -> None:
    if len(data) != storage.nbytes:
        raise ValueError(f"{storage.nbytes} bytes of numbers expected, {len(data)} found")
    if data:
        storage[:] = np.frombuffer(data, storage.dtype)
