"""Every system on a manifest of real photos, trained on them from what the demo left.

    python -m benchmarks.own_photos --manifest=photos/manifest.csv --start=runs/demo

GRNet also as the demo left it and from scratch; the other systems start from its backbone alone.
The color histogram stands beside them. A row is written as it finishes; run again, the command
goes on with the rows that are missing. Writes benchmarks/results/own_photos.json.
"""

import json
from typing import Any

from benchmarks.reproduce.printing import format_cell
from benchmarks.results_file import ROOT, ResultsFile, make_parser, run_command
from grnet_jax.evaluation.reports import column_title

_STEPS = 200
# Configs of the other systems, with what they are called.
_OTHERS = {
    "global_baseline": "global baseline",
    "kpm": "KPM",
    "local_matching": "greedy local matching",
    "embedding": "triplets",
    "fir": "categories and triplets (OC+IS)",
    "dreml": "DREML, one member",
    "detect_then_retrieve": "detect-then-retrieve, triplets",
}


def main() -> None:
    """Measures the rows that are missing and prints the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--manifest", required=True, help="CSV with train and test photos")
    parser.add_argument("--photos", default="", help="what the photos are, for the file")
    parser.add_argument("--start", default="runs/demo", help="run to start from (runs/demo)")
    parser.add_argument("--data_dir", default="data", help="prepared data sets (data)")
    parser.add_argument("--runs", default="runs/own_photos", help="workdirs of the runs")
    options = parser.parse_args()
    data = [
        "--config.dataset.name=manifest",
        f"--config.dataset.source={options.manifest}",
        f"--config.dataset.dir={options.data_dir}",
    ]
    train = [f"--config.train.steps={_STEPS}"]
    tune = [*train, f"--config.train.init_from={options.start}"]
    tune.append("--config.optimizer.learning_rate=3e-4")
    results = ResultsFile(
        "own_photos",
        "python -m benchmarks.own_photos --manifest=photos/manifest.csv --start=runs/demo",
        ("model",),
    )
    systems = {
        "color histogram": ("color_histogram", f"{options.runs}/color_histogram", []),
        "GRNet, trained on the synthetic set": ("grnet", options.start, []),
        f"GRNet, then {_STEPS} steps on these photos": ("grnet", f"{options.runs}/tuned", tune),
        f"GRNet from scratch, {_STEPS} steps on these photos": (
            "grnet",
            f"{options.runs}/scratch",
            train,
        ),
    }
    backbone = [*tune, "--config.train.init_params=backbone"]
    for config, title in _OTHERS.items():
        name = f"{title}, {_STEPS} steps on these photos"
        fields = [*backbone, "--config.model.num_classes=50"] if config == "fir" else backbone
        systems[name] = (config, f"{options.runs}/{config}", fields)
    for name, (config, workdir, fields) in systems.items():
        if results.find(model=name) is not None:
            continue
        file = f"--config=configs/{config}.py:synthetic"  # its size
        if fields:
            run_command("train.py", file, *data, *fields, f"--workdir={workdir}")
        output = f"{options.runs}/{config}_untuned" if workdir == options.start else workdir
        run = file if config == "color_histogram" else f"--workdir={workdir}"
        run_command("eval.py", run, *data, f"--output={output}")
        measured = json.loads((ROOT / output / "results.json").read_text())
        results.add({"model": name, "photos": options.photos, "protocols": measured["protocols"]})
    results.report(format_rows(results.rows))


def format_rows(rows: list[dict[str, Any]]) -> str:
    """A Markdown table in percent with 95% intervals."""
    names = ("top1", "top5", "top20", "map")
    lines = [
        "| system | " + " | ".join(column_title(name) for name in names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for row in rows:
        cells = [format_cell([row["protocols"]["all"]], name) for name in names]
        lines.append(f"| {row['model']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
