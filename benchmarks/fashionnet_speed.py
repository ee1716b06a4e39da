"""FashionNet beside the same network in PyTorch: recognizing photos, and a gradient of all outputs.

    python -m benchmarks.fashionnet_speed [--sizes=small,paper]

The PyTorch network has our weights; before it is timed its outputs are compared with ours. It runs
eagerly. A gradient is that of the sum of all outputs' squares by every parameter, BatchNorm as in
evaluation. Images are random. Needs PyTorch (`make parity`).
Writes benchmarks/results/fashionnet_speed_DEVICE.json.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax.traverse_util import flatten_dict
from torch.nn import functional

from benchmarks.results_file import ResultsFile, make_parser, markdown_table
from benchmarks.torch_model import best_torch_time, torch_device
from benchmarks.training_step import best_time, random_images
from configs import fashionnet
from grnet_jax.backbones.preprocessing import find_preprocessing
from grnet_jax.config import parse_config
from grnet_jax.models import build_matcher
from grnet_jax.models.fashionnet import FashionNet
from grnet_jax.training.state import init_variables

_OUTPUTS = ("embedding", "landmarks", "visibility", "category", "attributes")


class Size(NamedTuple):
    """A config's data set, and how many photos at once."""

    dataset: str
    photos: int


_SIZES = {"small": Size("synthetic", 64), "paper": Size("deepfashion_attributes", 4)}


def main() -> None:
    """Measures the sizes that are missing and prints the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", default=",".join(_SIZES), help="of small, paper (both)")
    options = parser.parse_args()
    name = f"fashionnet_speed_{jax.default_backend()}"
    results = ResultsFile(name, "python -m benchmarks.fashionnet_speed", ("size",))
    for size in options.sizes.split(","):
        if results.find(size=size) is None:
            results.add({"size": size} | measure(_SIZES[size]))
            print(format_rows(results.rows[-1:]).splitlines()[-1], flush=True)
    results.report(format_rows(results.rows))


def measure(size: Size) -> dict[str, Any]:
    """Times both networks; raises ValueError where they are not the same."""
    config = parse_config(fashionnet.get_config(size.dataset))
    matcher: Any = build_matcher(config.model)
    variables = init_variables(matcher, config.image.size, seed=0)
    photos = np.concatenate(random_images(size.photos // 2, config.image.size))

    @jax.jit
    def network(variables: Any, photos: jax.Array) -> dict[str, jax.Array]:
        features, prediction = matcher.apply(variables, photos, method="predict")
        return {"embedding": features.embedding} | {
            name: getattr(prediction, name) for name in _OUTPUTS[1:]
        }

    @jax.jit
    def gradient(params: Any, rest: Any, photos: jax.Array) -> Any:
        return jax.grad(
            lambda params: sum(
                jnp.sum(jnp.square(value))
                for value in network({"params": params, **rest}, photos).values()
            )
        )(params)

    peer = TorchFashionNet(matcher, variables, torch_device())
    images = torch.from_numpy(photos).to(torch_device())
    with torch.no_grad():
        _check_same(network(variables, photos), peer(images))

    def peer_gradient() -> None:
        outputs = peer(images).values()
        value = torch.stack([output.square().sum() for output in outputs]).sum()
        torch.autograd.grad(value, peer.learned)

    def recognize() -> None:
        with torch.no_grad():
            peer(images)

    rest = {name: part for name, part in variables.items() if name != "params"}
    placed = jnp.asarray(photos)
    times = {
        "recognize": best_time(lambda: jax.block_until_ready(network(variables, placed))),
        "torch_recognize": best_torch_time(recognize),
        "gradient": best_time(
            lambda: jax.block_until_ready(gradient(variables["params"], rest, placed))
        ),
        "torch_gradient": best_torch_time(peer_gradient),
    }
    return {"photos": size.photos, **{name: round(value, 5) for name, value in times.items()}}


class TorchFashionNet:
    """The network's forward pass in eager PyTorch, with our weights.

    Args:
      matcher: whose shape it has; it pools around its own landmarks.
      variables: ours.
      device: PyTorch's name of it.
    """

    def __init__(self, matcher: FashionNet, variables: Mapping[str, Any], device: str):
        self._matcher = matcher
        self._weights = {
            name: torch.from_numpy(_as_torch(np.asarray(leaf))).to(device)
            for part in variables.values()
            for name, leaf in flatten_dict(part, sep="/").items()
        }
        names = flatten_dict(variables["params"], sep="/")
        self.learned = [self._weights[name].requires_grad_() for name in names]
        inputs = find_preprocessing(matcher.preprocessing)
        self._mean, self._deviation = (
            torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)
            for values in (inputs.mean, inputs.deviation)
        )

    def __call__(self, photos: torch.Tensor) -> dict[str, torch.Tensor]:
        """Outputs for photos uint8 [n, h, w, 3]."""
        x = (photos.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._deviation
        stages = self._matcher.backbone.stages
        for number, stage in enumerate(stages, start=1):
            shared = self._stage(f"backbone/stage{number}", x, stage.convolutions)
            x = functional.max_pool2d(shared, 2)
        pose, whole = (
            _flat(functional.max_pool2d(self._stage(f"conv5_{branch}", x, last), 2))
            for last in (self._matcher.last_stage.convolutions,)
            for branch in ("pose", "global")
        )
        pose = self._hidden("fc7_pose", self._hidden("fc6_pose", pose))
        landmarks = self._dense("landmarks", pose).unflatten(1, (-1, 2))
        visibility = self._dense("visibility", pose).unflatten(1, (landmarks.shape[1], -1))
        local = self._pool(shared, landmarks.detach(), visibility.argmax(dim=2) == 0)
        branches = [self._hidden("fc6_global", whole), self._hidden("fc6_local", local.flatten(1))]
        fused = self._hidden("fc7_fusion", torch.cat(branches, dim=1))
        return {
            "embedding": functional.normalize(self._dense("descriptor", fused), dim=1),
            "landmarks": landmarks,
            "visibility": visibility,
            "category": self._dense("category", fused),
            "attributes": self._dense("attribute", fused),
        }

    def _stage(self, name: str, x: torch.Tensor, convolutions: int) -> torch.Tensor:
        weights = self._weights
        for number in range(1, convolutions + 1):
            at = f"{name}/conv{number}"
            x = functional.conv2d(
                x, weights[f"{at}/conv/kernel"], weights[f"{at}/conv/bias"], padding=1
            )
            if self._matcher.backbone.norm:
                mean, variance = weights[f"{at}/bn/mean"], weights[f"{at}/bn/var"]
                scale, bias = weights[f"{at}/bn/scale"], weights[f"{at}/bn/bias"]
                x = functional.batch_norm(x, mean, variance, scale, bias, eps=1e-5)
            x = torch.relu(x)
        return x

    def _dense(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self._weights[f"{name}/kernel"], self._weights[f"{name}/bias"])

    def _hidden(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self._dense(name, x))

    def _pool(
        self, shared: torch.Tensor, points: torch.Tensor, visible: torch.Tensor
    ) -> torch.Tensor:
        """[n, p, bins, bins, c]: windows by advanced indexing, bins by adaptive max-pooling."""
        window, bins = self._matcher.window, self._matcher.bins
        n, channels, height, width = shared.shape
        size = torch.tensor([width, height], device=shared.device)
        starts = torch.floor(points * size - window / 2 + 0.5)
        starts = torch.minimum(starts.clamp(min=-window), size.float()).long() + window
        padded = functional.pad(shared, 4 * (window,), value=-torch.inf)
        steps = torch.arange(window, device=shared.device)
        columns, rows = (starts[..., axis, None] + steps for axis in (0, 1))  # [n, p, window]
        photo = torch.arange(n, device=shared.device)[:, None, None, None]
        cells = padded.permute(0, 2, 3, 1)[photo, rows[..., None], columns[..., None, :]]
        cells = cells.flatten(0, 1).permute(0, 3, 1, 2)  # [n p, c, window, window]
        pooled = functional.adaptive_max_pool2d(cells, bins).view(n, -1, channels, bins, bins)
        valid = visible[:, :, None, None, None] & (pooled != -torch.inf)
        return torch.where(valid, pooled, 0.0).permute(0, 1, 3, 4, 2)


def _as_torch(leaf: np.ndarray) -> np.ndarray:
    """Kernels [h, w, in, out] to [out, in, h, w], and [in, out] to [out, in]."""
    turned = {4: (3, 2, 0, 1), 2: (1, 0)}.get(leaf.ndim)
    return (leaf.transpose(turned) if turned else leaf).copy()


def _flat(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1).flatten(1)


def _check_same(outputs: Mapping[str, jax.Array], peer_outputs: Mapping[str, torch.Tensor]) -> None:
    for name, value in outputs.items():
        actual, expected = np.asarray(value), peer_outputs[name].cpu().numpy()
        worst = np.abs(actual - expected).max() / max(np.abs(actual).max(), 1e-6)
        if not worst < 1e-3:
            raise ValueError(f"{name}: PyTorch's differs from ours by {worst:.1e} of its size")


def format_rows(rows: list[dict[str, Any]]) -> str:
    """A Markdown table: photos a second, and how many times PyTorch's."""
    lines = []
    for row in rows:
        cells = [row["size"], str(row["photos"])]
        for what in ("recognize", "gradient"):
            ratio = row[f"torch_{what}"] / row[what]
            cells += [f"{row['photos'] / row[what]:.3g}", f"{ratio:.2f}"]
        lines.append(cells)
    header = ["size", "photos at once"]
    for what in ("recognized", "gradients of photos"):
        header += [f"{what} a second", "times PyTorch's"]
    return markdown_table(header, lines)


if __name__ == "__main__":
    main()
