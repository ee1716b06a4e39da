"""What features and ranks depend on, as short texts to compare."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from grnet_jax.models import Views, make_views

# Fields of config.data that decide what the model sees of a photo, beside its cut.
RESIZED = ("image_size", "interpolation", "center_share")
# Fields of config.model that features do not depend on.
_FREE = ("gallery_chunk", "backbone.pretrained")


def digest(parts: Iterable[Any]) -> str:
    """Sixteen hexadecimal digits of values, in order: arrays, or what JSON can hold."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            kind = f"{part.dtype.str}{part.shape}"
            content = np.ascontiguousarray(part).tobytes()
        else:
            kind, content = "json", json.dumps(part, sort_keys=True).encode()
        found.update(f"{kind}:{len(content)}:".encode())
        found.update(content)
    return found.hexdigest()[:16]


def model_digest(config: Any, variables: Any) -> str:
    """Of a matcher's fields, of how photos come before it, and of every parameter.

    Also of the views that features are averaged over, where there are any besides the photo.
    """
    views = make_views(config.eval)
    fields = flatten_dict(json.loads(json.dumps(config.model.to_dict())), sep=".")
    described = {name: value for name, value in fields.items() if name not in _FREE}
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return digest(
        [
            described,
            {name: config.data[name] for name in RESIZED},
            [jax.tree_util.keystr(path) for path, _ in leaves],
            *(np.asarray(leaf) for _, leaf in leaves),
            *([views._asdict()] if views != Views() else []),
        ]
    )
