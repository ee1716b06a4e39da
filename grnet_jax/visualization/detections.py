"""Draws detections: boxes, masks and names on the photo."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from grnet_jax.detection.photos import PhotoDetections
from grnet_jax.visualization.drawing import COLORS, PAPER

_SIDE = 800  # of the picture's longer side, in pixels; larger photos are made smaller


def draw_detections(photo: np.ndarray, found: PhotoDetections) -> Image.Image:
    """Returns the photo uint8 [h, w, 3] with what was found, each category in its color."""
    names = dict.fromkeys(sorted(found.category.tolist()))
    colors = {name: COLORS[number % len(COLORS)] for number, name in enumerate(names)}
    shown = photo.copy()
    for place in reversed(range(len(found))):  # the best on top
        pixels = found.pixels(place)
        if pixels is not None:
            color = np.array(colors[str(found.category[place])])
            shown[pixels] = (shown[pixels] * 0.6 + color * 0.4).astype(np.uint8)
    picture = Image.fromarray(shown)
    scale = min(_SIDE / max(picture.size), 4.0)
    picture = picture.resize([max(round(side * scale), 1) for side in picture.size])
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    for place in reversed(range(len(found))):
        x_1, y_1, x_2, y_2 = (found.box[place] * scale).tolist()
        name = str(found.category[place])
        draw.rectangle((x_1, y_1, max(x_2, x_1), max(y_2, y_1)), outline=colors[name], width=3)
        text = f"{name} {100 * found.score[place]:.0f}%"
        draw.rectangle(draw.textbbox((x_1 + 4, y_1 + 4), text, font=font), fill=colors[name])
        draw.text((x_1 + 4, y_1 + 4), text, fill=PAPER, font=font)
    return picture
