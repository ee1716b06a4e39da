"""Pretrained weights in this package's own form: one safetensors file a backbone.

Its tensors are float32 and named by their path, "params/backbone/conv1/conv/kernel" or
"batch_stats/backbone/conv1/bn/mean". Its metadata names the backbone, the preprocessing and the
source.
"""

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy
from flax import traverse_util

import grnet_jax
from grnet_jax.backbones.pretrained.checkpoint_file import (
    MAX_SAFETENSORS_HEADER,
    describe_foreign,
    is_safetensors,
    is_torch,
)
from grnet_jax.errors import InputError
from input_pipeline import check_file, to_path, write_file

FORMAT = "grnet_jax weights"
FORMAT_VERSION = 1
_COLLECTIONS = ("params/", "batch_stats/")


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights file says about itself.

    Attributes:
      backbone: its name.
      preprocessing: name of the preprocessing that its images need.
      source: name of the checkpoint file that was converted.
      source_sha256: of that file, in hexadecimal.
      classes: of the ImageNet head, 0 where there is none.
      converter: version of this package that wrote the file.
    """

    backbone: str
    preprocessing: str
    source: str
    source_sha256: str
    classes: int
    converter: str


@dataclass(frozen=True)
class Weights:
    """Pretrained weights; the other attributes are those of `WeightsInfo`.

    Attributes:
      variables: nested dicts of float32 arrays, {"params": {"backbone": ..., "head": ...},
        "batch_stats": {"backbone": ...}}, without what the network does not have.
    """

    backbone: str
    preprocessing: str
    variables: Mapping[str, Any]
    source: str
    source_sha256: str
    classes: int


def write_weights(path: str | os.PathLike, weights: Weights) -> None:
    """Writes a weights file, local or to a bucket; a kill leaves the old file or the new one.

    Raises:
      InputError: the folder cannot be written to, or an array is not float32.
    """
    name = os.fspath(path)
    flat = traverse_util.flatten_dict(dict(weights.variables), sep="/")
    arrays = {}
    for key, value in flat.items():
        if value.dtype != np.float32:
            raise InputError(f"{name}: {key} is {value.dtype}, expected float32")
        # safetensors writes memory as it lies.
        arrays[key] = np.asarray(value, order="C")
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "backbone": weights.backbone,
        "preprocessing": weights.preprocessing,
        "classes": str(weights.classes or ""),
        "source": weights.source,
        "source_sha256": weights.source_sha256,
        "converter": grnet_jax.__version__,
    }
    write_file(to_path(path, "weights file"), safetensors.numpy.save(arrays, metadata))


def read_weights(path: str | os.PathLike) -> Weights:
    """Reads a weights file, local or of a bucket.

    Raises:
      InputError: the file is missing, damaged, of another format version, or not of this form;
        for a PyTorch checkpoint with the command that converts it.
    """
    info = read_weights_info(path)
    name = os.fspath(path)
    try:
        arrays = safetensors.numpy.load(to_path(path, "weights file").read_bytes())
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error}") from error
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{name}: is damaged or cut off: {error}") from error
    folders = {
        "/".join(parts[:end])
        for parts in (key.split("/") for key in arrays)
        for end in range(len(parts))
    }
    for key, array in arrays.items():
        expected = key.startswith(_COLLECTIONS) and key not in folders
        if not expected or array.dtype != np.float32:
            raise InputError(f"{name}: is damaged: tensor {key!r} of {array.dtype} is not expected")
    return Weights(
        backbone=info.backbone,
        preprocessing=info.preprocessing,
        variables=traverse_util.unflatten_dict(arrays, sep="/"),
        source=info.source,
        source_sha256=info.source_sha256,
        classes=info.classes,
    )


def read_weights_info(path: str | os.PathLike) -> WeightsInfo:
    """Reads what a weights file says about itself, without its tensors.

    Raises:
      InputError: as `read_weights`, as far as the file's beginning shows it.
    """
    name = os.fspath(path)
    file = to_path(path, "weights file")
    try:
        if file.is_dir():
            raise InputError(f"{name}: is a folder, expected a weights file")
        check_file(file)
        with file.open("rb") as stream:
            start = stream.read(512)
            length = int.from_bytes(start[:8], "little")
            header = start[8:]
            if is_safetensors(start) and length > len(header):
                header += stream.read(min(length, MAX_SAFETENSORS_HEADER) - len(header))
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error}") from error
    return _parse_info(name, start, header[:length])


def _parse_info(name: str, start: bytes, header: bytes) -> WeightsInfo:
    if not start:
        raise InputError(f"{name}: is empty (0 bytes)")
    convert = (
        "convert it first: python -m grnet_jax.backbones.convert "
        f"{shlex.quote(name)} --backbone=NAME"
    )
    if not is_safetensors(start):
        if is_torch(start):
            raise InputError(f"{name}: is a PyTorch checkpoint; {convert}")
        raise InputError(f"{name}: {describe_foreign(start, 'a weights file')}")
    try:
        found = json.loads(header)
        metadata = found.get("__metadata__", {})
        if metadata.get("format") != FORMAT:
            raise InputError(f"{name}: holds no weights of this package; {convert}")
        if metadata.get("format_version") != str(FORMAT_VERSION):
            raise InputError(
                f"{name}: has format version {metadata.get('format_version')!r}, expected "
                f"{FORMAT_VERSION}; convert its source again with this version of the package"
            )
        return WeightsInfo(
            backbone=metadata["backbone"],
            preprocessing=metadata["preprocessing"],
            source=metadata["source"],
            source_sha256=metadata["source_sha256"],
            classes=int(metadata["classes"] or 0),
            converter=metadata["converter"],
        )
    except InputError:
        raise
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise InputError(f"{name}: is damaged or cut off: {error}") from error
