"""Checkpoint files, written here byte by byte and by PyTorch, read without PyTorch."""

import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grnet_jax.backbones.torch_file import read_checkpoint
from grnet_jax.errors import InputError

_FORMS = ("zip", "legacy stream")


def read_tensors(path):
    """What most tests look at."""
    return read_checkpoint(path).tensors


class Raw(bytes):
    """Pickle operations that stand for a value."""


def tensor(key, shape, strides=None, offset=0, kind="FloatStorage", count=None, view=None):
    """The pickle of a tensor over storage `key`, as PyTorch writes it."""
    if strides is None:
        strides = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
    count = int(np.prod(shape)) if count is None else count
    reference = ["storage", Raw(b"ctorch\n%s\n" % kind.encode()), key, "cpu", count]
    if view is not None:
        reference.append(view)
    arguments = (
        Raw(opcodes(tuple(reference)) + b"Q"),
        offset,
        tuple(shape),
        tuple(strides),
        False,
        Raw(b"ccollections\nOrderedDict\n)R"),
    )
    return Raw(b"ctorch._utils\n_rebuild_tensor_v2\n" + opcodes(arguments) + b"R")


def opcodes(value):
    """Pickle operations, protocol 2, that stack up a plain value."""
    match value:
        case Raw():
            return bytes(value)
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int() if abs(value) < 2**31:
            return b"J" + struct.pack("<i", value)
        case int():
            return pickle.dumps(value, 2)[2:-1]
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        case list():
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        case dict():
            items = [opcodes(part) for item in value.items() for part in item]
            return b"}(" + b"".join(items) + b"u"
    raise TypeError(value)


def pickled(value):
    return b"\x80\x02" + opcodes(value) + b"."


def zip_file(value, storages, root="archive/", extra=(), compression=zipfile.ZIP_STORED):
    entries = {"data.pkl": pickled(value), "byteorder": b"little", "version": b"3\n"}
    entries |= {f"data/{key}": np.asarray(array).tobytes() for key, array in storages.items()}
    entries |= dict(extra)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(root + name, content)
    return buffer.getvalue()


_SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2}}
_MAGIC = 0x1950A86A20F9469CFC6C


def legacy_file(value, storages, magic=_MAGIC, protocol=1001, system=_SYSTEM, keys=None):
    parts = [pickled(part) for part in (magic, protocol, system)]
    # Here a reference to a storage ends with its view, or None.
    parts.append(re.sub(rb"(?<!t)tQ", b"NtQ", pickled(value)))
    parts.append(pickled(list(storages) if keys is None else keys))
    for array in storages.values():
        parts += [struct.pack("<q", np.asarray(array).size), np.asarray(array).tobytes()]
    return b"".join(parts)


def make(form, value, storages):
    return (zip_file if form == "zip" else legacy_file)(value, storages)


@pytest.fixture
def save(tmp_path):
    path = tmp_path / "checkpoint.bin"

    def write(data):
        path.write_bytes(data)
        return path

    return write


_A = np.arange(24, dtype=np.float32)
_B = np.array(7, np.int64)
_SMALL = {"conv.weight": tensor("0", (2, 3, 4)), "bn.count": tensor("1", (), kind="LongStorage")}
_SMALL_STORAGES = {"0": _A, "1": _B}


def check_small(found):
    assert list(found) == ["conv.weight", "bn.count"]
    np.testing.assert_array_equal(found["conv.weight"], _A.reshape(2, 3, 4))
    assert found["conv.weight"].dtype == np.float32
    assert found["bn.count"].shape == ()
    assert found["bn.count"].dtype == np.int64
    assert found["bn.count"] == 7


@pytest.mark.parametrize("form", _FORMS)
def test_the_arrays_that_went_in_come_out(form, save):
    found = read_checkpoint(save(make(form, _SMALL, _SMALL_STORAGES)))
    check_small(found.tensors)
    assert (found.form, found.entry, found.prefix) == (form, "", "")


def test_the_zip_files_root_may_have_any_name(save):
    for root in ("", "googlenet-1378be20/", "a/b/"):
        check_small(read_tensors(save(zip_file(_SMALL, _SMALL_STORAGES, root))))


_KINDS = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


@pytest.mark.parametrize("form", _FORMS)
def test_every_type_is_read(form, save):
    arrays = {kind: np.array([1, 0, 3], dtype) for kind, dtype in _KINDS.items()}
    value = {kind: tensor(kind, (3,), kind=kind) for kind in _KINDS}
    found = read_tensors(save(make(form, value, arrays)))
    for kind, array in arrays.items():
        assert found[kind].dtype == array.dtype
        np.testing.assert_array_equal(found[kind], array)


@pytest.mark.parametrize("form", _FORMS)
def test_strides_offsets_and_shared_storages_are_honoured(form, save):
    value = {
        "transposed": tensor("0", (3, 2), (1, 3), offset=4, count=24),
        "row": tensor("0", (4,), offset=20, count=24),
        "repeated": tensor("0", (2, 5), (0, 1), offset=1, count=24),
        "scalar": tensor("0", (), offset=23, count=24),
        "empty": tensor("0", (0, 5), (5, 1), offset=24, count=24),
        "empty too": tensor("0", (3, 0), (1, 1), offset=24, count=24),
        "long": tensor("0", (2, 1), (12, 10**15), count=24),
    }
    found = read_tensors(save(make(form, value, {"0": _A})))
    np.testing.assert_array_equal(found["transposed"], [[4, 7], [5, 8], [6, 9]])
    np.testing.assert_array_equal(found["row"], [20, 21, 22, 23])
    np.testing.assert_array_equal(found["repeated"], [[1, 2, 3, 4, 5]] * 2)
    assert found["scalar"] == 23
    assert found["empty"].shape == (0, 5)
    assert found["empty too"].shape == (3, 0)
    np.testing.assert_array_equal(found["long"], [[0], [12]])


def test_a_view_of_an_old_files_storage_is_read_and_bounded(save):
    value = {"a": tensor("0", (3,), count=24, view=("1", 4, 8))}
    found = read_tensors(save(legacy_file(value, {"0": _A})))
    np.testing.assert_array_equal(found["a"], [4, 5, 6])
    for shape, view in (((9,), ("1", 4, 8)), ((3,), ("1", 20, 8)), ((3,), ("1", -4, 8))):
        value = {"a": tensor("0", shape, count=24, view=view)}
        with pytest.raises(InputError, match="damaged"):
            read_tensors(save(legacy_file(value, {"0": _A})))


@pytest.mark.parametrize("form", _FORMS)
@pytest.mark.parametrize(
    "part",
    [
        tensor("0", (25,), count=24),
        tensor("0", (2,), (24,), count=24),
        tensor("0", (2,), (2**62,), count=24),
        tensor("0", (1,), offset=24, count=24),
        tensor("0", (1,), offset=-1, count=24),
        tensor("0", (2,), (-1,), offset=5, count=24),
        tensor("0", (-1,), (1,), count=24),
        tensor("0", (2, 2), (1,), count=24),
        tensor("0", (2.0,), (1,), count=24),
        tensor("0", (25,), count=25),
        tensor("0", (25,), count=2**61),
        tensor("0", (25,), count=-1),
        tensor("1", (2,)),
    ],
)
def test_a_tensor_outside_its_storage_is_an_error(part, form, save):
    with pytest.raises(InputError, match=r"checkpoint\.bin: is damaged"):
        read_tensors(save(make(form, {"a": part}, {"0": _A})))


@pytest.mark.parametrize("form", _FORMS)
def test_a_tensor_larger_than_the_file_is_an_error(form, save):
    part = tensor("0", (10**6, 10**6), (0, 0), count=24)
    with pytest.raises(InputError, match="larger than the whole file"):
        read_tensors(save(make(form, {"a": part}, {"0": _A})))


@pytest.mark.parametrize("form", _FORMS)
@pytest.mark.parametrize(
    ("value", "entry"),
    [
        ({"state_dict": _SMALL, "epoch": 3, "best": 0.5, "arch": "googlenet"}, "state_dict"),
        ({"epoch": tensor("1", (), kind="LongStorage"), "model": _SMALL}, "model"),
        ({"net": _SMALL, "optimizer": {"state": {0: {"step": 3}}, "param_groups": []}}, "net"),
        ({"mine": _SMALL, "epoch": 3}, "mine"),
        ({"model": {"state_dict": _SMALL}}, "model/state_dict"),
    ],
)
def test_the_state_dict_is_found_in_a_training_checkpoint(value, entry, form, save):
    found = read_checkpoint(save(make(form, value, _SMALL_STORAGES)))
    check_small(found.tensors)
    assert found.entry == entry


@pytest.mark.parametrize("form", _FORMS)
@pytest.mark.parametrize(
    ("names", "listed"),
    [
        (("model", "net"), "'model', 'net'"),
        (("state_dict", "state_dict_ema"), "'state_dict', 'state_dict_ema'"),
        (("student", "teacher"), "'student', 'teacher'"),
    ],
)
def test_of_several_state_dicts_one_has_to_be_chosen(names, listed, form, save):
    other = {"conv.weight": tensor("1", (), kind="LongStorage"), "bn.count": _SMALL["conv.weight"]}
    path = save(make(form, {names[0]: _SMALL, names[1]: other}, _SMALL_STORAGES))
    with pytest.raises(InputError, match=f"several state dicts, {listed}; choose one with --entry"):
        read_checkpoint(path)
    check_small(read_checkpoint(path, entry=names[0]).tensors)
    assert read_checkpoint(path, entry=names[1]).tensors["conv.weight"] == 7
    with pytest.raises(InputError, match="no entry 'x' with a state dict; its entries are '"):
        read_checkpoint(path, entry="x")


@pytest.mark.parametrize("form", _FORMS)
def test_a_prefix_is_removed_where_all_keys_have_it(form, save):
    for prefix in ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.module."):
        value = {prefix + key: part for key, part in _SMALL.items()}
        found = read_checkpoint(save(make(form, value, _SMALL_STORAGES)))
        check_small(found.tensors)
        assert found.prefix == prefix
    value = {"module.a": tensor("0", (24,)), "b": tensor("1", (), kind="LongStorage")}
    assert list(read_tensors(save(make(form, value, _SMALL_STORAGES)))) == ["module.a", "b"]


def test_python_2s_ordered_dict_and_strings_are_read(save):
    pair = Raw(b"](U\x01a" + tensor("0", (24,)) + b"e")
    value = Raw(b"ccollections\nOrderedDict\n(" + opcodes([pair]) + b"tR")
    np.testing.assert_array_equal(read_tensors(save(legacy_file(value, {"0": _A})))["a"], _A)


@pytest.mark.parametrize("form", _FORMS)
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            {"epoch": 3, "lr": 0.1},
            "no state dict, that is, tensors by name; its entries are 'epoch'",
        ),
        ({}, "its entries are none"),
        ([1, 2], "it is a list"),
        (tensor("0", (24,)), "it is a tensor"),
        ({"model": {"model": {"model": {"model": {"model": {}}}}}}, "no tensors within"),
        (Raw(b"}\x94X\x05\x00\x00\x00modelh\x00s"), "no tensors within"),  # holds itself
    ],
)
def test_a_file_without_a_state_dict_is_an_error(value, said, form, save):
    with pytest.raises(InputError, match=said):
        read_tensors(
            save(
                make(form, value, {"0": _A} if isinstance(value, Raw) and value[:1] == b"c" else {})
            )
        )


class Evil:
    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


def _payloads(folder):
    """Pickles that make the folder when they are loaded the usual way."""
    target = str(folder)
    text = opcodes(target)
    reduced = b"cos\nmkdir\n" + text + b"\x85R"
    yield "system", pickle.dumps(Evil(os.system, f"mkdir {target}"), 2)
    yield "eval", pickle.dumps(Evil(eval, f"__import__('os').mkdir({target!r})"), 2)
    yield "stack global", pickle.dumps(Evil(os.mkdir, target), 4)
    yield "nested", pickle.dumps({"a": [{"b": (Evil(os.mkdir, target),)}]}, 2)
    yield "a dictionary's value", b"\x80\x02}X\x01\x00\x00\x00a" + reduced + b"s."
    yield "inst", b"\x80\x02(" + text + b"ios\nmkdir\n."
    yield "obj", b"\x80\x02(cos\nmkdir\n" + text + b"o."
    yield "new object", b"\x80\x02csubprocess\nPopen\n(](Xmkdir" + text + b"et\x81."
    setstate = opcodes({"__setstate__": Raw(b"cos\nmkdir\n")})
    namespace = b"cargparse\nNamespace\n)\x81"
    yield "setstate", b"\x80\x02" + namespace + setstate + b"b" + text + b"b."


_EVIL = [name for name, _ in _payloads("x") if name != "new object"]


@pytest.fixture
def payload(request, tmp_path):
    return dict(_payloads(tmp_path / "made"))[request.param]


@pytest.mark.parametrize("payload", _EVIL, indirect=True)
def test_the_payloads_of_the_next_test_run_elsewhere(payload, tmp_path):
    pickle.loads(payload)
    assert (tmp_path / "made").is_dir()


def _infected(payload):
    """Files with the payload wherever a reader may load a pickle."""
    bare = Raw(payload.removeprefix(b"\x80\x02").removeprefix(b"\x80\x04")[:-1])
    reference = Raw(opcodes(("storage", bare, "0", "cpu", 24)) + b"Q")
    pieces = [reference, Raw(opcodes("storage") + bare + b"0Q"), Raw(bare + b"Q")]
    values = [bare, {**_SMALL, "x": bare}, {"state_dict": _SMALL, "x": [{1: (bare,)}]}, *pieces]
    for form in _FORMS:
        for value in values:
            yield make(form, value, _SMALL_STORAGES)
    legacy = {"value": _SMALL, "storages": _SMALL_STORAGES}
    yield legacy_file(**legacy, protocol=bare)
    yield legacy_file(**legacy, system=bare)
    yield legacy_file(**legacy, keys=bare)
    yield legacy_file(**legacy, magic=Raw(opcodes(_MAGIC) + bare))
    yield payload


@pytest.mark.parametrize("payload", _EVIL, indirect=True)
def test_nothing_in_a_file_is_run(payload, tmp_path, save):
    for data in _infected(payload):
        with pytest.raises(InputError, match=r"checkpoint\.bin: "):
            read_tensors(save(data))
        assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("form", _FORMS)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        (b"cos\nsystem\n", "asks for os.system, which no tensor needs: loading it would run code"),
        (b"cbuiltins\neval\n", "asks for builtins.eval"),
        (b"cbuiltins\ngetattr\n", "asks for builtins.getattr"),
        (b"ctorch\nload\n", "asks for torch.load"),
        (b"ctorch.storage\n_load_from_bytes\n", "asks for torch.storage._load_from_bytes"),
        (b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n", "asks for .*__globals__"),
        (opcodes("os") + opcodes("system") + b"\x93", "asks for os.system"),
        (opcodes("os") + opcodes(1) + b"\x93", "damaged"),
        (b"\x82\x01", "uses EXT1"),
        (b"P1\n", "uses PERSID"),
    ],
)
def test_the_name_that_would_run_is_told(name, said, form, save):
    path = save(make(form, {**_SMALL, "x": Raw(name)}, _SMALL_STORAGES))
    with pytest.raises(InputError, match=rf"checkpoint\.bin: .*{said}"):
        read_tensors(path)


@pytest.mark.parametrize("form", _FORMS)
def test_a_whole_saved_network_is_refused_with_advice(form, save):
    network = Raw(
        b"ctorchvision.models.googlenet\nGoogLeNet\n)\x81"
        + opcodes({"_parameters": {}, "_modules": {}})
        + b"b"
    )
    said = (
        r"whole saved network.* torchvision\.models\.googlenet\.GoogLeNet .*model\.state_dict\(\)"
    )
    with pytest.raises(InputError, match=said):
        read_tensors(save(make(form, network, {})))


@pytest.mark.parametrize("form", _FORMS)
def test_what_training_checkpoints_hold_beside_tensors_is_passed_over(form, save):
    scalar = (
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x02\x00\x00\x00f8K\x00K\x01tR"
        b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x06\x00\x00\x00latin1tRtR"
    )
    value = {
        "state_dict": _SMALL,
        "best": Raw(scalar),
        "args": Raw(b"cargparse\nNamespace\n)\x81" + opcodes({"lr": 0.1}) + b"b"),
        "seen": Raw(b"c__builtin__\nset\n](K\x01K\x02e\x85R"),
        "counts": Raw(b"ccollections\ndefaultdict\n(cbuiltins\nint\ntR(K\x01K\x02u"),
        "kind": Raw(b"ctorch\nfloat32\n"),
    }
    found = read_tensors(save(make(form, value, _SMALL_STORAGES)))
    check_small(found)


def test_a_view_that_negates_is_refused(save):
    part = tensor("0", (24,))
    negated = Raw(part[:-2] + opcodes({"neg": True}) + b"tR")
    with pytest.raises(InputError, match="negated view"):
        read_tensors(save(zip_file({"a": negated}, {"0": _A})))


def test_other_storages_are_refused(save):
    value = {"a": tensor("0", (3,), kind="QInt8Storage")}
    with pytest.raises(InputError, match=r"asks for torch\.QInt8Storage"):
        read_tensors(save(zip_file(value, {"0": _A})))


def test_big_endian_files_are_refused(save):
    big = zip_file(_SMALL, _SMALL_STORAGES, extra={"byteorder": b"big"})
    with pytest.raises(InputError, match="big-endian"):
        read_tensors(save(big))
    big = legacy_file(_SMALL, _SMALL_STORAGES, system={**_SYSTEM, "little_endian": False})
    with pytest.raises(InputError, match="big-endian"):
        read_tensors(save(big))


def _start(text):
    return text + b"\n" * 600


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 5\n",
            "Git LFS pointer",
        ),
        (_start(b"<!DOCTYPE html><html>404</html>"), "is a web page, .*download failed"),
        (_start(b"\n <html>"), "is a web page"),
        (_start(b"\xff\xd8\xff\xe0\x00\x10JFIF"), "is a JPEG picture, expected a PyTorch"),
        (_start(b"\x1f\x8b\x08\x00"), "gzip"),
        (b"\x00" * 257 + b"ustar" + b"\x00" * 300, "tar archive"),
        (pickle.dumps({"a": 1}, 2), "pickle that torch.save did not write"),
        ("Keys of the model: größe".encode(), "is text, expected"),
        (b"x" * 511 + "ß".encode(), "is text, expected"),
        (bytes(range(256)), "in a form that is not known"),
        (legacy_file({}, {}, protocol=1002), "form of PyTorch's that is not known"),
        (zip_file(_SMALL, _SMALL_STORAGES, extra={"constants.pkl": b"N."}), "TorchScript archive"),
        (zip_file(_SMALL, {}, extra={"code/__torch__.py": b""}), "TorchScript archive"),
        (
            zip_file(_SMALL, _SMALL_STORAGES, extra={"b/data.pkl": b"N."}),
            "found 2; its entries are",
        ),
        (zip_file(_SMALL, _SMALL_STORAGES, compression=zipfile.ZIP_DEFLATED), "compressed"),
    ],
)
def test_files_that_are_no_checkpoint_are_told(data, said, save):
    with pytest.raises(InputError, match=rf"checkpoint\.bin: .*{said}"):
        read_tensors(save(data))


def test_a_missing_file_and_a_folder_are_told(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.pth: no such file"):
        read_tensors(tmp_path / "nowhere.pth")
    with pytest.raises(InputError, match="is a folder"):
        read_tensors(tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_zip_entries_of_one_name_are_refused(save):
    buffer = io.BytesIO(zip_file(_SMALL, _SMALL_STORAGES))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/data/0", np.zeros(24, np.float32).tobytes())
    with pytest.raises(InputError, match="two of the zip file's entries"):
        read_tensors(save(buffer.getvalue()))


_SAFETENSORS_VALUES = {
    "F32": np.array([[1.5, -2.0]], np.float32),
    "F16": np.array([0.5], np.float16),
    "BF16": np.array([3.0, 1.0], ml_dtypes.bfloat16),
    "I64": np.array(4, np.int64),
    "BOOL": np.zeros((0, 3), np.bool_),
}


def safetensors_file(values):
    header, blobs, at = {"__metadata__": {"format": "pt"}}, [], 0
    for kind, array in values.items():
        span = [at, at + array.nbytes]
        header[f"a.{kind}"] = {"dtype": kind, "shape": array.shape, "data_offsets": span}
        blobs.append(array.tobytes())
        at = span[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(blobs)


def test_safetensors_are_read(save):
    found = read_checkpoint(save(safetensors_file(_SAFETENSORS_VALUES)))
    assert found.form == "safetensors"
    assert found.tensors.keys() == {f"a.{kind}" for kind in _SAFETENSORS_VALUES}
    for kind, array in _SAFETENSORS_VALUES.items():
        assert found.tensors[f"a.{kind}"].dtype == array.dtype
        np.testing.assert_array_equal(found.tensors[f"a.{kind}"], array)


_FILES = {
    "zip": zip_file(_SMALL, _SMALL_STORAGES),
    "legacy stream": legacy_file(_SMALL, _SMALL_STORAGES),
    "safetensors": safetensors_file(_SAFETENSORS_VALUES),
}


@pytest.mark.parametrize("form", _FILES)
def test_a_file_cut_off_anywhere_is_an_error(form, save):
    data = _FILES[form]
    for length in range(len(data)):
        with pytest.raises(InputError, match=r"checkpoint\.bin: is "):
            read_tensors(save(data[:length]))


def _check_damaged(form, path, wanted):
    try:
        found = read_tensors(path)
    except InputError:
        return
    assert all(type(key) is str and type(array) is np.ndarray for key, array in found.items())
    if form == "zip":  # it has checksums
        assert found.keys() == wanted.keys()
        for key, array in wanted.items():
            np.testing.assert_array_equal(found[key], array)


@pytest.mark.parametrize("form", _FILES)
def test_a_changed_byte_is_an_error_or_changes_values(form, save):
    data = _FILES[form]
    wanted = {key: array.copy() for key, array in read_tensors(save(data)).items()}
    for position in range(len(data)):
        for mask in (0x01, 0x80):
            changed = bytearray(data)
            changed[position] ^= mask
            _check_damaged(form, save(bytes(changed)), wanted)


@pytest.mark.parametrize("form", _FILES)
def test_many_changed_bytes_do_no_worse(form, tmp_path):
    data = _FILES[form]
    path = tmp_path / "checkpoint.bin"
    path.write_bytes(data)
    wanted = {key: array.copy() for key, array in read_tensors(path).items()}
    changes = st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(1, 255)), max_size=12)

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(changes)
    def check(changes):
        changed = bytearray(data)
        for position, mask in changes:
            changed[position] ^= mask
        path.write_bytes(changed)
        _check_damaged(form, path, wanted)

    check()


def _with_fields(data, start, at, change):
    """A zip file with the four bytes at `at` changed in every header that starts so."""
    position = data.find(start)
    while position >= 0:
        field = slice(position + at, position + at + 4)
        (value,) = struct.unpack("<I", data[field])
        data = data[: field.start] + struct.pack("<I", change(value)) + data[field.stop :]
        position = data.find(start, position + 1)
    return data


def test_a_file_without_checksums_is_read_within_its_bounds(save):
    data = _with_fields(_FILES["zip"], b"PK\x03\x04", 14, lambda _: 0)
    data = _with_fields(data, b"PK\x01\x02", 16, lambda _: 0)
    check_small(read_tensors(save(data)))
    larger = _with_fields(data, b"PK\x01\x02", 24, lambda size: size + 1)
    with pytest.raises(InputError, match="exceeds the file"):
        read_tensors(save(larger))
    larger = _with_fields(larger, b"PK\x01\x02", 20, lambda size: size + 10_000)
    larger = _with_fields(larger, b"PK\x01\x02", 24, lambda size: size + 9_999)
    with pytest.raises(InputError, match="exceeds the file"):
        read_tensors(save(larger))


@pytest.mark.parametrize("count", [23, 25])
def test_an_old_file_whose_storage_has_another_size_is_an_error(count, save):
    data = legacy_file(_SMALL, {"0": np.zeros(count, np.float32), "1": _B})
    with pytest.raises(InputError, match=f"storage 0 has {count} values, expected 24"):
        read_tensors(save(data))


def test_an_old_files_storage_has_one_type(save):
    value = {"a": tensor("0", (24,)), "b": tensor("0", (3,), count=24, kind="DoubleStorage")}
    with pytest.raises(InputError, match="two types"):
        read_tensors(save(legacy_file(value, {"0": _A})))


# A tuple of itself sixty times over: to hash, compare or print it takes 2**60 steps.
_DEEP = Raw(b")q\x00" + b"h\x00\x86q\x00" * 60)
_BOMBS = {
    "a key": zip_file(Raw(b"}" + _DEEP + b"K\x01s"), {}),
    "a name": zip_file(Raw(_DEEP + _DEEP + b"\x93"), {}),
    "a shape": zip_file(
        {"a": Raw(tensor("0", (24,), (3,)).replace(opcodes((24,)), _DEEP))}, {"0": _A}
    ),
    "a size": zip_file({"a": tensor("0", (_DEEP,), (1,), count=24)}, {"0": _A}),
    "a storage's key": zip_file({"a": tensor(_DEEP, (24,))}, {"0": _A}),
    "a storage's size": zip_file({"a": tensor("0", (24,), count=_DEEP)}, {"0": _A}),
    "the list of storages": legacy_file(_SMALL, _SMALL_STORAGES, keys=[_DEEP]),
    "the protocol": legacy_file(_SMALL, _SMALL_STORAGES, protocol=_DEEP),
    "the value": zip_file(_DEEP, {}),
    "memory": zip_file(Raw(b")r\xff\xff\xff\xff"), {}),
    "a text's length": zip_file(Raw(b"\x8d" + b"\xff" * 7 + b"\x7f"), {}),
    "a bytearray's length": zip_file(Raw(b"\x96" + b"\xff" * 5 + b"\x00" * 3), {}),
}
_READ_ALL = """
import pathlib, resource, sys
from grnet_jax.backbones.torch_file import read_checkpoint
from grnet_jax.errors import InputError

assert "torch" not in sys.modules and "tensorflow" not in sys.modules
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        read_checkpoint(path)
    except InputError as error:
        print(error)
print("megabytes", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used) // 1024)
"""


def test_bombs_cost_neither_time_nor_memory(tmp_path):
    for name, data in _BOMBS.items():
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, "-c", _READ_ALL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    *errors, memory = done.stdout.splitlines()
    assert len(errors) == len(_BOMBS)
    assert int(memory.split()[1]) < 50


@pytest.mark.parametrize("form", _FORMS)
def test_memory_is_about_the_files_size(form, save):
    big = np.ones(5_000_000, np.float32)
    path = save(make(form, {"a": tensor("0", (1000, 5000), (1, 1000))}, {"0": big}))
    tracemalloc.start()
    found = read_tensors(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["a"].sum() == 5_000_000
    assert peak < 1.2 * big.nbytes


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed: make parity")


def _written(torch, value, zipped):
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def _as_numpy(torch, part):
    part = part.detach()
    if part.dtype == torch.bfloat16:
        return part.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return part.numpy()


def _check_equal_to_torch_load(torch, path, entry=None):
    wanted = torch.load(path, weights_only=False)
    wanted = wanted if entry is None else wanted[entry]
    found = read_tensors(path)
    assert list(found) == list(wanted)
    for key, part in wanted.items():
        array = _as_numpy(torch, part)
        assert found[key].dtype == array.dtype, key
        assert found[key].shape == array.shape, key
        np.testing.assert_array_equal(found[key], array)


_TORCH_KINDS = (
    *("bfloat16", "float16", "float64", "complex64"),
    *("int8", "int16", "int32", "uint8", "uint16", "uint32"),
)


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [True, False])
def test_all_kinds_of_tensors_equal_torchs_own_reading(zipped, torch, save):
    torch.manual_seed(0)
    a = torch.randn(4, 5, 6)
    value = {
        "plain": a,
        "transposed": a.permute(2, 0, 1),
        "slice": a[1:3, ::2, 1:],
        "channels last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "repeated": torch.randn(1, 3).expand(4, 3),
        "scalar": torch.tensor(2.5),
        "count": torch.tensor(3, dtype=torch.int64),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "view of a parameter": torch.nn.Parameter(torch.randn(3, 2)).t(),
        "bool": torch.tensor([True, False]),
    }
    # PyTorch cannot read those two from its old form.
    for kind in _TORCH_KINDS if zipped else _TORCH_KINDS[:-2]:
        value[kind] = torch.arange(5).to(getattr(torch, kind))
    tagged = torch.nn.Parameter(torch.randn(2))
    tagged.note = "kept"
    value["parameter with attributes"] = tagged
    tagged = torch.randn(2)
    tagged.note = "kept"
    value["tensor with attributes"] = tagged
    _check_equal_to_torch_load(torch, save(_written(torch, value, zipped)))


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_checkpoint_equals_torchs_own_reading(zipped, torch, save):
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(4, 2)
    )
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.randn(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    value = {
        "epoch": 3,
        "state_dict": torch.nn.DataParallel(network).state_dict(),
        "optimizer": optimizer.state_dict(),
        "best": np.float64(0.5),
        "history": np.arange(3),
    }
    path = save(_written(torch, value, zipped))
    found = read_checkpoint(path)
    assert (found.entry, found.prefix) == ("state_dict", "module.")
    assert list(found.tensors) == list(network.state_dict())
    for key, part in network.state_dict().items():
        np.testing.assert_array_equal(found.tensors[key], part.numpy())
    whole = _written(torch, torch.nn.Sequential(torch.nn.Linear(2, 2)), zipped)
    with pytest.raises(InputError, match=r"whole saved network.*Sequential"):
        read_tensors(save(whole))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_archive_is_refused(torch, tmp_path):
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)
    with pytest.raises(InputError, match="TorchScript"):
        read_tensors(path)


@pytest.mark.slow
def test_safetensors_own_files_are_read(torch, tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    value = {"a": torch.randn(2, 3), "b": torch.ones(3, dtype=torch.bfloat16), "c": torch.tensor(4)}
    save_file(value, tmp_path / "a.safetensors", metadata={"format": "pt"})
    found = read_tensors(tmp_path / "a.safetensors")
    assert found.keys() == value.keys()
    for key, part in value.items():
        np.testing.assert_array_equal(found[key], _as_numpy(torch, part))


@pytest.mark.slow
@pytest.mark.parametrize("form", _FORMS)
def test_torch_reads_the_files_that_this_test_writes(form, torch, save):
    path = save(_FILES[form])
    for key, part in torch.load(path, weights_only=True).items():
        np.testing.assert_array_equal(part.numpy(), read_tensors(path)[key])


def test_keys_without_a_tensor_are_told(save):
    value = {"a": tensor("0", (24,)), "b": 3, "c": [1], 7: "x"}
    found = read_checkpoint(save(legacy_file(value, {"0": _A})))
    assert list(found.tensors) == ["a"]
    assert found.others == ("b", "c", "a key of type int")
