"""Embeds a catalog's photos, and builds its index, on the machines of a Ray cluster.

Actors, one a device, read and embed, and send what they found to the process that indexes, which
alone writes. All have to see the source and the run under the same path. What a killed worker had
begun Ray gives to another.
"""

import pickle
from collections.abc import Callable, Collection, Iterator
from typing import Any

import lance
import numpy as np

from grnet_jax.catalog.embedding import Embedded, Embedding, Files
from grnet_jax.errors import InputError
from grnet_jax.inference import load
from grnet_jax.search.indexed import build_index
from input_pipeline import list_photos

_ROWS = 256  # of a task


def embed(
    address: str,
    source: str,
    splits: tuple[str, ...],
    run: str,
    fingerprint: str,
    files: Files,
    states: Collection[str],
    count: int,
) -> Iterator[Embedded]:
    """Yields what `Embedding` does, in any order; a photo may come more than once.

    Args:
      address: of the cluster, or "local" for one of this machine.
      source, splits: of `list_photos`.
      run: of `load`.
      fingerprint: of the matcher.
      files, states: of `Embedding`.
      count: rows of the source.

    Raises:
      InputError: Ray is not installed, no cluster answers, or a worker sees something else.
    """
    ray, devices = _connect(address)
    known = ray.put((files, set(states)))
    rows = ray.data.range(count, override_num_blocks=-(-count // _ROWS))
    parts = rows.map_batches(
        _Worker,
        batch_size=_ROWS,
        fn_constructor_args=(source, splits, run, fingerprint, known, count),
        **devices,
    )
    try:
        for part in parts.iter_rows():
            yield pickle.loads(part["part"])
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        raise (cause if isinstance(cause, InputError) else _failed(address, error)) from error


def make_index_builder(address: str) -> Callable[[lance.LanceDataset], int]:
    """Returns what builds a table's index as `build_index` does, a part of it each device."""
    import lance_ray

    _, devices = _connect(address)

    def build(dataset: lance.LanceDataset) -> int:
        def create(num_partitions: int, **how: Any) -> None:
            lance_ray.create_index(
                dataset.uri,
                num_partitions=num_partitions,
                sample_rate=min(256, dataset.count_rows() // num_partitions),
                num_workers=devices["concurrency"],
                **how,
            )

        return build_index(dataset, create)

    return build


class _Worker:
    """An actor that embeds rows."""

    def __init__(
        self,
        source: str,
        splits: tuple[str, ...],
        run: str,
        fingerprint: str,
        known: Any,
        count: int,
    ):
        import ray

        matcher, photos = load(run), list_photos(source, splits)
        if matcher.fingerprint != fingerprint or len(photos.table) != count:
            raise InputError(f"--ray: a worker sees another model or other photos: {run}, {source}")
        self._embedding = Embedding(matcher, photos, *ray.get(known))

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, list[bytes]]:
        return {"part": [pickle.dumps(part) for part in self._embedding(rows["id"].tolist())]}


def _connect(address: str) -> tuple[Any, dict[str, Any]]:
    """Returns Ray, and how many actors there are of what."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError("--ray: is not installed: pip install 'grnet_jax[ray]'") from error
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise _failed(address, error) from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    if gpus := int(ray.cluster_resources().get("GPU", 0)):
        return ray, {"concurrency": gpus, "num_gpus": 1}
    machines = sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())
    return ray, {"concurrency": machines, "num_cpus": 0.5, "scheduling_strategy": "SPREAD"}


def _failed(address: str, error: Exception) -> InputError:
    return InputError(f"--ray={address}: {type(error).__name__}: {error}")
