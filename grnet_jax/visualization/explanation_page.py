"""Writes the page of explanations and its PNG files."""

import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath
from PIL import Image

from grnet_jax.visualization.drawing import draw_heat, draw_images, draw_nodes
from grnet_jax.visualization.explanations import CroppedImage, Explanation
from grnet_jax.visualization.templating import render
from input_pipeline import write_file

PAGE = "explanations.html"
_FOLDER = "explanations"


@dataclasses.dataclass(frozen=True)
class ExplainedPair:
    """A pair on the page.

    Attributes:
      caption: of the gallery image.
      right: whether it shows the query's item; None where that is unknown.
      query: the query.
      gallery: the gallery image.
      explanation: of their score.
    """

    caption: str
    right: bool | None
    query: CroppedImage
    gallery: CroppedImage
    explanation: Explanation


@dataclasses.dataclass(frozen=True)
class Section:
    """A query on the page, and its explained pairs."""

    title: str
    pairs: Sequence[ExplainedPair]


def write_explanations(
    directory: epath.Path, sections: Sequence[Section], *, model: str, step: int, source: str
) -> list[str]:
    """Writes `explanations.html` and the folder of its PNG files; returns both paths.

    Args:
      directory: where to.
      sections: a query each.
      model: its name.
      step: of the checkpoint.
      source: where the photos come from and how they were chosen, in words.
    """
    folder = directory / _FOLDER
    shown = [
        {"title": section.title, "pairs": list(_write_pairs(folder, number, section))}
        for number, section in enumerate(sections, start=1)
    ]
    page = directory / PAGE
    content = render("explanations.html", model=model, step=step, source=source, sections=shown)
    write_file(page, content)
    return [str(page), str(folder)]


def _write_pairs(folder: epath.Path, number: int, section: Section) -> Iterator[dict[str, Any]]:
    for letter, pair in zip("abcdefgh", section.pairs, strict=False):
        pictures = []
        for kind, title, picture in _pictures(pair):
            name = f"query{number:02d}{letter}_{kind}.png"
            _write_png(folder / name, picture)
            file = {"path": f"{_FOLDER}/{name}", "title": title}
            pictures.append(file | {"width": picture.width, "height": picture.height})
        yield {
            "caption": pair.caption,
            "right": pair.right,
            "score": f"{pair.explanation.score:.2f}",
            "names": f"{pair.query.name} and {pair.gallery.name}",
            "pictures": pictures,
        }


def _pictures(pair: ExplainedPair) -> Iterator[tuple[str, str, Image.Image]]:
    """Yields kind, title and picture."""
    images, explanation = (pair.query, pair.gallery), pair.explanation
    yield "photos", "What the matcher sees", draw_images(*images)
    yield (
        "grad_cam",
        "Grad-CAM",
        draw_heat(*images, explanation.query_heat, explanation.gallery_heat),
    )
    for kind, nodes in (("before", explanation.before), ("after", explanation.after)):
        if nodes:
            title = f"Strongest region pairs {kind} reasoning"
            yield f"nodes_{kind}", title, draw_nodes(*images, nodes, explanation.equal_weight)


def _write_png(path: epath.Path, picture: Image.Image) -> None:
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    write_file(path, stream.getvalue())
