"""Features of many images, batch by batch over the mesh."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from grnet_jax import models
from grnet_jax.errors import InputError
from grnet_jax.models import Features
from grnet_jax.search.ranking import Progress, ignore_progress
from grnet_jax.sharding import check_divisible, place_batch, replicated, sharded
from input_pipeline import ImageConfig

Batches = Callable[[np.ndarray, int], Iterable[Mapping[str, Any]]]


@functools.lru_cache(maxsize=8)
def make_embed(
    matcher: nn.Module, mesh: Mesh, flip_average: bool = False
) -> Callable[[Any, Any], Features]:
    """Returns `embed` as (variables, images) -> features, compiled: images shared, result whole."""

    def embed(variables: Any, images: jax.Array) -> Features:
        return models.embed_augmented(matcher, variables, images, flip_average)

    return _jit_images(embed, mesh)


@functools.lru_cache(maxsize=8)
def make_predict(matcher: nn.Module, mesh: Mesh) -> Callable[[Any, jax.Array], models.Predictions]:
    """Returns `predict` as (variables, images) -> predictions, compiled as `make_embed` is."""

    def predict(variables: Any, images: jax.Array) -> models.Predictions:
        return models.predict(matcher, variables, images)

    return _jit_images(predict, mesh)


@functools.lru_cache(maxsize=8)
def make_detect(detector: nn.Module, mesh: Mesh) -> Callable[[Any, Any], Any]:
    """Returns a detector as (variables, {"images", "size"}) -> detections, compiled likewise."""

    def detect(variables: Any, photos: Any) -> Any:
        return detector.apply(variables, **photos)

    return _jit_images(detect, mesh)


def _jit_images(call: Callable[[Any, jax.Array], Any], mesh: Mesh) -> Any:
    return jax.jit(
        call,
        in_shardings=(replicated(mesh), sharded(mesh)),
        out_shardings=replicated(mesh),
    )


def feature_shapes(
    embed: Callable[[Any, Any], Any], matcher: nn.Module, variables: Any, count: int, side: int
) -> Any:
    """Returns the shapes and dtypes of what `embed` makes of `count` images of side x side."""
    images = jax.ShapeDtypeStruct((count, side, side, 3), np.uint8)
    domain = jax.ShapeDtypeStruct((count,), np.int32)
    seen = models.model_inputs(matcher, {"image": images, "domain": domain})
    return jax.eval_shape(embed, variables, seen)


def check_photo_list(photos: Any, what: str) -> None:
    """Raises InputError, which begins with `what`, for a single photo or what has no length."""
    single = isinstance(photos, str | bytes | os.PathLike) or getattr(photos, "ndim", 4) == 3
    if single or not hasattr(photos, "__len__"):
        raise InputError(
            f"{what}: expected a list of photos, got {type(photos).__name__}: write [photo]"
        )


def small_batch(count: int, most: int, mesh: Mesh) -> int:
    """Returns the batch size for so many photos, at most `most`, shared evenly by the devices.

    Few photos make a smaller batch; powers of two keep the number of compilations small.
    """
    batch = min(most, 1 << (count - 1).bit_length())
    return -(-batch // mesh.size) * mesh.size


def read_images(
    matcher: nn.Module, split: Any, rows: np.ndarray, image: ImageConfig, batch: int
) -> Iterator[dict[str, Any]]:
    """Yields a split's batches as `embed_batches` takes them, with what the matcher embeds."""
    from input_pipeline import image_batches  # which loads TensorFlow

    for read in image_batches(split, rows, image, batch=batch):
        yield {"image": models.model_inputs(matcher, read)}


def host_rows(rows: np.ndarray, batch: int, host: int, hosts: int) -> np.ndarray:
    """Returns the rows that one host reads so that hosts' batches side by side are `rows` in order.

    The last row is repeated until every batch is full; the caller cuts the rest off.

    Args:
      rows: int [n], all images to embed, n > 0.
      batch: images a global batch, a multiple of `hosts`.
      host: this host's number.
      hosts: their number.
    """
    full = -(-len(rows) // batch) * batch
    padded = np.concatenate([rows, np.repeat(rows[-1:], full - len(rows))])
    return padded.reshape(-1, hosts, batch // hosts)[:, host].reshape(-1)


def embed_batches(
    embed: Callable[[Any, jax.Array], Any],
    variables: Any,
    batches: Batches,
    rows: np.ndarray,
    *,
    batch: int,
    mesh: Mesh,
    progress: Progress = ignore_progress,
) -> Iterator[tuple[int, Any]]:
    """Computes features (or predictions) of the images in `rows`, in order, batch by batch.

    Args:
      embed: of `make_embed` or `make_predict`.
      variables: the matcher's.
      batches: (rows, batch size) -> batches with "image" uint8 [batch, h, w, 3], or what the
        matcher embeds in their place.
      rows: int [n].
      batch: images a global batch, a multiple of the number of devices.
      mesh: the devices.
      progress: told the number of images after every batch.

    Yields:
      The place in `rows` of the batch's first image, and the features of its images as numpy
      arrays on every host; the last batch may be smaller.
    """
    check_divisible(batch, mesh, "eval.batch_size")
    if not len(rows):
        return
    hosts = jax.process_count()
    mine = host_rows(rows, batch, jax.process_index(), hosts)
    for number, read in enumerate(batches(mine, batch // hosts)):
        start = number * batch
        count = min(batch, len(rows) - start)
        features = embed(variables, place_batch(read["image"], mesh))
        yield start, jax.tree.map(lambda leaf, n=count: np.asarray(leaf)[:n], features)
        progress(count, False)


def embed_rows(
    embed: Callable[[Any, jax.Array], Any],
    variables: Any,
    batches: Batches,
    rows: np.ndarray,
    *,
    batch: int,
    mesh: Mesh,
    progress: Progress = ignore_progress,
) -> Any:
    """Computes what `embed_batches` yields, side by side, for n > 0 images."""
    whole: Any = None
    for start, part in embed_batches(
        embed, variables, batches, rows, batch=batch, mesh=mesh, progress=progress
    ):
        if whole is None:  # all in one place from the start: joined later, they would take twice
            whole = jax.tree.map(
                lambda leaf: np.empty((len(rows), *leaf.shape[1:]), leaf.dtype), part
            )
        for to, leaf in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
            to[start : start + len(leaf)] = leaf
    return whole
