"""Reading checkpoint files, PyTorch's or safetensors, that ImageNet weights are published in."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from grnet_jax.backbones.pretrained.torch_file import load_torch
from grnet_jax.errors import InputError
from input_pipeline import check_file, to_path

MAX_SAFETENSORS_HEADER = 100_000_000  # bytes; safetensors' own limit
_SAFETENSORS_DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    **{f"F{8 * size}": np.dtype(f"f{size}") for size in (2, 4, 8)},
    **{f"I{8 * size}": np.dtype(f"i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"u{size}") for size in (1, 2, 4, 8)},
}

# Where training scripts put the network's state dict among other things.
_WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network"),
    *("params", "weights", "module"),
)
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
      tensors: arrays by the state dict's keys.
      entry: where the state dict was among other things, "" if the file is one.
      prefix: what all keys began with and was removed, "" for nothing.
      others: keys of the state dict under which there is no tensor; left out.
      sha256: of the file, in hexadecimal.
    """

    tensors: dict[str, np.ndarray]
    entry: str
    prefix: str
    others: tuple[str, ...]
    sha256: str


def read_checkpoint(path: str | os.PathLike, entry: str = "") -> Checkpoint:
    """Reads the state dict of a `.pth`, `.pt`, `.tar`, `.bin` or `.safetensors` file.

    A state dict inside a training checkpoint is found, and everything beside it is ignored.

    Args:
      path: of the file, local or of a bucket.
      entry: which entry of a training checkpoint to take, where several hold a state dict.

    Raises:
      InputError: the file is missing, damaged, no checkpoint, would run code, or holds no state
        dict or several.
    """
    name = os.fspath(path)
    data = _read_bytes(path, name)
    try:
        value = _load_checkpoint(data)
        state, entry = _find_state_dict(value, entry)
        tensors = {key: child for key, child in state.items() if _is_named_tensor(key, child)}
        prefix = _common_prefix(tensors)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return Checkpoint(
        tensors={key[len(prefix) :]: array for key, array in tensors.items()},
        entry=entry,
        prefix=prefix,
        others=tuple(str(key) for key in state if key not in tensors),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def is_safetensors(start: bytes) -> bool:
    """Whether a file that begins with these bytes can be a safetensors file."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= MAX_SAFETENSORS_HEADER


def is_torch(start: bytes) -> bool:
    """Whether a file that begins with these bytes can be PyTorch's: a zip file or a pickle."""
    return start.startswith((b"PK\x03\x04", b"\x80"))


def describe_foreign(start: bytes, expected: str) -> str:
    """Says what a file of another form is, from its first 512 bytes."""
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return f"is a web page, expected {expected}; the download failed"
    return f"is not {expected}"


def _read_bytes(path: str | os.PathLike, name: str) -> bytes:
    file = to_path(path, "checkpoint file")
    try:
        if file.is_dir():
            raise InputError(f"{name}: is a folder, expected a checkpoint file")
        check_file(file)
        data = file.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error}") from error
    if not data:
        raise InputError(f"{name}: is empty (0 bytes)")
    return data


def _load_checkpoint(data: bytes) -> Any:
    if is_safetensors(data):
        return _load_safetensors(data)
    if not is_torch(data):
        raise InputError(describe_foreign(data[:512], "a PyTorch or safetensors checkpoint"))
    return load_torch(data)


def _load_safetensors(data: bytes) -> dict[str, np.ndarray]:
    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise InputError(f"is a safetensors file, damaged or cut off: {error}") from error
    arrays = {}
    for key, tensor in sorted(entries, key=lambda entry: entry[0]):  # they come in any order
        dtype = _SAFETENSORS_DTYPES.get(tensor["dtype"])
        if dtype is None:
            raise InputError(
                f"tensor {key!r} is {tensor['dtype']}, expected one of {list(_SAFETENSORS_DTYPES)}"
            )
        arrays[key] = np.ndarray(tensor["shape"], dtype, buffer=tensor["data"])
    return arrays


def _find_state_dict(value: Any, entry: str) -> tuple[dict[str, Any], str]:
    """Returns the state dict, and the entries that lead to it, joined by "/"."""
    path = []
    if entry:
        if not isinstance(value, dict) or not isinstance(value.get(entry), dict):
            raise InputError(f"has no entry {entry!r} with a state dict; {_contents(value)}")
        path.append(entry)
        value = value[entry]
    for _ in range(4):
        chosen = _wrapped(value)
        if chosen is None:
            return value, "/".join(path)
        path.append(chosen)
        value = value[chosen]
    raise InputError(f"has no tensors within {'/'.join(path)!r}")


def _wrapped(value: Any) -> str | None:
    """Returns the entry that holds the state dict, or None if the value is one.

    It is the one of a usual name, else the only one with tensors. A second with the same keys
    (averaged weights, a teacher) makes the choice ambiguous.
    """
    if not isinstance(value, dict):
        raise InputError(f"holds no state dict, that is, tensors by name; {_contents(value)}")
    inside = {
        key: child
        for key, child in value.items()
        if isinstance(key, str) and isinstance(child, dict) and _has_tensors(child)
    }
    chosen = [key for key in inside if key in _WRAPPERS]
    if not chosen and _has_tensors(value):
        return None
    chosen = chosen or list(inside)
    if not chosen:  # one wrapper more
        chosen = [key for key in value if key in _WRAPPERS and isinstance(value[key], dict)]
    elif len(chosen) == 1:
        keys = inside[chosen[0]].keys()
        chosen += [key for key in inside if key != chosen[0] and inside[key].keys() == keys]
    if len(chosen) > 1:
        raise InputError(
            f"holds several state dicts, {', '.join(map(repr, chosen))}; choose one with --entry"
        )
    if not chosen:
        raise InputError(f"holds no state dict, that is, tensors by name; {_contents(value)}")
    return chosen[0]


def _is_named_tensor(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, np.ndarray)


def _has_tensors(mapping: dict[Any, Any]) -> bool:
    return any(_is_named_tensor(key, value) for key, value in mapping.items())


def _contents(value: Any) -> str:
    if isinstance(value, dict):
        return f"its entries are {', '.join(repr(key) for key in list(value)[:20]) or 'none'}"
    return f"it is of type {type(value).__name__}"


def _common_prefix(keys: Mapping[str, Any]) -> str:
    """Returns what the wrappers around a network put before all of its keys."""
    prefix, found = "", True
    while found:
        found = False
        for more in _PREFIXES:
            longer = prefix + more
            if all(key.startswith(longer) and key != longer for key in keys):
                prefix, found = longer, True
    return prefix
