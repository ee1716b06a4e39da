"""Against scikit-learn, and the interval against the bootstrap and a naive double loop."""

import jax
import numpy as np
import pytest
import sklearn.metrics
from jax.sharding import NamedSharding, PartitionSpec

from grnet_jax import metrics
from grnet_jax.sharding import make_mesh


def _case(seed, ties):
    rng = np.random.default_rng(seed)
    present = rng.random(160) < 0.6
    scores = (rng.standard_normal(160) + present).astype(np.float32)
    return np.round(scores) if ties else scores, present, rng.random(160) < 0.8


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_area_and_rate_are_scikit_learns(seed, ties):
    scores, present, mask = _case(seed, ties)
    kept, right = scores[mask], present[mask]
    area = metrics.auroc(scores, present, mask)
    np.testing.assert_allclose(area, sklearn.metrics.roc_auc_score(right, kept), rtol=1e-6)
    fpr, tpr, _ = sklearn.metrics.roc_curve(right, kept, drop_intermediate=False)
    for target in (0.5, 0.95, 1.0):
        rate = metrics.false_positive_rate_at(scores, present, mask, true_positive_rate=target)
        np.testing.assert_allclose(rate, fpr[np.argmax(tpr >= target)], rtol=1e-6)


@pytest.mark.parametrize("ties", [False, True])
def test_the_curve_has_scikit_learns_points(ties):
    scores, present, mask = _case(3, ties)
    curve = metrics.roc_curve(scores, present, mask)
    assert curve.threshold.shape == (161,)
    fpr, tpr, thresholds = sklearn.metrics.roc_curve(
        present[mask], scores[mask], drop_intermediate=False
    )
    found = np.stack([curve.false_positive_rate, curve.true_positive_rate, curve.threshold])
    # Masked queries repeat the point of the next higher score, at thresholds of their own.
    used = np.isin(found[2], thresholds)
    np.testing.assert_allclose(
        np.unique(found[:, used], axis=1)[:2],
        np.unique(np.stack([fpr, tpr, thresholds]), axis=1)[:2],
        rtol=1e-6,
    )
    area = sklearn.metrics.auc(found[0], found[1])
    np.testing.assert_allclose(area, metrics.auroc(scores, present, mask), rtol=1e-6)


def test_nineteen_of_twenty_are_95_percent():
    scores = np.arange(21, dtype=np.float32)
    present = scores != 1
    # The twenty are 0, 2, 3, ...: without the lowest, none below 2 needs to pass.
    assert float(metrics.false_positive_rate_at(scores, present)) == 0
    assert float(metrics.false_positive_rate_at(scores, present, true_positive_rate=0.96)) == 1


def test_placements_are_shares_of_the_other_kind():
    scores, present, mask = _case(4, ties=True)
    found = np.asarray(metrics.placements(scores, present, mask))
    for i in np.flatnonzero(mask):
        others = scores[mask & (present != present[i])].astype(np.float64)
        gap = scores[i] - others if present[i] else others - scores[i]
        np.testing.assert_allclose(found[i], np.mean((gap > 0) + 0.5 * (gap == 0)), atol=1e-6)


@pytest.mark.parametrize(
    "figure",
    [
        metrics.auroc,
        metrics.false_positive_rate_at,
        lambda *args: metrics.roc_curve(*args)[:2],
    ],
    ids=["auroc", "fpr", "curve"],
)
def test_alike_jitted_permuted_padded_and_on_eight_devices(figure):
    scores, present, mask = _case(5, ties=True)
    wanted = np.asarray(figure(scores, present, mask))
    jitted = jax.jit(figure)
    np.testing.assert_allclose(jitted(scores, present, mask), wanted, rtol=1e-6)
    order = np.random.default_rng(0).permutation(160)
    moved = figure(scores[order], present[order], mask[order])
    padded = [np.pad(x, (0, 9), constant_values=c) for x, c in ((scores, 9), (present, 1))]
    longer = figure(*padded, np.pad(mask, (0, 9)))
    if wanted.ndim:  # points repeat in other places
        moved, longer = np.unique(moved, axis=1), np.unique(longer, axis=1)
        np.testing.assert_allclose(moved, np.unique(wanted, axis=1), rtol=1e-6)
        np.testing.assert_allclose(longer, np.unique(wanted, axis=1), rtol=1e-6)
    else:
        np.testing.assert_allclose([moved, longer], [wanted, wanted], rtol=1e-6)
    spread = NamedSharding(make_mesh(), PartitionSpec("data"))
    eight = jitted(*jax.device_put((scores, present, mask), spread))
    np.testing.assert_allclose(eight, wanted, rtol=1e-6)


@pytest.mark.parametrize("present", [True, False])
def test_one_kind_alone_gives_no_number(present):
    scores, kinds = np.arange(4.0), np.full(4, present)
    assert np.isnan(metrics.auroc(scores, kinds))
    assert np.isnan(metrics.false_positive_rate_at(scores, kinds))


def test_scores_that_are_no_numbers_count_against_us():
    scores = np.array([3, np.nan, 1, np.nan, -np.inf], np.float32)
    present = np.array([True, True, False, False, False])
    # 3 loses to one NaN and beats two; NaN loses to 1 and NaN, ties with -inf.
    np.testing.assert_allclose(metrics.auroc(scores, present), (2 + 0.5) / 6, rtol=1e-6)


def _clustered(rng, items=60, each=3):
    level = rng.normal(size=items)
    present = np.arange(items) % 3 > 0
    items_of = np.repeat(np.arange(items), each)
    scores = (level + present)[items_of] + 0.3 * rng.normal(size=items * each)
    return scores.astype(np.float32), present[items_of], items_of


def test_the_interval_is_the_bootstraps_over_items():
    rng = np.random.default_rng(0)
    scores, present, items = _clustered(rng, items=240)
    found = metrics.auroc_interval(metrics.placements(scores, present), present, items)
    areas = []
    kinds = present.reshape(-1, 3)[:, 0]
    for _ in range(600):
        drawn = np.concatenate(
            [rng.choice(np.flatnonzero(kinds == kind), (kinds == kind).sum()) for kind in (0, 1)]
        )
        rows = (drawn[:, None] * 3 + np.arange(3)).reshape(-1)
        areas.append(sklearn.metrics.roc_auc_score(present[rows], scores[rows]))
    wanted = np.quantile(areas, [0.025, 0.975])
    np.testing.assert_allclose(found, wanted, atol=0.012)
    alone = metrics.auroc_interval(
        metrics.placements(scores, present), present, np.arange(len(items))
    )
    assert found[1] - found[0] > 1.3 * (alone[1] - alone[0])


def test_the_interval_of_single_queries_is_delongs():
    """The variance by DeLong's double sums; the interval is Wilson's with that variance."""
    scores, present, _ = _case(6, ties=False)
    scores = scores.astype(np.float64)
    beats = scores[present][:, None] > scores[~present][None]
    area = beats.mean()
    m, n = beats.shape
    variance = beats.mean(axis=1).var(ddof=1) / m + beats.mean(axis=0).var(ddof=1) / n
    low, high = metrics.auroc_interval(
        metrics.placements(scores, present), present, np.arange(len(scores))
    )
    # Wilson's bounds b solve (b - area)^2 = z^2 b (1 - b) / size.
    size = area * (1 - area) / variance
    for bound in (low, high):
        wanted = 1.959964**2 * bound * (1 - bound) / size
        np.testing.assert_allclose((bound - area) ** 2, wanted, rtol=1e-3)


def test_a_perfect_area_is_no_certainty():
    placements, present = np.ones(12), np.arange(12) < 6
    low, high = metrics.auroc_interval(placements, present, np.arange(12))
    assert low < 0.7
    assert high == pytest.approx(1.0)
