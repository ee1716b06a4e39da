"""Writes a trained matcher's two halves as `jax.export` artefacts, parameters inside."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from etils import epath

import grnet_jax
from grnet_jax import models
from grnet_jax.config import Config
from grnet_jax.errors import InputError
from grnet_jax.export.reading import DESCRIPTION, FORMAT
from input_pipeline import ImageConfig, build_transform, write_file

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export_matcher(
    config: Config, variables: Any, step: int, directory: epath.Path, platforms: Sequence[str]
) -> list[str]:
    """Writes `embed` and `score`, each for any number of photos, and what describes them.

    Float32 products run in the default precision of the platform that they are run on; those of
    scoring are in `eval.search.score_dtype`, as where evaluation scores.

    Args:
      config: the run's, with no field left open.
      variables: the matcher's.
      step: of the checkpoint.
      directory: where to.
      platforms: some of `PLATFORMS`; none of them has to be there.

    Returns:
      The paths of the files.

    Raises:
      InputError: naming the platforms there are.
    """
    if not platforms or not set(platforms) <= set(PLATFORMS):
        raise InputError(f"--platforms: {','.join(platforms)!r}: expected some of {PLATFORMS}")
    model = config.model
    if hasattr(model, "gallery_chunk"):  # a number of chunks cannot be left open
        model = model.model_copy(update={"gallery_chunk": 0})
    matcher = models.build_matcher(model)
    # As numbers: laid out over no devices of this machine.
    variables = jax.device_get(variables)
    search, size = config.eval.search, config.image.size
    fused = jax.device_get(models.fuse(matcher, variables, search.score_dtype))

    def embed(photos: jax.Array) -> dict[str, jax.Array]:
        return _named(models.embed_augmented(matcher, variables, photos, search.flip_average))

    def score(query: Mapping[str, jax.Array], gallery: Mapping[str, jax.Array]) -> jax.Array:
        return models.score_fused(
            matcher, fused, models.Features(**query), models.Features(**gallery)
        )

    one = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    features = jax.eval_shape(embed, one)
    (n,) = jax.export.symbolic_shape("n")
    q, g = jax.export.symbolic_shape("q, g")
    exported = {
        "embed": jax.export.export(jax.jit(embed), platforms=platforms)(_many(one, n)),
        "score": jax.export.export(jax.jit(score), platforms=platforms)(
            _many(features, q), _many(features, g)
        ),
    }
    directory.mkdir(parents=True, exist_ok=True)
    files = {name: _write(directory, name, half) for name, half in exported.items()}
    description = {
        "format": FORMAT,
        "name": config.name,
        "step": step,
        "config_sha256": hashlib.sha256(config.model_dump_json().encode()).hexdigest(),
        "grnet_jax": grnet_jax.__version__,
        "jax": jax.__version__,
        "platforms": list(platforms),
        "photos": {"shape": ["n", size, size, 3], "dtype": "uint8"},
        "transform": _transform(config.image, shop=False),
        "shop_transform": _transform(config.image, shop=True),
        "features": {
            name: {"shape": ["n", *leaf.shape[1:]], "dtype": str(leaf.dtype)}
            for name, leaf in features.items()
        },
        "scores": {"shape": ["q", "g"], "dtype": "float32"},
        "files": files,
    }
    # Last, so that a folder with a description is whole.
    path = directory / DESCRIPTION
    write_file(path, json.dumps(description, indent=2) + "\n")
    return [str(path), *(str(directory / file["name"]) for file in files.values())]


def _named(features: models.Features) -> dict[str, jax.Array]:
    """Features as a dict, which JAX knows without our class."""
    leaves = {field.name: getattr(features, field.name) for field in dataclasses.fields(features)}
    return {name: leaf for name, leaf in leaves.items() if leaf is not None}


def _many(arrays: Any, count: Any) -> Any:
    """The shapes of arrays with another number of photos, which may be open."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype), arrays
    )


def _write(directory: epath.Path, name: str, half: jax.export.Exported) -> dict[str, str]:
    data = bytes(half.serialize())
    file = f"{name}.jax_export"
    write_file(directory / file, data)
    return {"name": file, "sha256": hashlib.sha256(data).hexdigest()}


def _transform(image: ImageConfig, shop: bool) -> dict[str, Any]:
    """How an image becomes the square that `embed` takes: `input_pipeline.ImageTransform`."""
    return dataclasses.asdict(build_transform(image, shop))
