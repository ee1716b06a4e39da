"""Every system in a short training: its accuracy, and what it costs to train, to store and to rank.

    python -m benchmarks.systems [--seeds=2]

Trains and evaluates what is missing of `python -m benchmarks.reproduce grnet systems`, then
measures all of them in one process, each time the best of two rounds: a training step on the
features of 64 photos, what XLA plans for it in memory, embedding, and scoring. Photos are random
there. An ensemble costs what its members cost together. Writes
benchmarks/results/systems_DEVICE.json.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.reproduce.papers import Row, find_paper
from benchmarks.reproduce.printing import format_cell
from benchmarks.reproduce.runner import find_results, make_experiment
from benchmarks.results_file import RESULTS, ResultsFile, make_parser, markdown_table, run_command
from benchmarks.training_step import (
    best_time,
    build_step,
    planned_bytes,
    random_batch,
    random_images,
    time_step,
)
from grnet_jax.models.feature_maps import backbone_map
from grnet_jax.search.embed import make_embed
from grnet_jax.search.ranking import make_score
from grnet_jax.training.build import Run
from grnet_jax.training.frozen_features import FrozenFeatures

_PAPER = find_paper("grnet")
_TABLE = _PAPER.table("systems")
_PHOTOS = 64
_QUERIES, _GALLERY = 8, 512
_ROUNDS = 2
# The row that others are given as multiples of.
_BASELINE = "global baseline"
_COSTS = ("step_ms", "step_mb", "embed_ms", "score_us")
_HEADER = (
    *("system", "seeds", "top-1", "mAP", "parameters", "numbers stored a photo"),
    *("training step", "its memory", "embedding", "scoring a pair"),
)


def main() -> None:
    """Runs what is missing, measures and prints the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=2, help="of each row's accuracy (2)")
    parser.add_argument("--runs", default="runs/reproduce", help="workdirs of the runs")
    options = parser.parse_args()
    run_command(
        *("-m", "benchmarks.reproduce", "grnet", "systems"),
        *(f"--seeds={options.seeds}", f"--runs={options.runs}"),
    )
    name = f"systems_{jax.default_backend()}"
    results = ResultsFile(name, f"python -m benchmarks.systems --seeds={options.seeds}", ("row",))
    rows = {run.label: run for row in _TABLE.rows.values() for run in _runs(row)}
    rounds = []
    for number in range(_ROUNDS):
        print(f"Costs of {len(rows)} runs, round {number + 1} of {_ROUNDS}", flush=True)
        rounds.append({label: measure(row) for label, row in rows.items()})
    for label in rows:
        results.add({"row": label} | _best([costs[label] for costs in rounds]))
    results.report(format_rows(results.rows))
    print("Next: python -m benchmarks.tables writes docs/choosing.md")


def _runs(row: Row) -> tuple[Row, ...]:
    """The rows that a row trains: itself, or an ensemble's members."""
    return _TABLE.members(row) or (row,)


def measure(row: Row) -> dict[str, float]:
    """What a row costs, on random photos."""
    config = make_experiment(_PAPER, _TABLE, row, "synthetic").read_config()
    config.model.backbone.pretrained = ""  # what it starts from changes no cost
    run, step = build_step(config)
    state = run.create_state()
    variables = state.variables
    batch = _as_maps(run, variables, random_batch(run))
    photos = jnp.concatenate(random_images(_PHOTOS // 2, config.image.size))
    embed = make_embed(run.matcher, run.mesh)
    features = jax.device_get(embed(variables, photos))
    query, gallery = (
        jax.tree.map(lambda leaf, n=n: np.resize(leaf, (n, *leaf.shape[1:])), features)
        for n in (_QUERIES, _GALLERY)
    )
    score = make_score(run.matcher, run.mesh)(variables)
    embedding = best_time(lambda: jax.block_until_ready(embed(variables, photos)))
    scoring = best_time(lambda: jax.block_until_ready(score(query, gallery)))
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "numbers": sum(leaf.size for leaf in jax.tree.leaves(features)) // _PHOTOS,
        "step_ms": round(1e3 * time_step(run, step, batch), 2),
        "step_mb": round(planned_bytes(run, step, batch) / 1e6, 1),
        "embed_ms": round(1e3 * embedding / _PHOTOS, 4),
        "score_us": round(1e6 * scoring / (_QUERIES * _GALLERY), 4),
    }


def _as_maps(run: Run, variables: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch as training reads it: maps of the backbone, which stays, in place of images."""

    @jax.jit
    def compute(images: jax.Array) -> Any:
        maps: Any = run.matcher.apply(variables, images, method=backbone_map)
        return maps.astype(jnp.float16)

    maps = {name: compute(batch[name]) for name in ("customer", "shop", "image") if name in batch}
    return FrozenFeatures(np.empty(0), 0).wrap({**batch, **maps})


def _best(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The rounds' smallest times; what else was measured is the same in all."""
    return {name: min(costs[name] for costs in rounds) for name in rounds[0]}


def format_rows(rows: list[dict[str, Any]]) -> str:
    """A Markdown table: accuracy in percent, costs as multiples of the global baseline's."""
    measured = {row["row"]: row for row in rows}
    of_paper = json.loads((RESULTS / "reproduce_grnet_synthetic.json").read_text())["rows"]
    results = find_results(_PAPER, _TABLE, "synthetic", of_paper)
    baseline = measured[_BASELINE]
    lines = []
    for row in _TABLE.rows.values():
        members = [measured[run.label] for run in _runs(row)]
        seeds = [result["protocols"]["all"] for result in results.get(row.number, ())]
        cells = [row.label, str(len(seeds)), format_cell(seeds, "top1"), format_cell(seeds, "map")]
        for name in ("parameters", "numbers"):
            cells.append(f"{sum(member[name] for member in members):,}")
        for name in _COSTS:
            total = sum(member[name] for member in members)
            if name == "step_mb":  # members are trained one after another
                total = max(member[name] for member in members)
            cells.append(f"{total / baseline[name]:.3g} x")
        lines.append(cells)
    costs = ", ".join(
        f"{what} {baseline[name]:.3g} {unit}"
        for name, what, unit in (
            ("step_ms", "a training step on the features of 64 photos takes", "ms"),
            ("step_mb", "for which XLA plans", "MB"),
            ("embed_ms", "embedding a photo", "ms"),
            ("score_us", "scoring a pair", "µs"),
        )
    )
    table = markdown_table(_HEADER, lines)
    return f"{table}\nOf the global baseline on {baseline['machine']}: {costs}.\n"


if __name__ == "__main__":
    main()
