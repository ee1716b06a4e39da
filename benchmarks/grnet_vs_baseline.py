"""GRNet against the global baseline on the synthetic set, the color histogram beside them.

    python -m benchmarks.grnet_vs_baseline [--seeds=3]

Same backbone, data, loss, optimizer and steps; every system through train.py and eval.py. A
row is written as it finishes; run again, the command goes on with the rows that are missing.
Writes benchmarks/results/grnet_vs_baseline.json; the runs stay under --runs.
"""

import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.results_file import ROOT, ResultsFile, make_parser, markdown_table, run_command

_TRAINED = ("grnet", "global_baseline")
_FLOOR = "color_histogram"
_UNTRAINED = (_FLOOR, "zero_shot")
_PROTOCOLS = ("all", "easy", "hard_view", "hard_occlusion", "hard_cropping")
_COLUMNS = {"top1": "top-1", "top5": "top-5", "top20": "top-20", "map": "mAP"}


def main() -> None:
    """Measures what is missing and prints the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="of the trained systems (3)")
    parser.add_argument("--data_dir", default="data", help="prepared data sets (data)")
    parser.add_argument("--runs", default="runs/grnet_vs_baseline", help="workdirs of the runs")
    options = parser.parse_args()
    command = f"python -m benchmarks.grnet_vs_baseline --seeds={options.seeds}"
    results = ResultsFile("grnet_vs_baseline", command, ("model", "seed"))
    runs = [(model, seed) for seed in range(options.seeds) for model in _TRAINED]
    runs.insert(0, (_FLOOR, 0))
    for number, (model, seed) in enumerate(runs, start=1):
        if results.find(model=model, seed=seed) is None:
            print(f"[{number}/{len(runs)}] {model}, seed {seed}", flush=True)
            results.add(measure(model, seed, options.data_dir, f"{options.runs}/{model}_{seed}"))
    results.report(format_rows(results.rows))


def measure(
    model: str, seed: int, data_dir: str, workdir: str, fields: Mapping[str, Any] | None = None
) -> dict:
    """Trains and evaluates one system as a user would; returns its row.

    Args:
      model: its file under configs/.
      seed: of the run.
      data_dir: prepared data sets.
      workdir: of the run.
      fields: config fields that differ from the file's.
    """
    flags = [f"--config=configs/{model}.py:synthetic", f"--config.dataset.dir={data_dir}"]
    started = time.monotonic()
    flags += [f"--config.{name}={value}" for name, value in (fields or {}).items()]
    if model in _UNTRAINED:
        run_command("eval.py", *flags, f"--output={workdir}")
    else:
        run_command("train.py", *flags, f"--config.seed={seed}", f"--workdir={workdir}")
    trained = time.monotonic()
    if model not in _UNTRAINED:
        run_command("eval.py", f"--workdir={workdir}")
    results = json.loads((ROOT / workdir / "results.json").read_text())
    return {
        "model": model,
        "seed": seed,
        "step": results["step"],
        "train_seconds": round(trained - started),
        "eval_seconds": round(time.monotonic() - trained),
        "protocols": results["protocols"],
    }


def format_rows(rows: list[dict]) -> str:
    """A Markdown table of the mean over the seeds and the half-width of their range, percent.

    Under it, where both systems have rows, how many of the baseline's errors GRNet removes.
    """
    lines = []
    for protocol in _PROTOCOLS:
        first = rows[0]["protocols"][protocol]
        title = f"{first['title']}, {first['queries']:,} queries"
        for model in (_FLOOR, *reversed(_TRAINED)):
            chosen = [r["protocols"][protocol] for r in rows if r["model"] == model]
            if chosen:
                cells = [_cell([100 * r[c] for r in chosen]) for c in _COLUMNS]
                name = model.replace("_", " ").replace("grnet", "**GRNet**")
                lines.append([title, name, len(chosen), *cells])
                title = ""
    table = markdown_table(("protocol", "system", "seeds", *_COLUMNS.values()), lines)
    trained = {row["model"] for row in rows} >= set(_TRAINED)
    return f"{table}\n{_errors_removed(rows)}\n" if trained else table


def _errors_removed(rows: list[dict]) -> str:
    parts = []
    for protocol in _PROTOCOLS:
        grnet, baseline = (
            np.mean([r["protocols"][protocol]["top1"] for r in rows if r["model"] == model])
            for model in _TRAINED
        )
        title = rows[0]["protocols"][protocol]["title"].removesuffix(" (synthetic)")
        parts.append(f"{100 * (grnet - baseline) / (1 - baseline):.1f}% ({title})")
    return f"GRNet removes of the baseline's top-1 errors:\n{', '.join(parts)}."


def _cell(values: list[float]) -> str:
    mean = f"{np.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {(max(values) - min(values)) / 2:.1f}"


if __name__ == "__main__":
    main()
