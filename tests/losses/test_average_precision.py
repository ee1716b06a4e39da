import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from grnet_jax import sharding
from grnet_jax.losses import average_precision_loss
from tests.losses import naive


def _lists(seed=0, queries=6, candidates=15):
    """Scores, positives and negatives; some candidates count for no query."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(-1, 1, (queries, candidates))
    kind = rng.choice(3, scores.shape, p=[0.3, 0.5, 0.2])
    kind[:, 0] = 0  # a positive for every query
    return scores, kind == 0, kind == 1


def _exact(scores, positive, negative):
    counts = positive | negative
    return [
        average_precision_score(p[c], s[c])
        for s, p, c in zip(scores, positive, counts, strict=True)
    ]


@pytest.mark.parametrize("bins", [2, 20, 101])
def test_equals_the_papers_formula(bins):
    scores, positive, negative = _lists()
    wanted = np.mean(
        [1 - naive.histogram_ap(*row, bins) for row in zip(scores, positive, negative, strict=True)]
    )
    with jax.enable_x64(True):
        found = average_precision_loss(scores, positive, negative, bins=bins)
    np.testing.assert_allclose(found, [wanted, len(scores), 0], rtol=1e-12)
    found = average_precision_loss(scores.astype(np.float32), positive, negative, bins=bins)
    np.testing.assert_allclose(found.loss, wanted, rtol=1e-5)


@pytest.mark.parametrize("bins", [21, 401])
def test_scores_on_bin_centers_give_the_exact_value(bins):
    scores, positive, negative = _lists(1, queries=40)
    scores = np.round(scores * (bins - 1) / 2) / ((bins - 1) / 2)  # with 21 bins many tie
    with jax.enable_x64(True):
        found = average_precision_loss(scores, positive, negative, bins=bins).loss
    np.testing.assert_allclose(
        1 - np.asarray(found), np.mean(_exact(scores, positive, negative)), rtol=1e-12
    )


def test_many_bins_leave_what_sharing_a_score_costs():
    scores, positive, negative = _lists(2)
    bins = 20_001
    places = (1 - scores) * (bins - 1) / 2
    assert np.diff(np.sort(places, axis=1)).min() > 2  # every score has its two bins for itself
    lost = []
    for s, place, p, n in zip(scores, places, positive, negative, strict=True):
        own = []
        for i in np.flatnonzero(p):
            w = 1 - place[i] % 1
            before, others = (s[p] > s[i]).sum(), (s[n] > s[i]).sum()
            own.append(w * (1 - w) * others / ((others + before + 1) * (others + before + w)))
        lost.append(np.mean(own))
    assert 0 < max(lost) < (3 - 2 * np.sqrt(2)) / 2
    with jax.enable_x64(True):
        found = jax.jit(lambda s: average_precision_loss(s, positive, negative, bins=bins).loss)(
            scores
        )
    wanted = np.mean(_exact(scores, positive, negative)) - np.mean(lost)
    np.testing.assert_allclose(1 - np.asarray(found), wanted, rtol=1e-9)


def test_gradient_equals_differences():
    scores, positive, negative = _lists(3, queries=3, candidates=8)

    def loss(scores):
        rows = zip(scores, positive, negative, strict=True)
        return np.mean([1 - naive.histogram_ap(*row, 20) for row in rows])

    with jax.enable_x64(True):
        found = jax.jit(jax.grad(lambda s: average_precision_loss(s, positive, negative).loss))(
            scores
        )
    np.testing.assert_allclose(found, naive.gradient(loss, scores), atol=1e-7)


def test_queries_without_a_positive_do_not_count():
    scores, positive, negative = _lists(4)
    wanted = average_precision_loss(scores[2:], positive[2:], negative[2:])
    positive[0] = False
    positive[1] = negative[1] = False  # padding
    found = average_precision_loss(scores, positive, negative)
    np.testing.assert_allclose(found.loss, wanted.loss, rtol=1e-6)
    assert (found.queries, found.queries_without) == (5, 1)
    none = np.zeros_like(positive)
    value, grad = jax.value_and_grad(lambda s: average_precision_loss(s, none, negative).loss)(
        jnp.asarray(scores, jnp.float32)
    )
    assert value == 0
    np.testing.assert_array_equal(grad, 0)


def test_perfect_and_worst_lists():
    positive = np.array([[True, False, False]])
    assert average_precision_loss(jnp.array([[1.0, -1, -1]]), positive, ~positive).loss == 0
    found = average_precision_loss(jnp.array([[-1.0, 1, 1]]), positive, ~positive).loss
    np.testing.assert_allclose(found, 2 / 3, rtol=1e-6)
    beyond = average_precision_loss(jnp.array([[1.0001, -1.0001, -1]]), positive, ~positive)
    assert beyond.loss == 0


def test_order_jit_and_eight_devices_change_nothing():
    scores, positive, negative = _lists(5, queries=16)
    order = np.random.default_rng(0).permutation(15)
    with jax.enable_x64(True):
        wanted = average_precision_loss(scores, positive, negative).loss
        moved = average_precision_loss(scores[:, order], positive[:, order], negative[:, order])
        np.testing.assert_allclose(moved.loss, wanted, rtol=1e-12)
        for devices in (1, 8):
            mesh = sharding.make_mesh(jax.devices()[:devices])
            placed = sharding.place_batch((scores, positive, negative), mesh)
            found = jax.jit(lambda *a: average_precision_loss(*a).loss)(*placed)
            np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_one_bin_is_refused():
    mask = jnp.ones((1, 1), bool)
    with pytest.raises(ValueError, match="bins: expected 2 or more, got 1"):
        average_precision_loss(jnp.ones((1, 1)), mask, mask, bins=1)
