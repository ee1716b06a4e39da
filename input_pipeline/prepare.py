"""Prepares a data set and tells what it holds.

    python -m input_pipeline.prepare --dataset=synthetic --size=small --dir=data
    python -m input_pipeline.prepare --dataset=manifest --manifest=photos/manifest.csv --dir=data

Training and evaluation prepare what is missing by themselves; this does it ahead of time.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from grnet_jax.errors import InputError
from grnet_jax.photos import MAX_PIXELS

if TYPE_CHECKING:
    from input_pipeline.dataset import Dataset


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    # Imported here: rendering processes import this module, and need none of these.
    import ml_collections

    from input_pipeline.dataset import load_dataset

    fields = {name: value for name, value in vars(options).items() if name != "dataset"}
    data = ml_collections.ConfigDict({**fields, "name": options.dataset})
    try:
        dataset = load_dataset(data)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\n{format_summary(dataset)}\n\nWrote {dataset.directory}")
    print(f"Next: {_next_command(options)}")
    return 0


def format_summary(dataset: "Dataset") -> str:
    """A table of the counts, a row for each split."""
    counts = {name: dataset.summary["splits"][name] for name in dataset.splits}
    columns = list(next(iter(counts.values())))
    table = [["split", *(column.replace("_", " ") for column in columns)]]
    table += [
        [name, *(f"{count[column]:,}" for column in columns)] for name, count in counts.items()
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in table
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m input_pipeline.prepare", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--dataset", choices=("synthetic", "manifest"), default="synthetic")
    add("--dir", default="data", help="folder of prepared data sets (%(default)s)")
    add("--size", default="small", help="synthetic: small or tiny (%(default)s)")
    add("--train_items", type=int, default=0, help="synthetic: 0 for the size's own")
    add("--seed", type=int, default=0, help="synthetic: draws another set (%(default)s)")
    add("--manifest", default="", help="manifest: path of the CSV")
    add("--on_bad_row", default="error", help="manifest: error, or skip bad rows (%(default)s)")
    add("--max_pixels", type=int, default=MAX_PIXELS, help="largest photo (%(default)s pixels)")
    return parser


def _next_command(options: argparse.Namespace) -> str:
    used = {
        "synthetic": ("dir", "size", "train_items", "seed"),
        "manifest": ("dir", "manifest", "on_bad_row", "max_pixels"),
    }
    defaults = _parser().parse_args([])
    given = [
        f"--config.data.{name}={getattr(options, name)}"
        for name in used[options.dataset]
        if name == "dir" or getattr(options, name) != getattr(defaults, name)
    ]
    return shlex.join(
        ["python", "train.py", f"--config=configs/grnet.py:{options.dataset}", *given]
    )


if __name__ == "__main__":
    sys.exit(main())
