"""Features of many photos, batch by batch over the mesh."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from grnet_jax import models
from grnet_jax.mesh import check_divisible, place_batch, replicated, sharded
from grnet_jax.models import Features, Views

_PLAIN = Views()


def make_embed(
    matcher: nn.Module, mesh: Mesh, views: Views = _PLAIN
) -> Callable[[Any, Any], Features]:
    """`embed` as (variables, photos) -> features, jitted: photos shared, result whole."""

    def embed(variables: Any, photos: jax.Array) -> Features:
        return models.embed_views(matcher, variables, photos, views)

    return _of_photos(embed, mesh)


def make_predict(matcher: nn.Module, mesh: Mesh) -> Callable[[Any, jax.Array], models.Predictions]:
    """`predict` as (variables, photos) -> predictions, jitted as `make_embed` is."""

    def predict(variables: Any, photos: jax.Array) -> models.Predictions:
        return models.predict(matcher, variables, photos)

    return _of_photos(predict, mesh)


def _of_photos(call: Callable[[Any, jax.Array], Any], mesh: Mesh) -> Any:
    return jax.jit(
        call,
        in_shardings=(replicated(mesh), sharded(mesh)),
        out_shardings=replicated(mesh),
    )


def read_photos(
    matcher: nn.Module, split: Any, rows: np.ndarray, data: Any, batch: int
) -> Iterator[dict[str, Any]]:
    """The batches of a split's photos that `embed_batches` takes, with what is embedded of each."""
    from input_pipeline import image_batches  # the pipeline is loaded only where it is used

    for read in image_batches(split, rows, data, batch=batch):
        yield {"photo": models.photos_of(matcher, read)}


def host_rows(rows: np.ndarray, batch: int, host: int, hosts: int) -> np.ndarray:
    """The rows that one host reads so that hosts' batches side by side are `rows` in order.

    The last row is repeated until every batch is full; the caller cuts the rest off.

    Args:
      rows: int [n], all photos to embed, n > 0.
      batch: photos a global batch, a multiple of `hosts`.
      host: this host's number.
      hosts: their number.
    """
    full = -(-len(rows) // batch) * batch
    padded = np.concatenate([rows, np.repeat(rows[-1:], full - len(rows))])
    return padded.reshape(-1, hosts, batch // hosts)[:, host].reshape(-1)


def embed_batches(
    embed: Callable[[Any, jax.Array], Any],
    variables: Any,
    batches: Callable[[np.ndarray, int], Iterable[Mapping[str, Any]]],
    rows: np.ndarray,
    *,
    batch: int,
    mesh: Mesh,
    progress: Callable[[int], object] = lambda _: None,
) -> Iterator[tuple[int, Any]]:
    """Features (or predictions) of the photos in `rows`, in order, a global batch at a time.

    Args:
      embed: of `make_embed` or `make_predict`.
      variables: the matcher's.
      batches: (rows, batch size) -> batches with "photo" uint8 [batch, h, w, 3], or what the
        matcher embeds in their place.
      rows: int [n].
      batch: photos a global batch, a multiple of the number of devices.
      mesh: the devices.
      progress: told the number of photos after every batch.

    Yields:
      The place in `rows` of the batch's first photo, and the features of its photos as numpy
      arrays on every host; the last batch may be smaller.
    """
    check_divisible(batch, mesh, "eval.batch")
    if not len(rows):
        return
    hosts = jax.process_count()
    mine = host_rows(rows, batch, jax.process_index(), hosts)
    for number, read in enumerate(batches(mine, batch // hosts)):
        start = number * batch
        there = min(batch, len(rows) - start)
        features = embed(variables, place_batch(read["photo"], mesh))
        yield start, jax.tree.map(lambda leaf, n=there: np.asarray(leaf)[:n], features)
        progress(there)


def embed_rows(
    embed: Callable[[Any, jax.Array], Features],
    variables: Any,
    batches: Callable[[np.ndarray, int], Iterable[Mapping[str, Any]]],
    rows: np.ndarray,
    *,
    batch: int,
    mesh: Mesh,
    progress: Callable[[int], object] = lambda _: None,
) -> Features:
    """The features of `embed_batches` side by side, for n > 0 photos."""
    parts = embed_batches(
        embed, variables, batches, rows, batch=batch, mesh=mesh, progress=progress
    )
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *(part for _, part in parts))
