"""The page of what was found in a catalog for some photos."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from grnet_jax.visualization.drawing import INK, PAPER
from grnet_jax.visualization.templating import picture_tag, render

_QUERY, _MATCH = 480, 320  # pixels, the longer side
_FIELDS = 4  # shown of an item


def match_page(title: str, said: str, sections: Sequence[Mapping[str, Any]]) -> str:
    """Returns a page, its pictures inside.

    Args:
      title: the catalog's name.
      said: about the catalog.
      sections: of each query name; picture uint8 [h, w, 3]; seen, the part of it that was searched,
        (left, top, right, bottom) as shares; matches, each the fields of a match and its
        thumbnail, an encoded image.
    """
    shown = [
        {
            "name": section["name"],
            "picture": _query_picture(section),
            "matches": [_match(place, one) for place, one in enumerate(section["matches"], 1)],
        }
        for section in sections
    ]
    return render("matches.html", title=title, said=said, sections=shown)


def _query_picture(section: Mapping[str, Any]) -> Any:
    """The query; what was not searched of it is pale."""
    picture = Image.fromarray(np.asarray(section["picture"]))
    picture.thumbnail((_QUERY, _QUERY), Image.Resampling.LANCZOS)
    if tuple(section["seen"]) != (0, 0, 1, 1):
        sides = (picture.width, picture.height) * 2
        box = tuple(round(share * side) for share, side in zip(section["seen"], sides, strict=True))
        pale = Image.blend(picture, Image.new("RGB", picture.size, PAPER), 0.6)
        pale.paste(picture.crop(box), box[:2])
        ImageDraw.Draw(pale).rectangle((*box[:2], box[2] - 1, box[3] - 1), outline=INK, width=2)
        picture = pale
    return picture_tag(picture, f"query {section['name']}")


def _match(place: int, match: Mapping[str, Any]) -> dict[str, Any]:
    with Image.open(io.BytesIO(match["thumbnail"])) as stored:
        picture = stored.convert("RGB")
    picture.thumbnail((_MATCH, _MATCH), Image.Resampling.LANCZOS)
    link = next((text for text in match["fields"].values() if text.startswith("https://")), "")
    fields = {name: text for name, text in match["fields"].items() if text != link}
    return {
        "place": place,
        "picture": picture_tag(picture, f"result {place}: item {match['item']}"),
        "item": match["item"],
        "score": f"{match['score']:.3f}",
        "fields": dict(list(fields.items())[:_FIELDS]),
        "link": link,
        "images": match["images"],
        "copies": [item for item, _ in match["copies"]],
    }
