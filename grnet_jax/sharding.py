"""The mesh, one axis "data" over all devices of all processes, and placing arrays on it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from grnet_jax.errors import InputError

AXIS = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh over `devices`, all by default, ordered by process.

    Each process's devices stand side by side, so that the rows a process reads are the rows it
    holds; JAX's own order, which follows a TPU's wiring, interleaves them.
    """
    chosen = jax.devices() if devices is None else devices
    ordered = sorted(chosen, key=lambda device: (device.process_index, device.id))
    return Mesh(np.asarray(ordered), (AXIS,), axis_types=(AxisType.Auto,))


def sharded(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of the leading axis over the devices."""
    return NamedSharding(mesh, P(AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that holds the same on every device."""
    return NamedSharding(mesh, P())


def split_rows(function: Callable[..., Any], mesh: Mesh, rows: int) -> Callable[..., Any]:
    """Returns a function that each device runs on its share of one argument's leading axis.

    Args:
      function: of several arguments; row i of its result depends on row i of that one alone.
      mesh: the devices.
      rows: the index of that argument; the others are whole on every device.
    """

    def run(*arguments: Any) -> Any:
        specs = tuple(P(AXIS) if index == rows else P() for index in range(len(arguments)))
        return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=P(AXIS))(*arguments)

    return run


def check_divisible(count: int, mesh: Mesh, what: str) -> None:
    """Raises InputError, naming `what`, unless the devices share `count` evenly."""
    if count <= 0 or count % mesh.size:
        raise InputError(
            f"{what}: {count} cannot be shared evenly by {mesh.size} devices; "
            f"choose a positive multiple of {mesh.size}"
        )


def place_batch(batch: Any, mesh: Mesh) -> Any:
    """Makes global arrays over the mesh of this process's rows of a batch (numpy leaves)."""
    return jax.tree.map(
        lambda rows: jax.make_array_from_process_local_data(sharded(mesh), np.asarray(rows)),
        batch,
    )


def place_replicated(tree: Any, mesh: Mesh) -> Any:
    """Places the same host values on every device; every process must hold the same."""
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(
            replicated(mesh), np.asarray(leaf), np.shape(leaf)
        ),
        tree,
    )
