"""Renders the HTML templates beside this module."""

from typing import Any

import jinja2


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
