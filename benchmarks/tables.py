"""Writes the tables of the result files into README.md and docs/, between their marks.

    python -m benchmarks.tables

A mark is `<!-- results: NAME -->`, NAME a module of benchmarks/ with a `format_rows`; its table
ends at `<!-- end of results -->`. Needs PyTorch where a named module does (`make parity`).
"""

import importlib
import json
import pathlib
import re

from benchmarks.results_file import ROOT

PAGES = ("README.md", "docs/performance.md", "docs/evaluation.md")
_MARKED = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end of results -->)", re.DOTALL)
_FOLDER = ROOT / "benchmarks" / "results"


def main() -> None:
    """Fills every page."""
    for page in PAGES:
        path = ROOT / page
        path.write_text(fill(path.read_text()))
        print(f"Wrote {page}")


def fill(text: str) -> str:
    """A page with its tables written anew."""
    return _MARKED.sub(lambda mark: f"{mark[1]}\n{_table(mark[2])}\n{mark[3]}", text)


def _table(name: str) -> str:
    rows = json.loads(_file(name).read_text())["rows"]
    return importlib.import_module(f"benchmarks.{name}").format_rows(rows).rstrip() + "\n"


def _file(name: str) -> pathlib.Path:
    """Measurements of speed and memory have a file for each kind of device; the CPU's is shown."""
    plain = _FOLDER / f"{name}.json"
    return plain if plain.exists() else _FOLDER / f"{name}_cpu.json"


if __name__ == "__main__":
    main()
