"""The mesh over all devices of all processes, and placing arrays on it.

Rows of a batch are divided among all devices, along both axes; parameters along "model" alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from grnet_jax.errors import InputError

AXES = ("data", "model")


def make_mesh(devices: Sequence[jax.Device] | None = None, model_parallel: int = 1) -> Mesh:
    """Returns the mesh over `devices`, all by default, ordered by process.

    `model_parallel` of them, side by side, share one copy of the parameters.

    Each process's devices stand side by side, so that the rows a process reads are the rows it
    holds; JAX's own order, which follows a TPU's wiring, interleaves them.

    Raises:
      InputError: they cannot be divided so.
    """
    chosen = jax.devices() if devices is None else devices
    if len(chosen) % model_parallel:
        raise InputError(
            f"train.model_parallel: {model_parallel} does not divide {len(chosen)} devices"
        )
    ordered = sorted(chosen, key=lambda device: (device.process_index, device.id))
    grid = np.asarray(ordered).reshape(-1, model_parallel)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def sharded(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of the leading axis over the devices."""
    return NamedSharding(mesh, P(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that holds the same on every device."""
    return NamedSharding(mesh, P())


def parameter_sharding(leaf: Any, mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a parameter, or of what the optimizer keeps of it.

    Along the largest dimension that "model" divides; scalars and vectors, which are small, and
    what no dimension divides, are whole on every device.
    """
    parts = mesh.shape["model"]
    shape = [size if size % parts == 0 else 0 for size in leaf.shape]
    if parts == 1 or len(shape) < 2 or not any(shape):
        return replicated(mesh)
    return NamedSharding(mesh, P(*[None] * int(np.argmax(shape)), "model"))


def split_rows(function: Callable[..., Any], mesh: Mesh, rows: int) -> Callable[..., Any]:
    """Returns a function that each device runs on its share of one argument's leading axis.

    Args:
      function: of several arguments; row i of its result depends on row i of that one alone.
      mesh: the devices.
      rows: the index of that argument; the others are whole on every device.
    """

    def run(*arguments: Any) -> Any:
        specs = tuple(P(AXES) if index == rows else P() for index in range(len(arguments)))
        return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=P(AXES))(*arguments)

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


def place_parameters(tree: Any, mesh: Mesh) -> Any:
    """Places parameters by `parameter_sharding`; host values must be every process's."""

    def place(leaf: Any) -> jax.Array:
        sharding = parameter_sharding(leaf, mesh)
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        values = np.asarray(leaf)
        return jax.make_array_from_callback(values.shape, sharding, values.__getitem__)

    return jax.tree.map(place, tree)


def gather(tree: Any, mesh: Mesh) -> Any:
    """Returns the same, whole on every device."""
    if mesh.shape["model"] == 1:
        return tree
    return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree)
