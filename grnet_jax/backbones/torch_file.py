"""Reading PyTorch's checkpoint files without PyTorch, and without running anything in them.

Three forms, told apart by their content: the zip file of `torch.save` since PyTorch 1.6, the
stream it wrote before, in which many ImageNet weights are still published, and safetensors.

The first two hold a pickle, which `torch_pickle` reads.
"""

import hashlib
import io
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import safetensors
from etils import epath

from grnet_jax.backbones.torch_pickle import TYPES, Storage, Tensor, unpickle
from grnet_jax.errors import InputError

_ZIP_START = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
MAX_SAFETENSORS_HEADER = 100_000_000  # bytes; safetensors' own limit

# Where training scripts put the network's state dict among other things.
_WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network"),
    *("params", "weights", "module"),
)
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
_SAFETENSORS_DTYPES = {name: np.dtype(kind) for _, _, name, kind in TYPES if name}


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
      tensors: by the state dict's keys. They may be read-only views of the file's bytes, with
        any strides, and need not be aligned.
      form: "zip", "legacy stream" or "safetensors".
      entry: where the state dict was among other things, "" if the file is one.
      prefix: what all keys began with and was removed, "" for nothing.
      others: keys of the state dict under which there is no tensor; left out.
      sha256: of the file, in hexadecimal.
    """

    tensors: dict[str, np.ndarray]
    form: str
    entry: str
    prefix: str
    others: tuple[str, ...]
    sha256: str


def read_checkpoint(path: str | os.PathLike, entry: str = "") -> Checkpoint:
    """Reads the state dict of a `.pth`, `.pt`, `.bin` or `.safetensors` file.

    A state dict inside a training checkpoint is found, and everything beside it passed over;
    bfloat16 tensors have ml_dtypes' dtype. The file is held in memory once, a safetensors file
    for a moment twice.

    Args:
      path: of the file, local or of a bucket.
      entry: the training checkpoint's entry to take, where it holds several state dicts.

    Raises:
      InputError: the file is missing, damaged, no checkpoint, would run code, or holds no state
        dict or several.
    """
    name = os.fspath(path)
    data = _read(path, name)
    try:
        form, value, load = _open(data)
        state, taken = _find_state_dict(value, entry)
        found = {key: child for key, child in state.items() if _is_named(key, child)}
        others = tuple(_text(key) for key in state if key not in found)
        prefix = _common_prefix(found)
        tensors = {key[len(prefix) :]: load(tensor) for key, tensor in found.items()}
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except Exception as error:  # damaged bytes raise nearly anything
        raise InputError(f"{name}: is damaged or cut off: {error}") from error
    return Checkpoint(tensors, form, taken, prefix, others, hashlib.sha256(data).hexdigest())


def checkpoint_form(start: bytes) -> str:
    """Which form of checkpoint a file that starts with these 32 bytes has, "" for none."""
    if start.startswith(_ZIP_START):
        return "zip"
    if start.startswith(b"\x80") and _LEGACY_MAGIC.to_bytes(10, "little") in start[:32]:
        return "legacy stream"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= MAX_SAFETENSORS_HEADER:
        return "safetensors"
    return ""


def describe_foreign(start: bytes, expected: str = "a PyTorch or safetensors checkpoint") -> str:
    """What a file without a checkpoint's form seems to be, from its first 512 bytes."""
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return f"is a web page, expected {expected}; the download failed"
    if start.startswith(b"\x1f\x8b"):
        return "is compressed with gzip; unpack it first"
    if start[257:262] == b"ustar":
        return "is a tar archive; unpack it first"
    for magic, kind in (
        (b"\xff\xd8\xff", "a JPEG picture"),
        (b"\x89PNG", "a PNG picture"),
        (b"\x89HDF", "an HDF5 file"),
        (b"\x80", "a pickle that torch.save did not write"),
    ):
        if start.startswith(magic):
            return f"is {kind}, expected {expected}"
    try:
        # A character may be cut through at the end.
        text = start.decode("utf-8", "ignore" if len(start) >= 512 else "strict")
    except UnicodeDecodeError:
        text = "\0"
    readable = all(character.isprintable() or character.isspace() for character in text)
    kind = "text" if readable else "in a form that is not known"
    return f"is {kind}, expected {expected}"


def _read(path: str | os.PathLike, name: str) -> bytes:
    file = epath.Path(path).expanduser()
    try:
        if file.is_dir():
            raise InputError(f"{name}: is a folder, expected a checkpoint file")
        data = file.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error}") from error
    if not data:
        raise InputError(f"{name}: is empty (0 bytes)")
    return data


_Load: TypeAlias = Callable[[Any], np.ndarray]


def _open(data: bytes) -> tuple[str, Any, _Load]:
    """A file's form, its value with tensors not yet read in it, and how to read one."""
    openers = {"zip": _open_zip, "legacy stream": _open_legacy, "safetensors": _open_safetensors}
    form = checkpoint_form(data[:32])
    if form not in openers:
        raise InputError(describe_foreign(data[:512]))
    return form, *openers[form](data)


def _open_zip(data: bytes) -> tuple[Any, _Load]:
    try:
        entries = zipfile.ZipFile(io.BytesIO(data)).infolist()
    except zipfile.BadZipFile as error:
        raise InputError(f"is a PyTorch or zip file, damaged or cut off: {error}") from error
    infos = {info.filename: info for info in entries}
    if len(infos) < len(entries):
        raise InputError("is damaged: two of the zip file's entries have the same name")
    roots = [name[:-8] for name in infos if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise InputError(
            f"is a zip file that torch.save did not write: expected one data.pkl in it, found "
            f"{len(roots)}; {_contents(infos)}"
        )
    root = roots[0]
    if any(name == f"{root}constants.pkl" or name.startswith(f"{root}code/") for name in infos):
        raise InputError(
            "is a TorchScript archive, a program with its weights; load it with torch.jit.load "
            "and save its state_dict() with torch.save"
        )

    def entry_span(name: str) -> tuple[int, int]:
        if name not in infos:
            raise InputError(f"is damaged: the zip file's entry {name!r} is missing")
        return _entry_span(data, infos[name])

    def entry_bytes(name: str) -> bytes:
        start, size = entry_span(name)
        return data[start : start + size]

    if f"{root}byteorder" in infos and entry_bytes(f"{root}byteorder") != b"little":
        raise InputError("was written on a big-endian machine; save it again on another")
    spans: dict[Any, tuple[int, int]] = {}

    def storage_span(storage: Storage) -> tuple[int, int]:
        if storage.key not in spans:
            spans[storage.key] = entry_span(f"{root}data/{storage.key}")
        return spans[storage.key]

    value, _ = unpickle(entry_bytes(f"{root}data.pkl"))
    return value, lambda tensor: _array(tensor, data, storage_span(tensor.storage))


def _entry_span(data: bytes, info: zipfile.ZipInfo) -> tuple[int, int]:
    """Where a zip entry's bytes start and how many they are, once they fit their checksum."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise InputError(
            f"its zip entry {info.filename!r} is compressed or encrypted, which torch.save never "
            "does; unpack it and save it again with PyTorch"
        )
    header = data[info.header_offset : info.header_offset + 30]
    if len(header) < 30 or not header.startswith(_ZIP_START):
        raise InputError(f"is damaged: the zip entry {info.filename!r} is not where it should be")
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start, size = info.header_offset + 30 + lengths, info.file_size
    if info.compress_size != size or start + size > len(data):
        raise InputError(f"is damaged: the zip entry {info.filename!r} exceeds the file")
    # PyTorch can be told to leave the checksums out; they are 0 then.
    if info.CRC and zlib.crc32(memoryview(data)[start : start + size]) != info.CRC:
        raise InputError(f"is damaged: the zip entry {info.filename!r} has a wrong checksum")
    return start, size


def _open_legacy(data: bytes) -> tuple[Any, _Load]:
    magic, at = unpickle(data)
    protocol, at = unpickle(data, at)
    system, at = unpickle(data, at)
    if magic != _LEGACY_MAGIC or protocol != _LEGACY_PROTOCOL:
        raise InputError("is damaged, or in a form of PyTorch's that is not known")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise InputError("was written on a big-endian machine, or is damaged")
    storages: dict[Any, Storage] = {}
    value, at = unpickle(data, at, storages)
    keys, at = unpickle(data, at)
    if not isinstance(keys, list) or not all(isinstance(key, (str, int)) for key in keys):
        raise InputError("is damaged: the list of its storages is missing")
    starts: dict[Any, int] = {}
    for key in keys:
        if key not in storages or key in starts:
            raise InputError(f"is damaged: nothing uses its storage {key}, or it is there twice")
        count = int.from_bytes(data[at : at + 8], "little")
        starts[key] = at + 8
        at += 8 + count * storages[key].dtype.itemsize
        if at > len(data):
            raise InputError(
                f"is damaged or cut off: it ends at byte {len(data)}, inside storage "
                f"{len(starts)} of {len(keys)}"
            )
        if count != storages[key].count:
            raise InputError(
                f"is damaged: storage {key} has {count} values, expected {storages[key].count}"
            )

    def storage_span(storage: Storage) -> tuple[int, int]:
        if storage.key not in starts:
            raise InputError(f"is damaged: its storage {storage.key} is missing")
        return starts[storage.key], storage.count * storage.dtype.itemsize

    return value, lambda tensor: _array(tensor, data, storage_span(tensor.storage))


def _open_safetensors(data: bytes) -> tuple[Any, _Load]:
    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise InputError(f"is a safetensors file, damaged or cut off: {error}") from error
    tensors = {}
    for key, entry in entries:
        if entry["dtype"] not in _SAFETENSORS_DTYPES:
            raise InputError(
                f"tensor {key!r}: {entry['dtype']} is none of the types that are read, "
                f"{list(_SAFETENSORS_DTYPES)}"
            )
        dtype = _SAFETENSORS_DTYPES[entry["dtype"]]
        tensors[key] = np.ndarray(entry["shape"], dtype, buffer=entry["data"])
    return tensors, lambda tensor: tensor


def _array(tensor: Tensor, data: bytes, span: tuple[int, int]) -> np.ndarray:
    """A view of the file's bytes `data`, in which the tensor's storage takes `span`."""
    storage, width = tensor.storage, tensor.dtype.itemsize
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, tensor.dtype)
    last = tensor.offset + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    held = min(storage.size * storage.dtype.itemsize, span[1])
    if (last + 1) * width > held:
        raise InputError(
            f"is damaged: a tensor of shape {list(tensor.shape)} reaches byte "
            f"{(last + 1) * width} of its storage {storage.key}, which has {held}"
        )
    if math.prod(tensor.shape) * width > len(data):
        raise InputError(
            f"has a tensor of shape {list(tensor.shape)}, larger than the whole file "
            f"({len(data)} bytes): it repeats its values, save a smaller copy"
        )
    start = span[0] + storage.start * storage.dtype.itemsize + tensor.offset * width
    strides = [stride * width for stride in tensor.strides]
    return np.ndarray(tensor.shape, tensor.dtype, data, start, strides)


def _find_state_dict(value: Any, entry: str) -> tuple[dict[str, Any], str]:
    """The state dict, and the entries that lead to it, joined by "/"."""
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
    """The entry that holds the state dict, or None if the value is one.

    It is the one of a usual name, else the only one with tensors. A second with the same keys
    (averaged weights, a teacher) could be meant as well.
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


def _is_named(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, (Tensor, np.ndarray))


def _text(key: Any) -> str:
    """Of a key of any type, which may be too entangled to be printed."""
    return key if isinstance(key, str) else f"a key of type {type(key).__name__.strip('_')}"


def _has_tensors(mapping: dict[Any, Any]) -> bool:
    return any(_is_named(key, value) for key, value in mapping.items())


def _contents(value: Any) -> str:
    if isinstance(value, dict):
        return f"its entries are {', '.join(repr(key) for key in list(value)[:20]) or 'none'}"
    kind = "a tensor" if isinstance(value, Tensor) else f"a {type(value).__name__.strip('_')}"
    return f"it is {kind}"


def _common_prefix(keys: Mapping[str, Any]) -> str:
    """What the wrappers around a network put before all of its keys."""
    prefix, found = "", True
    while found:
        found = False
        for more in _PREFIXES:
            longer = prefix + more
            if all(key.startswith(longer) and key != longer for key in keys):
                prefix, found = longer, True
    return prefix
