"""Metrics of retrieval by what its queries show: pose, scale and category.

As Fig. 11 of FashionNet (Liu et al., 2016) breaks retrieval down. Pose is the view of the garment;
scale the fraction of the image that its box fills, in fifths, which are ours.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from grnet_jax.evaluation.protocols import QuerySubset
from grnet_jax.evaluation.retrieval import RetrievalResult
from grnet_jax.evaluation.retrieval_metrics import RetrievalMetrics, compute_metrics
from input_pipeline import VIEWS

SCALES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def box_area_fraction(box: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Returns the fraction of each image that its box fills, float64 [n]; NaN without a box.

    Args:
      box: [n, 4], (x_1, y_1, x_2, y_2) in pixels; one of the whole image is taken for unknown, as
        data sets without boxes have them.
      size: [n, 2], (height, width) in pixels.
    """
    box, size = np.asarray(box, np.float64), np.asarray(size, np.float64)
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    known = (area > 0) & (area < size.prod(axis=1))
    return np.where(known, area, np.nan) / size.prod(axis=1)


def group_queries(index: Any, rows: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields kind ("view", "scale", "category"), name and queries, bool [q], of every group.

    A query of which it is unknown is in none of the kind's groups; groups without any are left out.

    Args:
      index: of a split.
      rows: int [q], the queries' places in it.
    """
    view, category = index.view[rows], index.category[rows]
    fraction = box_area_fraction(index.box[rows], index.size[rows])
    # The last bin has its upper end too.
    bin_of = np.clip(np.digitize(fraction, SCALES) - 1, 0, len(SCALES) - 2)
    scale = np.where(np.isnan(fraction), -1, bin_of)
    scales = [f"{low:.0%} to {high:.0%}" for low, high in itertools.pairwise(SCALES)]
    kinds: dict[str, tuple[np.ndarray, Mapping[int, str]]] = {
        "view": (view, dict(enumerate(VIEWS))),
        "scale": (scale, dict(enumerate(scales))),
        "category": (category, dict(enumerate(map(str, index.categories)))),
    }
    for kind, (group, names) in kinds.items():
        for number, name in names.items():
            if (group == number).any():
                yield kind, name, group == number


def break_down(result: RetrievalResult) -> dict[str, dict[str, RetrievalMetrics]]:
    """Returns the metrics of every group of queries, by its kind and name."""
    protocol, gallery = result.protocol, result.metrics["all"].gallery
    index = protocol.images.index
    groups = list(group_queries(index, protocol.query_rows))
    if not groups:
        return {}
    subsets = [QuerySubset(f"{kind}:{name}", name, rows, gallery) for kind, name, rows in groups]
    measured = compute_metrics(subsets, result.ranking.ranks, index.item[protocol.query_rows])
    found: dict[str, dict[str, RetrievalMetrics]] = {}
    for kind, name, _ in groups:
        found.setdefault(kind, {})[name] = measured[f"{kind}:{name}"]
    return found
