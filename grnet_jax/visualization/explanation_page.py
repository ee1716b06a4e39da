"""Writes the page of explanations."""

import dataclasses
import html
import re
from collections.abc import Sequence
from typing import Any

from etils import epath

from grnet_jax.visualization.drawing import render_heat, render_image, render_region
from grnet_jax.visualization.explanations import CroppedImage, Explanation
from grnet_jax.visualization.strongest_nodes import StrongNode
from grnet_jax.visualization.templating import picture_tag, render
from input_pipeline import write_file

PAGE = "explanations.html"
# On the page of results, where there were no explanations yet.
_COMMAND = re.compile(r"(<p>Where the scores .*?)<code>.*?</code> writes a page of it(\.</p>)")


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
) -> str:
    """Writes `explanations.html`, one file with its pictures inside, and returns its path.

    Args:
      directory: where to.
      sections: a query each.
      model: its name.
      step: of the checkpoint.
      source: where the photos come from and how they were chosen, in words.
    """
    shown = [
        {"title": section.title, "pairs": [_show_pair(pair) for pair in section.pairs]}
        for section in sections
    ]
    page = directory / PAGE
    explained = [pair.explanation for section in sections for pair in section.pairs]
    content = render(
        PAGE,
        model=model,
        step=step,
        mark=_mark(model, step),
        source=source,
        sections=shown,
        aligned=any(one.cells for one in explained),
        reasoned=any(one.after for one in explained),
    )
    write_file(page, content)
    _link_from_results(directory / "results.html", model, step)
    return str(page)


def _link_from_results(page: epath.Path, model: str, step: int) -> None:
    """Puts the link where a page of results of this checkpoint has the command."""
    text = page.read_text() if page.exists() else ""
    if f"<h1>{html.escape(model)} on " in text and f"<p>Checkpoint of step {step}." in text:
        write_file(page, _COMMAND.sub(rf'\1<a href="{PAGE}">{PAGE}</a>\2', text))


def has_explanations(directory: epath.Path, model: str, step: int) -> bool:
    """Returns whether the directory has a page of explanations of this checkpoint."""
    page = directory / PAGE
    return page.exists() and _mark(model, step) in page.read_text()


def _mark(model: str, step: int) -> str:
    return f"Checkpoint: {model}, step {step}."


def _show_pair(pair: ExplainedPair) -> dict[str, Any]:
    explanation = pair.explanation
    images = ("query", pair.query), ("gallery", pair.gallery)
    heats = explanation.query_heat, explanation.gallery_heat
    seen = [
        {"picture": picture_tag(render_image(image), f"{name} photo {image.name}"), "note": ""}
        for name, image in images
    ]
    cams = [
        {
            "picture": picture_tag(
                render_heat(image, heat), f"Grad-CAM over the {name} photo {image.name}"
            ),
            "note": "" if heat.max() > 0 else "Nothing raises the score.",
        }
        for (name, image), heat in zip(images, heats, strict=True)
    ]
    attended = [
        {
            "picture": picture_tag(
                render_heat(image, heat - heat.min()),
                f"attention over the {name} photo {image.name}",
            ),
            "note": f"{heat.min():.2f} to {heat.max():.2f}, {heat.mean():.2f} on average",
        }
        for (name, image), heat in zip(images, explanation.attention, strict=False)
    ]
    equal, equal_cell = explanation.equal_weight, explanation.equal_cell_weight
    named = (
        ("Strongest pairs of cells", explanation.cells, equal_cell),
        ("Strongest region pairs before reasoning", explanation.before, equal),
        ("Strongest region pairs after reasoning", explanation.after, equal),
    )
    return {
        "caption": pair.caption,
        "right": pair.right,
        "score": f"{explanation.score:.2f}",
        "photos": {"What the matcher sees": seen, "Grad-CAM": cams}
        | ({"Attention": attended} if attended else {}),
        "nodes": {
            f"{title} (equal weights: {same:.2%} each)": _show_nodes(pair, nodes)
            for title, nodes, same in named
            if nodes
        },
    }


def _show_nodes(pair: ExplainedPair, nodes: Sequence[StrongNode]) -> list[dict[str, Any]]:
    """Returns a row per region pair: both regions, where they are, scale and weight."""
    rows = []
    for number, node in enumerate(nodes, start=1):
        regions = ("query", pair.query, node.query), ("gallery", pair.gallery, node.gallery)
        scale = "{} × {}".format(*node.scale)
        rows.append(
            {
                "scale": scale,
                "weight": f"{node.weight:.2%}",
                "percent": round(100 * node.weight / max(nodes[0].weight, 1e-30)),
                "regions": [
                    {
                        "picture": picture_tag(
                            render_region(image, window),
                            f"region pair {number}: {name} region at scale {scale}",
                        ),
                        "window": [100 * edge for edge in window],
                    }
                    for name, image, window in regions
                ],
            }
        )
    return rows
