"""Which queries a figure is over: the evaluation protocols.

FindFashion's (GRNet, Section 4.1) choose among the queries by their view, occlusion and
cropping and leave the gallery as it is. The hard sets overlap. Street2Shop's (Kiapour et al.)
are its categories, each with a gallery of its own.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

VIEWS = {0: "front", 1: "side", 2: "back"}
_TITLES = {
    "easy": "Easy",
    "hard_view": "Hard-View",
    "hard_occlusion": "Hard-Occlusion",
    "hard_cropping": "Hard-Cropping",
}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A named choice of queries.

    Attributes:
      name: key in result files.
      title: as headings show it, with the data set's name where that is no benchmark's own.
      queries: bool [q], which queries belong to it.
      gallery: photos that a query is ranked against; None where that differs between them.
    """

    name: str
    title: str
    queries: np.ndarray
    gallery: int | None


def query_choices(
    view: np.ndarray, occluded: np.ndarray, cropped: np.ndarray
) -> dict[str, np.ndarray]:
    """bool [q] for each of FindFashion's protocols: its queries.

    A query with an unknown flag is in no protocol that asks for that flag.

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
    dataset: str,
    gallery: int | None,
    choices: dict[str, np.ndarray],
    categories: Sequence[tuple[str, np.ndarray, int]] = (),
) -> list[Protocol]:
    """All queries, FindFashion's four choices of them, and the categories.

    Args:
      dataset: named in every title, so that no figure passes for another set's.
      gallery: photos in it; None where each category has its own.
      choices: of `query_choices`.
      categories: for each the name, its queries, bool [q], and the photos in its gallery.

    Returns:
      The protocols that hold any query.
    """
    everything = np.ones_like(choices["easy"])
    protocols = [
        Protocol("all", f"All queries ({dataset})", everything, gallery),
        *(
            Protocol(name, f"{title} ({dataset})", choices[name], gallery)
            for name, title in _TITLES.items()
        ),
        *(
            Protocol(f"category:{name}", f"{name} ({dataset})", queries, photos)
            for name, queries, photos in categories
        ),
    ]
    return [protocol for protocol in protocols if protocol.queries.any()]
