"""Systems that learn on frozen ImageNet features, on the synthetic set, with the same steps.

    python -m benchmarks.frozen_features [--seeds=3] [--only="contrastive, mean;GRNet, aligned"]

Each through train.py and eval.py, in 600 steps of 4 views an image. Embeddings and the aligned
graph take 128 items a step, the latter with 4 shop images an item; systems that score all pairs 32
items, which are as many pairs. Those of earlier papers learn a reduction under their regions;
without one they learn next to nothing here. Below them the aligned graph without one part at a
time. A row is written as it finishes; run again, the
command goes on with the rows that are missing. Writes benchmarks/results/frozen_features.json; the
runs stay under --runs.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks.grnet_vs_baseline import measure
from benchmarks.reproduce.papers import FROZEN_FEATURES
from benchmarks.reproduce.printing import format_cell
from benchmarks.results_file import ResultsFile, make_parser, markdown_table
from grnet_jax.evaluation.reports import column_title

_FULL = "GRNet, aligned"
# By name the config and what differs from it.
_UNTRAINED: dict[str, tuple[str, dict[str, Any]]] = {
    "color histogram": ("color_histogram", {}),
    "ImageNet features, untrained": ("zero_shot", {}),
}
SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "contrastive, mean": ("contrastive", {"model.pooling": "average"}),
    "contrastive, 4x4 grid": ("contrastive", {}),
    "global baseline": ("global_baseline", FROZEN_FEATURES),
    "triplets": ("embedding", {**FROZEN_FEATURES, "train.batch_size": 128}),
    "VAM": ("vam", {**FROZEN_FEATURES, "train.batch_size": 128}),
    "greedy local matching": ("local_matching", FROZEN_FEATURES),
    "KPM": ("kpm", FROZEN_FEATURES),
    "GRNet": ("grnet", FROZEN_FEATURES),
    _FULL: ("grnet_aligned", {}),
}
_LEFT_OUT: dict[str, dict[str, Any]] = {
    "without colors": {"model.backbone.cell_color_weight": 0.0},
    "both scores trained as one": {"loss.score_alone": False},
    "without the embedding's score": {"model.embedding_score": 0.0},
    "without the direct term": {"model.direct_scale_init": 0.0, "model.score_bias_init": 0.0},
    "without the graph": {"model.layers": 0, "model.scales": ((1, 1),)},
    "the graph's score alone": {
        **{"model.direct_scale_init": 0.0, "model.score_bias_init": 0.0},
        **{"model.embedding_score": 0.0},
    },
    "channels as they are": {"model.region_channels": 0},
    "nodes of unit length": {"model.raw_scale": 0.0},
    "regions as they are": {"model.unit_regions": False},
    "without positions": {"model.node_positions": False},
    "edges without a factor": {"model.edge_scale_init": 0.0},
    "edges anew in every layer": {"model.recompute_edges": True},
    "all pairs of 32 items": {"loss.shortlist": 0, "train.batch_size": 32},
}
_ABLATIONS = {f"{_FULL}, {what}": ("grnet_aligned", fields) for what, fields in _LEFT_OUT.items()}
_PROTOCOLS = ("easy", "hard_view", "hard_occlusion", "hard_cropping")
_METRICS = ("top1", "top5", "top20", "map")


def main() -> None:
    """Measures what is missing and prints the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="of the trained systems (3)")
    parser.add_argument("--only", default="", help="systems, joined by semicolons (all)")
    parser.add_argument("--data_dir", default="data", help="prepared data sets (data)")
    parser.add_argument("--runs", default="runs/frozen_features", help="workdirs of the runs")
    options = parser.parse_args()
    command = f"python -m benchmarks.frozen_features --seeds={options.seeds}"
    results = ResultsFile("frozen_features", command, ("system", "seed"))
    known = {**_UNTRAINED, **SYSTEMS, **_ABLATIONS}
    chosen = options.only.split(";") if options.only else [*known]
    if unknown := set(chosen) - set(known):
        parser.error(f"--only: {sorted(unknown)}: expected some of {[*known]}")
    runs = [
        (name, seed)
        for seed in range(options.seeds)
        for name in chosen
        if seed == 0 or name in SYSTEMS
    ]
    for number, (name, seed) in enumerate(runs, start=1):
        if results.find(system=name, seed=seed) is None:
            print(f"[{number}/{len(runs)}] {name}, seed {seed}", flush=True)
            config, fields = known[name]
            workdir = f"{options.runs}/{name.replace(' ', '_').replace(',', '')}_{seed}"
            row = measure(config, seed, options.data_dir, workdir, fields)
            results.add({"system": name, **row})
    results.report(f"{format_rows(results.rows)}\n{format_ablations(results.rows)}")


def format_rows(rows: list[dict]) -> str:
    """A Markdown table: top-1 with its 95% interval and half the seeds' range, and what it costs.

    Under it, how many of the others' top-1 errors the aligned graph removes.
    """
    return f"{_format(rows, {**_UNTRAINED, **SYSTEMS})}\n{_errors_removed(rows)}\n"


def format_summary(rows: list[dict]) -> str:
    """The same in fewer columns."""
    lines = []
    for name, chosen in _by_system(rows, {**_UNTRAINED, **SYSTEMS}):
        whole = [row["protocols"]["all"] for row in chosen]
        lines.append([name, format_cell(whole, "top1"), _minutes(name, chosen)])
    return markdown_table(("system", column_title("top1"), "training, minutes"), lines)


def format_ablations(rows: list[dict]) -> str:
    """The same of the aligned graph, whole and without one part at a time, of seed 0."""
    return _format([row for row in rows if row["seed"] == 0], {_FULL: None, **_ABLATIONS})


def _format(rows: list[dict], names: Mapping[str, object]) -> str:
    lines: list[list[object]] = []
    for name, chosen in _by_system(rows, names):
        whole = [row["protocols"]["all"] for row in chosen]
        parts = [_mean(chosen, protocol) for protocol in _PROTOCOLS]
        lines.append(
            [name, len(chosen), *(format_cell(whole, metric) for metric in _METRICS)]
            + [f"{100 * part:.1f}" for part in parts]
            + [_minutes(name, chosen)]
        )
    titles = [f"{column_title('top1')}, {name.replace('_', ' ')}" for name in _PROTOCOLS]
    header = ("system", "seeds", *map(column_title, _METRICS), *titles, "training, minutes")
    return markdown_table(header, lines)


def _by_system(rows: list[dict], names: Mapping[str, object]) -> Iterator[tuple[str, list[dict]]]:
    """Yields each of these systems that has rows, and its rows."""
    for name in names:
        if chosen := [row for row in rows if row["system"] == name]:
            yield name, chosen


def _minutes(name: str, rows: list[dict]) -> str:
    """The mean time of training."""
    if name in _UNTRAINED:
        return "–"
    return f"{np.mean([row['train_seconds'] for row in rows]) / 60:.1f}"


def _errors_removed(rows: list[dict]) -> str:
    present = {row["system"] for row in rows}
    if _FULL not in present:
        return ""
    ours = _mean([row for row in rows if row["system"] == _FULL], "all")
    removed = {}
    for name in [one for one in SYSTEMS if one in present and one != _FULL]:
        theirs = _mean([row for row in rows if row["system"] == name], "all")
        removed[name] = f"{round(100 * (ours - theirs) / (1 - theirs))}% of {name}'s"
    return f"Of the others' top-1 errors {_FULL} removes: {', '.join(removed.values())}."


def _mean(rows: list[dict], protocol: str) -> float:
    return float(np.mean([row["protocols"][protocol]["top1"] for row in rows]))


if __name__ == "__main__":
    main()
