"""Curves stand where their figures are."""

import numpy as np
import pytest

from grnet_jax.errors import InputError
from grnet_jax.visualization.curves import Curve, draw_curves
from grnet_jax.visualization.style import COLOURS


def _curve(values, **options):
    return Curve("GRNet", np.array([1, 10, 50]), np.array(values), **options)


def _rows_of(image, colour, column):
    pixels = np.asarray(image)[:, column].astype(int)
    return np.flatnonzero(np.abs(pixels - colour).sum(axis=1) < 30)


def test_higher_accuracy_stands_higher_and_in_another_colour():
    image = draw_curves([_curve([0.2, 0.2, 0.2]), _curve([0.8, 0.8, 0.8])], "Top-k")
    column = 200
    low, high = (_rows_of(image, colour, column) for colour in COLOURS[:2])
    assert len(low)
    assert len(high)
    # From 0.2 to 0.8 of the height of 420 pixels.
    assert low.mean() - high.mean() == pytest.approx(0.6 * 420, abs=2)


def test_intervals_are_bars():
    bars = np.array([[0.1, 0.5], [0.1, 0.5], [0.1, 0.5]])
    plain, barred = (
        draw_curves([_curve([0.3, 0.3, 0.3], intervals=intervals)], "Top-k")
        for intervals in (None, bars)
    )
    column = 60 + round(640 * 10 / 50)  # of k = 10
    heights = [np.ptp(_rows_of(image, COLOURS[0], column)) for image in (plain, barred)]
    assert heights[0] < 10
    assert heights[1] == pytest.approx(0.4 * 420, abs=3)


def test_the_same_curves_are_the_same_picture_and_one_point_is_enough():
    one = Curve("A", np.array([1]), np.array([0.5]))
    first, second = (np.asarray(draw_curves([one], "Top-1")) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("curves", [[], [Curve("A", np.zeros(0, int), np.zeros(0))]])
def test_nothing_to_draw_is_named(curves):
    with pytest.raises(InputError, match="Top-k: expected curves of one point or more"):
        draw_curves(curves, "Top-k")
