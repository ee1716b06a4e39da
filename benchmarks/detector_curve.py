"""Average precision of detectors of drawn photos by training step and CPU second.

    python -m benchmarks.detector_curve [--recipes=imagenet,scratch] [--steps=3000]

Measured on val, each recipe in one run of its own learning-rate schedule. CPU seconds are those of
the whole training with compiling and validation, up to a step as if all steps took the same; they
are not known of a training that was stopped and went on. Writes
benchmarks/results/detector_curve.json.
"""

import resource
from typing import Any

from benchmarks.detected_crops import read_curve
from benchmarks.results_file import ROOT, ResultsFile, make_parser, markdown_table, run_command

_RECIPES: dict[str, tuple[str, ...]] = {
    "imagenet": (),  # as configs/detector.py has it
    "scratch": (
        "--config.model.backbone.name=small_deep",
        "--config.model.backbone.pretrained=",
        "--config.model.backbone.stride=0",
        "--config.model.backbone.frozen_batch_norm=False",
        "--config.model.sampled_masks=0",
        "--config.optimizer.trainable=",
    ),
}
_POINTS = 5
_METRICS = ("box_ap50", "mask_ap50", "box_ap50_any_class")


def main() -> None:
    """Trains what is missing and prints the curves."""
    parser = make_parser(__doc__)
    parser.add_argument("--recipes", default="imagenet", help="of imagenet, scratch (%(default)s)")
    parser.add_argument("--steps", type=int, default=3000, help="of each (%(default)s)")
    parser.add_argument("--runs", default="runs/detector_curve", help="folder (%(default)s)")
    options, given = parser.parse_known_args()
    results = ResultsFile(
        "detector_curve", "python -m benchmarks.detector_curve", ("recipe", "steps")
    )
    for recipe in options.recipes.split(","):
        if results.find(recipe=recipe, steps=options.steps) is None:
            curve = train(recipe, options.steps, f"{options.runs}/{recipe}_{options.steps}", given)
            results.add({"recipe": recipe, "steps": options.steps, "curve": curve})
    results.report(format_rows(results.rows))


def train(recipe: str, steps: int, workdir: str, given: list[str]) -> list[dict[str, Any]]:
    """Trains a recipe and returns its curve: step, CPU seconds where known, and precision."""
    begun, before = (ROOT / workdir).exists(), _child_seconds()
    run_command(
        "train.py",
        "--config=configs/detector.py",
        *_RECIPES[recipe],
        f"--config.train.steps={steps}",
        f"--config.train.eval_every={steps // _POINTS}",
        f"--workdir={workdir}",
        *given,
    )
    each = (_child_seconds() - before) / steps
    curve = read_curve(ROOT / workdir)
    if begun:
        return curve
    return [{**point, "cpu_seconds": round(each * point["step"])} for point in curve]


def _child_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def format_rows(rows: list[dict[str, Any]]) -> str:
    """Returns a Markdown table in percent."""
    lines = [
        [row["recipe"], f"{point['step']} of {row['steps']}", point.get("cpu_seconds", "-")]
        + [f"{100 * point[name]:.1f}" for name in _METRICS]
        for row in rows
        for point in row["curve"]
    ]
    return markdown_table(("recipe", "step", "CPU seconds", *_METRICS), lines)


if __name__ == "__main__":
    main()
