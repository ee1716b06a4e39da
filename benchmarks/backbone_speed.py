"""Backbones and their kinds of layer beside PyTorch's: forward pass and training step.

    python -m benchmarks.backbone_speed [--backbones=...] [--dtypes=float32,bfloat16]

For each backbone, 8 photos of 224 pixels: the forward pass to the last map as in evaluation, and
a training step (forward with BatchNorm by the batch, backward to every parameter, SGD). For
EfficientNet-Lite0 also 64 photos of 128 pixels: all of it, and with the layers up to the map of
stride 16 and BatchNorm's statistics left as they are. For each kind of layer: forward, and the
gradients by its input and its kernel. PyTorch runs eagerly, in bfloat16 with bfloat16
parameters. A row is written as it finishes; run again, the command goes on with what is missing.
Needs PyTorch, torchvision and timm (`make parity`).
Writes benchmarks/results/backbone_speed_DEVICE.json.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import torch_peers as peers
from benchmarks.costs import multiply_adds
from benchmarks.results_file import ResultsFile, make_parser, markdown_table
from benchmarks.torch_model import best_torch_time, torch_device
from benchmarks.training_step import best_time
from grnet_jax.backbones import BACKBONES, build_backbone
from grnet_jax.backbones.blocks import GroupedConv, convolution

_PHOTOS = 8  # of a layer's input
_DTYPES = ("float32", "bfloat16")
_DEVICE = torch_device()


class Layer(NamedTuple):
    """A convolution as a backbone has it, on 8 photos."""

    inputs: int
    outputs: int
    side: int  # of the input map
    kernel: int = 1
    stride: int = 1
    groups: int = 1


class Backbone(NamedTuple):
    """A backbone on a batch of photos, and what of it learns."""

    name: str
    photos: int = 8
    size: int = 224
    frozen: int = 0  # stride of the map up to which nothing learns; 0: all learns


_BACKBONES = {name: Backbone(name) for name in BACKBONES if name != "small"} | {
    "efficientnet_lite0 (128 pixels)": Backbone("efficientnet_lite0", 64, 128),
    "efficientnet_lite0 (128 pixels, frozen to stride 16)": Backbone(
        "efficientnet_lite0", 64, 128, 16
    ),
}
_LAYERS = {
    "7x7, stride 2 (stem)": Layer(3, 64, 224, 7, 2),
    "1x1 (GoogLeNet 4a)": Layer(480, 192, 14),
    "1x1 (ResNet layer3)": Layer(256, 1024, 14),
    "1x1, stride 2 (shortcut)": Layer(512, 1024, 28, 1, 2),
    "3x3 (GoogLeNet conv3)": Layer(64, 192, 56, 3),
    "3x3 (VGG conv4)": Layer(512, 512, 28, 3),
    "3x3, stride 2 (ResNet layer3)": Layer(256, 256, 28, 3, 2),
    "3x3, 32 groups (ResNeXt layer1)": Layer(256, 256, 56, 3, 1, 32),
    "3x3, 32 groups (SE-ResNeXt layer3)": Layer(512, 512, 14, 3, 1, 32),
}


def main() -> None:
    """Measures what is missing and prints the tables."""
    parser = make_parser(__doc__)
    parser.add_argument("--backbones", default=",".join(BACKBONES), help="(all but small)")
    parser.add_argument("--dtypes", default=",".join(_DTYPES), help="(both)")
    options = parser.parse_args()
    chosen = options.backbones.split(",")
    backbones = [what for what, backbone in _BACKBONES.items() if backbone.name in chosen]
    name = f"backbone_speed_{jax.default_backend()}"
    results = ResultsFile(name, "python -m benchmarks.backbone_speed", ("what", "dtype"))
    for dtype in options.dtypes.split(","):
        for what in (*_LAYERS, *backbones):
            if results.find(what=what, dtype=dtype) is None:
                row = {"what": what, "dtype": dtype, "device": jax.devices()[0].device_kind}
                layer = _LAYERS.get(what)
                row |= _layer(layer, dtype) if layer else _backbone(_BACKBONES[what], dtype)
                results.add({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()})
                print(format_rows(results.rows[-1:]).splitlines()[-1], flush=True)
    results.report(format_rows(results.rows))


def format_rows(rows: list[dict[str, Any]]) -> str:
    """Two Markdown tables, layers and backbones: milliseconds (times PyTorch's)."""
    tables = []
    for title, parts in (
        ("layer", ("forward", "input_gradient", "kernel_gradient")),
        ("backbone", ("forward", "step")),
    ):
        lines = []
        for row in rows:
            if (row["what"] in _LAYERS) == (title == "layer"):
                cells = [
                    f"{1000 * row[f'{part}_seconds']:.1f} "
                    f"({row[f'{part}_seconds'] / row[f'{part}_torch_seconds']:.2f})"
                    for part in parts
                ]
                lines.append([row["what"], row["dtype"], *cells])
        if lines:
            heading = [part.replace("_", " ") for part in parts]
            tables.append(markdown_table((title, "dtype", *heading), lines))
    return "\n".join(tables)


def _ready(run: Callable[[], Any]) -> float:
    return best_time(lambda: jax.block_until_ready(run()))


def _to_torch(x: np.ndarray, dtype: str) -> torch.Tensor:
    return torch.from_numpy(x).to(_DEVICE, getattr(torch, dtype))


def _layer(layer: Layer, dtype: str) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    pad = layer.kernel // 2
    shape = (layer.kernel, layer.kernel, layer.inputs // layer.groups, layer.outputs)
    x = rng.standard_normal((_PHOTOS, layer.side, layer.side, layer.inputs), dtype=np.float32)
    kernel = rng.standard_normal(shape, dtype=np.float32)

    module = (
        GroupedConv(layer.outputs, layer.groups, layer.stride, jnp.dtype(dtype))
        if layer.groups > 1
        else convolution(layer.outputs, layer.kernel, layer.stride, pad, dtype=jnp.dtype(dtype))
    )

    def convolve(x: jax.Array, kernel: jax.Array) -> Any:
        return module.apply({"params": {"kernel": kernel}}, x)

    inputs, weights = jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)
    forward = jax.jit(convolve)
    out = forward(inputs, weights)
    by_input = jax.jit(lambda x, k, g: jax.vjp(lambda x: convolve(x, k), x)[1](g))
    by_kernel = jax.jit(lambda x, k, g: jax.vjp(lambda k: convolve(x, k), k)[1](g))
    row: dict[str, Any] = {**layer._asdict(), "photos": _PHOTOS}
    row["gmac"] = out.size * float(np.prod(shape[:3])) / 1e9
    row["forward_seconds"] = _ready(lambda: forward(inputs, weights))
    row["input_gradient_seconds"] = _ready(lambda: by_input(inputs, weights, out))
    row["kernel_gradient_seconds"] = _ready(lambda: by_kernel(inputs, weights, out))

    x_t = _to_torch(np.moveaxis(x, -1, 1).copy(), dtype)
    k_t = _to_torch(kernel.transpose(3, 2, 0, 1).copy(), dtype)
    settings = ([layer.stride] * 2, [pad] * 2, [1, 1])
    out_t = torch.conv2d(x_t, k_t, None, *settings, layer.groups)

    def gradient(mask: list[bool]) -> Callable[[], Any]:
        return lambda: torch.ops.aten.convolution_backward(
            out_t, x_t, k_t, None, *settings, False, [0, 0], layer.groups, mask
        )

    row["forward_torch_seconds"] = best_torch_time(
        lambda: torch.conv2d(x_t, k_t, None, *settings, layer.groups)
    )
    row["input_gradient_torch_seconds"] = best_torch_time(gradient([True, False, False]))
    row["kernel_gradient_torch_seconds"] = best_torch_time(gradient([False, True, False]))
    return row


def _backbone(case: Backbone, dtype: str) -> dict[str, Any]:
    name, shape = case.name, (case.photos, case.size, case.size, 3)
    photos = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    row: dict[str, Any] = {"photos": case.photos, "image_size": case.size}
    row["gmac_a_photo"] = multiply_adds(name, case.size, head=False) / 1e9
    row |= _jax_seconds(case, dtype, photos)

    peer = peers.make_features(name).to(_DEVICE, getattr(torch, dtype))
    inputs = _to_torch(np.moveaxis(photos, -1, 1).copy(), dtype)
    peers.freeze(peer, name, case.frozen)
    learning = [parameter for parameter in peer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=1e-3)

    def torch_forward() -> None:
        with torch.inference_mode():
            peer(inputs)

    def torch_step() -> None:
        optimizer.zero_grad()
        peer(inputs).float().square().mean().backward()
        optimizer.step()

    peer.eval()
    row["forward_torch_seconds"] = best_torch_time(torch_forward)
    peer.train(not case.frozen)
    row["step_torch_seconds"] = best_torch_time(torch_step)
    return row


def _jax_seconds(case: Backbone, dtype: str, photos: np.ndarray) -> dict[str, float]:
    backbone = build_backbone(case.name, jnp.dtype(dtype))
    variables = jax.jit(backbone.init)(jax.random.key(0), photos)
    statistics = variables.get("batch_stats", {})
    lower = set[str]()
    if case.frozen:
        below = build_backbone(case.name, jnp.dtype(dtype), case.frozen)
        lower = set(jax.eval_shape(below.init, jax.random.key(0), photos)["params"])
    fixed = {k: v for k, v in variables["params"].items() if k in lower}
    learning = {k: v for k, v in variables["params"].items() if k not in lower}

    @jax.jit
    def forward(variables: Any, photos: jax.Array) -> jax.Array:
        maps: Any = backbone.apply(variables, photos, False)
        return maps[max(maps)]

    @jax.jit
    def step(params: Any, fixed: Any, photos: jax.Array) -> Any:
        def loss(params: Any) -> Any:
            variables = {"params": {**fixed, **params}, "batch_stats": statistics}
            train = not case.frozen
            maps, updated = backbone.apply(variables, photos, train, mutable=["batch_stats"])
            return jnp.mean(jnp.square(maps[max(maps)].astype(jnp.float32))), updated

        gradient, updated = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradient), updated

    return {
        "forward_seconds": _ready(lambda: forward(variables, photos)),
        "step_seconds": _ready(lambda: step(learning, fixed, photos)),
    }


if __name__ == "__main__":
    main()
