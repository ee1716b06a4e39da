"""Devices: one mesh with one axis, "data", over all devices of all processes."""

import os
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from grnet_jax.errors import InputError

AXIS = "data"


def initialise_distributed() -> None:
    """Connects the processes of a job, where the environment says that there are several.

    Recognised: SLURM and Open MPI with more than one task, a TPU pod's worker list, and
    JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID. To be called before
    anything touches a device; does nothing for a single process.

    Raises:
      InputError: if JAX_COORDINATOR_ADDRESS stands without the other two.
    """
    env = os.environ
    if "JAX_COORDINATOR_ADDRESS" in env:
        missing = [name for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID") if name not in env]
        if missing:
            raise InputError(f"JAX_COORDINATOR_ADDRESS is set, but not {' and '.join(missing)}")
        jax.distributed.initialize(
            env["JAX_COORDINATOR_ADDRESS"],
            int(env["JAX_NUM_PROCESSES"]),
            int(env["JAX_PROCESS_ID"]),
        )
        return
    # An interactive shell inside an allocation carries SLURM_NTASKS but is no step of it.
    slurm = int(env.get("SLURM_STEP_NUM_TASKS", env.get("SLURM_NTASKS", "1")))
    several = (
        ("SLURM_STEP_ID" in env and "SLURM_PROCID" in env and slurm > 1)
        or int(env.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
        or "," in env.get("TPU_WORKER_HOSTNAMES", "")
    )
    if several:
        jax.distributed.initialize()


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """The mesh over `devices`, all by default."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def sharded(mesh: Mesh) -> NamedSharding:
    """The leading axis over the devices."""
    return NamedSharding(mesh, P(AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, P())


def check_divisible(count: int, mesh: Mesh, what: str) -> None:
    """Raises InputError, naming `what`, unless the devices share `count` evenly."""
    if count <= 0 or count % mesh.size:
        raise InputError(
            f"{what}: {count} cannot be shared evenly by {mesh.size} devices; "
            f"choose a positive multiple of {mesh.size}"
        )


def place_batch(batch: Any, mesh: Mesh) -> Any:
    """This process's rows of a batch (numpy leaves) to global arrays over the mesh."""
    return jax.tree.map(
        lambda rows: jax.make_array_from_process_local_data(sharded(mesh), np.asarray(rows)),
        batch,
    )


def place_replicated(tree: Any, mesh: Mesh) -> Any:
    """The same host values on every device; every process must hold the same."""
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(
            replicated(mesh), np.asarray(leaf), np.shape(leaf)
        ),
        tree,
    )
