"""Which pairs of a data set are worth explaining: some queries rightly answered, some wrongly."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from grnet_jax.errors import InputError, check_at_least
from grnet_jax.figures.explanations import SeenPhoto
from grnet_jax.retrieval.evaluation import Evaluation

CUSTOMER, SHOP = 0, 1


@dataclasses.dataclass(frozen=True)
class ChosenPair:
    """Rows of a split's index, and what the one is to the other."""

    query: int
    gallery: int
    caption: str
    right: bool | None


def choose_queries(ranks: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draws queries, half of them with a match at rank 1, the other half not.

    Where there are too few of one kind, more of the other are drawn.

    Args:
      ranks: of each query's matches, int [q, p], padded with 0; queries without are not drawn.
      count: how many at most.
      seed: of the drawing.

    Returns:
      int [up to count], rightly answered ones first.
    """
    check_at_least("--queries", count, 1)
    rng = np.random.default_rng(seed)
    matched = (ranks > 0).any(axis=1)
    first = (ranks == 1).any(axis=1)
    kinds = [rng.permutation(np.flatnonzero(matched & kind)) for kind in (first, ~first)]
    rightly = min(len(kinds[0]), max(-(-count // 2), count - len(kinds[1])))
    return np.concatenate([kinds[0][:rightly], kinds[1][: count - rightly]])


def pairs_of_query(evaluation: Evaluation, number: int) -> list[ChosenPair]:
    """The query beside what was found first and, where that is wrong, beside its match."""
    task, ranking = evaluation.task, evaluation.ranking
    ranks, positives = ranking.ranks[number], task.positives[number]
    found = ranking.top_rows[number]
    query = int(task.query_rows[number])
    best = int(np.argmin(np.where(ranks > 0, ranks, np.iinfo(ranks.dtype).max)))
    right = ranks[best] == 1
    # A tie counts against us: a match that stands first may have another rank.
    shown = found[(found >= 0) & (np.isin(found, positives) == right)][0]
    if right:
        return [ChosenPair(query, int(task.gallery_rows[shown]), "Found first, the item", True)]
    return [
        ChosenPair(query, int(task.gallery_rows[shown]), "Found first, another item", False),
        ChosenPair(
            query,
            int(task.gallery_rows[positives[best]]),
            f"The item, found at rank {ranks[best]}",
            True,
        ),
    ]


def named_pair(index: Any, query: str, gallery: str) -> ChosenPair:
    """The pair of photos of these names.

    Raises:
      InputError: a name that no customer, or no shop photo of the split has.
    """
    rows = []
    for name, domain, what in ((query, CUSTOMER, "query"), (gallery, SHOP, "gallery")):
        found = np.flatnonzero((index.photo_id == name) & (index.domain == domain))
        if not len(found):
            kind = "customer" if domain == CUSTOMER else "shop"
            some = ", ".join(index.photo_id[index.domain == domain][:3])
            raise InputError(
                f"--{what}={name}: the split has no {kind} photo of this name; its names are like "
                f"{some}"
            )
        rows.append(int(found[0]))
    right = bool(index.item[rows[0]] == index.item[rows[1]])
    return ChosenPair(rows[0], rows[1], "The item" if right else "Another item", right)


def split_photos(split: Any, data: Any, rows: Sequence[int]) -> list[SeenPhoto]:
    """Photos of an `input_pipeline.Split`, as batches of `config.data` have them."""
    from input_pipeline.crops import CropBoxes  # the pipeline is loaded only where it is used

    cuts = CropBoxes(split, data).pixels(np.asarray(rows))
    return [
        SeenPhoto(
            name=str(split.index.photo_id[row]),
            whole=split.picture(row),
            cut=tuple(cut.tolist()),
            framed=split.framed(row, data),
        )
        for row, cut in zip(rows, cuts, strict=True)
    ]
