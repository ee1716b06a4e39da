"""Which problems stop a preparation, and which only leave out the rows that have them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from input_pipeline.errors import DatasetError

# Every kind of problem there is, and what it means.
KINDS: Mapping[str, str] = {
    "attributes": "a value other than 1, -1 and 0, or another number of values than of attributes",
    "box": "no four numbers, without size, or outside the photo",
    "category": "a category that the format does not have",
    "clothes type": "a value that there is not, or that two files contradict",
    "domain": "a customer's photo in the place of a shop's, or both",
    "duplicate row": "a photo listed twice, or with two different boxes, landmarks or categories",
    "empty cell": "nothing where something is needed",
    "fields": "too few or too many fields, or fields of another type; a control character",
    "item in two splits": "told at the second",
    "landmarks": "their number does not fit the garment, no numbers, or outside the photo",
    "missing photo": "no such file",
    "number of cells": "a row with more or fewer cells than the header",
    "outline": "a garment's outline or mask that is none",
    "path": "a path that leads out of the folder of the photos",
    "photo size": "another size than the file says",
    "photo without a box": "listed, but no file says where its garments are",
    "photo without a category": "listed, but not in the file of categories",
    "pose type": "a value that there is not",
    "row count": "another number of rows than the file says",
    "source type": "a value that there is not",
    "type of a name": "an attribute or category of a type that there is not",
    "unknown category": "a category that the list of categories lacks",
    "unknown cropped": "neither 0 nor 1, or no level of the data set's own",
    "unknown domain": "neither customer nor shop",
    "unknown item": "an item that the list of items lacks",
    "unknown occluded": "neither 0 nor 1, or no level of the data set's own",
    "unknown photo": "an annotation of a photo that the file does not list",
    "unknown source": "neither shop nor user",
    "unknown split": "neither train nor val nor test",
    "unknown status": "a split that there is not",
    "unknown view": "neither front nor side nor back, or no level of the data set's own",
    "unreadable photo": "not a whole photo, or larger than --max_pixels",
}


@dataclass(frozen=True)
class OnError:
    """Which kinds of problems only leave out their rows; all others stop the preparation.

    Attributes:
      skipped: the kinds.
    """

    skipped: frozenset[str]

    def is_fatal(self, kind: str) -> bool:
        """Returns whether a problem of this kind stops the preparation."""
        return kind not in self.skipped

    def __str__(self) -> str:
        if not self.skipped:
            return "error"
        return "skip" if self.skipped >= KINDS.keys() else ",".join(sorted(self.skipped))


def parse_on_error(on_error: str, default: Iterable[str]) -> OnError:
    """Parses --on_error.

    Args:
      on_error: "error" stops at every problem, "skip" leaves out all bad rows, kinds joined by
        commas leave out rows with these problems, and "" those of `default`.
      default: the kinds that the data set is known to have.

    Raises:
      DatasetError: there is no such kind.
    """
    if on_error == "skip":
        return OnError(frozenset(KINDS))
    if on_error == "error":
        return OnError(frozenset())
    chosen = frozenset(kind.strip() for kind in on_error.split(",")) if on_error else default
    if unknown := sorted(set(chosen) - KINDS.keys()):
        raise DatasetError(
            f"--on_error={on_error!r}: {unknown[0]!r} is neither error nor skip nor "
            f"a kind of problem; the kinds are {', '.join(KINDS)}"
        )
    return OnError(frozenset(chosen))
