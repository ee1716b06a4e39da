"""Against scikit-learn's calibration curve, Brier score and log loss."""

import numpy as np
import pytest
import sklearn.calibration
import sklearn.metrics

from grnet_jax.metrics import BINS, measure_calibration


def _case(count=2000):
    rng = np.random.default_rng(0)
    p = rng.beta(0.5, 2, count)
    return p, rng.random(count) < np.sqrt(p), np.arange(count) // 3


@pytest.mark.parametrize(("strategy", "key"), [("uniform", "ece"), ("quantile", "ece_equal_mass")])
def test_bins_brier_score_and_log_loss_are_scikit_learns(strategy, key):
    p, right, clusters = _case()
    found = measure_calibration(p, right, clusters)
    bins = found.equal_width if strategy == "uniform" else found.equal_mass
    hits, said = sklearn.calibration.calibration_curve(right, p, n_bins=BINS, strategy=strategy)
    np.testing.assert_allclose(bins[:, 1:].T, (said, hits), rtol=1e-2 if key != "ece" else 1e-9)
    assert bins[:, 0].sum() == found.results == len(p)
    error = np.sum(bins[:, 0] * np.abs(hits - said)) / len(p)
    assert found.values[key] == pytest.approx(error, rel=1e-2)
    assert found.brier == pytest.approx(sklearn.metrics.brier_score_loss(right, p))
    assert found.log_loss == pytest.approx(sklearn.metrics.log_loss(right, p))
    assert found.brier_interval[0] < found.brier < found.brier_interval[1]


def test_certainty_that_is_wrong_has_a_finite_loss():
    found = measure_calibration(np.array([1.0, 0.0]), np.array([False, True]), np.arange(2))
    assert np.isfinite(found.log_loss)
    assert found.values["ece"] == 1


def test_ties_share_a_bin():
    p = np.array([0.3] * 30 + [0.6])
    found = measure_calibration(p, np.ones(31, bool), np.arange(31))
    np.testing.assert_array_equal(found.equal_mass[:, 0], [30, 1])


def test_true_probabilities_are_calibrated():
    rng = np.random.default_rng(4)
    p = rng.random(50_000)
    right, clusters = rng.random(50_000) < p, np.arange(50_000)
    for key in ("ece", "ece_equal_mass"):
        assert measure_calibration(p, right, clusters).values[key] < 0.01
        assert measure_calibration(np.sqrt(p), right, clusters).values[key] > 0.05
