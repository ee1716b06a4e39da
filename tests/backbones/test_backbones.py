import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.costs import count_parameters, multiply_adds
from grnet_jax.backbones import BACKBONES, build_backbone, build_classifier
from grnet_jax.backbones.blocks import GroupedConv, SqueezeExcite
from grnet_jax.backbones.classifier import Classifier, PooledHead, VGGHead, adaptive_average_pool
from grnet_jax.backbones.depthwise import depthwise_convolution
from grnet_jax.backbones.grouped import grouped_convolution
from grnet_jax.backbones.pooling import max_pool
from grnet_jax.backbones.vgg import STAGES, VGGStage
from grnet_jax.errors import InputError

_RESNET_MAPS = {4: 256, 8: 512, 16: 1024, 32: 2048}
_VGG_MAPS = {1: 64, 2: 128, 4: 256, 8: 512, 16: 512, 32: 512}
_CONVNEXT_MAPS = {4: 96, 8: 192, 16: 384, 32: 768}
_MAPS = {
    "googlenet": {4: 192, 8: 480, 16: 832, 32: 1024},
    "small": {2: 32, 4: 64, 8: 128},
    "small_deep": {2: 16, 4: 32, 8: 64, 16: 96},
    "vgg_small": {1: 16, 2: 32, 4: 64, 8: 128, 16: 128},
    "vgg16": _VGG_MAPS,
    "vgg16_bn": _VGG_MAPS,
    "resnet50": _RESNET_MAPS,
    "resnext101_32x8d": _RESNET_MAPS,
    "seresnet50": _RESNET_MAPS,
    "seresnext50_32x4d": _RESNET_MAPS,
    "legacy_seresnet50": _RESNET_MAPS,
    "legacy_seresnext50_32x4d": _RESNET_MAPS,
    "densenet121": {4: 256, 8: 512, 16: 1024, 32: 1024},
    "vit_small_patch14_dinov2": {14: 384},
    "vit_base_patch14_dinov2": {14: 768},
    "vit_small_patch14_reg4_dinov2": {14: 384},
    "vit_base_patch16_siglip_224": {16: 768},
    "convnext_tiny": _CONVNEXT_MAPS,
    "convnext_base": {4: 128, 8: 256, 16: 512, 32: 1024},
    "efficientnet_lite0": {4: 24, 8: 40, 16: 112, 32: 1280},
    "efficientnet_lite1": {4: 24, 8: 40, 16: 112, 32: 1280},
    "efficientnet_lite2": {4: 24, 8: 48, 16: 120, 32: 1280},
    "efficientnet_lite3": {4: 32, 8: 48, 16: 136, 32: 1280},
    "efficientnet_lite4": {4: 32, 8: 56, 16: 160, 32: 1280},
}
# As lite0 and lite2, but longer or wider.
_LARGER = ("efficientnet_lite1", "efficientnet_lite3", "efficientnet_lite4")
_NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in _LARGER else name for name in _MAPS]
_FLOOR = ("vgg16", "vgg16_bn", "densenet121", "convnext_tiny")


def _shapes(module, height, width, train=False):
    """Shapes of what a module returns and of its variables, for two photos."""
    return jax.eval_shape(
        lambda photos: module.init_with_output(jax.random.key(0), photos, train),
        jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32),
    )


def test_every_backbone_has_its_maps_here():
    assert set(_MAPS) == set(BACKBONES)


@pytest.mark.parametrize("name", _NAMES)
def test_maps_have_their_strides_and_channels(name):
    maps, _ = _shapes(build_backbone(name), 224, 224)
    found = {stride: leaf.shape for stride, leaf in maps.items()}
    assert found == {
        stride: (2, 224 // stride, 224 // stride, c) for stride, c in _MAPS[name].items()
    }


@pytest.mark.parametrize("name", _NAMES)
def test_odd_and_small_photos_have_maps(name):
    # Windows that overhang are dropped by VGG, ConvNeXt, transformers and in DenseNet's
    # transitions; elsewhere sides are rounded up, once or at every step.
    for height, width in ((33, 71), (32, 32)):
        maps, _ = _shapes(build_backbone(name), height, width, train=True)
        for stride, leaf in maps.items():
            for side, found in zip((height, width), leaf.shape[1:3], strict=True):
                assert side // stride <= found <= math.ceil(side / stride)
                if name.startswith(("vgg", "vit", "convnext")):
                    assert found == side // stride


@pytest.mark.parametrize("name", _FLOOR)
def test_a_photo_too_small_for_the_strides_is_named(name):
    with pytest.raises(InputError, match="photos are too small for this backbone: a 1x"):
        _shapes(build_backbone(name), 15, 40)


def test_an_unknown_backbone_is_named_with_those_there_are():
    for build in (build_backbone, build_classifier):
        with pytest.raises(InputError, match=r"'vgg' is none of \[.*'vgg16_bn'.*\]"):
            build("vgg")


@pytest.mark.parametrize("name", [name for name in _NAMES if name != "resnext101_32x8d"])
def test_bfloat16_computes_in_it_and_keeps_float32_parameters(name):
    module = build_classifier(name, classes=3, dtype=jnp.bfloat16)
    (logits, maps), variables = jax.eval_shape(
        lambda photos: module.init_with_output(
            jax.random.key(0), photos, method=lambda m, p: (m(p, True), m.backbone(p, True))
        ),
        jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32),
    )
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in maps.values()} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_layers_behind_the_last_stride_are_left_out(stride):
    whole, variables = _shapes(build_backbone("efficientnet_lite0"), 64, 64)
    part, fewer = _shapes(build_backbone("efficientnet_lite0", stride=stride), 64, 64)
    assert part == {key: leaf for key, leaf in whole.items() if key <= stride}
    assert ("stage5_0" in fewer["params"]) == ("head" in fewer["params"]) == (stride == 32)
    for kind, layers in fewer.items():
        assert layers == {name: variables[kind][name] for name in layers}
    with pytest.raises(InputError, match="stride=16: expected 0, or with EfficientNet-Lite"):
        build_backbone("resnet50", stride=16)


def _depthwise_case(size, side, stride, dtype=np.float32):
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, *size, 6)), rng.standard_normal((side, side, 1, 6))
    dy = rng.standard_normal((2, *(math.ceil(s / stride) for s in size), 6))
    return [jnp.asarray(part, dtype) for part in (x, kernel, dy)]


def _laxs_depthwise(stride):
    return lambda x, kernel: lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("size", "side", "stride"),
    [((8, 9), 3, 2), ((7, 4), 5, 2), ((6, 5), 5, 1), ((1, 2), 3, 1), ((2, 1), 5, 2)],
)
def test_depthwise_convolution_and_its_gradients_are_laxs(size, side, stride, dtype):
    x, kernel, dy = _depthwise_case(size, side, stride, dtype)
    y, pull = jax.vjp(jax.jit(lambda x, k: depthwise_convolution(x, k, stride)), x, kernel)
    wanted, pull_wanted = jax.vjp(_laxs_depthwise(stride), *(jnp.float32(a) for a in (x, kernel)))
    close = {"atol": 1e-4} if dtype == jnp.float32 else {"rtol": 1e-2, "atol": 0.05}
    for ours, theirs in zip((y, *pull(dy)), (wanted, *pull_wanted(jnp.float32(dy))), strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(np.float32(ours), theirs, **close)


def test_depthwise_convolution_is_laxs_own_off_the_cpu():
    x, kernel, _ = _depthwise_case((8, 8), 3, 1)
    traced = jax.jit(lambda x, k: depthwise_convolution(x, k, 1)).trace(x, kernel)
    for platform in ("cuda", "tpu", "cpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("feature_group_count = 6" in text) == (platform != "cpu")


@pytest.mark.parametrize("name", ["seresnext50_32x4d", "vgg16_bn", "densenet121"])
def test_products_are_in_bfloat16(name):
    module = build_backbone(name, jnp.bfloat16)
    photos = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), photos)
    text = str(jax.make_jaxpr(lambda v, p: module.apply(v, p))(variables, photos))
    products = [line for line in text.splitlines() if "= conv_general_dilated[" in line]
    assert len(products) > 12
    assert all(":bf16[" in line for line in products)


# torchvision's documented numbers; timm's for squeeze-and-excitation.
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("googlenet", 6_624_904),
        ("vgg16", 138_357_544),
        ("vgg16_bn", 138_365_992),
        ("resnet50", 25_557_032),
        ("resnext101_32x8d", 88_791_336),
        ("densenet121", 7_978_856),
        ("seresnet50", 28_088_024),
        ("seresnext50_32x4d", 27_559_896),
        ("convnext_tiny", 28_589_128),
        ("convnext_base", 88_591_464),
        ("efficientnet_lite0", 4_652_008),
        pytest.param("efficientnet_lite1", 5_416_680, marks=pytest.mark.slow),
        ("efficientnet_lite2", 6_092_072),
        pytest.param("efficientnet_lite3", 8_197_096, marks=pytest.mark.slow),
        pytest.param("efficientnet_lite4", 13_006_568, marks=pytest.mark.slow),
    ],
)
def test_parameters_are_as_many_as_the_references(name, count):
    assert count_parameters(name) == count
    if not name.startswith("vgg"):
        channels = _MAPS[name][32]
        norm = 2 * channels if name.startswith("convnext") else 0
        assert count_parameters(name, head=False) == count - 1000 * (channels + 1) - norm


def test_dinov2s_parameters_are_as_many_as_published_without_the_mask_token():
    assert count_parameters("vit_small_patch14_dinov2", head=False) == 22_056_576 - 384


# torchvision's documented numbers, in units of 1e9.
@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("googlenet", 1.50),
        ("vgg16", 15.47),
        ("resnet50", 4.09),
        ("resnext101_32x8d", 16.41),
        ("densenet121", 2.83),
        ("convnext_tiny", 4.46),
    ],
)
def test_multiply_adds_are_torchvisions(name, billions):
    assert round(multiply_adds(name) / 1e9, 2) == billions


def test_multiply_adds_of_a_network_small_enough_to_count_by_hand():
    # SmallNet on 16x16: five 3x3 convolutions at 8x8, 4x4 and 2x2, and the head.
    wanted = 9 * (
        8 * 8 * 3 * 32
        + 4 * 4 * (32 * 64 + 2 * 64 * 64)
        + 2 * 2 * (64 * 128 + 2 * 128 * 128)
    )  # fmt: skip
    assert multiply_adds("small", 16, head=False) == wanted
    assert multiply_adds("small", 16) == wanted + 128 * 1000


def _naive_pool(x, window, stride, padding, ceil):
    """PyTorch's rule, cell by cell."""
    _, height, width, _ = x.shape

    def steps(size):
        rounded = np.ceil if ceil else np.floor
        count = int(rounded((size + 2 * padding - window) / stride)) + 1
        return count - 1 if ceil and (count - 1) * stride >= size + padding else count

    out = np.full((x.shape[0], steps(height), steps(width), x.shape[-1]), -np.inf)
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            top, left = i * stride - padding, j * stride - padding
            part = x[:, max(top, 0) : top + window, max(left, 0) : left + window]
            out[:, i, j] = part.max(axis=(1, 2))
    return out


@pytest.mark.parametrize("ceil", [True, False])
@pytest.mark.parametrize(
    ("window", "stride", "padding"), [(3, 2, 0), (2, 2, 0), (3, 1, 1), (3, 2, 1)]
)
@pytest.mark.parametrize("shape", [(112, 112), (7, 9), (8, 5)])
def test_max_pool_equals_the_naive_one(shape, window, stride, padding, ceil):
    x = np.random.default_rng(0).standard_normal((1, *shape, 2)).astype(np.float32)
    found = max_pool(jnp.asarray(x), window, stride, padding, ceil=ceil)
    np.testing.assert_array_equal(found, _naive_pool(x, window, stride, padding, ceil))


def _grouped_case(shape, groups, inputs, outputs, stride):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *shape, groups * inputs)).astype(np.float32)
    kernel = rng.standard_normal((3, 3, inputs, groups * outputs)).astype(np.float32)
    sides = [math.ceil(side / stride) for side in shape]
    dy = rng.standard_normal((2, *sides, groups * outputs)).astype(np.float32)
    return x, kernel, dy


def _laxs(stride, groups):
    return lambda x, kernel: lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("shape", "groups", "inputs", "outputs"),
    [
        ((7, 8), 32, 4, 4),  # blocks of eight groups
        ((8, 9), 6, 8, 5),  # blocks of three
        ((5, 5), 4, 40, 40),  # each group a block
        ((9, 6), 7, 8, 8),  # groups that no block divides
        ((1, 2), 2, 3, 1),  # a map smaller than the window
    ],
)
def test_grouped_convolution_and_its_gradients_are_laxs(shape, groups, inputs, outputs, stride):
    x, kernel, dy = _grouped_case(shape, groups, inputs, outputs, stride)
    found, pull = jax.vjp(lambda x, k: grouped_convolution(x, k, stride, groups), x, kernel)
    wanted, pull_wanted = jax.vjp(_laxs(stride, groups), x, kernel)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(pull(dy), pull_wanted(dy), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_grouped_convolution_is_laxs_own_off_the_cpu():
    x, kernel, _ = _grouped_case((8, 8), 32, 4, 4, 1)

    def lowered(platform):
        traced = jax.jit(lambda x, k: grouped_convolution(x, k, 1, 32)).trace(x, kernel)
        return traced.lower(lowering_platforms=(platform,)).as_text()

    for platform in ("cuda", "tpu"):
        assert "feature_group_count = 32" in lowered(platform)
        assert "while" not in lowered(platform)
    assert "feature_group_count = 32" not in lowered("cpu")


def test_grouped_convolution_of_photos_spread_over_devices():
    x, kernel, dy = _grouped_case((7, 7), 8, 4, 4, 2)
    x, dy = (np.concatenate([part] * 4) for part in (x, dy))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("data"))

    @jax.jit
    def both(x, kernel, dy):
        y, pull = jax.vjp(lambda x, k: grouped_convolution(x, k, 2, 8), x, kernel)
        return y, *pull(dy)

    found = both(jax.device_put(x, spread), kernel, jax.device_put(dy, spread))
    y, pull = jax.vjp(_laxs(2, 8), x, kernel)
    for ours, theirs in zip(found, (y, *pull(dy)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_groups_that_do_not_divide_the_channels_are_an_error():
    with pytest.raises(InputError, match="4 groups do not divide 6 and 8 channels"):
        GroupedConv(8, 4).init(jax.random.key(0), np.zeros((1, 3, 3, 6), np.float32))


def test_squeeze_excite_by_hand():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 32)).astype(np.float32)
    module = SqueezeExcite()
    variables = module.init(jax.random.key(0), x)
    fc1, fc2 = (variables["params"][name] for name in ("fc1", "fc2"))
    hidden = np.maximum(x.mean(axis=(1, 2)) @ fc1["kernel"][0, 0] + fc1["bias"], 0)
    assert hidden.shape == (2, 2)
    gate = 1 / (1 + np.exp(-(hidden @ fc2["kernel"][0, 0] + fc2["bias"])))
    np.testing.assert_allclose(
        module.apply(variables, x), x * gate[:, None, None], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("shape", [(7, 7), (14, 7), (1, 3), (6, 11), (10, 20)])
def test_adaptive_average_pool_cell_by_cell(shape):
    x = np.random.default_rng(0).standard_normal((2, *shape, 3)).astype(np.float32)
    found = adaptive_average_pool(jnp.asarray(x), 7)
    assert found.shape == (2, 7, 7, 3)
    for i in range(7):
        for j in range(7):
            rows, columns = (
                slice(math.floor(k * side / 7), math.ceil((k + 1) * side / 7))
                for k, side in zip((i, j), shape, strict=True)
            )
            np.testing.assert_allclose(
                found[:, i, j], x[:, rows, columns].mean(axis=(1, 2)), rtol=1e-5, atol=1e-6
            )


@pytest.mark.slow
def test_a_classifiers_variables_are_its_parts():
    backbone, head = build_backbone("small"), PooledHead(5)
    photos = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    module = Classifier(backbone, head)
    variables = jax.jit(module.init)(jax.random.key(0), photos)
    assert set(variables["params"]) == {"backbone", "head"}
    assert set(variables["batch_stats"]) == {"backbone"}
    part = {name: variables[name]["backbone"] for name in variables}
    last = backbone.apply(part, photos)[8]
    wanted = np.mean(last, axis=(1, 2)) @ variables["params"]["head"]["fc"]["kernel"]
    np.testing.assert_allclose(module.apply(variables, photos), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", [PooledHead(3, dropout=0.5), VGGHead(3)])
def test_dropout_needs_training_and_a_key(head):
    x = np.random.default_rng(0).random((2, 2, 2, 4)).astype(np.float32)
    variables = head.init(jax.random.key(0), x)
    run = functools.partial(head.apply, variables, x)
    plain = run(False)
    np.testing.assert_array_equal(run(True), plain)
    np.testing.assert_array_equal(run(False, rngs={"dropout": jax.random.key(1)}), plain)
    dropped = [run(True, rngs={"dropout": jax.random.key(seed)}) for seed in (1, 2)]
    assert not np.allclose(dropped[0], plain)
    assert not np.allclose(dropped[0], dropped[1])


def test_a_vgg_stage_alone_is_that_of_the_whole():
    whole = build_backbone("vgg16_bn")
    _, variables = _shapes(whole, 32, 32)
    for number, (stride, stage) in enumerate(STAGES.items(), 1):
        channels = 3 if number == 1 else _VGG_MAPS[stride // 2]
        alone = jax.eval_shape(
            functools.partial(VGGStage(stage, norm=True).init, train=False),
            jax.random.key(0),
            jax.ShapeDtypeStruct((1, 4, 4, channels), jnp.float32),
        )
        of_whole = {name: variables[name][f"stage{number}"] for name in variables}
        assert traverse_util.flatten_dict(of_whole) == traverse_util.flatten_dict(alone)
