"""What benchmarks share: the files under benchmarks/results/, their tables, and commands.

A file has what was run, where, on which commit, and its rows.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from etils import epath

from grnet_jax.evaluation.provenance import source_commit
from input_pipeline import AnnotationError, ArgumentParser, InputError, write_file
from input_pipeline.files import read_json

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


class ResultsFile:
    """Rows that are written as they finish, so that a stopped measurement goes on.

    Args:
      name: of the file, without ".json".
      command: that makes it, as a user would type it.
      keys: the fields that tell rows apart.
      folder: of the file.
    """

    def __init__(
        self, name: str, command: str, keys: Sequence[str], folder: pathlib.Path = RESULTS
    ):
        self.path = folder / f"{name}.json"
        self._command = command
        self._keys = tuple(keys)
        self.rows: list[dict[str, Any]] = []
        if self.path.exists():
            try:
                self.rows = [{**row} for row in read_json(epath.Path(self.path))["rows"]]
                self.find(**dict.fromkeys(keys))
            except (AnnotationError, KeyError, TypeError) as error:
                raise InputError(f"{self.path}: not the results of a benchmark: {error}") from error

    def find(self, **keys: Any) -> dict[str, Any] | None:
        """The row with these key fields, None if it was not measured yet."""
        for row in self.rows:
            if all(row[name] == value for name, value in keys.items()):
                return row
        return None

    def add(self, row: dict[str, Any]) -> None:
        """Writes the file with this row, in the place of an older one with the same keys.

        Each row keeps the command, commit and machine that made it; the file's are the last's.
        """
        row = row | {"command": self._command, "commit": commit(), "machine": machine()}
        same = tuple(row[name] for name in self._keys)
        self.rows = [r for r in self.rows if tuple(r[name] for name in self._keys) != same]
        self.rows.append(row)
        content = {
            "command": self._command,
            "machine": row["machine"],
            "commit": row["commit"],
            "rows": self.rows,
        }
        write_file(epath.Path(self.path), json.dumps(content, indent=1) + "\n")

    def report(self, table: str) -> None:
        """Prints a table of the rows, and where they are."""
        print(table)
        print(f"Wrote {self.path.relative_to(ROOT)}")


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Returns a benchmark's parser, whose help is the module's docstring as it is written."""
    return ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table in Markdown, a line for each row of cells."""
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]]) + "\n"


def machine() -> str:
    """The processor and the number of cores that may be used."""
    names = [platform.processor() or platform.machine()]
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ] or names
    return f"{names[0]}, {os.cpu_count()} cores"


def commit() -> str:
    """The checkout's commit, with "+" if files of the code differ; "unknown" without git."""
    found = source_commit()
    return found["commit"] + "+" * found["dirty"] if found else "unknown"


def read_curve(workdir: pathlib.Path, names: Sequence[str]) -> list[dict[str, float]]:
    """Returns a run's validations, as TensorBoard's files have them.

    Each has its step, minutes since the run began, and these metrics.
    """
    import tensorflow as tf

    started = (workdir / "config.json").stat().st_mtime
    curve: dict[int, dict[str, float]] = {}
    for path in sorted(workdir.glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            minutes = round((event.wall_time - started) / 60, 1)
            for value in event.summary.value:
                if (name := value.tag.removeprefix("val/")) in names:
                    number = round(float(tf.make_ndarray(value.tensor)), 4)
                    point = curve.setdefault(event.step, {"step": event.step, "minutes": minutes})
                    point[name] = number
    return list(curve.values())


def in_new_process(function: Callable[..., Any], **arguments: Any) -> Any:
    """Returns what a module's function gives in a process of its own, without earlier memory."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(function, **arguments).result()


def run_command(*command: str) -> None:
    """Runs train.py or eval.py as a user would; its failure is ours.

    Ctrl-C and SIGTERM end us only after the command, which saves a checkpoint first.

    Raises:
      subprocess.CalledProcessError: the command failed.
      SystemExit: it ended after such a signal.
    """
    came: list[int] = []

    def note(number: int, _: object) -> None:
        came.append(number)
        if number == signal.SIGTERM:  # Ctrl-C reaches both of us
            process.send_signal(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT)
    before = [signal.signal(number, note) for number in numbers]
    try:
        status = process.wait()
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    if came:
        sys.exit(128 + came[0])  # as shells have it
    if status:
        raise subprocess.CalledProcessError(status, process.args)
