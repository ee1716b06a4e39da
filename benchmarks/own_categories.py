"""FashionNet's categories on a manifest of real photos: from scratch, and from a run on others.

    python -m benchmarks.own_categories --manifest=photos/manifest.csv \\
        --photos="what they are" --start=runs/fashionnet_synthetic

The CSV has image, category and split, train and test. Both rows train as many steps; the second
starts from the parts of `--start` that fit. A row is written as it finishes; run again, the command
goes on with the one that is missing. Writes benchmarks/results/own_categories.json.
"""

import json
from typing import Any

from benchmarks.own_photos import manifest_flags, manifest_parser
from benchmarks.reproduce.printing import format_cell
from benchmarks.results_file import ROOT, ResultsFile, markdown_table, run_command

_STEPS = 600
_FIELDS = (
    "--config.sampler.name=images",
    "--config.model.num_attributes=0",
    "--config.loss.pose.triplets=0",
    "--config.loss.recognition.triplets=0",
    f"--config.train.steps={_STEPS}",
    "--config.train.eval_every=0",
)


def main() -> None:
    """Measures the rows that are missing and prints the table."""
    parser = manifest_parser(__doc__, "runs/fashionnet_synthetic", "runs/own_categories")
    parser.add_argument("--categories", type=int, default=17, help="how many there are (17)")
    options = parser.parse_args()
    flags = [
        "--config=configs/fashionnet.py:synthetic",  # its size
        *manifest_flags(options),
        f"--config.model.num_classes={options.categories}",
        *_FIELDS,
    ]
    tune = [
        f"--config.train.init_from={options.start}",
        "--config.train.init_params=matching_shapes",
    ]
    results = ResultsFile(
        "own_categories",
        "python -m benchmarks.own_categories --manifest=photos/manifest.csv --photos=... "
        "--start=runs/fashionnet_synthetic",
        ("model", "data"),
    )
    systems: dict[str, tuple[str, list[str]]] = {
        f"FashionNet from scratch, {_STEPS} steps": ("scratch", []),
        f"FashionNet trained on the synthetic set, then {_STEPS} steps": ("tuned", tune),
    }
    for name, (folder, fields) in systems.items():
        if results.find(model=name, data=options.photos) is not None:
            continue
        workdir = f"{options.runs}/{folder}"
        run_command("train.py", *flags, *fields, f"--workdir={workdir}")
        run_command("eval.py", f"--workdir={workdir}")
        measured = json.loads((ROOT / workdir / "recognition.json").read_text())
        row = {name: measured[name] for name in ("photos", "values", "intervals")}
        results.add({"model": name, "data": options.photos} | row)
    results.report(format_rows(results.rows))


def format_rows(rows: list[dict[str, Any]]) -> str:
    """A Markdown table in percent with 95% intervals."""
    names = ("category_top1", "category_top3", "category_top5")
    lines = []
    for row in rows:
        metrics = row["values"] | {"intervals_95": row["intervals"]}
        lines.append([row["model"], *(format_cell([metrics], name) for name in names)])
    if rows:
        commonest = 100 * rows[0]["values"]["category_commonest"]
        lines.append(["always the commonest category", f"{commonest:.1f}", "", ""])
    return markdown_table(("model", "top-1", "top-3", "top-5"), lines)


if __name__ == "__main__":
    main()
