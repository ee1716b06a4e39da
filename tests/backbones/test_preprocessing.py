"""How photos become what the ImageNet weights were trained to see."""

import importlib.util

import numpy as np
import pytest

from grnet_jax.backbones import BACKBONES
from grnet_jax.backbones.preprocessing import (
    PREPROCESSING,
    default_preprocessing,
    find_preprocessing,
    normalize,
    published_preprocessing,
)
from grnet_jax.errors import InputError

_MEAN, _DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def _peers():
    for name in ("torchvision", "timm"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: make parity")
    from benchmarks import torch_peers as peers

    return peers


@pytest.mark.parametrize("name", ["imagenet", "imagenet_v2", "imagenet_bicubic"])
def test_normalize_is_imagenets(name):
    photo = np.array([0, 100, 255], np.uint8).reshape(1, 1, 1, 3)
    wanted = (np.array([0, 100, 255]) / 255 - _MEAN) / _DEVIATION
    np.testing.assert_allclose(normalize(photo, name)[0, 0, 0], wanted, rtol=1e-5)


def test_googlenets_is_imagenets_and_then_transform_input():
    values = np.arange(256, dtype=np.uint8)
    photo = np.stack([values] * 3, axis=-1).reshape(1, 16, 16, 3)
    imagenet = (photo / 255 - _MEAN) / _DEVIATION
    wanted = imagenet * (_DEVIATION / 0.5) + (_MEAN - 0.5) / 0.5
    np.testing.assert_allclose(normalize(photo, "googlenet"), wanted, atol=1e-6)


def test_every_backbone_has_one():
    assert {default_preprocessing(name) for name in BACKBONES} <= set(PREPROCESSING)
    with pytest.raises(
        InputError,
        match=r"'nothing' is none of \['dinov2', 'efficientnet_lite', 'googlenet', 'imagenet'",
    ):
        find_preprocessing("nothing")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("resnet50-0676ba61.pth", "imagenet"),
        ("resnet50-11ad3fa6.pth", "imagenet_v2"),
        ("googlenet-1378be20.pth", "googlenet"),
        ("seresnet50_ra_224-8efdb4bb.pth", "imagenet_bicubic"),
        ("se_resnet50-ce0d4300.pth", "imagenet"),
        ("model.safetensors", ""),
        ("resnet50.pth", ""),
    ],
)
def test_a_published_files_name_tells(file, expected):
    assert published_preprocessing(file) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "weights",
    [
        "GoogLeNet_Weights.IMAGENET1K_V1",
        "VGG16_Weights.IMAGENET1K_V1",
        "VGG16_BN_Weights.IMAGENET1K_V1",
        "ResNet50_Weights.IMAGENET1K_V1",
        "ResNet50_Weights.IMAGENET1K_V2",
        "ResNeXt101_32X8D_Weights.IMAGENET1K_V1",
        "ResNeXt101_32X8D_Weights.IMAGENET1K_V2",
        "DenseNet121_Weights.IMAGENET1K_V1",
    ],
)
def test_torchvisions_weights_say_the_same(weights):
    peers = _peers()

    group, version = weights.split(".")
    chosen = getattr(getattr(peers.torchvision_models(), group), version)
    theirs = chosen.transforms()
    ours = PREPROCESSING[published_preprocessing(chosen.url.rsplit("/", 1)[-1])]
    assert ours.interpolation == theirs.interpolation.value
    assert ours.center_fraction == theirs.crop_size[0] / theirs.resize_size[0]
    if "GoogLeNet" not in weights:  # whose own forward pass does the rest
        assert (list(ours.mean), list(ours.deviation)) == (theirs.mean, theirs.std)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "tag"),
    [
        ("seresnet50", "ra2_in1k"),
        ("seresnext50_32x4d", "racm_in1k"),
        ("legacy_seresnet50", "in1k"),
        ("legacy_seresnext50_32x4d", "in1k"),
        ("vit_small_patch14_dinov2", "lvd142m"),
        ("vit_base_patch14_dinov2", "lvd142m"),
        ("vit_small_patch14_reg4_dinov2", "lvd142m"),
        ("vit_base_patch16_siglip_224", "webli"),
        ("convnext_tiny", "fb_in1k"),
        ("convnext_base", "fb_in1k"),
        ("efficientnet_lite0", "in1k"),
    ],
)
def test_timms_weights_say_the_same(backbone, tag):
    peers = _peers()

    theirs = peers.timm_library().get_pretrained_cfg(f"{peers.timms_name(backbone)}.{tag}")
    assert published_preprocessing(theirs.url.rsplit("/", 1)[-1]) in (
        "",
        default_preprocessing(backbone),
    )
    ours = PREPROCESSING[default_preprocessing(backbone)]
    assert (ours.interpolation, ours.center_fraction) == (theirs.interpolation, theirs.crop_pct)
    assert (ours.mean, ours.deviation) == (tuple(theirs.mean), tuple(theirs.std))
