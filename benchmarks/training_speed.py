"""The training step and its parts, and scoring, beside the same model in PyTorch.

    python -m benchmarks.training_speed [--sizes=small,paper] [--parts=backbone,nodes,...]

Parts: the backbone (photos to its last map), the nodes (regions to similarity nodes, Eq. 4) and
the reasoning (nodes to logits, Eq. 5 to 8), each alone, forward and backward; the whole training
step with its optimizer; and scoring (regions to logits, forward alone). PyTorch runs eagerly, as
the equations are written, at the best of several batch sizes. The machine's matrix rate is
measured in the same run at [4096x1024] [1024x512]; shares are multiply-adds of the equations as
written over it.
Writes benchmarks/results/training_speed_DEVICE.json. Needs PyTorch (`make parity`).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

from benchmarks.costs import multiply_adds
from benchmarks.results_file import ResultsFile, make_parser, markdown_table
from benchmarks.torch_model import (
    TorchGraph,
    TorchGRNet,
    best_torch_time,
    make_torch_backbone,
    torch_device,
)
from benchmarks.training_step import SIZES, Size, best_time, random_images, step_seconds
from grnet_jax.backbones import build_backbone
from grnet_jax.graph import PAPER_SCALES, SimilarityGraph, node_count
from grnet_jax.graph import reasoning as graph

_HEADER = (
    *("size", "part", "ms", "PyTorch, ms", "times PyTorch's"),
    *("at the matrix rate, ms", "photos/s", "pairs/s"),
)


def main() -> None:
    """Measures every part of every size and writes the rows."""
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", default="small,paper", help="of " + ", ".join(SIZES))
    parser.add_argument("--parts", default=",".join(_PARTS), help="of " + ", ".join(_PARTS))
    options = parser.parse_args()
    device = torch_device()
    name = f"training_speed_{jax.default_backend()}"
    results = ResultsFile(name, "python -m benchmarks.training_speed", ("size", "part"))
    rate = matrix_rate()
    print(f"matrix products: {rate / 1e9:.0f} G multiply-adds/s in JAX on {jax.devices()[0]}")
    for name in options.sizes.split(","):
        for part in options.parts.split(","):
            row = {"size": name, "part": part, **SIZES[name]._asdict()}
            row |= {"device": str(jax.devices()[0].device_kind), "matrix_rate_gmac": rate / 1e9}
            row |= _PARTS[part](SIZES[name], device)
            row["times_pytorch"] = row["seconds"] / row["torch_seconds"]
            row["seconds_at_matrix_rate"] = row["gmac"] * 1e9 / rate
            row["share_of_matrix_rate"] = row["seconds_at_matrix_rate"] / row["seconds"]
            for what in ("photos", "pairs"):
                if f"{what}_done" in row:
                    row[f"{what}_per_second"] = row.pop(f"{what}_done") / row["seconds"]
            results.add({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()})
            print(format_rows(results.rows[-1:]).splitlines()[-1], flush=True)
    results.report(format_rows(results.rows))


def format_rows(rows: list[dict[str, Any]]) -> str:
    """A Markdown table: ours, PyTorch's, what the matrix rate would take, and throughput."""
    lines = []
    for row in rows:
        times = [f"{1000 * row[k]:.0f}" for k in ("seconds", "torch_seconds")]
        times += [f"{row['times_pytorch']:.2f}", f"{1000 * row['seconds_at_matrix_rate']:.0f}"]
        rates = [
            f"{row[k]:,.0f}" if k in row else "-" for k in ("photos_per_second", "pairs_per_second")
        ]
        lines.append([row["size"], row["part"], *times, *rates])
    return markdown_table(_HEADER, lines)


def matrix_rate() -> float:
    """Multiply-adds a second of [4096x1024] [1024x512] in float32, the best of several."""
    x = jax.random.normal(jax.random.key(0), (4096, 1024))
    y = jax.random.normal(jax.random.key(1), (1024, 512))
    product = jax.jit(lambda x, y: [(x + i) @ y for i in range(8)])
    return 8 * 4096 * 1024 * 512 / best_time(lambda: jax.block_until_ready(product(x, y)))


def _torch_time(run: Callable[[int], Any], batches: list[int]) -> dict[str, Any]:
    """The fastest of the batch sizes."""
    times = {batch: best_torch_time(functools.partial(run, batch)) for batch in batches}
    best = min(times, key=lambda batch: times[batch])
    return {"torch_seconds": times[best], "torch_batch": best}


def _backbone(size: Size, device: str) -> dict[str, Any]:
    photos = np.random.default_rng(0).standard_normal(
        (size.photos, size.image_size, size.image_size, 3), dtype=np.float32
    )
    backbone = build_backbone(size.backbone)
    variables = jax.jit(backbone.init)(jax.random.key(0), photos)

    def loss(params: Any, photos: jax.Array) -> jax.Array:
        maps, _ = backbone.apply(
            {"params": params, "batch_stats": variables["batch_stats"]},
            photos,
            True,
            mutable=["batch_stats"],
        )
        return jnp.mean(jnp.square(maps[max(maps)]))

    gradient = jax.jit(jax.grad(loss))
    seconds = best_time(lambda: jax.block_until_ready(gradient(variables["params"], photos)))

    peer = make_torch_backbone(size.backbone).to(device)
    inputs = torch.from_numpy(photos).permute(0, 3, 1, 2).contiguous().to(device)

    def run(batch: int) -> None:
        peer.zero_grad()
        for part in inputs.split(batch):
            peer(part).square().mean().backward()

    row = {"seconds": seconds, "gmac": 3 * _backbone_gmac(size, size.photos)}
    row["photos_done"] = size.photos
    return row | _torch_time(run, [size.photos, size.photos // 2])


def _backbone_gmac(size: Size, photos: int) -> float:
    return photos * multiply_adds(size.backbone, size.image_size, head=False) / 1e9


def _regions(size: Size) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (size.items, 24, size.channels)
    query, gallery = (rng.gamma(1.0, 1.0, shape).astype(np.float32) for _ in range(2))
    return query, gallery


def _nodes(size: Size, device: str) -> dict[str, Any]:
    query, gallery = _regions(size)
    nodes, pairs = node_count(PAPER_SCALES), size.items**2
    projection = jax.random.normal(jax.random.key(0), (size.channels, size.node_dim))
    weight = jax.random.normal(jax.random.key(1), (pairs, nodes, size.node_dim))

    def loss(projection: jax.Array, query: jax.Array, gallery: jax.Array) -> jax.Array:
        differences = graph.region_differences(query, gallery, PAPER_SCALES)
        return jnp.sum(graph.similarity_nodes(differences, projection) * weight)

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    seconds = best_time(lambda: jax.block_until_ready(gradient(projection, query, gallery)))

    peer = TorchGraph(size.channels, size.node_dim, size.reasoning_dim).to(device)
    x, y = (torch.from_numpy(r).to(device).requires_grad_() for r in (query, gallery))
    weight_t = torch.from_numpy(np.array(weight)).to(device)

    def run(batch: int) -> None:
        peer.zero_grad()
        for start in range(0, size.items, batch):
            rows = slice(start * size.items, (start + batch) * size.items)
            (peer.nodes(x[start : start + batch], y) * weight_t[rows]).sum().backward()

    row = {"seconds": seconds, "gmac": 3 * pairs * _node_gmac(size), "pairs_done": pairs}
    return row | _torch_time(run, _query_batches(size))


def _query_batches(size: Size) -> list[int]:
    return [b for b in (1, 2, 4, 8, 32) if b <= size.items]


def _node_gmac(size: Size) -> float:
    return node_count(PAPER_SCALES) * size.channels * size.node_dim / 1e9


def _reasoning(size: Size, device: str) -> dict[str, Any]:
    n, d, k, pairs = node_count(PAPER_SCALES), size.node_dim, size.reasoning_dim, size.items**2
    rng = np.random.default_rng(0)
    nodes = rng.standard_normal((pairs, n, d), dtype=np.float32)
    nodes /= np.linalg.norm(nodes, axis=-1, keepdims=True)
    regions = np.zeros((1, 24, 4), np.float32)
    module = SimilarityGraph(node_dim=d, reasoning_dim=k)
    params = dict(module.init(jax.random.key(0), regions, regions)["params"])
    del params["projection"]

    def loss(params: Mapping[str, jax.Array], nodes: jax.Array) -> jax.Array:
        layers = [params[f"layer{i}"] for i in (1, 2, 3)]
        hidden = graph.reason(nodes, [params["edge_out1"]], [params["edge_in1"]], layers)
        logits = graph.match_logit(hidden, params["score_weight"], params["score_bias"])
        return jnp.mean(jnp.square(logits))

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    seconds = best_time(lambda: jax.block_until_ready(gradient(params, nodes)))

    peer = TorchGraph(size.channels, d, k).to(device)
    inputs = torch.from_numpy(nodes).to(device).requires_grad_()

    def run(batch: int) -> None:
        peer.zero_grad()
        for part in inputs.split(batch):
            peer.reason(part).square().mean().backward()

    batches = [b for b in (8, 16, 32, 64, 128, 256, 1024) if b <= pairs]
    row = {"seconds": seconds, "gmac": 3 * pairs * _reasoning_gmac(size), "pairs_done": pairs}
    return row | _torch_time(run, batches)


def _reasoning_gmac(size: Size) -> float:
    """Of one pair, as Eq. 5 to 7 are written."""
    n, d, k = node_count(PAPER_SCALES), size.node_dim, size.reasoning_dim
    return (2 * n * d * d + n * n * d + (n * n * d + n * d * k) + 2 * (n * n * k + n * k * k)) / 1e9


def _step(size: Size, device: str) -> dict[str, Any]:
    seconds = step_seconds(size)
    peer = TorchGRNet(size.backbone, size.channels, size.node_dim, size.reasoning_dim).to(device)
    optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-4, weight_decay=0.05)
    x, y = (
        torch.from_numpy(p.copy()).to(device) for p in random_images(size.items, size.image_size)
    )

    def run_torch(queries: int) -> None:
        optimizer.zero_grad()
        peer.backward_pass(x, y, queries)
        nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        optimizer.step()

    pairs = size.items**2
    gmac = _backbone_gmac(size, 2 * size.items) + pairs * (_node_gmac(size) + _reasoning_gmac(size))
    row = {"seconds": seconds, "gmac": 3 * gmac, "photos_done": 2 * size.items, "pairs_done": pairs}
    return row | _torch_time(run_torch, _query_batches(size))


def _scoring(size: Size, device: str) -> dict[str, Any]:
    query, gallery = _regions(size)
    module = SimilarityGraph(node_dim=size.node_dim, reasoning_dim=size.reasoning_dim)
    variables = module.init(jax.random.key(0), query[:1], gallery[:1])
    score = jax.jit(module.apply)
    x, y = jnp.asarray(query), jnp.asarray(gallery)
    seconds = best_time(lambda: jax.block_until_ready(score(variables, x, y)))

    peer = TorchGraph(size.channels, size.node_dim, size.reasoning_dim).to(device)
    x_t, y_t = (torch.from_numpy(r).to(device) for r in (query, gallery))

    def run(queries: int) -> None:
        with torch.no_grad():
            for part in x_t.split(queries):
                peer.reason(peer.nodes(part, y_t))

    pairs = size.items**2
    gmac = pairs * (_node_gmac(size) + _reasoning_gmac(size))
    row = {"seconds": seconds, "gmac": gmac, "pairs_done": pairs}
    return row | _torch_time(run, _query_batches(size))


_PARTS: Mapping[str, Callable[[Size, str], dict[str, Any]]] = {
    "backbone": _backbone,
    "nodes": _nodes,
    "reasoning": _reasoning,
    "step": _step,
    "scoring": _scoring,
}


if __name__ == "__main__":
    main()
