"""GRNet's parts in plain PyTorch, to measure against: eager, as the equations are written."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.training_step import best_time
from grnet_jax.backbones.googlenet import BLOCKS
from grnet_jax.graph import PAPER_SCALES
from grnet_jax.graph.scoring import FusedScorer


def torch_device() -> str:
    """PyTorch's name of the device that JAX computes on.

    Raises:
      SystemExit: PyTorch does not have it; times on two devices are no ratio.
    """
    backend = jax.default_backend()
    if backend == "cpu":
        return "cpu"
    if backend == "gpu" and torch.cuda.is_available():
        return "cuda"
    raise SystemExit(f"JAX computes on {backend}, which this PyTorch does not: install one for it")


def best_torch_time(run: Callable[[], Any]) -> float:
    """As `best_time`, of PyTorch on `torch_device()`."""
    device = torch_device()

    def once() -> None:
        run()
        if device == "cuda":
            torch.cuda.synchronize()

    return best_time(once)


def make_torch_backbone(name: str) -> nn.Module:
    """The PyTorch twin of `grnet_jax.backbones.build_backbone(name)`, to its last map."""
    return {"small": _small, "googlenet": _googlenet}[name]()


class TorchGraph(nn.Module):
    """Nodes, edges and three layers of reasoning (Eq. 4 to 8), with fixed edges."""

    def __init__(self, channels: int, node_dim: int, reasoning_dim: int):
        super().__init__()
        self.projection = nn.Linear(channels, node_dim, bias=False)
        self.edge_out = nn.Linear(node_dim, node_dim, bias=False)
        self.edge_in = nn.Linear(node_dim, node_dim, bias=False)
        widths = [node_dim, reasoning_dim, reasoning_dim, reasoning_dim]
        self.layers = nn.ModuleList(
            nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)
        )
        self.score = nn.Linear(reasoning_dim, 1)

    def nodes(self, query: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
        """Similarity nodes [q * g, n, d] of regions [q, r, c] and [g, r, c]."""
        return functional.normalize(self.projection(torch_differences(query, gallery)), dim=-1)

    def reason(self, nodes: torch.Tensor) -> torch.Tensor:
        """Logits [b] of nodes [b, n, d]."""
        weights = (self.edge_out(nodes) @ self.edge_in(nodes).transpose(1, 2)).softmax(dim=-1)
        hidden = nodes
        for layer in self.layers:
            hidden = layer(weights @ hidden).relu()
        return self.score(hidden[:, 0])[:, 0]


def torch_differences(query: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    """|x - y|^2 of all region pairs, [q * g, n, c]."""
    blocks, start = [], 0
    for rows, columns in PAPER_SCALES:
        stop = start + rows * columns
        x, y = query[:, None, start:stop, None], gallery[None, :, None, start:stop]
        blocks.append((x - y).square().flatten(2, 3).flatten(0, 1))
        start = stop
    return torch.cat(blocks, dim=1)


class TorchFused:
    """`grnet_jax.graph.scoring.score_pairs` line by line in PyTorch, for graphs with all edges."""

    def __init__(self, fused: FusedScorer):
        def tensor(array: jax.Array) -> torch.Tensor:
            return torch.from_numpy(np.array(array)).to(torch_device())

        self.projection = tensor(fused.projection)
        self.edges = [tensor(block) for block in fused.edges]
        self.layers = [tensor(layer) for layer in fused.layers]
        self.weight, self.bias = tensor(fused.weight), tensor(fused.bias)

    def score(self, query: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
        """Logits [q * g] of regions [q, r, c] and [g, r, c]."""
        projected = torch_differences(query, gallery) @ self.projection
        inverse = (projected.square().sum(-1) + 1e-36).rsqrt()
        parts = [projected[..., : len(u)] @ u for u in self.edges]
        width = len(self.layers[0])
        hidden = parts[-1][..., -width:] * inverse[..., None]
        turned = torch.cat([*parts[:-1], parts[-1][..., :-width]], dim=-1)
        affinity = turned @ projected.transpose(1, 2)
        weights = (affinity * inverse[:, :, None] * inverse[:, None, :]).softmax(dim=-1)
        hidden = (weights @ hidden).relu()
        for layer in self.layers[:-1]:
            hidden = (weights @ (hidden @ layer)).relu()
        gathered = (weights[:, :1] @ hidden)[:, 0]
        return (gathered @ self.layers[-1]).relu() @ self.weight + self.bias


class TorchGRNet(nn.Module):
    """Images to the demo's loss: pair cross-entropy and the softmax over each query's scores."""

    def __init__(self, backbone: str, channels: int, node_dim: int, reasoning_dim: int):
        super().__init__()
        self.backbone = make_torch_backbone(backbone)
        self.graph = TorchGraph(channels, node_dim, reasoning_dim)

    def regions(self, photos: torch.Tensor) -> torch.Tensor:
        """Pyramid regions [n, 24, c] of photos uint8 [n, h, w, 3]."""
        inputs = (photos.permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.225
        maps = self.backbone(inputs)
        # PyTorch's adaptive windows have the pyramid's bounds.
        pooled = [functional.adaptive_max_pool2d(maps, scale).flatten(2) for scale in PAPER_SCALES]
        return torch.cat(pooled, dim=2).transpose(1, 2)

    def backward_pass(self, customer: torch.Tensor, shop: torch.Tensor, queries: int) -> None:
        """Leaves the gradient of one step in the parameters; `queries` are scored at once."""
        features = self.regions(torch.cat([customer, shop]))
        query, gallery = features.split(len(customer))
        detached = [f.detach().requires_grad_() for f in (query, gallery)]
        for start in range(0, len(customer), queries):
            logits = self.graph.reason(
                self.graph.nodes(detached[0][start : start + queries], detached[1])
            ).view(-1, len(shop))
            target = torch.arange(start, start + len(logits), device=logits.device)
            same = functional.one_hot(target, len(shop)).float()
            loss = functional.binary_cross_entropy_with_logits(logits, same, reduction="sum")
            loss = loss / len(shop) + functional.cross_entropy(logits, target, reduction="sum")
            (loss / len(customer)).backward()
        features.backward(torch.cat([f.grad for f in detached]))


def _conv(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, padding: int = 0
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.first = _conv(width, width, 3, 1, 1)
        self.second = _conv(width, width, 3, 1, 1)[:2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.second(self.first(x))).relu()


def _small() -> nn.Module:
    return nn.Sequential(
        _conv(3, 32, 3, 2, 1),
        _conv(32, 64, 3, 2, 1),
        _Residual(64),
        _conv(64, 128, 3, 2, 1),
        _Residual(128),
    )


class _Inception(nn.Module):
    def __init__(self, inputs: int, widths: tuple[int, ...]):
        super().__init__()
        one, three_reduce, three, five_reduce, five, pool = widths
        self.branches = nn.ModuleList(
            [
                _conv(inputs, one),
                nn.Sequential(_conv(inputs, three_reduce), _conv(three_reduce, three, 3, 1, 1)),
                nn.Sequential(_conv(inputs, five_reduce), _conv(five_reduce, five, 3, 1, 1)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), _conv(inputs, pool)),
            ]
        )
        self.outputs = one + three + five + pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def _googlenet() -> nn.Module:
    layers = [
        _conv(3, 64, 7, 2, 3),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        _conv(64, 64),
        _conv(64, 192, 3, 1, 1),
        nn.MaxPool2d(3, 2, ceil_mode=True),
    ]
    width, pools = 192, {8: (3, 2), 16: (2, 2)}
    for stride, blocks in BLOCKS.items():
        for widths in blocks.values():
            layers.append(block := _Inception(width, tuple(widths)))
            width = block.outputs
        if stride in pools:
            layers.append(nn.MaxPool2d(*pools[stride], ceil_mode=True))
    return nn.Sequential(*layers)
