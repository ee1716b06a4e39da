"""What features and ranks depend on, as short texts to compare."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from grnet_jax.config import Config, fields_affecting


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What features were computed from; stores of another one are refused.

    Attributes:
      model: of the matcher's config, images' preprocessing and parameters.
      step: the checkpoint's.
      photos: of what images there are and how they are cropped.
    """

    model: str
    step: int
    photos: str


def fingerprint(parts: Iterable[Any]) -> str:
    """Returns sixteen hexadecimal digits of values, in order: arrays, or what JSON can hold."""
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


def model_fingerprint(config: Config, variables: Any) -> str:
    """Returns that of the fields that features depend on, and of every parameter."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return fingerprint(
        [
            fields_affecting(config, "features"),
            [jax.tree_util.keystr(path) for path, _ in leaves],
            *(np.asarray(leaf) for _, leaf in leaves),
        ]
    )
