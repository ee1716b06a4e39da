"""Plots of what eval.py measured, from its files: retrieval by group, and each attribute's recall.

As Fig. 11 and Fig. 7 of FashionNet (Liu et al., 2016), as far as their description tells.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image, ImageDraw, ImageFont

from grnet_jax.errors import InputError
from grnet_jax.retrieval.measures import TOP_K
from grnet_jax.visualization.curves import Curve, draw_curves
from grnet_jax.visualization.style import COLOURS, FINE, INK, PALE, PAPER

_FIGURE = "recall5"
_MOST = 50  # attributes in a plot: the most frequent
_LABEL, _BAR, _RIGHT, _TOP, _LINE = 220, 400, 64, 44, 18  # of the bars' plot, in pixels


def write_plots(folder: epath.Path, output: epath.Path) -> list[str]:
    """Draws what the results in `folder` hold as PNG files in `output`; returns their paths.

    Raises:
      InputError: the folder has neither results.json nor recognition.json, or they have nothing to
        draw.
    """
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for name, picture in _pictures(_read(folder / "results.json"), folder):
        path = output / name
        with path.open("wb") as file:
            picture.save(file, "PNG")
        written.append(str(path))
    if not written:
        raise InputError(
            f"{folder}: has no results.json with breakdowns and no recognition.json with "
            "attributes; eval.py writes them"
        )
    return written


def _pictures(results: Mapping[str, Any], folder: epath.Path) -> Iterator[tuple[str, Image.Image]]:
    for kind, groups in results.get("breakdowns", {}).items():
        if curves := breakdown_curves(groups):
            title = f"Top-k accuracy by {kind} of the query"
            yield f"breakdown_{kind}.png", draw_curves(curves, title)
    attributes = _read(folder / "recognition.json").get("attributes", {})
    if attributes:
        names, values = attribute_recalls(attributes)
        title = f"Top-5 recall of the {len(names)} most frequent attributes"
        yield "attribute_recall.png", draw_bars(names, values, title)


def breakdown_curves(groups: Mapping[str, Mapping[str, Any]]) -> list[Curve]:
    """A curve a group with measured queries, of its entry in `breakdowns` of results.json."""
    return [
        Curve(
            f"{name} ({group['queries']:,} queries)",
            np.array(TOP_K),
            np.array([group[f"top{k}"] for k in TOP_K]),
            np.array([group["intervals_95"][f"top{k}"] for k in TOP_K]),
        )
        for name, group in groups.items()
        if group["queries"]
    ]


def attribute_recalls(
    attributes: Mapping[str, Mapping[str, float]],
) -> tuple[list[str], list[float]]:
    """The most frequent attributes by falling recall: names and top-5 recalls, in 0..1.

    Args:
      attributes: of recognition.json.
    """
    frequent = sorted(attributes, key=lambda name: -attributes[name]["photos"])[:_MOST]
    names = sorted(frequent, key=lambda name: -attributes[name][_FIGURE])
    return names, [attributes[name][_FIGURE] for name in names]


def draw_bars(names: Sequence[str], values: Sequence[float], title: str) -> Image.Image:
    """A horizontal bar for each share in 0..1, from the top, with its name and percentage."""
    width, height = _LABEL + _BAR + _RIGHT, _TOP + (len(names) + 1) * _LINE
    image = Image.new("RGB", (width * FINE, height * FINE), PAPER)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(12 * FINE)
    draw.text((16 * FINE, _TOP * FINE / 2), title, fill=INK, font=font, anchor="lm")
    left = _LABEL * FINE
    for number, (name, value) in enumerate(zip(names, values, strict=True)):
        top = (_TOP + number * _LINE) * FINE
        middle, bottom = top + _LINE * FINE / 2, top + (_LINE - 4) * FINE
        draw.rectangle((left, top, left + _BAR * FINE, bottom), fill=PALE)
        if value:
            draw.rectangle((left, top, left + _BAR * FINE * value, bottom), fill=COLOURS[0])
        draw.text((left - 8 * FINE, middle), name[:32], fill=INK, font=font, anchor="rm")
        end = left + (_BAR + 8) * FINE
        draw.text((end, middle), f"{100 * value:.1f}%", fill=INK, font=font, anchor="lm")
    return image.reduce(FINE)


def _read(path: epath.Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}
