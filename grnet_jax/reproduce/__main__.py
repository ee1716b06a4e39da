"""Trains and evaluates the rows of a paper's table and prints them beside the paper's.

    python -m grnet_jax.reproduce grnet table5
    python -m grnet_jax.reproduce grnet table5 --rows=1,4,7 --seeds=3
    python -m grnet_jax.reproduce grnet table3 --dataset=deepfashion_c2s --source=DeepFashion/c2s
    python -m grnet_jax.reproduce grnet table5 --list
    python -m grnet_jax.reproduce fir table2

On the embedded set without further flags. A row is written as it finishes; the same command goes
on with the rows that are missing, and with a run where it stopped. Rows that several tables share
are trained once. `--config.FIELD=VALUE` sets a field of every row. Runs from a checkout.
"""

import argparse
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from grnet_jax.errors import InputError, check_at_least
from grnet_jax.reproduce.papers import PAPERS, find_paper
from grnet_jax.reproduce.printing import format_table, heading, landmark_curves, top_k_curves
from grnet_jax.reproduce.runner import (
    FREE,
    Experiment,
    commands,
    find_results,
    make_experiment,
    open_results,
    run_experiment,
    shown,
)
from grnet_jax.reproduce.tables import BREAKDOWNS, RECOGNITION, Row, Table
from grnet_jax.results_file import RESULTS, ROOT, ResultsFile
from grnet_jax.runtime import session
from grnet_jax.visualization.plots import plot_curves, write_plots


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options, rest = _parser().parse_known_args(arguments)
    with session():
        given = [word for word in rest if word.startswith("--config.") and "=" in word]
        if rest != given:
            wrong = next(word for word in rest if word not in given)
            raise InputError(f"unexpected argument {wrong!r}; options are --NAME=VALUE")
        if any(word.startswith("--config.seed=") for word in given):
            raise InputError("--config.seed: every row has its own; expected --seeds=HOW_MANY")
        paper = find_paper(options.paper)
        table = paper.table(options.table)
        if options.dataset not in table.datasets:
            raise InputError(
                f"--dataset: {table.name} is not run on {options.dataset!r}; expected one of "
                f"{list(table.datasets)}"
            )
        table = table.on(options.dataset)
        check_at_least("--seeds", options.seeds, 1)
        rows = table.choose(options.rows)
        given = [*_source(options), *given]
        folder = pathlib.Path(options.results).expanduser().resolve()
        results = open_results(paper, options.dataset, _command(options, given), folder)
        files = _files(options, table)
        lacking = [row for row in rows if row.file and row.file not in files]
        if options.list or not options.rows:  # to run, a row that is asked for is not left out
            rows = [row for row in rows if row not in lacking]
        wanted = [
            (row, make_experiment(paper, table, row, options.dataset, seed, given, files))
            for seed in range(options.seeds)
            for row in rows
        ]
        runs = pathlib.Path(options.runs).expanduser()
        if options.list:
            _list(wanted, lacking, results, runs)
            return 0
        _run(wanted, results, runs, groups=paper.breaks_down)
        found = find_results(paper, table, options.dataset, results.rows, given)
        print(f"\n{format_table(table, options.dataset, found)}")
        print(f"\nIn {_shown_path(results.path)}")
        if table.protocols == BREAKDOWNS:
            _plot_runs(wanted, runs)
        if table.curves:
            path = ROOT / runs / f"{paper.name}_{table.name}_{options.dataset}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            title = heading(table, options.dataset)
            _plot(table, options.dataset, found, title).savefig(path)
            print(f"Wrote {_shown_path(path)}")
    return 0


def _plot(
    table: Table, dataset: str, found: Mapping[int, Sequence[Mapping[str, Any]]], title: str
) -> Any:
    """Plots the table's curves: of landmarks, or of top-k accuracy."""
    if table.protocols == (RECOGNITION,):
        panels = {"visible landmarks within the distance": landmark_curves(table, found)}
        return plot_curves(panels, title, "normalized distance, % of the side of the input")
    return plot_curves({"top-k accuracy": top_k_curves(table, dataset, found)}, title)


def _plot_runs(wanted: Sequence[tuple[Row, Experiment]], runs: pathlib.Path) -> None:
    """Draws what each run measured into its folder; runs that are not here are named."""
    for row, experiment in wanted:
        folder = epath.Path(ROOT / runs / experiment.output)
        if (folder / "results.json").exists():
            for path in write_plots(folder, folder):
                print(f"Wrote {_shown_path(pathlib.Path(path))}")
        else:
            place = _shown_path(pathlib.Path(folder))
            print(f"#{row.number} {row.label}: measured elsewhere, {place} is not here to be drawn")


def _run(
    wanted: Sequence[tuple[Row, Experiment]],
    results: ResultsFile,
    runs: pathlib.Path,
    *,
    groups: bool,
) -> None:
    """Makes the rows that are missing, one after another; groups as of `run_experiment`."""
    for number, (row, experiment) in enumerate(wanted, start=1):
        if results.find(**experiment.key) is None:
            what = f"#{row.number} {row.label}, seed {experiment.seed}"
            print(f"[{number}/{len(wanted)}] {what}", flush=True)
            try:
                row_found = run_experiment(experiment, runs, groups=groups)
            except subprocess.CalledProcessError as error:
                raise InputError(f"{what}: {error.cmd[1]} failed; its message is above") from error
            results.add(row_found)


def _list(
    wanted: Sequence[tuple[Row, Experiment]],
    lacking: Sequence[Row],
    results: ResultsFile,
    runs: pathlib.Path,
) -> None:
    """Prints every row with its commands, then those whose file lacks; runs nothing."""
    for row, experiment in wanted:
        state = "to run" if results.find(**experiment.key) is None else "done"
        print(f"#{row.number} {row.label}, seed {experiment.seed}: {state}")
        for command in commands(experiment, runs):
            print(f"  {shown(command)}")
    for row in lacking:
        print(f"#{row.number} {row.label}: needs {row.kind}, {row.needs}")


def _shown_path(path: pathlib.Path) -> pathlib.Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def _source(options: argparse.Namespace) -> list[str]:
    """--source as the data set's field."""
    if options.dataset == "synthetic":
        if options.source:
            raise InputError("--source: the synthetic set is drawn by a program and takes none")
        return []
    if not options.source:
        if options.list:
            return []
        raise InputError(
            f"--source: expected where {options.dataset} lies; docs/datasets/{options.dataset}.md "
            "says what it holds"
        )
    field = "manifest" if options.dataset == "findfashion" else "source"
    return [f"--config.data.{field}={options.source}"]


def _files(options: argparse.Namespace, table: Table) -> dict[str, str]:
    """--weights by backbone, and --points by what they are."""
    found: dict[str, str] = {}
    for kind, given in (("weights", options.weights), ("points", options.points)):
        names = list(dict.fromkeys(row.file for row in table.rows if row.kind == kind))
        for name, file in given:
            if name not in names:
                raise InputError(f"--{kind}: {table.name} needs none of {name!r}; it needs {names}")
            found[name] = file
    return found


def _command(options: argparse.Namespace, given: Sequence[str]) -> str:
    """What makes the row, for the results file; without the folders of this machine."""
    words = ["-m", "grnet_jax.reproduce", options.paper, options.table]
    if options.dataset != "synthetic":
        words += [f"--dataset={options.dataset}"]
    if options.rows:
        words += [f"--rows={','.join(map(str, options.rows))}"]
    if options.seeds > 1:
        words += [f"--seeds={options.seeds}"]
    places = tuple(f"--config.{field}=" for field in FREE)
    if options.source:
        words += ["--source=DOWNLOADED"]
    words += [f"--weights={name}=FILE" for name, _ in options.weights]
    words += [f"--points={name}=FILE" for name, _ in options.points]
    return shown([*words, *(word for word in given if not word.startswith(places))])


def _rows(text: str) -> tuple[int, ...]:
    """Row numbers as the command line gives them."""
    try:
        return tuple(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected row numbers joined by commas, as 1,4"
        ) from None


def _named_file(text: str) -> tuple[str, str]:
    """A backbone's name, or that of points, and its file, as the command line gives them."""
    name, _, file = text.partition("=")
    if not (name and file):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a name and its file, NAME=FILE")
    return name, file


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m grnet_jax.reproduce", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.allow_abbrev = False
    tables = "; ".join(
        f"{name}: {', '.join(table.name for table in paper.tables)}"
        for name, paper in PAPERS.items()
    )
    add = parser.add_argument
    add("paper", metavar="PAPER", help=f"one of {', '.join(PAPERS)}")
    add("table", metavar="TABLE", help=tables)
    add("--dataset", default="synthetic", help="(synthetic)")
    add("--source", default="", help="the data set as you downloaded it; FindFashion's CSV")
    add(
        "--weights",
        type=_named_file,
        action="append",
        default=[],
        help="NAME=FILE: converted weights of a backbone, for the rows that need them",
    )
    add(
        "--points",
        type=_named_file,
        action="append",
        default=[],
        help="NAME=FILE: points of photos, as joints, for the rows that need them",
    )
    add("--rows", type=_rows, default=(), help="their numbers, as 1,4 (all that are built)")
    add("--seeds", type=int, default=1, help="train each row with so many seeds (1)")
    add("--runs", default="runs/reproduce", help="workdirs of the runs (runs/reproduce)")
    add("--results", default=str(RESULTS), help="folder of the results file (benchmarks/results)")
    add("--list", action="store_true", help="print the rows and their commands, run nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
