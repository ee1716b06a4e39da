"""Metrics of ranking, calibration, open-set retrieval and recognition: functions of arrays."""

from grnet_jax.metrics.calibration import (
    BINS,
    MIN_RESULTS,
    Calibration,
    measure_calibration,
)
from grnet_jax.metrics.intervals import (
    clustered_intervals,
    paired_bootstrap,
)
from grnet_jax.metrics.landmarks import (
    detection_rate,
    normalized_distances,
    normalized_error,
)
from grnet_jax.metrics.listwise import (
    MAX_CHANGE,
    MAX_ECE,
    NONE,
    SHOWN,
    ListProbabilities,
    Listwise,
    cross_fit,
    fit_listwise,
    list_probabilities,
)
from grnet_jax.metrics.open_set import (
    OpenSet,
    open_set_metrics,
)
from grnet_jax.metrics.ranking import (
    average_precision,
    average_precision_at_r,
    average_precision_revisitop,
    count_ahead,
    group_means,
    positive_mask,
    positive_ranks,
    ranks_from_ahead,
    recall_at_k,
    reciprocal_rank,
    sort_own,
    top_k_hits,
)
from grnet_jax.metrics.recognition import (
    AttributeRecall,
    attribute_hits,
    attribute_recall,
    category_hits,
)

__all__ = [
    "BINS",
    "MAX_CHANGE",
    "MAX_ECE",
    "MIN_RESULTS",
    "NONE",
    "SHOWN",
    "AttributeRecall",
    "Calibration",
    "ListProbabilities",
    "Listwise",
    "OpenSet",
    "attribute_hits",
    "attribute_recall",
    "average_precision",
    "average_precision_at_r",
    "average_precision_revisitop",
    "category_hits",
    "clustered_intervals",
    "count_ahead",
    "cross_fit",
    "detection_rate",
    "fit_listwise",
    "group_means",
    "list_probabilities",
    "measure_calibration",
    "normalized_distances",
    "normalized_error",
    "open_set_metrics",
    "paired_bootstrap",
    "positive_mask",
    "positive_ranks",
    "ranks_from_ahead",
    "recall_at_k",
    "reciprocal_rank",
    "sort_own",
    "top_k_hits",
]
