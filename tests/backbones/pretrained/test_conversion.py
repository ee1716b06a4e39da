import jax
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util

from grnet_jax.backbones import build_classifier
from grnet_jax.backbones.pretrained.conversion import (
    _variables,
    convert_tensors,
    find_network,
    fitting_backbones,
)
from grnet_jax.errors import InputError

# A few keys of each checkpoint with their PyTorch shapes, as torchvision, timm and Cadene
# publish them, and where they belong here.
_KNOWN = {
    "googlenet": {
        "conv1.conv.weight": ((64, 3, 7, 7), "params/backbone/conv1/conv/kernel"),
        "inception3a.branch2.1.bn.running_var": (
            (128,),
            "batch_stats/backbone/inception3a/branch2_1/bn/var",
        ),
        "inception5b.branch4.1.conv.weight": (
            (128, 832, 1, 1),
            "params/backbone/inception5b/branch4_1/conv/kernel",
        ),
        "fc.bias": ((1000,), "params/head/fc/bias"),
    },
    "vgg16": {
        "features.0.weight": ((64, 3, 3, 3), "params/backbone/stage1/conv1/conv/kernel"),
        "features.28.bias": ((512,), "params/backbone/stage5/conv3/conv/bias"),
        "classifier.0.weight": ((4096, 25088), "params/head/fc6/kernel"),
        "classifier.6.weight": ((1000, 4096), "params/head/fc8/kernel"),
    },
    "vgg16_bn": {
        "features.1.running_mean": ((64,), "batch_stats/backbone/stage1/conv1/bn/mean"),
        "features.40.weight": ((512, 512, 3, 3), "params/backbone/stage5/conv3/conv/kernel"),
        "features.41.weight": ((512,), "params/backbone/stage5/conv3/bn/scale"),
    },
    "resnet50": {
        "bn1.weight": ((64,), "params/backbone/conv1/bn/scale"),
        "layer1.0.downsample.0.weight": (
            (256, 64, 1, 1),
            "params/backbone/layer1_0/downsample/conv/kernel",
        ),
        "layer4.2.conv2.weight": ((512, 512, 3, 3), "params/backbone/layer4_2/conv2/conv/kernel"),
        "fc.weight": ((1000, 2048), "params/head/fc/kernel"),
    },
    "resnext101_32x8d": {
        "layer3.22.conv2.weight": (
            (1024, 32, 3, 3),
            "params/backbone/layer3_22/conv2/conv/kernel",
        ),
    },
    "seresnet50": {
        "layer1.0.se.fc1.weight": ((16, 256, 1, 1), "params/backbone/layer1_0/se/fc1/kernel"),
        "layer2.0.downsample.1.running_var": (
            (512,),
            "batch_stats/backbone/layer2_0/downsample/bn/var",
        ),
    },
    "seresnext50_32x4d": {
        "layer2.0.conv2.weight": ((256, 8, 3, 3), "params/backbone/layer2_0/conv2/conv/kernel"),
    },
    "legacy_seresnet50": {
        "layer0.conv1.weight": ((64, 3, 7, 7), "params/backbone/conv1/conv/kernel"),
        "layer0.bn1.bias": ((64,), "params/backbone/conv1/bn/bias"),
        "layer4.0.se_module.fc2.bias": ((2048,), "params/backbone/layer4_0/se/fc2/bias"),
        "last_linear.weight": ((1000, 2048), "params/head/fc/kernel"),
    },
    "legacy_seresnext50_32x4d": {
        "layer1.2.conv2.weight": ((128, 4, 3, 3), "params/backbone/layer1_2/conv2/conv/kernel"),
    },
    "densenet121": {
        "features.conv0.weight": ((64, 3, 7, 7), "params/backbone/conv0/conv/kernel"),
        "features.norm0.bias": ((64,), "params/backbone/conv0/bn/bias"),
        "features.denseblock3.denselayer24.conv1.weight": (
            (128, 992, 1, 1),
            "params/backbone/denseblock3/denselayer24/conv1/kernel",
        ),
        "features.transition1.norm.running_mean": (
            (256,),
            "batch_stats/backbone/transition1/norm/mean",
        ),
        "features.norm5.weight": ((1024,), "params/backbone/norm5/scale"),
        "classifier.weight": ((1000, 1024), "params/head/fc/kernel"),
    },
    "vit_small_patch14_dinov2": {
        "cls_token": ((1, 1, 384), "params/backbone/cls_token"),
        "pos_embed": ((1, 1370, 384), "params/backbone/pos_embed"),
        "patch_embed.proj.weight": ((384, 3, 14, 14), "params/backbone/patch_embed/kernel"),
        "blocks.11.attn.qkv.weight": ((1152, 384), "params/backbone/blocks_11/attn/qkv/kernel"),
        "blocks.0.ls2.gamma": ((384,), "params/backbone/blocks_0/ls2/gamma"),
        "blocks.3.mlp.fc1.weight": ((1536, 384), "params/backbone/blocks_3/mlp_fc1/kernel"),
        "norm.weight": ((384,), "params/backbone/norm/scale"),
    },
    "vit_base_patch14_dinov2": {
        "blocks.5.attn.proj.weight": ((768, 768), "params/backbone/blocks_5/attn/proj/kernel"),
    },
    "vit_small_patch14_reg4_dinov2": {
        "reg_token": ((1, 4, 384), "params/backbone/reg_token"),
        "pos_embed": ((1, 1369, 384), "params/backbone/pos_embed"),
    },
    "vit_base_patch16_siglip_224": {
        "pos_embed": ((1, 196, 768), "params/backbone/pos_embed"),
        "patch_embed.proj.bias": ((768,), "params/backbone/patch_embed/bias"),
    },
    "convnext_tiny": {
        "stem.0.weight": ((96, 3, 4, 4), "params/backbone/stem_conv/kernel"),
        "stages.1.downsample.0.bias": ((96,), "params/backbone/stage1_downsample_norm/bias"),
        "stages.1.downsample.1.weight": (
            (192, 96, 2, 2),
            "params/backbone/stage1_downsample_conv/kernel",
        ),
        "stages.2.blocks.8.conv_dw.weight": (
            (384, 1, 7, 7),
            "params/backbone/stage2_block8/conv_dw/kernel",
        ),
        "stages.3.blocks.0.gamma": ((768,), "params/backbone/stage3_block0/gamma"),
        "head.norm.weight": ((768,), "params/head/norm/scale"),
        "head.fc.weight": ((1000, 768), "params/head/fc/kernel"),
    },
    "efficientnet_lite0": {
        "conv_stem.weight": ((32, 3, 3, 3), "params/backbone/stem/conv/kernel"),
        "bn1.running_var": ((32,), "batch_stats/backbone/stem/bn/var"),
        "blocks.0.0.conv_dw.weight": (
            (32, 1, 3, 3),
            "params/backbone/stage0_0/depthwise/conv/kernel",
        ),
        "blocks.0.0.conv_pw.weight": (
            (16, 32, 1, 1),
            "params/backbone/stage0_0/project/conv/kernel",
        ),
        "blocks.0.0.bn2.weight": ((16,), "params/backbone/stage0_0/project/bn/scale"),
        "blocks.5.3.conv_pw.weight": (
            (1152, 192, 1, 1),
            "params/backbone/stage5_3/expand/conv/kernel",
        ),
        "blocks.5.3.bn2.bias": ((1152,), "params/backbone/stage5_3/depthwise/bn/bias"),
        "blocks.6.0.conv_pwl.weight": (
            (320, 1152, 1, 1),
            "params/backbone/stage6_0/project/conv/kernel",
        ),
        "conv_head.weight": ((1280, 320, 1, 1), "params/backbone/head/conv/kernel"),
        "bn2.bias": ((1280,), "params/backbone/head/bn/bias"),
        "classifier.weight": ((1000, 1280), "params/head/fc/kernel"),
    },
    "efficientnet_lite4": {
        "blocks.5.7.conv_dw.weight": (
            (1632, 1, 5, 5),
            "params/backbone/stage5_7/depthwise/conv/kernel",
        ),
    },
    "convnext_base": {
        "stages.2.blocks.26.mlp.fc2.weight": (
            (512, 2048),
            "params/backbone/stage2_block26/mlp_fc2/kernel",
        ),
    },
}


def _blank(name, classes=1000):
    """A checkpoint of the right keys and shapes that takes no memory."""
    return {
        key: np.broadcast_to(np.float32(0), variable.torch_shape)
        for key, variable in _variables(name, classes).items()
    }


def _flat(converted):
    return traverse_util.flatten_dict(converted.variables, sep="/")


@pytest.mark.parametrize("name", _KNOWN)
def test_known_keys_land_where_they_belong(name):
    tensors = _blank(name)
    for number, (key, (shape, _)) in enumerate(_KNOWN[name].items(), 1):
        assert tensors[key].shape == shape
        tensors[key] = np.broadcast_to(np.float32(number), shape)
    if name.startswith("vgg"):  # its head is large
        tensors = {k: v for k, v in tensors.items() if not k.startswith("classifier")}
    found = _flat(convert_tensors(name, tensors))
    wanted = {
        path: number
        for number, (key, (_, path)) in enumerate(_KNOWN[name].items(), 1)
        if key in tensors
    }
    assert {path: array.max() for path, array in found.items() if array.any()} == wanted
    for path in wanted:
        assert found[path].min() == wanted[path]


def test_arrays_are_turned_from_pytorchs_axes_to_ours():
    rng = np.random.default_rng(0)
    tensors = _blank("googlenet")
    conv = tensors["conv3.conv.weight"] = rng.random((192, 64, 3, 3), np.float32)
    dense = tensors["fc.weight"] = rng.random((1000, 1024), np.float32)
    found = _flat(convert_tensors("googlenet", tensors))
    kernel = found["params/backbone/conv3/conv/kernel"]
    assert kernel.shape == (3, 3, 64, 192)
    assert kernel[2, 1, 40, 150] == conv[150, 40, 2, 1]
    assert found["params/head/fc/kernel"][1023, 7] == dense[7, 1023]
    assert kernel.flags.c_contiguous


@pytest.mark.slow
def test_vggs_first_dense_layer_reads_channels_last():
    tensors = _blank("vgg16")
    # Written in PyTorch's order: the input that is channel c at row y and column x.
    weight = np.zeros((4096, 512, 7, 7), np.float32)
    weight[9, 300, 2, 5] = 1.0
    for dense in (weight.reshape(4096, -1), weight):  # torchvision's, timm's
        tensors["classifier.0.weight"] = dense
        kernel = _flat(convert_tensors("vgg16", tensors))["params/head/fc6/kernel"]
        assert kernel.shape == (25088, 4096)
        assert np.argwhere(kernel).tolist() == [[(2 * 7 + 5) * 512 + 300, 9]]


def test_the_variables_are_the_modules_own():
    converted = convert_tensors("densenet121", _blank("densenet121", classes=5))
    logits, updated = jax.eval_shape(
        lambda v, photos: build_classifier("densenet121", 5).apply(
            v, photos, True, mutable=["batch_stats"]
        ),
        converted.variables,
        jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32),
    )
    assert logits.shape == (1, 5)
    statistics = converted.variables["batch_stats"]
    assert jax.tree.structure(statistics) == jax.tree.structure(updated["batch_stats"])
    assert set(converted.variables) == {"params", "batch_stats"}


def test_keys_known_and_not_needed_are_told():
    tensors = _blank("googlenet")
    extra = ["aux1.conv.conv.weight", "aux2.fc2.bias", "conv1.bn.num_batches_tracked"]
    converted = convert_tensors("googlenet", tensors | {key: np.zeros(3) for key in extra})
    assert converted.left_out == tuple(extra)
    assert converted.head
    # Auxiliary heads are GoogLeNet's alone.
    with pytest.raises(InputError, match=r"unknown: aux2\.fc2\.bias$"):
        convert_tensors("resnet50", _blank("resnet50") | {"aux2.fc2.bias": np.zeros(3)})


@pytest.mark.parametrize(
    ("name", "prefix", "beside"),
    [
        ("resnet50", "", ()),
        ("resnet50", "model.", ()),  # Lightning's
        ("resnet50", "module.", ("n_averaged",)),  # of averaged weights
        ("resnet50", "backbone.", ("head.fc.weight", "head.fc.bias")),
        ("densenet121", "encoder.", ("queue",)),
        ("vit_small_patch14_dinov2", "student.backbone.", ("student.dino_head.mlp.0.weight",)),
        ("vit_base_patch16_siglip_224", "visual.trunk.", ("logit_scale", "text.proj.weight")),
    ],
)
def test_a_network_is_found_in_what_it_was_trained_in(name, prefix, beside):
    inside = {prefix + key: array for key, array in _blank(name).items()}
    tensors = {key: np.zeros(3) for key in beside} | inside
    assert find_network(tensors, name)[:2] == (prefix, (name,))


def test_a_network_that_fits_nothing_is_named_with_its_keys():
    tensors = {f"model.{key}": array for key, array in _blank("resnet50").items()}
    del tensors["model.fc.bias"]
    found = find_network(tensors, "resnet50")
    assert found == ("model.", (), "resnet50")


@pytest.mark.parametrize(
    ("name", "extra"), [("vit_small_patch14_dinov2", 1), ("vit_small_patch14_reg4_dinov2", 0)]
)
def test_position_embeddings_of_another_grid_are_resized(name, extra):
    """A plane stays a plane, but for the borders."""
    side, own = 16, 37  # cells of 224 and of 518 pixels
    y, x = np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5, indexing="ij")
    plane = (2 * y + 3 * x).reshape(1, -1, 1) / side * np.ones((1, 1, 384))
    positions = np.concatenate([np.full((1, extra, 384), 7.0), plane], axis=1)
    converted = convert_tensors(name, _blank(name) | {"pos_embed": positions.astype(np.float32)})
    assert converted.resized == (side, own)
    found = _flat(converted)["params/backbone/pos_embed"]
    assert found.shape == (1, extra + own**2, 384)
    np.testing.assert_array_equal(found[:, :extra], 7)
    y, x = np.meshgrid(np.arange(own) + 0.5, np.arange(own) + 0.5, indexing="ij")
    inner = slice(5, -5)
    np.testing.assert_allclose(
        found[0, extra:, 0].reshape(own, own)[inner, inner],
        ((2 * y + 3 * x) / own)[inner, inner],
        rtol=1e-5,
    )
    wrong = {"pos_embed": np.zeros((1, extra + 255, 384), np.float32)}
    with pytest.raises(InputError, match=rf"pos_embed \(found \(1, {extra + 255}, 384\), expected"):
        convert_tensors(name, _blank(name) | wrong)


@pytest.mark.parametrize("classes", [1, 17])
def test_the_head_has_any_number_of_classes(classes):
    found = _flat(convert_tensors("resnet50", _blank("resnet50", classes)))
    assert found["params/head/fc/kernel"].shape == (2048, classes)
    assert found["params/head/fc/bias"].shape == (classes,)


def test_the_heads_arrays_must_agree_on_the_classes():
    tensors = _blank("resnet50") | {"fc.bias": np.zeros(7)}
    expected = r"of another shape: fc\.bias \(found \(7,\), expected \(1000,\)\)$"
    with pytest.raises(InputError, match=expected):
        convert_tensors("resnet50", tensors)


@pytest.mark.parametrize(("name", "layer"), [("resnet50", "fc"), ("vgg16_bn", "classifier")])
def test_a_missing_head_is_left_out(name, layer):
    tensors = {k: v for k, v in _blank(name).items() if not k.startswith(f"{layer}.")}
    converted = convert_tensors(name, tensors)
    assert not converted.head
    assert set(converted.variables["params"]) == {"backbone"}
    assert set(converted.variables["batch_stats"]) == {"backbone"}


def test_a_backbone_without_batch_norm_has_no_statistics():
    tensors = {k: v for k, v in _blank("vgg16").items() if k.startswith("features.")}
    assert set(convert_tensors("vgg16", tensors).variables) == {"params"}


def test_half_a_head_is_an_error():
    tensors = _blank("resnet50")
    del tensors["fc.bias"]
    with pytest.raises(InputError, match=r"missing: fc\.bias$"):
        convert_tensors("resnet50", tensors)


@pytest.mark.parametrize(
    "spell",
    [
        pytest.param(
            ("densenet121", r"denselayer{}.norm.2.weight", r"denselayer{}.norm2.weight"),
            marks=pytest.mark.slow,
        ),
        ("resnet50", "last_linear.weight", "fc.weight"),
        pytest.param(
            ("densenet121", "last_linear.bias", "classifier.bias"), marks=pytest.mark.slow
        ),
        pytest.param(("vgg16", "head.fc.bias", "classifier.6.bias"), marks=pytest.mark.slow),
        pytest.param(("vgg16", "pre_logits.fc2.bias", "classifier.3.bias"), marks=pytest.mark.slow),
        pytest.param(
            ("efficientnet_lite0", "_blocks.0._bn1.bias", "blocks.0.0.bn1.bias"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("efficientnet_lite0", "_blocks.0._project_conv.weight", "blocks.0.0.conv_pw.weight"),
            marks=pytest.mark.slow,
        ),
        ("efficientnet_lite0", "_blocks.15._expand_conv.weight", "blocks.6.0.conv_pw.weight"),
        pytest.param(
            ("efficientnet_lite0", "_blocks.6._bn2.bias", "blocks.3.1.bn3.bias"),
            marks=pytest.mark.slow,
        ),
        pytest.param(("efficientnet_lite0", "_bn1.bias", "bn2.bias"), marks=pytest.mark.slow),
    ],
    ids=lambda spell: spell[1],
)
def test_other_spellings_are_taken(spell):
    name, other, usual = spell
    other, usual = (part.replace("{}", "7") for part in (other, usual))
    tensors = _blank(name, classes=2)
    key = next(key for key in tensors if key.endswith(usual))
    tensors[key.replace(usual, other)] = tensors.pop(key) + np.float32(3)
    found = _flat(convert_tensors(name, tensors))
    assert sum(bool(array.any()) for array in found.values()) == 1
    # Both spellings at once: one of them is too many.
    tensors[key] = np.zeros(tensors[key.replace(usual, other)].shape)
    with pytest.raises(InputError, match="unknown"):
        convert_tensors(name, tensors)


def test_missing_unknown_and_mis_shaped_keys_are_listed():
    tensors = _blank("resnet50")
    del tensors["layer3.5.conv1.weight"]
    tensors["layer3.6.conv1.weight"] = np.zeros((256, 1024, 1, 1))
    tensors["bn1.bias"] = np.zeros(65)
    with pytest.raises(InputError) as caught:
        convert_tensors("resnet50", tensors)
    assert str(caught.value) == (
        "the checkpoint does not fit backbone 'resnet50'; missing: layer3.5.conv1.weight; "
        "unknown: layer3.6.conv1.weight; of another shape: bn1.bias (found (65,), expected (64,))"
    )


def test_of_many_keys_ten_are_listed():
    tensors = {k: v for k, v in _blank("resnet50").items() if not k.startswith("layer1.")}
    missing = 267 - len(tensors)
    with pytest.raises(
        InputError, match=rf"missing: (layer1\S+, ){{9}}\S+ and {missing - 10} more"
    ):
        convert_tensors("resnet50", tensors)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        pytest.param("resnext101_32x8d", "resnet50", marks=pytest.mark.slow),
        ("vgg16_bn", "vgg16"),
        ("legacy_seresnet50", "seresnet50"),
        ("seresnet50", "seresnext50_32x4d"),
        ("densenet121", "googlenet"),
    ],
)
def test_the_backbone_that_a_checkpoint_fits_is_named(given, wanted):
    with pytest.raises(InputError, match=f"backbone '{wanted}'; .*; it fits '{given}'$"):
        convert_tensors(wanted, _blank(given, classes=12))


def test_an_architecture_unknown_to_us_is_told():
    # A ResNet-34 in outline: its blocks have two 3x3 convolutions.
    tensors = {
        f"layer{layer}.{block}.conv{conv}.weight": np.zeros((64, 64, 3, 3))
        for layer in (1, 2, 3, 4)
        for block in (0, 1, 2)
        for conv in (1, 2)
    }
    with pytest.raises(InputError, match=r"probably of another architecture$"):
        convert_tensors("resnet50", tensors)
    with pytest.raises(InputError, match=r"probably of another architecture$"):
        convert_tensors("resnet50", {})


def test_every_blank_checkpoint_fits_its_own_backbone_alone():
    for name in _KNOWN:
        assert fitting_backbones(_blank(name)) == (name,)


@pytest.mark.parametrize("name", ["small", "alexnet"])
def test_backbones_without_checkpoints_are_an_error(name):
    with pytest.raises(InputError, match=rf"'{name}': checkpoints can be read for \[.*'vgg16'"):
        convert_tensors(name, {})


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_every_precision_becomes_float32(dtype):
    tensors = _blank("googlenet")
    values = np.linspace(-2, 2, 64).astype(dtype)
    tensors["conv1.bn.bias"] = values
    found = _flat(convert_tensors("googlenet", tensors))
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(found["params/backbone/conv1/bn/bias"], values.astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_numbers_that_are_not_finite_are_named(value):
    tensors = _blank("googlenet")
    tensors["fc.bias"] = np.full(1000, value)
    with pytest.raises(InputError, match=r"^not all numbers are finite in fc\.bias$"):
        convert_tensors("googlenet", tensors)


def test_whole_numbers_are_an_error():
    tensors = _blank("googlenet")
    tensors["fc.bias"] = np.zeros(1000, np.int8)
    with pytest.raises(InputError, match=r"^fc\.bias: expected floating-point .*, found int8"):
        convert_tensors("googlenet", tensors)
