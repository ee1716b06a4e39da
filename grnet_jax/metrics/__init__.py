"""Metrics of ranking, of probabilities and of refusing: pure functions of arrays, with masks."""

from grnet_jax.metrics.calibration import (
    CalibrationSums,
    add_sums,
    brier_score,
    calibration_sums,
    equal_mass_edges,
    equal_mass_owners,
    equal_width_edges,
    equal_width_owners,
    expected_calibration_error,
    fine_edges,
    mean_log_loss,
    merge_bins,
)
from grnet_jax.metrics.groups import group_means, group_members, group_sums
from grnet_jax.metrics.intervals import auroc_interval, clustered_interval, clustered_intervals
from grnet_jax.metrics.open_set import (
    RocCurve,
    auroc,
    false_positive_rate_at,
    placements,
    roc_curve,
)
from grnet_jax.metrics.ranking import (
    average_precision,
    average_precision_at_r,
    average_precision_revisitop,
    positive_mask,
    positive_ranks,
    recall_at_k,
    reciprocal_rank,
    top_k_hits,
)

__all__ = [
    "CalibrationSums",
    "RocCurve",
    "add_sums",
    "auroc",
    "auroc_interval",
    "average_precision",
    "average_precision_at_r",
    "average_precision_revisitop",
    "brier_score",
    "calibration_sums",
    "clustered_interval",
    "clustered_intervals",
    "equal_mass_edges",
    "equal_mass_owners",
    "equal_width_edges",
    "equal_width_owners",
    "expected_calibration_error",
    "false_positive_rate_at",
    "fine_edges",
    "group_means",
    "group_members",
    "group_sums",
    "mean_log_loss",
    "merge_bins",
    "placements",
    "positive_mask",
    "positive_ranks",
    "recall_at_k",
    "reciprocal_rank",
    "roc_curve",
    "top_k_hits",
]
