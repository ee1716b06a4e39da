"""Figures of an evaluation by what its queries show: pose, scale and category.

As Fig. 11 of FashionNet (Liu et al., 2016) breaks retrieval down. Pose is the view of the garment;
scale the share of the photo that its box fills, in fifths, which are ours.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from grnet_jax.retrieval.evaluation import Evaluation
from grnet_jax.retrieval.measures import RetrievalMetrics, compute_metrics
from grnet_jax.retrieval.protocols import VIEWS, Protocol

SCALES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def box_shares(box: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The share of each photo that its box fills, float64 [n]; NaN without a box.

    Args:
      box: [n, 4], (x_1, y_1, x_2, y_2) in pixels; one of the whole photo is taken for unknown, as
        data sets without boxes have them.
      size: [n, 2], (height, width) in pixels.
    """
    box, size = np.asarray(box, np.float64), np.asarray(size, np.float64)
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    known = (area > 0) & (area < size.prod(axis=1))
    return np.where(known, area, np.nan) / size.prod(axis=1)


def groups_of(index: Any, rows: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
    """Of each kind of group ("view", "scale", "category") and its name the queries, bool [q].

    A query of which it is unknown is in none of the kind's groups; groups without any are left out.

    Args:
      index: of a split.
      rows: int [q], the queries' places in it.
    """
    view, category = index.view[rows], index.category[rows]
    share = box_shares(index.box[rows], index.size[rows])
    # The last bin has its upper end too.
    bin_of = np.clip(np.digitize(share, SCALES) - 1, 0, len(SCALES) - 2)
    scale = np.where(np.isnan(share), -1, bin_of)
    scales = [f"{low:.0%} to {high:.0%}" for low, high in itertools.pairwise(SCALES)]
    kinds: dict[str, tuple[np.ndarray, Mapping[int, str]]] = {
        "view": (view, VIEWS),
        "scale": (scale, dict(enumerate(scales))),
        "category": (category, dict(enumerate(map(str, index.categories)))),
    }
    for kind, (group, names) in kinds.items():
        for number, name in names.items():
            if (group == number).any():
                yield kind, name, group == number


def break_down(evaluation: Evaluation) -> dict[str, dict[str, RetrievalMetrics]]:
    """The figures of every group, by its kind and name."""
    task, ranking = evaluation.task, evaluation.ranking
    index, gallery = task.photos.index, evaluation.figures["all"].gallery
    groups = list(groups_of(index, task.query_rows))
    protocols = [
        Protocol(f"{kind}:{name}", name, queries, gallery) for kind, name, queries in groups
    ]
    if not protocols:
        return {}
    measured = compute_metrics(protocols, ranking.ranks, index.item[task.query_rows])
    found: dict[str, dict[str, RetrievalMetrics]] = {}
    for kind, name, _ in groups:
        found.setdefault(kind, {})[name] = measured[f"{kind}:{name}"]
    return found
