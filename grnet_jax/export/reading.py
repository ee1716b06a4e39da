"""Reads an exported matcher; needs JAX and NumPy, and no code of the model.

    matcher = grnet_jax.load_exported("exported/demo")
    query = matcher.embed(photos)  # uint8 [n, 64, 64, 3]
    scores = matcher.score(query, gallery)

The photos are cut, scaled squares: `matcher.description["transform"]` says how, and
`input_pipeline.crop_and_resize` does it.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.export
import numpy as np

from grnet_jax.errors import InputError

DESCRIPTION = "matcher.json"
FORMAT = 1  # of the description


class ExportError(InputError):
    """Exported files that cannot be used here; the message says which and why."""


class ExportedMatcher:
    """A matcher from its exported files.

    Attributes:
      description: what `matcher.json` holds: shapes, preprocessing, platforms, and of which run it
        was made.
    """

    def __init__(self, description: dict[str, Any], embed: Any, score: Any):
        self.description = description
        # One compilation for each number of photos.
        self._embed = jax.jit(embed.call)
        self._score = jax.jit(score.call)

    def embed(self, photos: np.ndarray) -> dict[str, jax.Array]:
        """Features of photos by name, every leaf leading with the photo axis.

        Args:
          photos: uint8 [n, size, size, 3], cut and scaled as the description's transform says.

        Raises:
          InputError: photos of another shape or dtype.
        """
        _check("embed: photos", photos, self.description["photos"])
        return self._embed(photos)

    def score(
        self, query: Mapping[str, np.ndarray], gallery: Mapping[str, np.ndarray]
    ) -> jax.Array:
        """float32 [q, g]: how alike each query is to each gallery photo; higher is more alike.

        A query's pairs with all of the gallery are held at once: score a large gallery in parts.

        Args:
          query: features of q photos, of `embed`.
          gallery: features of g photos.

        Raises:
          InputError: features that are not of this matcher.
        """
        wanted = self.description["features"]
        for side, features in (("query", query), ("gallery", gallery)):
            if set(features) != set(wanted):
                raise InputError(
                    f"score: {side}: expected features {sorted(wanted)}, got {sorted(features)}"
                )
            for name, form in wanted.items():
                _check(f"score: {side} {name}", features[name], form)
        return self._score(dict(query), dict(gallery))


def load_exported(path: str | os.PathLike[str]) -> ExportedMatcher:
    """The matcher that `python -m grnet_jax.export` wrote to the folder `path`.

    Raises:
      ExportError: no such folder, a file that is damaged, or one that was made for other
        platforms or a much older JAX (its files are read for six months at least).
    """
    folder = pathlib.Path(path).expanduser()
    file = folder / DESCRIPTION
    try:
        description = json.loads(file.read_text())
    except FileNotFoundError:
        raise ExportError(
            f"{folder} holds no exported matcher: {DESCRIPTION} is missing. Write one with "
            f"`python -m grnet_jax.export --workdir=... --output={folder}`"
        ) from None
    except (OSError, RecursionError, ValueError) as error:
        raise ExportError(f"{file}: cannot be read: {error}") from error
    try:
        if description.get("format") != FORMAT:
            raise ExportError(
                f"{file}: format {description.get('format')!r}; this version of grnet_jax reads "
                f"format {FORMAT}"
            )
        _check_platform(folder, description["platforms"])
        embed, score = (_read(folder, description["files"][name]) for name in ("embed", "score"))
        forms = [form for _, form in sorted(description["features"].items())]
        same = [description["photos"], *forms] == [
            {"shape": ["n", *array.shape[1:]], "dtype": str(array.dtype)}
            for array in (*embed.in_avals, *embed.out_avals)
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise ExportError(f"{file}: is damaged: {error!r}") from error
    if not same:
        raise ExportError(f"{file}: photos, features: are not those of {folder}'s other files")
    return ExportedMatcher(description, embed, score)


def _read(folder: pathlib.Path, file: Mapping[str, str]) -> Any:
    path = folder / file["name"]
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: cannot be read: {error}") from error
    if hashlib.sha256(data).hexdigest() != file["sha256"]:
        raise ExportError(f"{path}: is damaged, or not the file that {DESCRIPTION} was written for")
    try:
        return jax.export.deserialize(bytearray(data))
    except Exception as error:  # whatever the format of another version makes it raise
        raise ExportError(f"{path}: JAX {jax.__version__} cannot read it: {error}") from error


def _check_platform(folder: pathlib.Path, platforms: list[str]) -> None:
    here = jax.default_backend()
    names = {"gpu": ("cuda", "rocm")}.get(here, (here,))
    if not set(names) & set(platforms):
        raise ExportError(
            f"{folder} was exported for {', '.join(platforms)}, and JAX runs on {here} here: "
            "export it again with --platforms, or set JAX_PLATFORMS=cpu"
        )


def _check(what: str, array: Any, form: Mapping[str, Any]) -> None:
    """Raises InputError unless an array has the dtype and the shape, whose first axis is open."""
    shape, dtype = np.shape(array), str(getattr(array, "dtype", type(array).__name__))
    fits = len(shape) == len(form["shape"]) and list(shape[1:]) == form["shape"][1:]
    if not fits or not shape[0] or dtype != form["dtype"]:
        raise InputError(
            f"{what}: expected {form['dtype']} [{', '.join(map(str, form['shape']))}] with n > 0, "
            f"got {dtype} {list(shape)}"
        )
