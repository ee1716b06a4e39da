"""Listwise probabilities: against the likelihood written out, and drawn lists that follow them."""

import numpy as np
import pytest
from scipy.optimize import minimize

from grnet_jax.metrics import NONE, Listwise, cross_fit, fit_listwise, list_probabilities


def _draw(count=400, length=12, scale=4.0, none=3.0):
    rng = np.random.default_rng(1)
    scores = -np.sort(-rng.normal(0.3, 0.4, (count, length)), axis=1)
    scores[::3, -4:] = -np.inf
    p, absent = Listwise(scale, none)(scores)
    everything = np.append(p, absent[:, None], axis=1)
    drawn = np.array([rng.choice(length + 1, p=one) for one in everything])
    return scores, np.where(drawn == length, NONE, drawn)


def _loss(numbers, scores, answers):
    """Mean negative log-likelihood, a list at a time, in Python's float64."""
    total = 0.0
    for row, answer in zip(scores.tolist(), answers.tolist(), strict=True):
        terms = [np.exp(numbers[0] * score) for score in row if score > -np.inf]
        right = np.exp(numbers[1]) if answer == NONE else np.exp(numbers[0] * row[answer])
        total -= np.log(right / (sum(terms) + np.exp(numbers[1])))
    return total / len(scores)


def test_the_fit_is_the_likeliest():
    scores, answers = _draw()
    fitted = fit_listwise(scores, answers)
    found = minimize(_loss, [1.0, 1.0], (scores, answers), "Nelder-Mead", options={"xatol": 1e-6})
    np.testing.assert_allclose(fitted, found.x, rtol=2e-3)
    assert fitted == pytest.approx((4.0, 3.0), rel=0.2)


def test_probabilities_are_of_one_list():
    scores, _ = _draw()
    listwise = Listwise(4.0, 3.0)
    p, none = listwise(scores)
    np.testing.assert_allclose(p.sum(axis=1) + none, 1, rtol=1e-12)
    assert not p[~np.isfinite(scores)].any()
    told = [listwise.none_of(*pair) for pair in zip(scores[:, 0], p[:, 0], strict=True)]
    np.testing.assert_allclose(told, none, rtol=1e-9)
    assert listwise(np.full((1, 3), -np.inf))[1] == 1


def test_halves_are_fitted_on_the_other_half():
    scores, answers = _draw()
    clusters = np.arange(len(scores)) // 2
    p, none = cross_fit(scores, answers, clusters)
    changed = answers.copy()
    changed[:2] = np.where(answers[:2] == NONE, 0, NONE)  # of one item
    again, _ = cross_fit(scores, changed, clusters)
    np.testing.assert_array_equal(p[:2], again[:2])
    assert (p != again).any()
    assert np.isfinite(none).all()


def test_a_perfect_ranking_has_an_end():
    scores = np.array([[3.0, 0.0, -1.0]] * 40)
    fitted = fit_listwise(scores, np.zeros(40, int))
    assert np.isfinite(fitted).all()
    assert fitted(scores)[0][0, 0] > 0.99


def test_several_images_of_one_item_are_one_result():
    scores, answers = _draw()
    clusters = np.arange(len(scores))
    items = 1000 + np.arange(scores.size).reshape(scores.shape)
    items[answers != NONE, answers[answers != NONE]] = clusters[answers != NONE]
    alone = list_probabilities(scores, items, clusters)
    # Each image twice, side by side.
    found = list_probabilities(*(np.repeat(part, 2, axis=1) for part in (scores, items)), clusters)
    np.testing.assert_allclose(found.p[:, ::2], alone.p, atol=1e-6)
    assert not found.there[:, 1::2].any()
    assert not found.p[:, 1::2].any()
    np.testing.assert_array_equal(found.right.any(axis=1), answers != NONE)
    everyone = np.ones(len(scores), bool)
    first, expected = found.measure(everyone, 1), alone.measure(everyone, 1)
    assert first.brier == pytest.approx(np.mean((alone.p[:, 0] - (answers == 0)) ** 2), abs=1e-6)
    assert first.values["ece"] == pytest.approx(expected.values["ece"], abs=1e-6)
    assert found.measure(everyone, 1).results == len(scores)
    assert found.measure(~everyone, 1) is None
