"""GRNet on a manifest of real photos: as the demo left it, tuned on them, and from scratch.

    python -m benchmarks.own_photos --manifest=photos/manifest.csv --start=runs/demo

The colour histogram stands beside it. Writes benchmarks/results/own_photos.json.
"""

import argparse
import json

from grnet_jax.results_file import ROOT, ResultsFile, run_command

_STEPS = 200


def main() -> None:
    """Measures the four rows and prints them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", required=True, help="CSV with train and test photos")
    parser.add_argument("--photos", default="", help="what the photos are, for the file")
    parser.add_argument("--start", default="runs/demo", help="run to start from (runs/demo)")
    parser.add_argument("--data_dir", default="data", help="prepared data sets (data)")
    parser.add_argument("--runs", default="runs/own_photos", help="workdirs of the runs")
    options = parser.parse_args()
    data = [f"--config.data.manifest={options.manifest}", f"--config.data.dir={options.data_dir}"]
    train = [f"--config.train.steps={_STEPS}"]
    tune = [*train, f"--config.train.init_from={options.start}"]
    tune.append("--config.optimizer.learning_rate=3e-4")
    results = ResultsFile(
        "own_photos",
        "python -m benchmarks.own_photos --manifest=photos/manifest.csv --start=runs/demo",
        ("model",),
    )
    systems = {
        "colour_histogram": ("colour_histogram", f"{options.runs}/colour_histogram", []),
        "grnet, trained on the synthetic set": ("grnet", options.start, []),
        f"grnet, then {_STEPS} steps on these photos": ("grnet", f"{options.runs}/tuned", tune),
        f"grnet, {_STEPS} steps on these photos": ("grnet", f"{options.runs}/scratch", train),
    }
    for name, (config, workdir, fields) in systems.items():
        flags = [f"--config=configs/{config}.py:manifest", *data, *fields, f"--workdir={workdir}"]
        if fields:
            run_command("train.py", *flags)
        output = f"{options.runs}/{config}_untuned" if workdir == options.start else workdir
        run_command("eval.py", *flags, f"--output={output}")
        found = json.loads((ROOT / output / "results.json").read_text())
        results.add({"model": name, "photos": options.photos, "protocols": found["protocols"]})
        figures = found["protocols"]["all"]
        print(f"{name}: " + ", ".join(f"{k} {figures[k]:.3f}" for k in ("top1", "top5", "top20")))
    print(f"Wrote {results.path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
