"""`make demo` in a fresh clone with a fresh environment: how long, and what it scores.

    python -m benchmarks.demo

Clones the checkout's last commit into a temporary folder and runs the one command there, as a
newcomer does. Writes benchmarks/results/demo.json.
"""

import json
import pathlib
import subprocess
import tempfile
import time

from benchmarks.results_file import ROOT, ResultsFile


def main() -> None:
    """Runs the demo and writes its row."""
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
    results.add({"what": "make demo", "seconds": seconds, **results_json})
    print(f"{seconds} seconds in all. Wrote {results.path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
