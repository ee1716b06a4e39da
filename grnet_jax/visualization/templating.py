"""Renders the HTML templates beside this module; pictures are inside the pages."""

import base64
import io
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image


def render(template: str, **values: Any) -> str:
    """Renders a template of `templates/`; a missing value is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("grnet_jax.visualization"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(**values)


def picture_tag(picture: Image.Image, alt: str) -> Markup:
    """Returns an `img` element that holds the picture itself, as WebP.

    Args:
      picture: at the size at which it is stored.
      alt: what it shows, for who does not see it.
    """
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=80, method=2)
    data = base64.b64encode(stream.getvalue()).decode()
    return Markup(
        '<img src="data:image/webp;base64,{}" width="{}" height="{}" alt="{}" loading="lazy">'
    ).format(data, *picture.size, alt)
