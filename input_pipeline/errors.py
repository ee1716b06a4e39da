"""Errors of the input pipeline; the messages say what to do."""

import sys
from collections.abc import Sequence


class InputError(ValueError):
    """Input from outside is wrong: a config field, a file, a folder.

    The message says what was passed, what was expected and what to do; commands print it without a
    traceback.
    """


def one_of(values: Sequence[str]) -> str:
    """Returns "a, b or c", for messages."""
    return f"{', '.join(values[:-1])} or {values[-1]}"


class DatasetError(InputError):
    """A data set is missing, damaged or lacks what was asked of it."""


class ListError(InputError):
    """Files that list photos are wrong.

    Attributes:
      problems: all problems, each `FILE:LINE: what is wrong`.
    """

    subject = "the list of photos has"
    most_shown = sys.maxsize

    def __init__(self, problems: Sequence[str], rows_can_be_skipped: bool = False):
        self.problems = tuple(problems)
        shown = "\n".join(self.problems[: self.most_shown])
        more = len(self.problems) - self.most_shown
        if more > 0:
            shown += f"\n... and {more} more; python -m input_pipeline.prepare --check lists all"
        count = f"{len(self.problems)} problem" + ("s" if len(self.problems) != 1 else "")
        cure = "Correct them"
        if rows_can_be_skipped:
            cure += (
                ", or leave bad rows out: python -m "
                "input_pipeline.prepare ... --on_error=skip, or kinds of problems in its place"
            )
        super().__init__(f"{self.subject} {count}:\n{shown}\n{cure}.")


class ManifestError(ListError):
    """A manifest is wrong; each problem is `FILE:LINE: field 'NAME': what is wrong`."""

    subject = "the manifest has"


class AnnotationError(ListError, DatasetError):
    """The annotation files of a benchmark are wrong, or do not fit its photos."""

    subject = "the annotation files have"
    most_shown = 100  # a folder without its photos has one for each of them
