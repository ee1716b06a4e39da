"""Against scikit-learn's calibration curve, Brier score and log loss."""

import numpy as np
import pytest
import sklearn.calibration
import sklearn.metrics

from grnet_jax import metrics
from grnet_jax.errors import InputError


def _case(seed=0, shape=(32, 70)):
    rng = np.random.default_rng(seed)
    scores = rng.normal(-1, 3, shape).astype(np.float32)
    labels = rng.random(shape) < 1 / (1 + np.exp(-0.5 * scores))
    return scores, labels, rng.random(shape) < 0.8


def _probabilities(scores):
    return 1 / (1 + np.exp(-scores.astype(np.float64)))


def _ece(p, labels, bins, strategy):
    """From scikit-learn's bins; their sizes from NumPy's histogram of the same edges."""
    hits, confidence = sklearn.calibration.calibration_curve(
        labels, p, n_bins=bins, strategy=strategy
    )
    edges = np.linspace(0, 1, bins + 1)
    if strategy == "quantile":
        edges = np.percentile(p, 100 * edges)
    sizes = np.bincount(np.searchsorted(edges[1:-1], p), minlength=bins)
    return np.sum(sizes[sizes > 0] * np.abs(hits - confidence)) / len(p)


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
@pytest.mark.parametrize("bins", [1, 4, 15])
def test_bins_brier_score_and_log_loss_are_scikit_learns(bins, strategy):
    scores, labels, mask = _case()
    p, same = _probabilities(scores[mask]), labels[mask]
    edges = (
        metrics.equal_width_edges(bins)
        if strategy == "uniform"
        else metrics.equal_mass_edges(scores[mask], bins)
    )
    sums = metrics.calibration_sums(scores, labels, edges, mask)
    expected = sklearn.calibration.calibration_curve(same, p, n_bins=bins, strategy=strategy)
    filled = sums.counts > 0
    curve = (sums.hits / sums.counts)[filled], (sums.confidence / sums.counts)[filled]
    np.testing.assert_allclose(curve, expected, rtol=1e-5)
    ece = metrics.expected_calibration_error(sums)
    np.testing.assert_allclose(ece, _ece(p, same, bins, strategy), rtol=1e-4)
    n = sums.counts.sum()
    assert n == mask.sum()
    brier = sklearn.metrics.brier_score_loss(same, p)
    np.testing.assert_allclose(sums.squared_error.sum() / n, brier, rtol=1e-6)
    np.testing.assert_allclose(
        sums.log_loss.sum() / n, sklearn.metrics.log_loss(same, p), rtol=1e-6
    )


def test_extreme_scores_keep_their_digits():
    """The sigmoid of 40 is 1 in float32; the loss of a negative pair is 40."""
    scores, labels = np.array([40.0, -60.0, 40.0]), np.array([False, True, True])
    np.testing.assert_allclose(metrics.calibration_sums(scores, labels, []).log_loss, 100)


@pytest.mark.parametrize("bins", [4, 15])
def test_blocks_add_up_and_fine_bins_merge(bins):
    scores, labels, mask = _case(2, (48, 70))
    edges = metrics.fine_edges(bins)
    blocks = [
        metrics.calibration_sums(
            *(x[i : i + 16] for x in (scores, labels)), edges, mask[i : i + 16]
        )
        for i in (0, 16, 32)
    ]
    sums = metrics.add_sums(metrics.add_sums(blocks[0], blocks[1]), blocks[2])
    expected = metrics.calibration_sums(scores, labels, metrics.equal_width_edges(bins), mask)
    np.testing.assert_allclose(metrics.merge_equal_width(sums, bins), expected, rtol=1e-12)
    runs = metrics.merge_equal_mass(sums, bins)
    # A run misses its share by no more than the fullest of the fine bins.
    share = mask.sum() / bins
    assert np.abs(runs.counts - share).max() <= sums.counts.max() < share / 2
    np.testing.assert_allclose(runs.hits.sum(), labels[mask].sum())
    expected = _ece(_probabilities(scores[mask]), labels[mask], bins, "quantile")
    np.testing.assert_allclose(metrics.expected_calibration_error(runs), expected, atol=0.01)


def test_many_pairs_keep_their_digits():
    """A million probabilities near 1/1000, as a large gallery has."""
    scores = np.random.default_rng(0).normal(-7, 0.5, (50, 20_000)).astype(np.float32)
    sums = metrics.calibration_sums(scores, np.zeros(scores.shape, bool), [])
    p = _probabilities(scores)
    np.testing.assert_allclose(sums.confidence, p.sum(), rtol=1e-7)
    np.testing.assert_allclose(sums.log_loss, -np.log1p(-p).sum(), rtol=1e-7)


def test_ties_share_a_bin():
    scores = np.array([1.0] * 7 + [2.0], np.float32)
    edges = metrics.equal_mass_edges(scores, 4)
    sums = metrics.calibration_sums(scores, np.ones(8, bool), edges)
    np.testing.assert_array_equal(sums.counts, [7, 0, 0, 1])


def test_true_probabilities_are_calibrated():
    rng = np.random.default_rng(4)
    scores = rng.normal(0, 2, 200_000).astype(np.float32)
    labels = rng.random(200_000) < _probabilities(scores)
    for edges in (metrics.equal_width_edges(15), metrics.equal_mass_edges(scores, 15)):
        sums = metrics.calibration_sums(scores, labels, edges)
        assert metrics.expected_calibration_error(sums) < 0.006
        overconfident = metrics.calibration_sums(3 * scores, labels, edges)
        assert metrics.expected_calibration_error(overconfident) > 0.05


def test_shapes_that_do_not_fit_are_named():
    scores, labels, mask = _case()
    with pytest.raises(InputError, match=r"\(32, 70\), \(70,\) and"):
        metrics.calibration_sums(scores, labels[0], [], mask)
