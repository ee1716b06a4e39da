"""Which queries a figure is over: the evaluation protocols.

FindFashion's (GRNet, Section 4.1) choose among the queries by their view, occlusion and
cropping and leave the gallery as it is. The hard sets overlap.
"""

import dataclasses
from typing import Any

import numpy as np

VIEWS = {0: "front", 1: "side", 2: "back"}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A named choice of queries.

    Attributes:
      name: key in result files.
      title: as headings show it, with the data set's name where that is no benchmark's own.
      queries: bool [q], which queries belong to it.
    """

    name: str
    title: str
    queries: np.ndarray


def query_choices(
    view: np.ndarray, occluded: np.ndarray, cropped: np.ndarray
) -> dict[str, np.ndarray]:
    """bool [q] for each of FindFashion's protocols: its queries.

    Args:
      view: int [q]: 0 front, 1 side, 2 back, -1 unknown.
      occluded: int [q]: 1 if more than 30% is covered, 0 if not, -1 unknown.
      cropped: int [q]: 1 if more than 30% is out of the picture, 0 if not, -1 unknown.
    """
    return {
        "easy": (view == 0) & (occluded == 0) & (cropped == 0),
        "hard_view": (view == 1) | (view == 2),
        "hard_occlusion": occluded == 1,
        "hard_cropping": cropped == 1,
    }


def make_protocols(
    view: np.ndarray, occluded: np.ndarray, cropped: np.ndarray, dataset: str
) -> list[Protocol]:
    """All queries, and FindFashion's four choices where the queries are annotated.

    Args:
      view: int [q]: 0 front, 1 side, 2 back, -1 unknown.
      occluded: int [q]: 1 if more than 30% is covered, 0 if not, -1 unknown.
      cropped: int [q]: 1 if more than 30% is out of the picture, 0 if not, -1 unknown.
      dataset: named in every title, so that no figure passes for another set's.

    Returns:
      The protocols that hold any query. A query with an unknown flag is in no protocol that
      asks for that flag.
    """
    easy = (view == 0) & (occluded == 0) & (cropped == 0)
    choices: list[tuple[str, str, Any]] = [
        ("all", "All queries", np.ones(len(view), bool)),
        ("easy", "Easy", easy),
        ("hard_view", "Hard-View", (view == 1) | (view == 2)),
        ("hard_occlusion", "Hard-Occlusion", occluded == 1),
        ("hard_cropping", "Hard-Cropping", cropped == 1),
    ]
    return [
        Protocol(name, f"{title} ({dataset})", queries)
        for name, title, queries in choices
        if queries.any()
    ]
