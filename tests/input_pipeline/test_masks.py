"""Masks as COCO writes them, against NumPy's decoding of runs and a test of points in polygons."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from input_pipeline.masks import MaskError, draw, to_mask
from tests.input_pipeline.coco_trees import STAR, TURNS, ring, runs_of

ANYWHERE = (np.nan,) * 4


def in_polygon(points, height, width):
    """Which pixels' centers lie in a polygon, and which within a pixel of its edges."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.zeros((height, width), bool)
    distance = np.full((height, width), np.inf)
    corners = np.array(points, float).reshape(-1, 2)
    for (x_1, y_1), (x_2, y_2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        across, down = x_2 - x_1, y_2 - y_1
        if down:
            inside ^= ((y_1 > y) != (y_2 > y)) & (x < x_1 + (y - y_1) / down * across)
        along = np.clip(((x - x_1) * across + (y - y_1) * down) / (across**2 + down**2), 0, 1)
        near = np.hypot(x - x_1 - along * across, y - y_1 - along * down)
        distance = np.minimum(distance, near)
    return inside, distance < 1


@pytest.mark.parametrize(
    "polygons", [[STAR], [[4, 3, 12, 3, 12, 12, 4, 12], [20, 8, 30, 20, 18, 20]]]
)
def test_polygons(polygons):
    mask = draw(to_mask(polygons, ANYWHERE, 24, 36), 24, 36)
    inside, near = np.any([in_polygon(each, 24, 36) for each in polygons], axis=0)
    assert (inside & ~near).sum() > 30  # the comparison below is about something
    np.testing.assert_array_equal(mask[~near], inside[~near])


@pytest.mark.parametrize("turn", TURNS)
def test_random_runs(turn):
    """Compressed or not, a mask of the image as stored is that of the upright image."""
    rng = np.random.default_rng(turn)
    for share in (0.02, 0.5, 0.9):
        upright = (rng.random((17, 23)) < share).astype(np.uint8)
        upright[5, 7] = 1
        stored = np.ascontiguousarray(TURNS[turn](upright))
        coded = coco_mask.encode(np.asfortranarray(stored))["counts"].decode()
        y, x = np.nonzero(upright)
        box = (x.min(), y.min(), x.max() + 1, y.max() + 1)
        for counts in (coded, runs_of(stored)):
            runs = {"size": list(stored.shape), "counts": counts}
            mask = draw(to_mask(runs, box, 17, 23, turn), 17, 23)
            np.testing.assert_array_equal(mask, upright)


def test_damaged_runs_are_no_mask():
    """Whatever is accepted is what some mask of that size encodes to."""
    rng = np.random.default_rng(0)
    good = coco_mask.encode(np.asfortranarray(ring()))["counts"].decode()
    refused = 0
    for _ in range(400):
        text = list(good)
        text[rng.integers(len(text))] = chr(rng.integers(32, 127))
        text = "".join(text[: rng.integers(1, len(text) + 1)])
        try:
            counts = to_mask({"size": [24, 36], "counts": text}, ANYWHERE, 24, 36)
        except MaskError:
            refused += 1
            continue
        again = coco_mask.encode(np.asfortranarray(draw(counts, 24, 36)))["counts"]
        np.testing.assert_array_equal(draw(again, 24, 36), draw(counts, 24, 36))
    assert refused > 300
