"""Scoring at the paper's sizes beside PyTorch: pairs a second, in rounds of all systems.

    python -m benchmarks.scoring [--rounds=12] [--one-core]

C = 1024, D = 512, C' = 128, 24 regions, 124 nodes, three layers; 2 queries, 64 gallery photos,
random ones. Every round runs each system once, in another order; ratios are of one round, so that
other work on the machine weighs on both sides. Each PyTorch system runs at the number of pairs that
was fastest in a trial before the first round. The multiply-adds are those really executed, and the
rate of products that they are compared with, [4096x1024] [1024x512] in float32, is measured in the
same round.
With --one-core everything runs in one thread and CPU seconds count instead of wall seconds: what
else the machine does then weighs little; over all cores it slows threads that wait for each other.
Writes benchmarks/results/scoring_DEVICE.json after every round and goes on where it was stopped.
Needs PyTorch (`make parity`), and a C++ compiler for torch.compile.
"""

import functools
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.results_file import ResultsFile, commit, machine, make_parser, markdown_table
from benchmarks.torch_model import TorchFused, TorchGraph, torch_device
from grnet_jax.graph import PAPER_SCALES, SimilarityGraph, node_count, scoring
from grnet_jax.graph import reasoning as graph

_QUERIES, _GALLERY, _CHANNELS = 2, 64, 1024
_PAIRS = _QUERIES * _GALLERY
_MATRIX = (4096, 1024, 512)
_TILES = (2, 4, 8, 16, 32)

# What a row calls each system, and what the table does.
_TITLES = {
    "ours": "ours, float32",
    "ours_bf16": "ours, bfloat16 products",
    "training_path": "the training path (`SimilarityGraph`), 64 pairs at a time",
    "as_written": "the equations as written in JAX, jitted",
    "torch_eager": "PyTorch eager, as written",
    "torch_compile": "torch.compile, as written",
    "torch_rearranged": "PyTorch eager with our arrangement",
    "torch_bf16": "PyTorch eager, as written, bfloat16",
    "ours_unturned": "ours without the Schur form",
    "ours_blocks_2": "ours, edges in 2 blocks",
    "ours_blocks_8": "ours, edges in 8 blocks",
    "ours_tile_1": "ours, 1 pair at a time",
    "ours_tile_8": "ours, 8 pairs at a time",
    "ours_tile_16": "ours, 16 pairs at a time",
}

System = Callable[[], Any]
Clock = Callable[[], float]


def main() -> None:
    """Measures the rounds that are missing and prints the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--one-core", action="store_true")
    options = parser.parse_args()
    cores = 1 if options.one_core else os.cpu_count()
    clock = time.process_time if options.one_core else time.perf_counter
    if options.one_core:  # Linux; before either library starts its threads
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        torch.set_num_threads(1)
    name = f"scoring_{jax.default_backend()}"
    results = ResultsFile(name, "python -m benchmarks.scoring", ("size", "cores"))
    row = results.find(size="paper", cores=cores) or {}
    rounds = row.get("rounds", []) if row.get("machine") == machine() else []
    if rounds and row["commit"] != commit():
        print("The file's rounds are another commit's: they are measured anew.")
        rounds = []
    module, params, fused = _model()
    query, gallery = _regions()
    fixed = {
        "size": "paper",
        "cores": cores,
        "clock": "CPU seconds" if options.one_core else "wall seconds",
        "device": str(jax.devices()[0].device_kind),
        "torch": torch.__version__,
        "pairs": _PAIRS,
        "multiply_adds_per_pair": count_multiply_adds(fused),
        "largest_error": _largest_errors(module, params, query),
    }
    systems, batches = _systems(module, params, query, gallery, clock)
    print(f"PyTorch's pairs at once: {batches}", flush=True)
    for number in range(len(rounds), options.rounds):
        order = list(systems) if number % 2 else list(reversed(systems))
        seconds = {system: _seconds(systems[system], clock) for system in order}
        rounds.append({system: round(seconds[system], 6) for system in systems})
        results.add(fixed | {"torch_pairs_at_once": batches} | summarize(rounds, fused))
        print(f"round {number + 1} of {options.rounds}", flush=True)
    results.report(format_rows(results.rows))


def summarize(rounds: list[dict[str, float]], fused: scoring.FusedScorer) -> dict[str, Any]:
    """Pairs a second of each system's fastest round, and ratios and shares round by round."""
    work = count_multiply_adds(fused) * _PAIRS
    product = float(np.prod(_MATRIX))
    row: dict[str, Any] = {}
    for system in _TITLES:
        if system in rounds[0]:
            row[f"{system}_pairs_per_s"] = round(_PAIRS / min(r[system] for r in rounds), 1)
    row["times_ours_is_faster"] = {
        system: _spread([r[system] / r["ours"] for r in rounds])
        for system in _TITLES
        if system in rounds[0] and system != "ours"
    }
    row["share_of_matmul_rate"] = _spread(
        [work / r["ours"] * r["matrix"] / product for r in rounds]
    )
    row["torch_eager_share_of_its_matmul_rate"] = _spread(
        [
            as_written_multiply_adds() * _PAIRS / r["torch_eager"] * r["torch_matrix"] / product
            for r in rounds
        ]
    )
    for name in ("matrix", "torch_matrix"):
        row[f"{name}_gmac_per_s"] = round(product / min(r[name] for r in rounds) / 1e9, 1)
    return row | {"rounds": rounds}


def _spread(values: list[float]) -> dict[str, float]:
    spread = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: round(value, 3) for name, value in spread.items()}


def format_rows(rows: list[dict[str, Any]]) -> str:
    """A Markdown table: pairs a second, and how many times faster ours is, median and range."""
    lines = []
    for row in rows:
        for system, title in _TITLES.items():
            if f"{system}_pairs_per_s" in row:
                ratio = row["times_ours_is_faster"].get(system)
                rate = f"{row[f'{system}_pairs_per_s']:,.0f}"
                lines.append([row["cores"], title, rate, _cell(ratio) if ratio else "-"])
    header = ("cores", "system", "pairs/s", "ours is so many times faster")
    return "\n".join([markdown_table(header, lines), *(_rates(row) + "\n" for row in rows)])


def _rates(row: Mapping[str, Any]) -> str:
    """What the machine's matrix products allow, in a sentence."""
    shares = [row[f"{of}_matmul_rate"] for of in ("share_of", "torch_eager_share_of_its")]
    share, torch_share = (f"{100 * share['median']:.0f}%" for share in shares)
    return (
        f"Matrix products on {row['cores']} {'core' if row['cores'] == 1 else 'cores'}: "
        f"JAX {row['matrix_gmac_per_s']:.0f} and PyTorch {row['torch_matrix_gmac_per_s']:.0f} G "
        f"multiply-adds/s. Ours executes {row['multiply_adds_per_pair'] / 1e6:.1f} M a pair "
        f"(as written {as_written_multiply_adds() / 1e6:.1f} M), at {share} of JAX's rate; "
        f"PyTorch eager runs at {torch_share} of its own."
    )


def _cell(spread: Mapping[str, float]) -> str:
    return f"{spread['median']:.2f} ({spread['least']:.2f} to {spread['most']:.2f})"


def count_multiply_adds(fused: scoring.FusedScorer) -> int:
    """Of one pair, as `score_pairs` executes them, the zeros inside U's blocks included."""
    n, (c, d) = node_count(fused.scales), fused.projection.shape
    k = fused.layers[0].shape[0]
    nodes = c * d + sum(block.size for block in fused.edges)
    between = sum(layer.size for layer in fused.layers[:-1])
    affinities = n * n * (d + len(fused.layers) * k)
    return n * (nodes + between) + affinities + n * k + fused.layers[-1].size + k


def as_written_multiply_adds() -> int:
    """Of one pair, as Eq. 4 to 8 are written."""
    n, c, d, k = node_count(PAPER_SCALES), _CHANNELS, 512, 128
    return n * c * d + 2 * n * d * d + n * n * d + n * n * (d + 2 * k) + n * k * (d + 2 * k) + k


def _model() -> tuple[SimilarityGraph, dict[str, Any], scoring.FusedScorer]:
    module = SimilarityGraph()
    regions = jnp.zeros((1, 24, _CHANNELS))
    params = dict(module.init(jax.random.key(0), regions, regions)["params"])
    return module, params, module.fuse(params, "float32")


def _regions() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    query, gallery = (
        rng.gamma(1.0, 1.0, (count, 24, _CHANNELS)).astype(np.float32)
        for count in (_QUERIES, _GALLERY)
    )
    return query, gallery


def as_written(params: Mapping[str, Any], query: jax.Array, gallery: jax.Array) -> jax.Array:
    """Logits [q * g] by Eq. 4 to 8 in the order that they stand in, in the arrays' dtype."""
    nodes = graph.region_differences(query, gallery, PAPER_SCALES) @ params["projection"]
    length = jnp.sqrt(jnp.sum(jnp.square(nodes), axis=-1, keepdims=True))
    nodes = nodes / jnp.where(length == 0, 1, length)
    sources = nodes @ params["edge_out1"].T
    targets = nodes @ params["edge_in1"].T
    weights = jax.nn.softmax(sources @ targets.swapaxes(1, 2), axis=-1)
    hidden = nodes
    for number in (1, 2, 3):
        hidden = jax.nn.relu((weights @ hidden) @ params[f"layer{number}"])
    return hidden[:, 0] @ params["score_weight"] + params["score_bias"]


def _largest_errors(
    module: SimilarityGraph, params: Mapping[str, Any], query: np.ndarray
) -> dict[str, dict[str, float]]:
    """Of the logits against the equations as written in float64, by how far the photos differ."""
    rng = np.random.default_rng(1)
    other = {
        "different": rng.gamma(1.0, 1.0, query.shape),
        "1e-3": query * (1 + 1e-3 * rng.standard_normal(query.shape)),
        "1e-6": query * (1 + 1e-6 * rng.standard_normal(query.shape)),
        "identical": query,
    }
    errors: dict[str, dict[str, float]] = {}
    for dtype in ("float32", "bfloat16"):
        fused = module.fuse(params, dtype)
        errors[dtype] = {}
        for kind, photos in other.items():
            gallery = photos[:2].astype(np.float32)
            logits = jax.jit(module.score_fused)(fused, query, gallery)
            with jax.enable_x64(True):
                exact = [np.asarray(x, np.float64) for x in (query, gallery)]
                params64 = {name: np.asarray(value, np.float64) for name, value in params.items()}
                expected = np.asarray(jax.jit(as_written)(params64, *exact)).reshape(logits.shape)
            errors[dtype][kind] = float(f"{np.abs(logits - expected).max():.2g}")
    return errors


def _systems(
    module: SimilarityGraph,
    params: dict[str, Any],
    query: np.ndarray,
    gallery: np.ndarray,
    clock: Clock,
) -> tuple[dict[str, System], dict[str, int]]:
    """Everything that a round runs, compiled, and PyTorch's numbers of pairs at once."""
    x, y = jnp.asarray(query), jnp.asarray(gallery)
    fused = module.fuse(params, "float32")

    def scorer(fused: Any, tile: int = 0) -> System:
        score = jax.jit(functools.partial(module.score_fused, tile=tile))
        return lambda: jax.block_until_ready(score(fused, x, y))

    def one_by_one(score: Callable[..., Any], variables: Any) -> System:
        each = jax.jit(lambda v, x, y: jax.lax.map(lambda one: score(v, one[None], y), x))
        return lambda: jax.block_until_ready(each(variables, x, y))

    systems = {
        "ours": scorer(fused),
        "ours_bf16": scorer(module.fuse(params, "bfloat16")),
        "training_path": one_by_one(module.apply, {"params": params}),
        "as_written": one_by_one(as_written, params),
        "ours_unturned": scorer(module.fuse(params, "float32", 0)),
        "ours_blocks_2": scorer(module.fuse(params, "float32", 2)),
        "ours_blocks_8": scorer(module.fuse(params, "float32", 8)),
        **{f"ours_tile_{tile}": scorer(fused, tile) for tile in (1, 8, 16)},
    }
    torch_systems, batches = _torch_systems(fused, query, gallery, clock)
    systems |= torch_systems
    rng = np.random.default_rng(0)
    m, k, n = _MATRIX
    left, right = (rng.standard_normal(s, dtype=np.float32) for s in ((m, k), (k, n)))
    a, b = jnp.asarray(left), jnp.asarray(right)
    product = jax.jit(jnp.matmul)
    systems["matrix"] = lambda: jax.block_until_ready(product(a, b))
    at, bt = (torch.from_numpy(array).to(torch_device()) for array in (left, right))
    systems["torch_matrix"] = lambda: _wait(at @ bt)
    for run in systems.values():
        run()
    return systems, batches


def _torch_systems(
    parameters: scoring.FusedScorer, query: np.ndarray, gallery: np.ndarray, clock: Clock
) -> tuple[dict[str, System], dict[str, int]]:
    """Each at its fastest number of pairs at once: one query against that many photos."""
    device = torch_device()
    plain = TorchGraph(_CHANNELS, 512, 128).to(device)
    half = TorchGraph(_CHANNELS, 512, 128).to(device).bfloat16()
    fused = TorchFused(parameters)

    def score_plainly(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return plain.reason(plain.nodes(x, y))

    sample = [torch.from_numpy(r[:2]).to(device) for r in (query, gallery)]
    np.testing.assert_allclose(
        fused.score(*sample).cpu().reshape(2, 2),
        jax.jit(scoring.score_pairs)(parameters, query[:2], gallery[:2]),
        rtol=1e-4,
        atol=1e-5,
    )
    scores: dict[str, Callable[..., torch.Tensor]] = {
        "torch_eager": score_plainly,
        "torch_compile": torch.compile(score_plainly, dynamic=False),
        "torch_rearranged": fused.score,
        "torch_bf16": lambda x, y: half.reason(half.nodes(x, y)),
    }
    systems: dict[str, System] = {}
    batches: dict[str, int] = {}
    for name, score in scores.items():
        dtype = torch.bfloat16 if name == "torch_bf16" else torch.float32
        x, y = (torch.from_numpy(r).to(device, dtype) for r in (query, gallery))

        def run(tile: int, x: torch.Tensor = x, y: torch.Tensor = y, score: Any = score) -> None:
            with torch.no_grad():
                for one in x.split(1):
                    for part in y.split(tile):
                        logits = score(one, part)
                _wait(logits)

        times = {}
        # Each number of pairs is a compilation of its own: that of eager mode is taken.
        for tile in [batches["torch_eager"]] if name == "torch_compile" else _TILES:
            trial = functools.partial(run, tile, x[:1], y[:32])
            trial()
            times[tile] = min(_seconds(trial, clock) for _ in range(2))
        batches[name] = min(times, key=times.__getitem__)
        systems[name] = functools.partial(run, batches[name])
    return systems, batches


def _wait(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


def _seconds(run: System, clock: Clock) -> float:
    started = clock()
    run()
    return clock() - started


if __name__ == "__main__":
    main()
