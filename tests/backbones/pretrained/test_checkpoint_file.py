"""Reading checkpoint files: PyTorch's in both of its forms, and safetensors."""

import argparse
import io
import json
import os
import pickle
import struct
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest

from grnet_jax.backbones.pretrained.checkpoint_file import _find_state_dict, read_checkpoint
from grnet_jax.errors import InputError

_ARRAY = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
_STATE = {"conv.weight": _ARRAY, "bn.count": np.array(7)}


@pytest.fixture
def save(tmp_path):
    path = tmp_path / "checkpoint.bin"

    def write(data):
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize(
    ("value", "entry"),
    [
        (_STATE, ""),
        ({"state_dict": _STATE, "epoch": 3, "arch": "googlenet"}, "state_dict"),
        ({"epoch": np.array(3), "model": _STATE}, "model"),
        ({"net": _STATE, "optimizer": {"state": {0: {"step": 3}}, "param_groups": []}}, "net"),
        ({"mine": _STATE, "epoch": 3}, "mine"),
        ({"model": {"state_dict": _STATE}}, "model/state_dict"),
    ],
)
def test_the_state_dict_is_found_in_a_training_checkpoint(value, entry):
    assert _find_state_dict(value, "") == (_STATE, entry)


@pytest.mark.parametrize("names", [("model", "net"), ("state_dict", "ema"), ("student", "teacher")])
def test_of_several_state_dicts_one_has_to_be_chosen(names):
    other = {"conv.weight": np.array(7), "bn.count": _ARRAY}
    value = {names[0]: _STATE, names[1]: other}
    with pytest.raises(InputError, match=r"several state dicts, '.*; choose one with --entry"):
        _find_state_dict(value, "")
    assert _find_state_dict(value, names[1]) == (other, names[1])
    with pytest.raises(InputError, match="no entry 'x' with a state dict; its entries are '"):
        _find_state_dict(value, "x")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"epoch": 3}, "no state dict, that is, tensors by name; its entries are 'epoch'"),
        ({}, "its entries are none"),
        ([1, 2], "it is of type list"),
        (_ARRAY, "it is of type ndarray"),
        ({"model": {"model": {"model": {"model": {"model": {}}}}}}, "no tensors within"),
    ],
)
def test_a_file_without_a_state_dict_is_an_error(value, message):
    with pytest.raises(InputError, match=message):
        _find_state_dict(value, "")


_SAFETENSORS_VALUES = {
    "F32": np.array([[1.5, -2.0]], np.float32),
    "F16": np.array([0.5], np.float16),
    "BF16": np.array([3.0, 1.0], ml_dtypes.bfloat16),
    "I64": np.array(4, np.int64),
    "BOOL": np.zeros((0, 3), np.bool_),
}


def _safetensors(values, prefix="a."):
    header, blobs, start = {"__metadata__": {"format": "pt"}}, [], 0
    for kind, array in values.items():
        span = [start, start + array.nbytes]
        header[prefix + kind] = {"dtype": kind, "shape": array.shape, "data_offsets": span}
        blobs.append(array.tobytes())
        start = span[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(blobs)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.module."])
def test_safetensors_files_are_read_without_torch(prefix, save, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    checkpoint = read_checkpoint(save(_safetensors(_SAFETENSORS_VALUES, prefix)))
    assert (checkpoint.prefix, checkpoint.others) == (prefix, ())
    assert checkpoint.tensors.keys() == _SAFETENSORS_VALUES.keys()
    for kind, array in _SAFETENSORS_VALUES.items():
        assert checkpoint.tensors[kind].dtype == array.dtype
        np.testing.assert_array_equal(checkpoint.tensors[kind], array)


def test_other_safetensors_types_are_refused(save):
    data = _safetensors({"F8_E4M3": np.zeros(3, np.uint8)})
    with pytest.raises(InputError, match=r"'a\.F8_E4M3' is F8_E4M3, expected one of"):
        read_checkpoint(save(data))


def test_a_safetensors_file_cut_off_anywhere_is_an_error(save):
    data = _safetensors(_SAFETENSORS_VALUES)
    for length in range(len(data)):
        with pytest.raises(InputError, match=r"checkpoint\.bin: is "):
            read_checkpoint(save(data[:length]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html>404</html>", "is a web page, .*download failed"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "is not a PyTorch or safetensors checkpoint"),
    ],
)
def test_files_of_other_forms_are_named(data, message, save):
    with pytest.raises(InputError, match=rf"checkpoint\.bin: {message}"):
        read_checkpoint(save(data))


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.pth: no such file"):
        read_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(InputError, match="is a folder"):
        read_checkpoint(tmp_path)


def _text(value):
    """A number, a text or a tuple as a pickle's instructions."""
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_text, value)) + b"t"
    return value if isinstance(value, bytes) else b"I%d\n" % value


def _tensor(kind, key, count, offset, shape, strides):
    storage = _text((b"S'storage'\n", b"ctorch\n%s\n" % kind, key, b"S'cpu'\n", count)) + b"Q"
    arguments = (storage, offset, shape, strides, b"I00\n", b"ccollections\nOrderedDict\n(tR")
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + _text(arguments) + b"R"


def _torch_file(tensor, numbers, zipped):
    """A file of PyTorch's, written by hand: {"a": tensor} of a storage "7"."""
    value = b"(dS'a'\n" + tensor + b"s."
    if zipped:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("mine/data.pkl", value)
            archive.writestr("mine/data/7", numbers.tobytes())
        return buffer.getvalue()
    start = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    parts = [pickle.dumps(one, 2) for one in start]
    count = struct.pack("<q", len(numbers))
    return b"".join([*parts, value, pickle.dumps(["7"], 2), count, numbers.tobytes()])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("kind", "dtype"), [(b"FloatStorage", "<f4"), (b"BFloat16Storage", ml_dtypes.bfloat16)]
)
def test_torchs_files_are_read_without_torch(zipped, kind, dtype, save, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    numbers = np.arange(7).astype(dtype)
    tensor = _tensor(kind, b"S'7'\n", 7, 1, (3, 2), (1, 3))  # a view of columns
    data = _torch_file(tensor, numbers, zipped)
    (array,) = read_checkpoint(save(data)).tensors.values()
    assert array.dtype == numbers.dtype
    np.testing.assert_array_equal(array.astype(int), [[1, 4], [2, 5], [3, 6]])
    for length in range(1, len(data)):
        with pytest.raises(InputError, match=r"checkpoint\.bin: "):
            read_checkpoint(save(data[:length]))


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(2, (3, 2), (1, 3)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (2, 2), (1,))],
)
def test_a_tensor_beyond_its_storage_is_an_error(offset, shape, strides, save):
    tensor = _tensor(b"FloatStorage", b"S'7'\n", 7, offset, shape, strides)
    with pytest.raises(InputError, match="cannot be read; damaged or cut off"):
        read_checkpoint(save(_torch_file(tensor, np.zeros(7, "<f4"), zipped=True)))


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed: make parity")


def _written(torch, value, zipped=True):
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


@pytest.mark.parametrize("zipped", [True, False])
def test_torchs_files_are_read(zipped, torch, save):
    state = {
        "module.transposed": torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
        "module.repeated": torch.ones(1, 3).expand(4, 3),
        "module.bfloat16": torch.tensor([0.5, 3.0], dtype=torch.bfloat16),
        "module.half": torch.nn.Parameter(torch.tensor([0.5], dtype=torch.float16)),
        "module.count": torch.tensor(3),
        "epoch": 3,
    }
    value = {"state_dict": state, "args": argparse.Namespace(lr=0.1), "epoch": 3}
    checkpoint = read_checkpoint(save(_written(torch, value, zipped)))
    assert (checkpoint.entry, checkpoint.prefix) == ("state_dict", "module.")
    assert checkpoint.others == ("epoch",)
    assert len(checkpoint.tensors) == 5
    for key, array in checkpoint.tensors.items():
        expected = state[f"module.{key}"].detach()
        np.testing.assert_array_equal(array, expected.to(torch.float64).numpy())


class _Forbidden:
    def __reduce__(self):
        return os.mkdir, ("made",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_in_one_line(zipped, torch, save, monkeypatch):
    path = save(_written(torch, {"a": torch.ones(3), "b": _Forbidden()}, zipped))
    monkeypatch.chdir(path.parent)
    with pytest.raises(InputError, match=r"checkpoint\.bin: holds \w+\.mkdir, .* code") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)
    assert not (path.parent / "made").exists()
    network = _written(torch, torch.nn.Linear(2, 2), zipped)
    with pytest.raises(InputError, match=r"linear\.Linear, .* save its state_dict\(\) alone"):
        read_checkpoint(save(network))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_cut_off_is_an_error_of_one_line(zipped, torch, save):
    data = _written(torch, {"a": torch.ones(3), "b": torch.zeros(5)}, zipped)
    for length in range(1, len(data), 7):
        with pytest.raises(InputError, match=r"checkpoint\.bin: ") as error:
            read_checkpoint(save(data[:length]))
        assert "\n" not in str(error.value)
