"""How well a detector crops the photos of the synthetic set to their garments.

    python -m benchmarks.detected_crops

Trains the detector that `python -m benchmarks.reproduce kucer table1` crops by, in the same folder,
measures its average precision on val, finds its boxes, and compares what each photo is cropped to
with the garment's own box. Each part is done once: the same command goes on where it was stopped.
`--config.dataset.FIELD=VALUE` is as there. With `--workdir=RUN` it measures another trained
detector of drawn photos. Writes benchmarks/results/detected_crops.json.
"""

import json
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.reproduce.papers import SYNTHETIC, find_paper
from benchmarks.reproduce.runner import boxes_of_run, find_boxes, make_experiment
from benchmarks.results_file import (
    ROOT,
    ResultsFile,
    make_parser,
    markdown_table,
    read_curve,
    run_command,
)
from grnet_jax.detection.boxes import iou
from input_pipeline import DOMAINS, DatasetConfig, InputError, Split, load_dataset

_OVERLAP = 0.5  # IoU from which a crop shows the garment
CURVE = ("box_ap50", "mask_ap50", "box_ap50_any_class")
_SPLITS = ("train", "val", "test")


def main() -> None:
    """Does what is missing and prints the shares."""
    parser = make_parser(__doc__)
    parser.add_argument("--runs", default="runs/reproduce", help="as of benchmarks.reproduce")
    parser.add_argument("--workdir", default="", help="run of another detector (the table's)")
    options, given = parser.parse_known_args()
    paper, runs = find_paper("kucer"), pathlib.Path(options.runs)
    table = paper.table("table1")
    cropped = next(row for row in table.choose() if "image.shop_crop" in row.fields)
    detector = make_experiment(paper, table, cropped, SYNTHETIC, given=given).detector
    if detector is None:
        raise InputError(f"{given}: expected --config.dataset.FIELD=VALUE alone")
    if options.workdir:
        workdir = pathlib.Path(options.workdir)
        name, boxes = workdir.name, boxes_of_run(workdir, detector.settings)
    else:
        workdir = runs / detector.workdir
        name, boxes = detector.name, find_boxes(detector, runs)
    if not (ROOT / workdir / "detection.json").exists():
        run_command("eval.py", f"--workdir={workdir}")
    measured = json.loads((ROOT / workdir / "detection.json").read_text())
    config = detector.read_config().dataset
    dataset = load_dataset(DatasetConfig(name=SYNTHETIC, source=config.source, dir=config.dir))
    results = ResultsFile("detected_crops", "python -m benchmarks.detected_crops", ("run",))
    results.add(
        {
            "run": name,
            **{name: measured[name] for name in ("step", "values", "classes")},
            "curve": read_curve(ROOT / workdir, CURVE),
            "crops": {name: measure_crops(dataset.split(name), str(boxes)) for name in _SPLITS},
        }
    )
    results.report(format_rows(results.rows))


def measure_crops(split: Split, boxes: str) -> dict[str, dict[str, float]]:
    """Returns by domain how many photos a split has, and of their crops by a file of boxes the mean
    IoU with the garment's box, the share that has `_OVERLAP`, and the share that is the whole.
    """
    index, crops = split.index, split.detected(boxes)
    pairs = (jnp.asarray(of)[:, None] for of in (crops, index.box))
    overlap = np.asarray(iou(*pairs))[:, 0, 0]
    whole = np.pad(index.size[:, ::-1], [(0, 0), (2, 0)])
    is_whole = (crops == whole).all(axis=1)
    measured = {}
    for number, name in enumerate(DOMAINS):
        of = index.domain == number
        shares = {"share": overlap[of] >= _OVERLAP, "iou": overlap[of], "whole": is_whole[of]}
        means = {key: round(float(values.mean()), 4) for key, values in shares.items()}
        measured[name] = {"photos": int(of.sum()), **means}
    return measured


def format_rows(rows: list[dict[str, Any]]) -> str:
    """Returns a Markdown table in percent."""
    head = ("steps", "split", "domain", "photos", f"IoU of {_OVERLAP:g} or more")
    lines = [
        [f"{row['step']:,}", split, domain, f"{of['photos']:,}"]
        + [f"{100 * of[name]:.1f}" for name in ("share", "iou", "whole")]
        for row in rows
        for split, domains in row["crops"].items()
        for domain, of in domains.items()
    ]
    return markdown_table((*head, "mean IoU", "taken whole"), lines)


if __name__ == "__main__":
    main()
