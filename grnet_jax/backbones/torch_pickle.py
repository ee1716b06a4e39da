"""The pickles of PyTorch's checkpoints, read without running anything in them.

A pickle is a program for a small stack machine which can import and call anything. Here the
machine only stacks up plain values: names of functions and classes stay names, the few that
tensors need are acted on by this module, and any other name ends the reading. Nothing is
imported, called or given attributes on the pickle's behalf.
"""

import io
import pickletools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import ml_dtypes
import numpy as np

from grnet_jax.errors import InputError

# PyTorch's name of a type, that of its storages ("" for none), safetensors' ("" for none), and
# NumPy's type.
TYPES = (
    ("float64", "DoubleStorage", "F64", np.float64),
    ("float32", "FloatStorage", "F32", np.float32),
    ("float16", "HalfStorage", "F16", np.float16),
    ("bfloat16", "BFloat16Storage", "BF16", ml_dtypes.bfloat16),
    ("complex128", "ComplexDoubleStorage", "", np.complex128),
    ("complex64", "ComplexFloatStorage", "C64", np.complex64),
    ("int64", "LongStorage", "I64", np.int64),
    ("int32", "IntStorage", "I32", np.int32),
    ("int16", "ShortStorage", "I16", np.int16),
    ("int8", "CharStorage", "I8", np.int8),
    ("uint64", "", "U64", np.uint64),
    ("uint32", "", "U32", np.uint32),
    ("uint16", "", "U16", np.uint16),
    ("uint8", "ByteStorage", "U8", np.uint8),
    ("bool", "BoolStorage", "BOOL", np.bool_),
)
_TENSOR_DTYPES = {f"torch.{name}": np.dtype(kind) for name, _, _, kind in TYPES}
_STORAGE_DTYPES = {
    f"{module}.{name}": np.dtype(kind)
    for module in ("torch", "torch.cuda")
    for _, name, _, kind in TYPES
    if name
} | {"torch.storage.UntypedStorage": np.dtype(np.uint8)}

# Functions whose first arguments are storage, offset, shape and strides; then where their
# metadata and their dtype stand, if they have such.
_REBUILDS: Mapping[str, tuple[int | None, int | None]] = {
    "torch._utils._rebuild_tensor": (None, None),
    "torch._utils._rebuild_tensor_v2": (6, None),
    "torch._utils._rebuild_tensor_v3": (7, 6),
}
_PARAMETERS = (
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch.nn.parameter.Parameter",
)
_ORDERED_DICT = "collections.OrderedDict"
_SIZE = "torch.Size"
_SUBCLASS = "torch._tensor._rebuild_from_type_v2"
# What training checkpoints hold beside tensors. It is passed over: only the names are read.
_PASSED_OVER = frozenset(
    f"{module}.{name}"
    for module, names in (
        ("_codecs", "encode"),
        ("argparse", "Namespace"),
        ("collections", "Counter defaultdict"),
        ("datetime", "datetime timedelta"),
        ("pathlib", "PosixPath WindowsPath"),
        ("pathlib._local", "PosixPath WindowsPath"),
        ("builtins", "bytearray complex dict float frozenset int list set slice"),
        ("__builtin__", "bytearray complex dict float frozenset int list set slice"),
        ("numpy", "dtype ndarray"),
        ("numpy.core.multiarray", "scalar _reconstruct"),
        ("numpy._core.multiarray", "scalar _reconstruct"),
        ("torch", "Tensor device"),
        ("torch.nn.parameter", "Buffer"),
        ("torch.serialization", "_get_layout"),
        ("torch.storage", "TypedStorage"),
    )
    for name in names.split()
)
_KNOWN = _PASSED_OVER.union(
    _STORAGE_DTYPES, _TENSOR_DTYPES, _REBUILDS, _PARAMETERS, (_ORDERED_DICT, _SIZE, _SUBCLASS)
)


@dataclass(frozen=True)
class _Name:
    """A function or class that a pickle names."""

    name: str


class _PassedOver:
    """Any object that is neither a tensor nor a plain value."""


_PASSED = _PassedOver()


@dataclass(frozen=True)
class Storage:
    """Values kept outside the pickle; `start` and `size`, in values, are a view's."""

    key: str | int
    dtype: np.dtype
    count: int
    start: int
    size: int


@dataclass(frozen=True)
class Tensor:
    """A tensor not yet read: where it lies in its storage, offset and strides in values."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


# How the names of the operations begin that stack up their argument.
_LITERALS = (
    *("BININT", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "BINSTRING", "BINBYTES", "SHORT_BIN", "BYTEARRAY8"),
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def unpickle(
    data: bytes, start: int = 0, storages: dict[Any, Storage] | None = None
) -> tuple[Any, int]:
    """The plain values of the pickle that begins at byte `start`, and where it ends.

    Values may share parts so often that to compare, hash or print them would take for ever:
    what comes out is to be looked at by type first. `storages` takes those that are referred
    to, by key.
    """
    file = io.BytesIO(data)
    file.seek(start)
    stack: list[Any] = []
    stacks: list[list[Any]] = []  # those below the marks
    memo: dict[int, Any] = {}
    for opcode, given, _ in pickletools.genops(file):
        operation, argument = opcode.name, cast(Any, given)
        if operation.startswith(_LITERALS):
            stack.append(argument)
        elif operation in _CONSTANTS:
            stack.append(_CONSTANTS[operation])
        elif operation in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif operation in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif operation == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif operation == "EMPTY_DICT":
            stack.append({})
        elif operation == "EMPTY_LIST":
            stack.append([])
        elif operation == "EMPTY_SET":
            stack.append(_PASSED)
        elif operation in _TUPLES:
            count = _TUPLES[operation]
            if len(stack) < count:
                raise InputError("is damaged: its pickle takes more values than it has")
            stack[-count:] = [tuple(stack[-count:])]
        elif operation == "MARK":
            stacks.append(stack)
            stack = []
        elif operation in ("TUPLE", "FROZENSET"):
            items, stack = stack, stacks.pop()
            stack.append(tuple(items) if operation == "TUPLE" else _PASSED)
        elif operation in ("APPENDS", "SETITEMS", "ADDITEMS"):
            items, stack = stack, stacks.pop()
            _fill(stack[-1], operation, items)
        elif operation == "APPEND":
            item = stack.pop()
            _fill(stack[-1], operation, [item])
        elif operation == "SETITEM":
            item, key = stack.pop(), stack.pop()
            _fill(stack[-1], operation, [key, item])
        elif operation == "GLOBAL":
            module, _, name = argument.partition(" ")
            stack.append(_find_name(module, name, data))
        elif operation == "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            stack.append(_find_name(module, name, data))
        elif operation in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            stack.append(_stand_in(function, arguments))
        elif operation == "BUILD":  # an object's attributes: none is needed
            stack.pop()
        elif operation == "BINPERSID":
            storage = _storage(stack.pop())
            if storages is not None:
                known = storages.setdefault(storage.key, storage)
                if (known.dtype, known.count) != (storage.dtype, storage.count):
                    raise InputError(f"is damaged: its storage {storage.key} has two types")
            stack.append(storage)
        elif operation not in ("PROTO", "FRAME", "STOP"):
            raise InputError(f"its pickle uses {operation}, which no checkpoint needs")
    return stack.pop(), file.tell()


def _find_name(module: Any, name: Any, data: bytes) -> _Name:
    if not isinstance(module, str) or not isinstance(name, str):
        raise InputError("is damaged: its pickle has a name that is not text")
    name = f"{module}.{name}"
    if name in _KNOWN:
        return _Name(name)
    if b"_parameters" in data and b"_modules" in data:
        raise InputError(
            f"is a whole saved network, which only the code of {name} can read; load it where "
            "that code is, and save model.state_dict() instead of the model"
        )
    raise InputError(
        f"asks for {name}, which no tensor needs: loading it would run code. Nothing was run; "
        "save the network's state_dict() alone"
    )


def _fill(target: Any, operation: str, items: list[Any]) -> None:
    if isinstance(target, _PassedOver):
        return
    if operation.startswith("APPEND") and isinstance(target, list):
        target.extend(items)
    elif operation.startswith("SETITEM") and isinstance(target, dict):
        target.update(_pairs(zip(items[::2], items[1::2], strict=True)))
    else:
        raise InputError(f"is damaged: its pickle adds entries to a {type(target).__name__}")


def _pairs(pairs: Any) -> dict[Any, Any]:
    """A dictionary of pairs; of its keys only plain ones, whose hashes cost nothing."""
    result = {}
    for key, value in pairs:
        if isinstance(key, (str, bytes, int, float, type(None))):
            result[key] = value
        elif not isinstance(key, (tuple, _PassedOver, _Name)):
            raise InputError(f"is damaged: its pickle has a {type(key).__name__} for a key")
    return result


def _stand_in(function: Any, arguments: Any) -> Any:
    """What calling the function would have given, as far as it matters here."""
    if isinstance(function, _PassedOver):
        return _PASSED
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise InputError(f"is damaged: its pickle calls a {type(function).__name__}")
    name = function.name
    if name == _ORDERED_DICT:
        # Python 2 gave the items as an argument.
        return _pairs(arguments[0]) if arguments else {}
    if name == _SIZE:
        return tuple(arguments[0])
    if name in _REBUILDS:
        return _tensor(arguments, *_REBUILDS[name])
    if name in _PARAMETERS and arguments and isinstance(arguments[0], Tensor):
        return arguments[0]
    if name == _SUBCLASS:
        return _stand_in(arguments[0], arguments[2])
    return _PASSED


def _storage(reference: Any) -> Storage:
    """The storage that a pickle's reference to something outside it means."""
    if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
        raise InputError("is damaged: its pickle refers to something that is not a storage")
    kind, key, _, count, *rest = reference[1:]
    if not isinstance(kind, _Name) or kind.name not in _STORAGE_DTYPES:
        raise InputError(
            f"has a storage of type {getattr(kind, 'name', type(kind).__name__)}, which is none "
            f"of {[name for _, name, _, _ in TYPES if name]}"
        )
    if not isinstance(key, (str, int)) or not _are_counts([count]):
        raise InputError("is damaged: one of its storages has no key or no size")
    start, size = 0, count
    if rest and rest[0] is not None:
        _, start, size = rest[0]
        if not _are_counts([start, size]) or start + size > count:
            raise InputError(f"is damaged: a view exceeds its storage {key}")
    return Storage(key, _STORAGE_DTYPES[kind.name], count, start, size)


def _tensor(arguments: tuple[Any, ...], metadata: int | None, dtype: int | None) -> Tensor:
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage):
        raise InputError("is damaged: one of its tensors has no storage")
    if not _are_counts([offset, *shape, *strides]) or len(shape) != len(strides):
        raise InputError("is damaged: a tensor's offset, shape and strides are not such")
    if metadata is not None and len(arguments) > metadata and arguments[metadata]:
        raise InputError("holds a conjugated or negated view of a tensor; save a copy of it")
    kind = storage.dtype
    if dtype is not None:
        name = getattr(arguments[dtype], "name", None)
        if name not in _TENSOR_DTYPES:
            raise InputError(
                f"has a tensor of type {name}, which is none of {list(_TENSOR_DTYPES)}"
            )
        kind = _TENSOR_DTYPES[name]
    return Tensor(storage, kind, offset, tuple(shape), tuple(strides))


def _are_counts(values: list[Any]) -> bool:
    return all(type(value) is int and value >= 0 for value in values)
