"""Embeds a catalog's photos on the workers of a Ray cluster.

Workers, one a GPU or one a machine without, read and embed, and send what they found to the process
that indexes, which alone writes. All have to see the source and the run under the same path. What a
killed worker had begun another one does.
"""

import logging
import pickle
import warnings
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from grnet_jax.catalog.embedding import Embedded, Embedding, Files
from grnet_jax.errors import InputError
from grnet_jax.inference import load
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
    ray, workers = _connect(address)
    known = ray.put((files, set(states)))
    # Made here, not by tasks: these wait for ever where workers have all cores.
    rows = [
        pa.table({"row": np.arange(start, min(start + _ROWS, count))})
        for start in range(0, count, _ROWS)
    ]
    parts = ray.data.from_blocks(rows).map_batches(
        _Worker,
        batch_size=_ROWS,
        fn_constructor_args=(source, splits, run, fingerprint, known, count),
        **workers,
    )
    try:
        for part in parts.iter_rows():
            yield pickle.loads(part["part"])
    except ray.exceptions.RayError as error:
        raise _failed(address, error) from error


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
            raise InputError(f"a worker sees another model or other photos: {run}, {source}")
        self._embedding = Embedding(matcher, photos, *ray.get(known))

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, list[bytes]]:
        return {"part": [pickle.dumps(part) for part in self._embedding(rows["row"].tolist())]}


def _connect(address: str) -> tuple[Any, dict[str, Any]]:
    """Returns Ray, and how many workers there are of what."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError("--ray: is not installed: pip install 'grnet_jax[ray]'") from error
    if not ray.is_initialized():
        try:
            with warnings.catch_warnings(action="ignore"):  # of forks; its own processes only run
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise _failed(address, error) from error
    logging.getLogger("ray.data").setLevel("ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    if gpus := int(ray.cluster_resources().get("GPU", 0)):
        return ray, {"compute": ray.data.ActorPoolStrategy(size=gpus), "num_gpus": 1}
    machines = sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())
    # Half a core: where a machine is lost its worker has room beside another one.
    return ray, {"compute": ray.data.ActorPoolStrategy(size=machines), "num_cpus": 0.5}


def _failed(address: str, error: Exception) -> InputError:
    return InputError(f"--ray={address}: {str(error).strip().splitlines()[-1]}")
