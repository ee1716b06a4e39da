"""A detector on photos of your own with objects: from scratch, and from one of drawn photos.

    python -m benchmarks.own_objects --source=street --photos="what they are" \\
        --start=runs/detector_synthetic_objects

SOURCE is a folder in COCO's form with one annotations.json, whose images are portrait. Every fifth
image is held out and measured: AP50 with the middle 95% of bootstraps over photos. Both rows train
as many steps; the second starts from what fits of `--start`. A row is written as it finishes; run
again, the command goes on with the one that is missing. Writes
benchmarks/results/own_objects.json.
"""

import json
import pathlib
from typing import Any

from benchmarks.results_file import ROOT, ResultsFile, make_parser, markdown_table, run_command
from input_pipeline.files import read_object

_METRICS = ("box_ap50", "box_ap50_any_class", "box_ap", "mask_ap50")
_FIELDS = (
    "--config.dataset.name=coco",
    "--config.model.canvas=(320,224)",
    "--config.model.anchor_sizes=(16.0,32.0,64.0,128.0)",
    "--config.model.detections=40",
    "--config.augment.scale_jitter=0.25",
    "--config.train.eval_every=0",
)


def main() -> None:
    """Measures the rows that are missing and prints the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--source", required=True, help="folder with annotations.json and images")
    parser.add_argument("--photos", required=True, help="what they are, for the results")
    parser.add_argument("--start", default="runs/detector_synthetic_objects", help="a run")
    parser.add_argument("--steps", type=int, default=600, help="of each training (%(default)s)")
    parser.add_argument("--runs", default="runs/own_objects", help="folder (%(default)s)")
    options = parser.parse_args()
    runs = ROOT / options.runs
    classes = hold_out(pathlib.Path(options.source), runs / "photos")
    flags = [
        "--config=configs/detector.py",
        f"--config.dataset.source={runs / 'photos'}",
        f"--config.dataset.dir={runs / 'data'}",
        f"--config.model.num_classes={classes}",
        f"--config.train.steps={options.steps}",
        *_FIELDS,
    ]
    tune = [
        f"--config.train.init_from={options.start}",
        "--config.train.init_params=matching_shapes",
        "--config.model.backbone.pretrained=",
    ]
    command = "python -m benchmarks.own_objects --source=... --photos=... --start=..."
    results = ResultsFile("own_objects", command, ("model", "photos", "steps"))
    for model, fields in {"from scratch": [], "from drawn photos": tune}.items():
        keys = {"model": model, "photos": options.photos, "steps": options.steps}
        if results.find(**keys) is None:
            workdir = runs / f"{model.split()[1]}_{options.steps}"
            run_command("train.py", *flags, *fields, f"--workdir={workdir}")
            run_command("eval.py", f"--workdir={workdir}")
            measured = json.loads((workdir / "detection.json").read_text())
            kept = {name: measured[name] for name in ("values", "intervals", "classes")}
            results.add(keys | {"held_out": measured["photos"]} | kept)
    results.report(format_rows(results.rows))


def hold_out(source: pathlib.Path, folder: pathlib.Path) -> int:
    """Writes the source as a folder in COCO's form whose every fifth image is val.

    Returns:
      The number of categories.
    """
    content: Any = read_object(source / "annotations.json", "annotations in COCO's form")
    for place, image in enumerate(sorted(content["images"], key=lambda image: str(image["id"]))):
        image["split"] = "train" if place % 5 else "val"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "annotations.json").write_text(json.dumps(content))
    images, link = source.resolve(), folder / "images"
    if not link.exists():
        link.symlink_to(images / "images" if (images / "images").exists() else images)
    return len(content["categories"])


def format_rows(rows: list[dict[str, Any]]) -> str:
    """Returns a Markdown table in percent, with the interval of AP50."""
    lines = []
    for row in rows:
        cells = [f"{100 * row['values'][name]:.1f}" for name in _METRICS]
        low, high = row["intervals"]["box_ap50"]
        cells[0] += f" ({100 * low:.1f}-{100 * high:.1f})"
        lines.append([row["model"], row["steps"], row["held_out"], *cells])
    return markdown_table(("model", "steps", "photos held out", *_METRICS), lines)


if __name__ == "__main__":
    main()
