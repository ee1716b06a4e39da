"""Every system on a manifest of real photos.

    python train.py --config=configs/grnet.py
    python -m benchmarks.own_photos --manifest=photos/manifest.csv --photos="what they are"

ImageNet features without training, and what learns on them, in three seeds. Then the small network,
trained on from GRNet's run on the synthetic set: GRNet also as that run left it and from scratch;
the other systems start from its backbone alone. The color histogram stands beside them. A row is
written as it finishes; run again, the command goes on with the rows that are missing. Writes
benchmarks/results/own_photos.json.
"""

import argparse
import json
from typing import Any

from benchmarks.reproduce.printing import format_cell
from benchmarks.results_file import ROOT, ResultsFile, make_parser, markdown_table, run_command
from grnet_jax.evaluation.reports import column_title

_STEPS = 200
# By title the config of systems on ImageNet features, the seed, and flags.
_FROZEN: dict[str, tuple[str, int, list[str]]] = {
    "ImageNet features, untrained, 224 pixels": ("zero_shot", 0, []),
    "ImageNet features, untrained, 288 pixels": ("zero_shot", 0, ["--config.image.size=288"]),
} | {
    f"{title}, seed {seed}": (config, seed, [])
    for title, config in (
        ("contrastive embedding of ImageNet features", "contrastive"),
        ("GRNet, aligned, on ImageNet features", "grnet_aligned"),
    )
    for seed in range(3)
}
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
    options = manifest_parser(__doc__, "runs/grnet_synthetic", "runs/own_photos").parse_args()
    data = manifest_flags(options)
    train = [f"--config.train.steps={_STEPS}"]
    tune = [*train, f"--config.train.init_from={options.start}"]
    tune.append("--config.optimizer.learning_rate=3e-4")
    results = ResultsFile(
        "own_photos",
        "python -m benchmarks.own_photos --manifest=photos/manifest.csv",
        ("model",),
    )

    def add(name: str, run: list[str], output: str) -> None:
        run_command("eval.py", *run, *data, f"--output={output}")
        measured = json.loads((ROOT / output / "results.json").read_text())
        results.add({"model": name, "photos": options.photos, "protocols": measured["protocols"]})

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
    for name, (config, seed, flags) in _FROZEN.items():
        if results.find(model=name) is None:
            workdir = f"{options.runs}/{config}_{seed}"
            file = f"--config=configs/{config}.py:manifest"
            run = [file, *flags]
            if config != "zero_shot":
                run_command(
                    "train.py", file, *data, f"--config.seed={seed}", f"--workdir={workdir}"
                )
                run = [f"--workdir={workdir}"]
            add(name, run, workdir)
    for name, (config, workdir, fields) in systems.items():
        if results.find(model=name) is not None:
            continue
        file = f"--config=configs/{config}.py:synthetic"  # its size
        if fields:
            run_command("train.py", file, *data, *fields, f"--workdir={workdir}")
        output = f"{options.runs}/{config}_untuned" if workdir == options.start else workdir
        flag = file if config == "color_histogram" else f"--workdir={workdir}"
        add(name, [flag], output)
    results.report(format_rows(results.rows))


def manifest_parser(description: str | None, start: str, runs: str) -> argparse.ArgumentParser:
    """Returns the options of measuring on a manifest's photos, with these defaults."""
    parser = make_parser(description)
    parser.add_argument("--manifest", required=True, help="CSV with train and test photos")
    parser.add_argument("--photos", required=True, help="what the photos are, for the file")
    parser.add_argument("--start", default=start, help=f"run to start from ({start})")
    parser.add_argument("--data_dir", default="data", help="prepared data sets (data)")
    parser.add_argument("--runs", default=runs, help=f"workdirs of the runs ({runs})")
    return parser


def manifest_flags(options: argparse.Namespace) -> list[str]:
    """Returns the flags of train.py and eval.py that name the manifest's data set."""
    return [
        "--config.dataset.name=manifest",
        f"--config.dataset.source={options.manifest}",
        f"--config.dataset.dir={options.data_dir}",
    ]


def format_rows(rows: list[dict[str, Any]]) -> str:
    """A Markdown table in percent with 95% intervals."""
    names = ("top1", "top5", "top20", "map")
    order = {name: number for number, name in enumerate(["color histogram", *_FROZEN])}
    lines = [
        [row["model"], *(format_cell([row["protocols"]["all"]], name) for name in names)]
        for row in sorted(rows, key=lambda row: order.get(row["model"], len(order)))
    ]
    return markdown_table(("system", *map(column_title, names)), lines)


if __name__ == "__main__":
    main()
