"""Errors of the input pipeline; the messages say what to do."""

import argparse
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

_MOST_SHOWN = 100  # a folder without its images has a problem for each of them


class InputError(ValueError):
    """Input from outside is wrong: a config field, a file, a folder.

    The message says what was passed, what was expected and what to do; commands print it without a
    traceback.
    """


def one_of(values: Sequence[str]) -> str:
    """Returns "a, b or c", for messages."""
    return f"{', '.join(values[:-1])} or {values[-1]}"


def program_name(name: str) -> str:
    """Returns how train.py or eval.py is started here: a checkout has them, an install commands."""
    return f"python {name}.py" if pathlib.Path(f"{name}.py").is_file() else f"grnet-{name}"


class DatasetError(InputError):
    """A data set is missing, damaged or lacks what was asked of it."""


class AnnotationError(DatasetError):
    """Files that list images are wrong, or do not fit the images.

    Attributes:
      problems: all problems, each `FILE:LINE: what is wrong`.
    """

    def __init__(self, problems: Sequence[str], cure: str = "Correct them."):
        self.problems = tuple(problems)
        shown = "\n".join(self.problems[:_MOST_SHOWN])
        if (more := len(self.problems) - _MOST_SHOWN) > 0:
            shown += f"\n... and {more:,} more; python -m input_pipeline.prepare --check lists all"
        count = f"{len(self.problems):,} problem" + ("s" if len(self.problems) != 1 else "")
        super().__init__(f"{count}:\n{shown}\n{cure}")


class ArgumentParser(argparse.ArgumentParser):
    """A parser that refuses --NAME=--, of which argparse of Python 3.11 makes an empty list."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses as argparse does."""
        words = sys.argv[1:] if args is None else args
        for word in words:
            if re.fullmatch("--[^=]+=--", word):
                self.error(f"argument {word[:-3]}: expected a value, got '--'")
        return super().parse_known_args(words, namespace)
