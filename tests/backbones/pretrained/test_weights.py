import dataclasses
import json
import struct

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import grnet_jax
from grnet_jax.backbones.pretrained.weights import (
    Weights,
    read_weights,
    read_weights_info,
    write_weights,
)
from grnet_jax.errors import InputError

_KERNEL = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
_WEIGHTS = Weights(
    backbone="googlenet",
    preprocessing="imagenet",
    variables={
        "params": {
            # Strided, so that memory does not lie as the values are numbered.
            "backbone": {"conv1": {"conv": {"kernel": _KERNEL.transpose(2, 0, 1)}}},
            "head": {"fc": {"bias": np.zeros(5, np.float32)}},
        },
        "batch_stats": {"backbone": {"conv1": {"bn": {"mean": np.ones(3, np.float32)}}}},
    },
    source="googlenet-1378be20.pth",
    source_sha256="1378be20" * 8,
    classes=5,
)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_weights(path, _WEIGHTS)
    return path


def test_what_is_written_is_read(path):
    found = read_weights(path)
    assert dataclasses.replace(found, variables={}) == dataclasses.replace(_WEIGHTS, variables={})
    assert found.variables.keys() == {"params", "batch_stats"}
    params = found.variables["params"]
    kernel = params["backbone"]["conv1"]["conv"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, _KERNEL.transpose(2, 0, 1))
    assert params["head"]["fc"]["bias"].shape == (5,)
    statistics = found.variables["batch_stats"]["backbone"]["conv1"]["bn"]
    np.testing.assert_array_equal(statistics["mean"], [1, 1, 1])


def test_the_file_is_a_plain_safetensors_file(path):
    tensors = safetensors.numpy.load_file(path)
    assert tensors.keys() == {
        "params/backbone/conv1/conv/kernel",
        "params/head/fc/bias",
        "batch_stats/backbone/conv1/bn/mean",
    }
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata() == {
            "format": "grnet_jax weights",
            "format_version": "1",
            "backbone": "googlenet",
            "preprocessing": "imagenet",
            "classes": "5",
            "source": "googlenet-1378be20.pth",
            "source_sha256": "1378be20" * 8,
            "converter": grnet_jax.__version__,
        }


def test_a_network_without_batch_norm_and_head_is_kept(tmp_path):
    path = tmp_path / "new folder" / "a.safetensors"
    params = {"backbone": {"conv": {"bias": np.array(2.0, np.float32)}}}
    variables = {"params": params, "batch_stats": {}}
    write_weights(path, dataclasses.replace(_WEIGHTS, variables=variables, classes=0))
    found = read_weights(path)
    assert found.classes == 0
    assert found.variables.keys() == {"params"}
    assert found.variables["params"]["backbone"]["conv"]["bias"] == 2
    assert found.variables["params"]["backbone"]["conv"]["bias"].shape == ()


def test_the_information_needs_no_tensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    path.write_bytes(data[: 8 + length])
    info = read_weights_info(path)
    for field in ("backbone", "preprocessing", "source", "source_sha256", "classes"):
        assert getattr(info, field) == getattr(_WEIGHTS, field)
    assert info.converter == grnet_jax.__version__
    with pytest.raises(InputError, match=r"weights\.safetensors: is damaged or cut off"):
        read_weights(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    before = path.read_bytes()

    def fail(self, other):
        raise OSError("disk is full")

    monkeypatch.setattr(type(path), "replace", fail)
    monkeypatch.setattr("etils.epath.gpath.PosixGPath.replace", fail)
    with pytest.raises(InputError, match=r"weights\.safetensors: cannot be written: disk is full"):
        write_weights(path, dataclasses.replace(_WEIGHTS, backbone="vgg16"))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_arrays_of_another_type_are_not_written(tmp_path):
    variables = {"params": {"backbone": {"kernel": np.zeros(3, np.float16)}}}
    with pytest.raises(InputError, match="params/backbone/kernel is float16, expected float32"):
        write_weights(tmp_path / "a", dataclasses.replace(_WEIGHTS, variables=variables))
    assert not list(tmp_path.iterdir())


def _changed(data, **metadata):
    """The file with other metadata; None leaves a field out."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    found = header["__metadata__"] | metadata
    header["__metadata__"] = {key: value for key, value in found.items() if value is not None}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


_TENSORS = {"conv1.weight": np.zeros(3, np.float32)}
_CONVERT = r"convert it first: python -m grnet_jax\.backbones\.convert \S*a.pth --backbone=NAME"


@pytest.mark.parametrize("read", [read_weights, read_weights_info])
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda data: b"PK\x03\x04" + data, f"is a PyTorch checkpoint; {_CONVERT}"),
        (lambda data: b"\x80\x02" + data, f"is a PyTorch checkpoint; {_CONVERT}"),
        (lambda data: safetensors.numpy.save(_TENSORS), f"no weights of this package; {_CONVERT}"),
        (lambda data: _changed(data, format="pt"), f"no weights of this package; {_CONVERT}"),
        (lambda data: _changed(data, format_version="2"), "has format version '2', expected 1"),
        (lambda data: _changed(data, format_version=None), "has format version None, expected 1"),
        (lambda data: _changed(data, backbone=None), "damaged or cut off: 'backbone'"),
        (lambda data: _changed(data, classes="many"), "damaged or cut off"),
        (lambda data: b"", r"is empty \(0 bytes\)"),
        (lambda data: b"<!DOCTYPE html><html>404</html>", "is a web page, expected a weights file"),
        (lambda data: b"\xff\xd8\xff\xe0", "is not a weights file"),
        (lambda data: data[:8] + b"{" * 10_000, "damaged or cut off"),
        (lambda data: struct.pack("<Q", 3) + b"{}1", "damaged or cut off"),
        (lambda data: struct.pack("<Q", 4) + b"{1:2", "damaged or cut off"),
        (lambda data: struct.pack("<Q", 19) + b'{"__metadata__": 1}', "damaged or cut off"),
    ],
)
def test_other_files_are_told(read, make, said, path):
    other = path.parent / "a.pth"
    other.write_bytes(make(path.read_bytes()))
    with pytest.raises(InputError, match=rf"a\.pth: .*{said}"):
        read(other)


@pytest.mark.parametrize("read", [read_weights, read_weights_info])
def test_a_missing_file_and_a_folder_are_told(read, tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.safetensors: no such file"):
        read(tmp_path / "nowhere.safetensors")
    with pytest.raises(InputError, match="is a folder"):
        read(tmp_path)


def test_a_file_cut_off_anywhere_is_an_error(path):
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"weights\.safetensors: "):
            read_weights(path)


def test_a_changed_byte_is_an_error_or_changes_values(path):
    data = path.read_bytes()
    for position in range(len(data)):
        for mask in (0x01, 0x80):
            changed = bytearray(data)
            changed[position] ^= mask
            path.write_bytes(changed)
            try:
                found = read_weights(path)
            except InputError:
                continue
            assert set(found.variables) <= {"params", "batch_stats"}


def test_tensors_of_other_places_or_types_are_told(path):
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    for key, dtype in (("optimizer/kernel", np.float32), ("params/kernel", np.float64)):
        path.write_bytes(safetensors.numpy.save({key: np.zeros(3, dtype)}, metadata))
        with pytest.raises(InputError, match=f"{key}.*is not expected"):
            read_weights(path)
    tensors = {key: np.zeros(3, np.float32) for key in ("params/a", "params/a/b")}
    path.write_bytes(safetensors.numpy.save(tensors, metadata))
    with pytest.raises(InputError, match="is damaged"):
        read_weights(path)
