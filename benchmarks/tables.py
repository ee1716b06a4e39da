"""Writes the tables of the result files into README.md and docs/, between their marks.

    python -m benchmarks.tables

A mark is `<!-- results: NAME -->`, NAME a module of benchmarks/ with a `format_rows`,
`<!-- results: NAME PART -->`, one with a `format_PART`, or
`<!-- results: reproduce_PAPER_DATASET TABLE -->`, a paper's table; it ends at
`<!-- end of results -->`. Needs PyTorch where a named module does (`make parity`).
"""

import importlib
import json
import pathlib
import re

from benchmarks.reproduce.papers import find_paper
from benchmarks.reproduce.printing import format_table
from benchmarks.reproduce.runner import find_results
from benchmarks.results_file import RESULTS, ROOT, make_parser

PAGES = (
    "README.md",
    "docs/results.md",
    "docs/backbones.md",
    "docs/choosing.md",
    "docs/evaluation.md",
    "docs/performance.md",
    "docs/search.md",
    "docs/cost.md",
    "docs/detection.md",
    "docs/fashionnet.md",
    "docs/reproduce.md",
)
_MARKED = re.compile(
    r"(<!-- results: (\w+)(?: (\w+))? -->\n).*?(<!-- end of results -->)", re.DOTALL
)


def main() -> None:
    """Fills every page."""
    make_parser(__doc__).parse_args()
    for page in PAGES:
        path = ROOT / page
        path.write_text(fill(path.read_text()))
        print(f"Wrote {page}")


def fill(text: str) -> str:
    """A page with its tables written anew."""
    return _MARKED.sub(lambda mark: f"{mark[1]}\n{_table(mark[2], mark[3])}\n{mark[4]}", text)


def _table(name: str, part: str | None) -> str:
    if name.startswith("reproduce_"):
        return _papers_table(name, part or "") + "\n"
    rows = json.loads(_file(name).read_text())["rows"]
    form = getattr(importlib.import_module(f"benchmarks.{name}"), f"format_{part or 'rows'}")
    return form(rows).rstrip() + "\n"


def _papers_table(name: str, part: str) -> str:
    """A paper's table; without a result file the paper's numbers alone."""
    _, paper, dataset = name.split("_", 2)
    path = RESULTS / f"{name}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    source = find_paper(paper)
    table = source.table(part).on(dataset)
    return format_table(table, dataset, find_results(source, table, dataset, rows))


def _file(name: str) -> pathlib.Path:
    """Measurements of speed and memory have a file for each kind of device; the CPU's is shown."""
    plain = RESULTS / f"{name}.json"
    return plain if plain.exists() else RESULTS / f"{name}_cpu.json"


if __name__ == "__main__":
    main()
