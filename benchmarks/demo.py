"""`make demo` in a fresh clone with a fresh environment: how long, and what it scores.

    python -m benchmarks.demo

Clones the checkout's last commit into a temporary folder and runs the one command there, as a
newcomer does. Then trains GRNet from random weights beside it: top-1 on validation against minutes
of training, of both. Writes benchmarks/results/demo.json.
"""

import json
import pathlib
import subprocess
import tempfile
import time

from benchmarks.results_file import ROOT, ResultsFile, make_parser, markdown_table, read_curve

_SCRATCH = "python train.py --config=configs/grnet.py"


def main() -> None:
    """Runs the demo and writes its row."""
    make_parser(__doc__).parse_args()
    results = ResultsFile("demo", "python -m benchmarks.demo", ("what",))
    with tempfile.TemporaryDirectory() as folder:
        clone = pathlib.Path(folder) / "grnet_jax"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        started = time.monotonic()
        subprocess.run(["make", "demo"], cwd=clone, check=True)
        seconds = round(time.monotonic() - started)
        results_json = json.loads((clone / "runs/demo/results.json").read_text())
        for page in ("results.html", "explanations.html"):
            (clone / "runs/demo" / page).stat()  # or FileNotFoundError
        curve = read_curve(clone / "runs/demo", ("top1",))
        results.add({"what": "make demo", "seconds": seconds, "curve": curve, **results_json})
        words = [".venv/bin/python", *_SCRATCH.split()[1:], "--workdir=runs/scratch"]
        subprocess.run(words, cwd=clone, check=True)
        results.add({"what": _SCRATCH, "curve": read_curve(clone / "runs/scratch", ("top1",))})
    results.report(format_rows(results.rows))


def format_rows(rows: list[dict]) -> str:
    """A Markdown table: what was run, and top-1 by minutes of training."""
    curves = [
        (row["what"], point["step"], point["minutes"], f"{100 * point['top1']:.1f}")
        for row in rows
        for point in row.get("curve", [])
    ]
    return markdown_table(("command", "step", "minutes", "top-1, validation"), curves)


if __name__ == "__main__":
    main()
