import hashlib
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

from grnet_jax.backbones import build_classifier, convert
from grnet_jax.backbones.pretrained.conversion import Converted, Network, _variables
from grnet_jax.backbones.pretrained.weights import read_weights
from grnet_jax.errors import InputError

_KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)
_BIAS = np.arange(5, dtype=np.float32)
_TENSORS = {
    "conv1.weight": _KERNEL,
    "fc.bias": _BIAS,
    "bn1.num_batches_tracked": np.array(3),
    **{f"aux1.{i}.weight": _KERNEL for i in range(8)},
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def stub(monkeypatch):
    """A conversion that knows the keys above; `stub.fitting` are the backbones that fit."""

    class Stub:
        fitting = ("resnet50",)
        asked = None

        def convert_tensors(self, backbone, tensors):
            self.asked = backbone
            if "conv1.weight" not in tensors:
                raise InputError("missing: conv1.weight")
            params = {"backbone": {"conv1": {"kernel": tensors["conv1.weight"].T}}}
            if "fc.bias" in tensors:
                head = {"fc6": {"bias": np.zeros(9, np.float32)}}
                norm = {"scale": np.ones(1, np.float32), "bias": np.ones(1, np.float32)}
                params["head"] = head | {"fc8": {"bias": tensors["fc.bias"]}, "norm": norm}
            left_out = tuple(key for key in tensors if key.startswith(("aux", "bn1")))
            return Converted({"params": params}, left_out, "head" in params)

        def find_network(self, tensors, backbone):
            return Network("", self.fitting)

    made = Stub()
    monkeypatch.setattr(convert, "convert_tensors", made.convert_tensors)
    monkeypatch.setattr(convert, "find_network", made.find_network)
    return made


def _write(name, tensors=_TENSORS):
    safetensors.numpy.save_file(tensors, name)
    return hashlib.sha256(pathlib.Path(name).read_bytes()).hexdigest()


def test_a_checkpoint_becomes_a_weights_file(stub, folder, capsys):
    digest = _write("my resnet.v2.pth")
    assert convert.main(["my resnet.v2.pth"]) == 0
    found = read_weights(folder / "my resnet.v2.grnet.safetensors")
    assert (found.backbone, found.preprocessing, found.classes) == ("resnet50", "imagenet", 5)
    assert (found.source, found.source_sha256) == ("my resnet.v2.pth", digest)
    params = found.variables["params"]
    np.testing.assert_array_equal(params["backbone"]["conv1"]["kernel"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(params["head"]["fc8"]["bias"], _BIAS)
    printed = capsys.readouterr()
    assert printed.err == ""
    size = (folder / "my resnet.v2.grnet.safetensors").stat().st_size
    assert printed.out.splitlines() == [
        "Read my resnet.v2.pth: 11 tensors",
        "  backbone       resnet50 (the only one that fits)",
        "  parameters     22",
        "  ImageNet head  yes, 5 classes",
        "  left out       1 batch counts (num_batches_tracked); 8 others: aux1.0.weight, "
        "aux1.1.weight, aux1.2.weight, aux1.3.weight, aux1.4.weight, aux1.5.weight and 2 more",
        "  preprocessing  imagenet (assumed, the file's name does not tell; --preprocessing names "
        "another)",
        f"Wrote my resnet.v2.grnet.safetensors ({size / 1e6:.1f} MB)",
        "Next: grnet-train --config=configs/grnet.py:manifest "
        "--config.dataset.source=photos.csv --config.model.backbone.name=resnet50 "
        "'--config.model.backbone.pretrained=my resnet.v2.grnet.safetensors'",
    ]


def test_what_is_given_is_taken(stub, folder, capsys):
    _write("a.pth", {f"module.{k}": v for k, v in _TENSORS.items() if k != "fc.bias"})
    arguments = ["--backbone=vgg16", "--preprocessing=imagenet_v2", "--output=made/vgg.safetensors"]
    assert convert.main(["a.pth", *arguments]) == 0
    assert stub.asked == "vgg16"
    found = read_weights(folder / "made" / "vgg.safetensors")
    assert (found.backbone, found.preprocessing, found.classes) == ("vgg16", "imagenet_v2", 0)
    printed = capsys.readouterr().out
    assert "10 tensors, prefix 'module.' removed" in printed
    assert "backbone       vgg16\n" in printed
    assert "ImageNet head  no\n" in printed
    assert "preprocessing  imagenet_v2\n" in printed
    assert printed.endswith(" --config.model.backbone.preprocessing=imagenet_v2\n")


def test_a_published_files_preprocessing_is_known(stub, folder, capsys):
    _write("resnet50-11ad3fa6.pth")
    assert convert.main(["resnet50-11ad3fa6.pth"]) == 0
    assert read_weights(folder / "resnet50-11ad3fa6.grnet.safetensors").preprocessing == (
        "imagenet_v2"
    )
    printed = capsys.readouterr().out
    assert "preprocessing  imagenet_v2 (of the published file of this name)\n" in printed
    assert printed.endswith(" --config.model.backbone.preprocessing=imagenet_v2\n")


@pytest.mark.parametrize(
    ("fitting", "name", "taken"),
    [
        (("googlenet",), "resnet50-0676ba61.pth", "googlenet"),
        (("resnet50", "vgg16"), "resnet50-0676ba61.pth", "resnet50"),
        (("vgg16", "vgg16_bn"), "vgg16_bn-6c64b313.pth", "vgg16_bn"),
        (("vgg16", "vgg16_bn"), "vgg16-397923af.pth", "vgg16"),
        (("resnet50", "resnext101_32x8d"), "ResNeXt101-32x8d.pth", "resnext101_32x8d"),
        ((), "seresnet50.ra2_in1k.safetensors", "seresnet50"),
    ],
)
def test_the_backbone_is_recognized(fitting, name, taken, stub):
    stub.fitting = fitting
    _write(name)
    assert convert.main([name]) == 0
    assert stub.asked == taken


@pytest.mark.parametrize(
    ("fitting", "said"),
    [
        (("resnet50", "vgg16"), "fits several backbones, resnet50, vgg16; choose one with --backb"),
        (
            (),
            "fits none of the backbones convnext_base, .*; its keys begin with aux1.0.weight",
        ),
    ],
)
def test_a_backbone_that_cannot_be_recognized_is_asked_for(fitting, said, stub):
    stub.fitting = fitting
    _write("mine.pth")
    with pytest.raises(InputError, match=f"mine.pth: {said}"):
        convert.convert("mine.pth")


def test_a_name_that_promises_another_hash_is_warned_of(stub, capsys):
    digest = _write("resnet50-0676ba61.pth")
    assert convert.main(["resnet50-0676ba61.pth"]) == 0
    warning = capsys.readouterr().err
    assert "SHA-256 that begins with 0676ba61" in warning
    assert f"found {digest[:8]}" in warning
    _write(f"resnet50-{digest[:8]}.pth")
    assert convert.main([f"resnet50-{digest[:8]}.pth"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.pth"], r"error: nowhere\.pth: no such file"),
        (["bad.pth"], r"error: bad\.pth: missing: conv1\.weight"),
        (["a.pth", "--backbone=alexnet"], r"error: --backbone: 'alexnet' is none of \['conv"),
        (["a.pth", "--preprocessing=x"], r"error: --preprocessing: 'x' is none of \['dino"),
        (["a.pth", "--output=./a.pth"], r"error: --output: \./a\.pth is the checkpoint itself"),
        (["a.pth", "--entry=net"], r"error: a\.pth: has no entry 'net'"),
        (["a.pth", "--entry=net."], r"error: a\.pth: under 'net\.': no keys; they begin with aux1"),
        (["a.pth", "--output=file/w"], r"error: file/w: cannot be written"),
    ],
)
def test_an_error_ends_with_its_message_alone(arguments, said, stub, folder, capsys):
    _write("a.pth")
    _write("bad.pth", {"fc.bias": _BIAS})
    pathlib.Path("file").write_bytes(b"")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert convert.main(arguments) == 2
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1

    assert re.match(said, lines[0])


def _googlenet(prefix):
    """GoogLeNet's tensors with names before theirs, which take no memory."""
    shapes = {key: variable.torch_shape for key, variable in _variables("googlenet", 10).items()}
    return {prefix + key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}


def test_of_wrapped_networks_one_is_chosen(folder, capsys):
    """A teacher and a student, each averaged over steps, with heads of their own."""
    teacher, student = (_googlenet(f"{name}.module.backbone.") for name in ("teacher", "student"))
    beside = {"teacher.n_averaged": np.array(3), "student.head.weight": _KERNEL}
    _write(
        "mine.pth", {k: np.ascontiguousarray(v) for k, v in (teacher | student | beside).items()}
    )
    command = ["mine.pth", "--backbone=googlenet"]
    assert convert.main(command) == 2
    prefixes = "'teacher.module.backbone.', 'student.module.backbone.'"
    said = capsys.readouterr().err
    assert sorted(re.findall("'[^']+'", said)) == sorted(re.findall("'[^']+'", prefixes))
    assert said.endswith("; choose one with --entry\n")
    assert convert.main([*command, "--entry=teacher."]) == 0
    printed = capsys.readouterr().out
    assert "prefix 'teacher.module.backbone.' removed\n" in printed
    assert f"left out       {2 + len(student)} others: " in printed
    assert read_weights(folder / "mine.grnet.safetensors").classes == 10


def test_a_converted_file_is_not_converted_again(stub):
    _write("a.pth")
    convert.convert("a.pth")
    with pytest.raises(InputError, match="is converted already"):
        convert.convert("a.grnet.safetensors")


@pytest.mark.slow
def test_the_command_needs_no_tensorflow_and_gives_torchs_logits(folder):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: make parity")
    for library in ("torchvision", "timm"):
        if not (pathlib.Path(torch.__file__).parents[1] / library).is_dir():
            pytest.skip(f"{library} is not installed")
    from benchmarks import torch_peers as peers

    peer = peers.make_peer("resnet50", classes=7)
    torch.save(peer.state_dict(), "mine.pth")
    (folder / "tensorflow.py").write_text("raise ImportError('not here')")
    repository = pathlib.Path(__file__).parents[3]
    subprocess.run(
        [sys.executable, "-m", "grnet_jax.backbones.convert", "mine.pth"],
        check=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{repository}"},
    )
    weights = read_weights("mine.grnet.safetensors")
    assert (weights.backbone, weights.classes) == ("resnet50", 7)
    photos = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype(np.float32)
    found = jax.jit(build_classifier("resnet50", 7).apply)(weights.variables, photos)
    with torch.no_grad():
        wanted = peer(torch.from_numpy(np.ascontiguousarray(np.moveaxis(photos, -1, 1)))).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
