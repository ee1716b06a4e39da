"""Trains and evaluates the rows of a paper's table and prints them beside the paper's.

    python -m benchmarks.reproduce grnet table5
    python -m benchmarks.reproduce grnet table5 --rows=1,4,7 --seeds=3
    python -m benchmarks.reproduce grnet table3 --dataset=deepfashion_c2s --source=DeepFashion/c2s
    python -m benchmarks.reproduce grnet table5 --list
    python -m benchmarks.reproduce kucer table1 --print
    python -m benchmarks.reproduce grnet table3 --dataset=deepfashion_c2s --plan
    python -m benchmarks.reproduce fir table1

On the synthetic set without further flags. A row is written as it finishes; the same command goes
on with the rows that are missing, and with a run where it stopped. Rows that several tables share
are trained once. `--config.FIELD=VALUE` sets a field of every row. Runs from a checkout.
"""

import argparse
import pathlib
import subprocess
import sys
from collections.abc import Sequence

from etils import epath

from benchmarks.reproduce.papers import (
    BREAKDOWNS,
    NAMES,
    RECOGNITION,
    SYNTHETIC,
    Paper,
    Row,
    Table,
    find_paper,
)
from benchmarks.reproduce.plan import ASSUMED_TFLOPS, format_plan
from benchmarks.reproduce.printing import (
    Results,
    attribute_bars,
    format_table,
    heading,
    landmark_curves,
    top_k_curves,
)
from benchmarks.reproduce.runner import (
    FILES,
    Experiment,
    all_commands,
    backbones,
    find_results,
    local_fields,
    make_experiment,
    open_results,
    other_recipes,
    run_experiment,
    show,
    weights_name,
)
from benchmarks.results_file import RESULTS, ROOT, ResultsFile
from grnet_jax.errors import ArgumentParser, InputError, check_at_least
from grnet_jax.runtime import session
from grnet_jax.visualization.plots import plot_bars, plot_curves, plot_top_k, write_plots

_MOST_SEEDS = 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options, rest = _parser().parse_known_args(arguments)
    options.dry = options.list or options.plan or options.print  # runs nothing
    with session():
        given = _fields(rest)
        paper = find_paper(options.paper)
        table = paper.table(options.table)
        if options.dataset not in table.datasets:
            raise InputError(
                f"--dataset: {table.name} is not run on {options.dataset!r}; expected one of "
                f"{list(table.datasets)}"
            )
        if not 1 <= options.seeds <= _MOST_SEEDS:
            raise InputError(f"--seeds: expected 1 to {_MOST_SEEDS}, got {options.seeds}")
        check_at_least("--members", options.members, 0)
        check_at_least("--tflops", options.tflops, 1e-6)
        table = table.on(options.dataset, options.members)
        rows = table.choose(options.rows)
        given = [*_source(options), *given]
        folder = pathlib.Path(options.results).expanduser().resolve()
        results = open_results(paper, options.dataset, _command(options, given), folder)
        files = _files(options, paper, table)
        if options.plan:  # which weights does not matter
            files = {row.weights: "" for row in rows if row.weights} | files
        missing = [row for row in rows if row.file and row.file not in files]
        if options.dry or not options.rows:  # to run, a row that is asked for is not left out
            rows = [row for row in rows if row not in missing]
        experiments = [
            (row, make_experiment(paper, table, row, options.dataset, seed, given, files))
            for seed in range(options.seeds)
            for row in rows
        ]
        runs = pathlib.Path(options.runs).expanduser()
        if options.plan:
            print(format_plan(experiments, options.tflops))
        if options.list:
            _list(experiments, missing, results, runs)
        if not options.dry:
            _warn_of_scratch(experiments)
            groups = any(one.protocols[0] == BREAKDOWNS for one in paper.tables.values())
            _run(experiments, results, runs, groups=groups)
        measured = find_results(paper, table, options.dataset, results.rows, given, files)
        if options.print or not options.dry:
            print(f"\n{format_table(table, options.dataset, measured)}")
            if others := other_recipes(results.rows):
                print(f"\nThe file has rows of other recipes, not shown: {', '.join(others)}")
        if options.dry:
            return 0
        print(f"\nIn {_relative(results.path)}")
        if table.protocols[0] == BREAKDOWNS:
            _plot_runs(experiments, runs)
        if table.curves:
            path = ROOT / runs / f"{paper.name}_{table.name}_{options.dataset}.png"
            _plot(table, options.dataset, measured, path)
    return 0


def _plot(table: Table, dataset: str, results: Results, path: pathlib.Path) -> None:
    """Plots the table's curves: of landmarks, of attributes' recall, or of top-k accuracy."""
    title, figure = heading(table, dataset), None
    if "attribute_recall5" in table.metrics:
        names, recalls = attribute_bars(table, results)
        figure = plot_bars(names, recalls, title, "top-5 recall") if names else None
    elif table.protocols[0] == RECOGNITION:
        if curves := landmark_curves(table, results):
            label = "normalized distance, % of the side of the input"
            figure = plot_curves({"visible landmarks within the distance": curves}, title, label)
    elif curves := top_k_curves(table, dataset, results):
        figure = plot_top_k(curves, title)
    if figure is None:
        print("Nothing to plot: no row of the results file has what the plot shows")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"Wrote {_relative(path)}")


def _warn_of_scratch(experiments: Sequence[tuple[Row, Experiment]]) -> None:
    """Says which rows start from nothing where their papers start from ImageNet's weights."""
    scratch: dict[str, list[str]] = {}
    for row, experiment in experiments:
        for run in experiment.members or (experiment,):
            one = run.start or run
            config = one.read_config()
            name = weights_name(config, one.dataset)
            if name and not config.model.backbone.pretrained:
                scratch.setdefault(name, []).append(f"#{row.number}")
    for name, numbers in scratch.items():
        rows = ", ".join(dict.fromkeys(numbers))
        print(
            f"warning: {rows} train {name} from scratch; the paper starts from ImageNet's weights: "
            f"--weights={name}=FILE (docs/backbones.md)",
            file=sys.stderr,
        )


def _plot_runs(experiments: Sequence[tuple[Row, Experiment]], runs: pathlib.Path) -> None:
    """Draws what each run measured into its folder; runs that are not here are named."""
    for row, experiment in experiments:
        folder = ROOT / runs / experiment.output
        if (folder / "results.json").exists():
            for path in write_plots(epath.Path(folder), epath.Path(folder)):
                print(f"Wrote {_relative(pathlib.Path(path))}")
        else:
            print(f"{_title(row)}: measured elsewhere, {_relative(folder)} is not here to be drawn")


def _run(
    experiments: Sequence[tuple[Row, Experiment]],
    results: ResultsFile,
    runs: pathlib.Path,
    *,
    groups: bool,
) -> None:
    """Makes the rows that are missing, one after another; groups as of `run_experiment`."""
    for number, (row, experiment) in enumerate(experiments, start=1):
        if results.find(**experiment.key) is None:
            title = f"{_title(row)}, seed {experiment.seed}"
            print(f"[{number}/{len(experiments)}] {title}", flush=True)
            try:
                results.add(run_experiment(experiment, runs, groups=groups))
            except subprocess.CalledProcessError as error:
                script = error.cmd[1]
                raise InputError(f"{title}: {script} failed; its message is above") from error


def _list(
    experiments: Sequence[tuple[Row, Experiment]],
    missing: Sequence[Row],
    results: ResultsFile,
    runs: pathlib.Path,
) -> None:
    """Prints every row with all its commands, then those whose file is missing; runs nothing."""
    for row, experiment in experiments:
        state = "to run" if results.find(**experiment.key) is None else "done"
        print(f"{_title(row)}, seed {experiment.seed}: {state}")
        for command in all_commands(experiment, runs):
            print(f"  {show(command)}")
    for row in missing:
        print(f"{_title(row)}: needs {row.kind}, {row.needs}")


def _title(row: Row) -> str:
    return f"#{row.number} {row.label}"


def _relative(path: pathlib.Path) -> pathlib.Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def _fields(rest: Sequence[str]) -> list[str]:
    """The user's `--config.FIELD=VALUE`; all else that was not an option is refused."""
    for word in rest:
        if not (word.startswith("--config.") and "=" in word):
            raise InputError(f"unexpected argument {word!r}; options are --NAME=VALUE")
        if word.startswith("--config.model.backbone.pretrained="):
            raise InputError(
                "--config.model.backbone.pretrained: expected --weights=BACKBONE=FILE, by which "
                "rows of several backbones stand in one table wherever the files lie"
            )
        if word.startswith("--config.seed="):
            raise InputError("--config.seed: every row has its own; expected --seeds=HOW_MANY")
    return list(rest)


def _source(options: argparse.Namespace) -> list[str]:
    """--source as the data set's field."""
    if options.dataset == SYNTHETIC:
        if options.source:
            raise InputError("--source: the synthetic set is drawn by a program and takes none")
        return []
    if options.source:
        return [f"--config.dataset.source={options.source}"]
    if options.dry:
        return []
    raise InputError(
        f"--source: expected where {options.dataset} lies; docs/datasets/{options.dataset}.md "
        "says what it holds"
    )


def _files(options: argparse.Namespace, paper: Paper, table: Table) -> dict[str, str]:
    """--weights by backbone, and --keypoints by what they are."""
    files: dict[str, str] = {}
    rows = [one for row in table.choose() for one in (row, *table.members(row))]
    needed = {"keypoints": {row.keypoints: None for row in rows if row.keypoints}}
    needed["weights"] = {row.weights: None for row in rows if row.weights}
    if options.weights:
        needed["weights"] |= dict.fromkeys(backbones(paper, table, options.dataset))
    for kind, names in needed.items():
        for name, file in getattr(options, kind):
            if name not in names:
                raise InputError(
                    f"--{kind}: {table.name} needs none of {name!r}; it needs {list(names)}"
                )
            path = ROOT / pathlib.Path(file).expanduser()
            if not (options.dry or path.is_file()):
                raise InputError(f"--{kind}={name}: {file}: no such file")
            files[name] = file
    if options.pretrain:
        start = paper.starts.get(options.dataset)
        if not (start and start.dataset):
            raise InputError(
                f"--pretrain: {paper.name} trains on no other data set before {options.dataset}"
            )
        files[start.dataset] = options.pretrain
    return files


def _command(options: argparse.Namespace, given: Sequence[str]) -> str:
    """What makes the row, for the results file; without the folders of this machine."""
    words = ["-m", "benchmarks.reproduce", options.paper, options.table]
    if options.dataset != SYNTHETIC:
        words += [f"--dataset={options.dataset}"]
    if options.rows:
        words += [f"--rows={','.join(map(str, options.rows))}"]
    if options.seeds > 1:
        words += [f"--seeds={options.seeds}"]
    if options.source:
        words += ["--source=DOWNLOADED"]
    if options.members:
        words += [f"--members={options.members}"]
    words += [f"--weights={name}=FILE" for name, _ in options.weights]
    words += [f"--keypoints={name}=FILE" for name, _ in options.keypoints]
    words += ["--pretrain=DOWNLOADED"] if options.pretrain else []
    local = tuple(f"--config.{field}=" for field in local_fields(options.dataset))
    files = tuple(f"--config.{field}=" for field in FILES)
    for word in given:
        name, _, value = word.partition("=")
        is_file = word.startswith(files) and (ROOT / pathlib.Path(value).expanduser()).is_file()
        words += [] if word.startswith(local) else [f"{name}=FILE" if is_file else word]
    return show(words)


def _rows(text: str) -> tuple[int, ...]:
    """Row numbers as the command line gives them."""
    try:
        return tuple(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected row numbers joined by commas, as 1,4"
        ) from None


def _named_file(text: str) -> tuple[str, str]:
    """A backbone's name, or that of keypoints, and its file, as the command line gives them."""
    name, _, file = text.partition("=")
    if not (name and file):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a name and its file, NAME=FILE")
    return name, file


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="python -m benchmarks.reproduce", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.allow_abbrev = False
    add = parser.add_argument
    add("paper", metavar="PAPER", help=f"one of {', '.join(NAMES)}")
    add(
        "table",
        metavar="TABLE",
        help="; ".join(f"{n}: {', '.join(find_paper(n).tables)}" for n in NAMES),
    )
    add("--dataset", default=SYNTHETIC, help="(synthetic)")
    add("--source", default="", help="the data set as you downloaded it; FindFashion's CSV")
    for kind, of in (
        ("weights", "converted ImageNet weights of a backbone"),
        ("keypoints", "keypoints, as joints"),
    ):
        add(
            f"--{kind}",
            type=_named_file,
            action="append",
            default=[],
            help=f"NAME=FILE: {of}, for the rows of that name",
        )
    add("--pretrain", default="", help="the data set that the paper pre-trains on, as downloaded")
    add("--rows", type=_rows, default=(), help="their numbers, as 1,4 (all that are built)")
    add("--seeds", type=int, default=1, help="train each row with so many seeds (1)")
    add("--members", type=int, default=0, help="members of DREML (48, on the synthetic set 4)")
    add("--runs", default="runs/reproduce", help="workdirs of the runs (runs/reproduce)")
    add("--results", default=str(RESULTS), help="folder of the results file (benchmarks/results)")
    add("--list", action="store_true", help="print the rows and their commands, run nothing")
    add("--print", action="store_true", help="print the table as far as it is measured")
    add("--plan", action="store_true", help="print what the rows cost, run nothing")
    add(
        "--tflops",
        type=float,
        default=ASSUMED_TFLOPS,
        help=f"of --plan: 1e12 bfloat16 operations a second, assumed ({ASSUMED_TFLOPS:g})",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
