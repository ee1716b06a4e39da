"""Chooses the pairs of a data set to explain: some queries with a correct answer, some without."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from grnet_jax.errors import InputError, check_at_least
from grnet_jax.evaluation.retrieval import RetrievalResult
from grnet_jax.visualization.explanations import CroppedImage
from input_pipeline import CUSTOMER, SHOP, CropBoxes, ImageConfig


@dataclasses.dataclass(frozen=True)
class ChosenPair:
    """A query and a gallery image, rows of a split's index, and whether they show one item."""

    query: int
    gallery: int
    caption: str
    right: bool | None


def choose_queries(ranks: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draws queries, half of them with a match at rank 1, half without.

    Where there are too few of one kind, more of the other are drawn.

    Args:
      ranks: of each query's matches, int [q, p], padded with 0; queries without are not drawn.
      count: how many at most.
      seed: of the drawing.

    Returns:
      int [up to count], those with a match at rank 1 first.
    """
    check_at_least("--queries", count, 1)
    rng = np.random.default_rng(seed)
    matched = (ranks > 0).any(axis=1)
    first = (ranks == 1).any(axis=1)
    kinds = [rng.permutation(np.flatnonzero(matched & kind)) for kind in (first, ~first)]
    correct = min(len(kinds[0]), max(-(-count // 2), count - len(kinds[1])))
    return np.concatenate([kinds[0][:correct], kinds[1][: count - correct]])


def pairs_of_query(result: RetrievalResult, number: int) -> list[ChosenPair]:
    """Pairs the query with its first result and, where that is wrong, with its match."""
    protocol, ranking = result.protocol, result.ranking
    ranks, positives = ranking.ranks[number], protocol.positives[number]
    results = ranking.indices[number]
    query = int(protocol.query_rows[number])
    best = int(np.argmin(np.where(ranks > 0, ranks, np.iinfo(ranks.dtype).max)))
    right = ranks[best] == 1
    # Ties count against the system: a match that is listed first may have another rank.
    shown = results[(results >= 0) & (np.isin(results, positives) == right)][0]
    if right:
        return [ChosenPair(query, int(protocol.gallery_rows[shown]), "Found first, the item", True)]
    return [
        ChosenPair(query, int(protocol.gallery_rows[shown]), "Found first, another item", False),
        ChosenPair(
            query,
            int(protocol.gallery_rows[positives[best]]),
            f"The item, found at rank {ranks[best]}",
            True,
        ),
    ]


def best_matches(result: RetrievalResult, number: int, count: int) -> list[tuple[int, float, bool]]:
    """Returns the gallery images that are found first for a query, the best first.

    Each is a row of the split's index, the score, and whether it shows the query's item.
    """
    protocol, ranking = result.protocol, result.ranking
    return [
        (int(protocol.gallery_rows[place]), float(score), bool(place in protocol.positives[number]))
        for place, score in zip(
            ranking.indices[number, :count], ranking.scores[number], strict=False
        )
        if place >= 0  # its gallery may have fewer images
    ]


def named_pair(index: Any, query: str, gallery: str) -> ChosenPair:
    """Returns the pair of photos with these names.

    Raises:
      InputError: no customer photo, or no shop photo of the split has the name.
    """
    rows = []
    for name, domain, what in ((query, CUSTOMER, "query"), (gallery, SHOP, "gallery")):
        matching = np.flatnonzero((index.photo_id == name) & (index.domain == domain))
        if not len(matching):
            kind = "customer" if domain == CUSTOMER else "shop"
            examples = ", ".join(index.photo_id[index.domain == domain][:3])
            raise InputError(
                f"--{what}={name}: the split has no {kind} photo of this name; its names are like "
                f"{examples}"
            )
        rows.append(int(matching[0]))
    right = bool(index.item[rows[0]] == index.item[rows[1]])
    return ChosenPair(rows[0], rows[1], "The item" if right else "Another item", right)


def load_images(split: Any, config: ImageConfig, rows: Sequence[int]) -> list[CroppedImage]:
    """Loads images of an `input_pipeline.Split`, cropped as in batches."""
    crops = CropBoxes(split, config).pixels(np.asarray(rows))
    return [
        CroppedImage(
            name=str(split.index.photo_id[row]),
            pixels=split.picture(row),
            crop=tuple(crop.tolist()),
            input=split.model_input(row, config),
        )
        for row, crop in zip(rows, crops, strict=True)
    ]
