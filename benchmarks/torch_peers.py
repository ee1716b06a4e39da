"""The same networks in PyTorch: torchvision's, and timm's where torchvision has none.

Import only where torch, torchvision and timm are installed.
"""

import functools
import importlib.util
import pathlib
import warnings
from typing import Any

import numpy as np
import torch

# The mean over the patches, as our head; any photo of whole patches.
_VIT_OPTIONS = {"global_pool": "avg", "fc_norm": False, "dynamic_img_size": True}


@functools.cache
def _libraries():
    """torchvision.models and timm."""
    operators = None if _has_operators() else _declare_operators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import timm
        import torchvision.models
    return torchvision.models, timm, operators  # the declarations end with their object


def _has_operators():
    """Whether torchvision's compiled operators load: a build for another PyTorch's do not."""
    package = importlib.util.find_spec("torchvision")
    if package is None or package.origin is None:
        return False
    for path in pathlib.Path(package.origin).parent.glob("_C.*"):
        try:
            torch.ops.load_library(path)
        except OSError:
            return False
        return True
    return False


def _declare_operators():
    """Names that torchvision looks up when imported; no classifier calls them."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    for pool in ("roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d"):
        for name in (pool, f"_{pool}_backward"):
            library.define(f"{name}(Tensor x) -> Tensor")
    return library


def torchvision_models():
    """`torchvision.models`, importable also without its native operators."""
    return _libraries()[0]


def timm_library():
    """`timm.models`."""
    return _libraries()[1].models


def make_features(name):
    """The part of a network that our backbone has, photos to its last map, random weights."""
    models, timm, _ = _libraries()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if _is_timms(name):
            return timm.create_model(
                timms_name(name), pretrained=False, num_classes=0, global_pool=""
            )
        if name == "googlenet":
            network = models.googlenet(weights=None, aux_logits=False, init_weights=False)
        else:
            network = getattr(models, name)(weights=None)
    if hasattr(network, "features"):  # VGG, DenseNet
        return torch.nn.Sequential(network.features, torch.nn.ReLU())
    heads = ("aux1", "aux2", "avgpool", "dropout", "fc")
    layers = [layer for index, layer in network.named_children() if index not in heads]
    return torch.nn.Sequential(*(layer for layer in layers if layer is not None))


def make_peer(name, seed=0, classes=1000):
    """A network in evaluation mode with random weights and BatchNorm parameters and statistics.

    The statistics are random around those of noise, so that signals neither fade nor explode.
    """
    models, timm, _ = _libraries()
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "googlenet":
            peer = models.googlenet(weights=None, num_classes=classes, init_weights=False)
        elif name.startswith("vit"):
            peer = timm.create_model(name, pretrained=False, num_classes=classes, **_VIT_OPTIONS)
        elif _is_timms(name):
            peer = timm.create_model(timms_name(name), pretrained=False, num_classes=classes)
        else:
            peer = getattr(models, name)(weights=None, num_classes=classes)
    return _draw(peer)


def make_small_peer(like, options, seed=0):
    """timm's transformer or ConvNeXt of other sizes, as `make_peer` makes its named ones."""
    _, timm, _ = _libraries()
    torch.manual_seed(seed)
    if like.startswith("vit"):
        return _draw(timm.models.VisionTransformer(num_classes=7, **_VIT_OPTIONS, **options))
    return _draw(timm.models.ConvNeXt(num_classes=7, **options))


def _draw(peer):
    """The network in evaluation mode, what starts constant drawn at random."""
    norms: list[Any] = [
        layer for layer in peer.modules() if isinstance(layer, torch.nn.BatchNorm2d)
    ]
    with torch.no_grad():
        for layer in peer.modules():
            if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear) and layer.bias is not None:
                layer.bias.normal_(0, 0.1)
        for key, parameter in peer.named_parameters():
            if key.endswith("gamma"):  # layer scales, which start near 0
                parameter.uniform_(0.1, 0.5)
        for layer in peer.modules():
            if isinstance(layer, torch.nn.LayerNorm):
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_(0, 0.2)
        if not norms:
            return peer.eval()
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.2)
            norm.momentum = 1.0
        # GoogLeNet's weights start small; its auxiliary heads want maps of 4x4 cells or more.
        peer.train()
        peer(torch.randn(4, 3, 96, 96))
        for norm in norms:
            norm.momentum = 0.1
            norm.running_mean += 0.2 * norm.running_var.sqrt() * torch.randn_like(norm.bias)
            norm.running_var *= torch.empty_like(norm.bias).uniform_(0.7, 1.4)
    return peer.eval()


def _is_timms(name):
    """Whether the network is taken from timm."""
    return name.removeprefix("legacy_").startswith(("se", "vit", "convnext", "efficientnet"))


def timms_name(name):
    """timm's name of a network; without "tf_" it pads EfficientNet-Lite as PyTorch does."""
    return f"tf_{name}" if name.startswith("efficientnet") else name


def tensors(peer):
    """Its state_dict as numpy arrays."""
    return {key: value.numpy().copy() for key, value in peer.state_dict().items()}


def run(peer, name, photos):
    """Logits and {stride: map [n, h, w, c]} of photos [n, h, w, 3], all tensors.

    Of photos that have no whole number of patches a transformer gets the part that has.
    """
    maps: dict[int, torch.Tensor] = {}
    hooks = [
        layer.register_forward_hook(
            lambda _, __, result, stride=stride: maps.__setitem__(stride, result)
        )
        for stride, layer in _tapped(peer, name).items()
    ]
    if name.startswith("vit"):
        (side, _), (_, height, width, _) = peer.patch_embed.patch_size, photos.shape
        photos = photos[:, : height // side * side, : width // side * side]
    logits = peer(torch.from_numpy(np.ascontiguousarray(np.moveaxis(photos, -1, 1))))
    for hook in hooks:
        hook.remove()
    if name == "densenet121":
        maps[32] = torch.relu(maps[32])
    if name.startswith("vit"):
        grid = (height // side, width // side)
        tokens = maps[side][:, peer.num_prefix_tokens :]
        return logits, {side: tokens.unflatten(1, grid)}
    return logits, {stride: value.permute(0, 2, 3, 1) for stride, value in maps.items()}


def _tapped(peer, name):
    """The layer whose output is the map of each stride."""
    if name == "googlenet":
        layers = ("conv3", "inception3b", "inception4e", "inception5b")
    elif name.startswith("vgg"):
        # The last of each group of layers before a pooling, and the last pooling.
        pools = [
            index
            for index, layer in enumerate(peer.features)
            if isinstance(layer, torch.nn.MaxPool2d)
        ]
        taps = {2**number: peer.features[index - 1] for number, index in enumerate(pools)}
        return taps | {32: peer.features[pools[-1]]}
    elif name == "densenet121":
        layers = ("denseblock1", "denseblock2", "denseblock3", "norm5")
        peer = peer.features
    elif name.startswith("vit"):
        return {peer.patch_embed.patch_size[0]: peer.norm}
    elif name.startswith("efficientnet"):
        return {4: peer.blocks[1], 8: peer.blocks[2], 16: peer.blocks[4], 32: peer.bn2}
    elif name.startswith("convnext"):
        return {4 * 2**number: stage for number, stage in enumerate(peer.stages)}
    else:
        layers = ("layer1", "layer2", "layer3", "layer4")
    return {4 * 2**number: getattr(peer, layer) for number, layer in enumerate(layers)}


def freeze(features, name, stride):
    """Lets the layers of EfficientNet-Lite up to the map of that stride not learn; 0: all learn."""
    if not stride:
        return
    last = _tapped(features, name)[stride]
    layers = [features.conv_stem, features.bn1, *features.blocks]
    for layer in layers[: layers.index(last) + 1]:
        layer.requires_grad_(False)


def multiply_adds(peer, image_size):
    """Counted at each convolution and dense layer as it runs on one photo."""
    total = 0
    if hasattr(peer, "patch_embed"):  # a transformer takes whole patches
        image_size -= image_size % peer.patch_embed.patch_size[0]

    def count(layer, _, result):
        nonlocal total
        total += result.numel() * layer.weight[0].numel()

    for layer in peer.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        peer(torch.zeros(1, 3, image_size, image_size))
    return total


def count_cells(peer):
    """Gathers, as the network runs, the cells that each BatchNorm's variance is over.

    Returns:
      A dict by the variance's key, filled with arrays of the variance's shape.
    """
    counts = {}

    def count(key):
        def hook(_, inputs, __):
            n, channels, height, width = inputs[0].shape
            counts[key] = np.full(channels, float(n * height * width))

        return hook

    for name, layer in peer.named_modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.register_forward_hook(count(f"{name}.running_var"))
    return counts
