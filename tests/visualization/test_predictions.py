"""Where marks and text are on an image."""

import numpy as np

from grnet_jax.visualization.drawing import COLORS
from grnet_jax.visualization.explanations import CroppedImage
from grnet_jax.visualization.predictions import Mark, draw_predictions


def test_marks_are_drawn_at_their_points_and_not_outside():
    whole = np.full((90, 60, 3), (20, 60, 160), np.uint8)
    image = CroppedImage("a", whole, (0, 0, 60, 90), whole)
    marks = [Mark(15, 30, "", True), Mark(45, 60, "", False), Mark(70, 10, "", True)]
    bare = np.asarray(draw_predictions(image, [], []))
    drawn = np.asarray(draw_predictions(image, marks, ["dress 90%"]))
    assert bare.shape == (360, 360, 3)  # 240 across, and room for text
    assert drawn.shape == (392, 360, 3)
    np.testing.assert_allclose(drawn[122, 62], COLORS[0], atol=3)  # filled
    np.testing.assert_allclose(drawn[242, 182], (20, 60, 160), atol=3)  # an outline alone
    changed = np.argwhere((drawn[:360] != bare).any(axis=-1))
    places = np.array([[122, 62], [242, 182]])
    near = np.abs(changed[:, None] - places).max(axis=-1) <= 10
    assert near.any(axis=1).all()
    assert near.any(axis=0).all()
    assert (drawn[360:] != 255).any()
