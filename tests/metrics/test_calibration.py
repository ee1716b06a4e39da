"""Against scikit-learn's calibration curve, Brier score and log loss."""

import jax
import numpy as np
import pytest
import sklearn.calibration
import sklearn.metrics
from jax.sharding import NamedSharding, PartitionSpec

from grnet_jax import metrics
from grnet_jax.errors import InputError
from grnet_jax.sharding import make_mesh


def _case(seed=0, shape=(32, 70)):
    rng = np.random.default_rng(seed)
    scores = rng.normal(-1, 3, shape).astype(np.float32)
    labels = rng.random(shape) < 1 / (1 + np.exp(-0.5 * scores))
    return scores, labels, rng.random(shape) < 0.8


def _probabilities(scores):
    return 1 / (1 + np.exp(-scores.astype(np.float64)))


def _ece(p, labels, bins, strategy):
    """From scikit-learn's bins; their sizes from NumPy's histogram of the same edges."""
    right, said = sklearn.calibration.calibration_curve(labels, p, n_bins=bins, strategy=strategy)
    edges = np.linspace(0, 1, bins + 1)
    if strategy == "quantile":
        edges = np.percentile(p, 100 * edges)
    sizes = np.bincount(np.searchsorted(edges[1:-1], p), minlength=bins)
    return np.sum(sizes[sizes > 0] * np.abs(right - said)) / len(p)


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
@pytest.mark.parametrize("bins", [1, 4, 15])
def test_bins_are_scikit_learns(bins, strategy):
    scores, labels, mask = _case()
    edges = (
        metrics.equal_width_edges(bins)
        if strategy == "uniform"
        else metrics.equal_mass_edges(scores.reshape(-1), bins, mask.reshape(-1))
    )
    sums = metrics.calibration_sums(scores, labels, edges, mask)
    p, right = _probabilities(scores[mask]), labels[mask]
    wanted = sklearn.calibration.calibration_curve(right, p, n_bins=bins, strategy=strategy)
    there = np.asarray(sums.counts) > 0
    found = (sums.hits / sums.counts)[there], (sums.confidence / sums.counts)[there]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    ece = metrics.expected_calibration_error(sums)
    np.testing.assert_allclose(ece, _ece(p, right, bins, strategy), rtol=1e-4)
    assert int(sums.counts.sum()) == mask.sum()


def test_brier_score_and_log_loss_are_scikit_learns():
    scores, labels, mask = _case(1)
    p, right = _probabilities(scores[mask]), labels[mask]
    for edges in ([], metrics.equal_width_edges(15)):
        sums = metrics.calibration_sums(scores, labels, edges, mask)
        brier = sklearn.metrics.brier_score_loss(right, p)
        np.testing.assert_allclose(metrics.brier_score(sums), brier, rtol=1e-5)
        loss = sklearn.metrics.log_loss(right, p)
        np.testing.assert_allclose(metrics.mean_log_loss(sums), loss, rtol=1e-5)


def test_scores_far_out_lose_no_digits():
    """The sigmoid of 40 is 1 in float32; its loss where the pair is none is 40."""
    scores, labels = np.array([40.0, -60.0, 40.0]), np.array([False, True, True])
    sums = metrics.calibration_sums(scores, labels, [])
    np.testing.assert_allclose(metrics.mean_log_loss(sums), 100 / 3, rtol=1e-6)


@pytest.mark.parametrize("bins", [4, 15])
def test_blocks_add_up_and_fine_bins_merge(bins):
    scores, labels, mask = _case(2, (48, 70))
    edges = metrics.fine_edges(bins)
    blocks = [
        metrics.calibration_sums(scores[i : i + 16], labels[i : i + 16], edges, mask[i : i + 16])
        for i in (0, 16, 32)
    ]
    together = metrics.add_sums(metrics.add_sums(blocks[0], blocks[1]), blocks[2])
    merged = metrics.merge_bins(together, metrics.equal_width_owners(edges, bins), bins)
    wanted = metrics.calibration_sums(scores, labels, metrics.equal_width_edges(bins), mask)
    np.testing.assert_array_equal(merged.counts, wanted.counts)
    for one, other in zip(merged, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    owners = metrics.equal_mass_owners(together.counts, bins)
    runs = metrics.merge_bins(together, owners, bins)
    assert (np.diff(owners) >= 0).all()
    # A run misses its share by no more than the fullest of the fine bins.
    share = mask.sum() / bins
    assert np.abs(runs.counts - share).max() <= together.counts.max()
    assert together.counts.max() < share / 2
    np.testing.assert_allclose(runs.hits.sum(), labels[mask].sum())
    p, right = _probabilities(scores[mask]), labels[mask]
    ece = metrics.expected_calibration_error(runs)
    np.testing.assert_allclose(ece, _ece(p, right, bins, "quantile"), atol=0.01)


def test_many_pairs_keep_their_digits():
    """A million probabilities near 1/1000, as a large gallery has."""
    scores = np.random.default_rng(0).normal(-7, 0.5, (50, 20_000)).astype(np.float32)
    labels = np.zeros(scores.shape, bool)
    sums = metrics.calibration_sums(scores, labels, metrics.equal_width_edges(15))
    p = _probabilities(scores)
    np.testing.assert_allclose(sums.confidence.sum(), p.sum(), rtol=3e-6)
    np.testing.assert_allclose(sums.log_loss.sum(), -np.log1p(-p).sum(), rtol=3e-6)
    assert int(sums.counts[0]) == 1_000_000


def test_alike_jitted_permuted_padded_and_on_eight_devices():
    scores, labels, mask = _case(3)
    edges = metrics.equal_width_edges(15)
    wanted = metrics.calibration_sums(scores, labels, edges, mask)
    jitted = jax.jit(metrics.calibration_sums)
    order = np.random.default_rng(0).permutation(70)
    filled = [np.pad(x, ((0, 4), (0, 6)), constant_values=c) for x, c in ((scores, np.nan),
              (labels, True), (mask, False))]  # fmt: skip
    spread = NamedSharding(make_mesh(), PartitionSpec("data"))
    on_eight = jax.device_put((scores, labels, mask), spread)
    for found in (
        jitted(scores, labels, edges, mask),
        metrics.calibration_sums(scores[:, order], labels[:, order], edges, mask[:, order]),
        metrics.calibration_sums(filled[0], filled[1], edges, filled[2]),
        jitted(on_eight[0], on_eight[1], edges, on_eight[2]),
    ):
        np.testing.assert_array_equal(found.counts, wanted.counts)
        np.testing.assert_array_equal(found.hits, wanted.hits)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5)


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
        assert float(metrics.expected_calibration_error(sums)) < 0.006
        sure = metrics.calibration_sums(3 * scores, labels, edges)
        assert float(metrics.expected_calibration_error(sure)) > 0.05


def test_shapes_that_do_not_fit_are_named():
    scores, labels, mask = _case()
    with pytest.raises(InputError, match=r"\(32, 70\), \(70,\) and"):
        metrics.calibration_sums(scores, labels[0], [], mask)
    with pytest.raises(InputError, match="bins: expected 1 or more, got 0"):
        metrics.equal_width_edges(0)
