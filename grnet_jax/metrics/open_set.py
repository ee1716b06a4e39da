"""How well the best score tells queries whose item is in the gallery from those whose is not."""

import dataclasses

import numpy as np
from scipy.stats import rankdata

from grnet_jax.metrics.intervals import influence_intervals


@dataclasses.dataclass(frozen=True)
class OpenSet:
    """The best score as a detector of "the query's item is in the gallery".

    Attributes:
      auroc: chance that a query with its item in the gallery scores above one without; ties half.
      interval: its 95% interval, clustered by item.
      fpr_at_95_tpr: share of the queries without their item that reach the highest threshold
        which 95% of those with it reach.
      curve: [n, 2], false and true positive rate at each threshold, from (0, 0) to (1, 1).
    """

    auroc: float
    interval: tuple[float, float]
    fpr_at_95_tpr: float
    curve: np.ndarray


def open_set_metrics(
    scores: np.ndarray, present: np.ndarray, clusters: np.ndarray
) -> OpenSet | None:
    """Computes AUROC, its interval, FPR at 95% TPR and the ROC curve.

    A NaN score counts against the system: as the lowest of a query whose item is in the gallery,
    as the highest of one whose is not.

    Args:
      scores: [q], each query's best score.
      present: bool [q], whether the query's item is in the gallery.
      clusters: int [q], the item of each query.

    Returns:
      None where all queries, or none, have their item in the gallery.
    """
    from sklearn.metrics import roc_curve  # takes a second to import

    if present.all() or not present.any():
        return None
    ranks = rankdata(np.where(np.isnan(scores), np.where(present, -np.inf, np.inf), scores))
    fpr, tpr, _ = roc_curve(present, ranks, drop_intermediate=False)
    placements = _placements(ranks, present)
    area = placements[present].mean()
    # The variance of Obuchowski (1997), which is DeLong's where every query has its own item.
    kinds = present, ~present
    sizes = np.where(present, present.sum(), (~present).sum())
    independent = sum(placements[k].var(ddof=1) / k.sum() for k in kinds if k.sum() > 1)
    interval = influence_intervals(
        np.array([area]),
        ((placements - area) / sizes)[:, None],
        np.array([independent]),
        clusters,
        smallest_size=min(len(np.unique(clusters[k])) for k in kinds),
    )[0]
    return OpenSet(
        auroc=float(area),
        interval=(float(interval[0]), float(interval[1])),
        fpr_at_95_tpr=float(fpr[np.argmax(tpr >= 0.95)]),
        curve=np.stack([fpr, tpr], axis=1),
    )


def _placements(ranks: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Returns for each query the share of the other kind on its right side, ties half; [q].

    That is below it for a query with its item in the gallery, above it for one without. The mean
    over either kind is the AUROC (DeLong et al., 1988; by ranks as Sun and Xu, 2014).
    """
    placements = np.empty(len(ranks))
    for kind in (present, ~present):
        below = (ranks[kind] - rankdata(ranks[kind])) / np.sum(~kind)
        placements[kind] = np.where(present[kind], below, 1 - below)
    return placements
