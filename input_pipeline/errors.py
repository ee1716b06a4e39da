"""Errors of the input pipeline; the messages say what to do."""

from collections.abc import Sequence

from grnet_jax.errors import InputError


class DatasetError(InputError):
    """A prepared data set is missing, damaged or cannot serve what was asked of it."""


class ManifestError(InputError):
    """A manifest is wrong.

    Attributes:
      problems: every problem found, each `FILE:LINE: field 'NAME': what is wrong`.
    """

    def __init__(self, problems: Sequence[str], rows_can_be_skipped: bool = False):
        self.problems = tuple(problems)
        shown = "\n".join(self.problems)
        count = f"{len(self.problems)} problem" + ("s" if len(self.problems) != 1 else "")
        cure = "Correct them"
        if rows_can_be_skipped:
            cure += ", or set config.data.on_bad_row=skip to leave bad rows out"
        super().__init__(f"the manifest has {count}:\n{shown}\n{cure}.")
