"""Prepares a data set and prints what it holds.

    python -m input_pipeline.prepare --dataset=synthetic --source=small --dir=data
    python -m input_pipeline.prepare --dataset=manifest --source=photos/manifest.csv --dir=data
    python -m input_pipeline.prepare --dataset=deepfashion_c2s --source=DeepFashion/c2s --check

--check reads all lists and photos, prints every problem, and writes nothing; its exit status is 2
if preparing would stop.
Training and evaluation prepare a missing data set themselves, with the default options. They take a
prepared one however it was prepared; this command refuses it with other options than its own.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pydantic

from input_pipeline.datasets import dataset_names
from input_pipeline.errors import ArgumentParser, InputError, program_name

if TYPE_CHECKING:
    import pandas as pd

    from input_pipeline.config import DatasetConfig, PrepareOptions


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    # Imported here: rendering processes import this module, and need none of these.
    from input_pipeline.config import DatasetConfig, PrepareOptions
    from input_pipeline.dataset import load_dataset

    chosen = {
        name: value
        for name, value in vars(options).items()
        if name in PrepareOptions.model_fields and value is not None
    }
    try:
        prepare_options = PrepareOptions(**chosen)
        dataset_config = DatasetConfig(name=options.dataset, source=options.source, dir=options.dir)
        if options.check:
            return _check(dataset_config, prepare_options)
        dataset = load_dataset(dataset_config, prepare_options)
    except pydantic.ValidationError as error:
        for one in error.errors():
            text = one["msg"].removeprefix("Value error, ")
            print(f"error: --{one['loc'][0]}={one['input']}: {text}", file=sys.stderr)
        return 2
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\n{format_summary(dataset.summary)}\n\nWrote {dataset.directory}")
    if dataset.summary["splits"].get("train", {}).get("pairs"):
        print(f"Next: {_next_command(options)}")
    return 0


def format_summary(summary: Mapping[str, Any]) -> str:
    """Returns tables of the counts, a row for each split, and of those of the release."""
    import pandas as pd

    blocks = []
    if counts := summary["splits"]:
        table = pd.DataFrame(counts).T.rename_axis(index="split")
        shown = [  # those that are 0 in every split, as pairs without items, are left out
            name for name in table if name in ("photos", "bytes") or table[name].any()
        ]
        blocks.append(_format(table[shown].rename(columns=lambda name: name.replace("_", " "))))
    if objects := summary.get("objects_per_category"):
        blocks.append(_format(pd.DataFrame(objects).T.rename_axis(index="objects")))
    if release := summary.get("release"):
        table = pd.DataFrame(release).rename(columns={"what": "count", "found": "right"})
        known = (table["right"] == table["release"]) | (table["right"] == table["paper"])
        table = table.assign(note=known.map({True: "", False: "differs"}))
        blocks.append(_format(table.set_index("count")))
    for title in ("problems", "notes"):
        lines = [f"  {kind}: {count:,}" for kind, count in summary.get(title, {}).items()]
        if lines:
            blocks.append("\n".join([f"{title.capitalize()}:", *lines]))
    return "\n\n".join(blocks)


def _format(table: "pd.DataFrame") -> str:
    def cell(value: Any) -> str:
        if isinstance(value, str):
            return value
        return "" if value is None or value != value else f"{int(value):,}"

    text = table.map(cell).reset_index().to_string(index=False)
    return "\n".join(line.rstrip() for line in text.splitlines())


def _check(dataset: "DatasetConfig", options: "PrepareOptions") -> int:
    from input_pipeline.dataset import check_source

    checked, fatal, summary = check_source(dataset, options)
    for problem in checked.problems:
        print(problem)
    print(f"\n{format_summary(summary)}\n")
    bad = f"{checked.bad_rows():,} bad rows"
    if checked.table.empty:
        print(f"{bad}, and no photo is left: this cannot be prepared.")
        return 2
    if fatal:
        kinds = ",".join(sorted({problem.kind for problem in fatal}))
        print(
            f"{bad}, {len(fatal):,} problems that stop preparing; --on_error=skip leaves "
            f"all bad rows out, --on_error={kinds} those of these kinds."
        )
        return 2
    print(f"{bad} will be left out." if checked.problems else "No problems.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="python -m input_pipeline.prepare", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    names = ", ".join(dataset_names())
    add("--dataset", choices=dataset_names(), default="synthetic", metavar="NAME", help=names)
    add("--check", action="store_true", help="check lists and photos only; write nothing")
    add("--dir", default="data", help="folder of prepared data sets (%(default)s)")
    add(
        "--source",
        default="",
        help="the folder you downloaded; the CSV (manifest, findfashion); small, tiny or colors",
    )
    from input_pipeline.config import PrepareOptions

    for name, declared in PrepareOptions.model_fields.items():
        kind: Any = declared.annotation
        add(f"--{name}", type=kind, help=declared.description)
    return parser


def _next_command(options: argparse.Namespace) -> str:
    flags = [
        f"--config.dataset.{name}={getattr(options, name)}"
        for name, default in {"dir": "data", "source": ""}.items()
        if getattr(options, name) != default
    ]
    config = f"--config=configs/grnet.py:{options.dataset}"
    return shlex.join([*program_name("train").split(), config, *flags])


if __name__ == "__main__":
    sys.exit(main())
