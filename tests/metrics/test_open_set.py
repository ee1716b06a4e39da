"""Against scikit-learn; the interval against the bootstrap and DeLong's double sums."""

import numpy as np
import pytest
import sklearn.metrics

from grnet_jax.metrics import open_set_metrics


def _case(seed, ties):
    rng = np.random.default_rng(seed)
    present = rng.random(160) < 0.6
    scores = (rng.standard_normal(160) + present).astype(np.float32)
    return np.round(scores) if ties else scores, present


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_area_rate_and_curve_are_scikit_learns(seed, ties):
    scores, present = _case(seed, ties)
    result = open_set_metrics(scores, present, np.arange(160))
    area = sklearn.metrics.roc_auc_score(present, scores)
    np.testing.assert_allclose(result.auroc, area, rtol=1e-12)
    fpr, tpr, _ = sklearn.metrics.roc_curve(present, scores, drop_intermediate=False)
    np.testing.assert_array_equal(result.curve, np.stack([fpr, tpr], axis=1))
    assert result.fpr_at_95_tpr == fpr[tpr >= 0.95].min()


def test_nineteen_of_twenty_are_95_percent():
    scores = np.arange(21, dtype=np.float32)
    # The twenty are 0, 2, 3, ...: without the lowest, none below 2 needs to pass.
    assert open_set_metrics(scores, scores != 1, np.arange(21)).fpr_at_95_tpr == 0


@pytest.mark.parametrize("present", [True, False])
def test_one_kind_alone_gives_nothing(present):
    assert open_set_metrics(np.arange(4.0), np.full(4, present), np.arange(4)) is None


def test_nan_counts_against_the_system_and_infinity_is_the_lowest():
    scores = np.array([3, np.nan, 1, np.nan, -np.inf], np.float32)
    present = np.array([True, True, False, False, False])
    # 3 loses to one NaN and beats two; NaN loses to 1 and NaN, ties with -inf.
    area = open_set_metrics(scores, present, np.arange(5)).auroc
    np.testing.assert_allclose(area, (2 + 0.5) / 6)


def test_the_interval_is_the_bootstraps_over_items():
    rng = np.random.default_rng(0)
    kinds, items = np.arange(240) % 3 > 0, np.repeat(np.arange(240), 3)
    level, present = rng.normal(size=240) + kinds, kinds[items]
    scores = level[items] + 0.3 * rng.normal(size=720)
    low, high = open_set_metrics(scores, present, items).interval
    areas = []
    for _ in range(600):
        drawn = np.concatenate(
            [rng.choice(np.flatnonzero(kinds == kind), (kinds == kind).sum()) for kind in (0, 1)]
        )
        rows = (drawn[:, None] * 3 + np.arange(3)).reshape(-1)
        areas.append(sklearn.metrics.roc_auc_score(present[rows], scores[rows]))
    np.testing.assert_allclose([low, high], np.quantile(areas, [0.025, 0.975]), atol=0.012)
    alone = open_set_metrics(scores, present, np.arange(720)).interval
    assert high - low > 1.3 * (alone[1] - alone[0])


def test_the_interval_of_single_queries_is_delongs():
    """The variance by DeLong's double sums; the interval is Wilson's with that variance."""
    scores, present = _case(6, ties=False)
    beats = scores[present][:, None] > scores[~present][None]
    area, (m, n) = beats.mean(), beats.shape
    variance = beats.mean(axis=1).var(ddof=1) / m + beats.mean(axis=0).var(ddof=1) / n
    # Wilson's bounds b solve (b - area)^2 = z^2 b (1 - b) / size.
    size = area * (1 - area) / variance
    for bound in open_set_metrics(scores, present, np.arange(160)).interval:
        expected = 1.959964**2 * bound * (1 - bound) / size
        np.testing.assert_allclose((bound - area) ** 2, expected, rtol=1e-3)


def test_a_perfect_area_is_no_certainty():
    scores = np.arange(12.0)
    low, high = open_set_metrics(scores, scores > 5, np.arange(12)).interval
    assert low < 0.7
    assert high == pytest.approx(1.0)
