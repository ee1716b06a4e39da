"""Devices: one mesh with one axis, "data", over all devices of all processes."""

import glob
import importlib.util
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from grnet_jax.errors import InputError

AXIS = "data"


def initialise_distributed() -> None:
    """Connects the processes of a job, where the environment says that there are several.

    Recognised: SLURM and Open MPI with more than one task, a TPU machine, and
    JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID. To be called before
    anything touches a device; does nothing for a single process.

    Raises:
      InputError: if JAX_COORDINATOR_ADDRESS stands without the other two, or they are no numbers.
    """
    env = os.environ
    if "JAX_COORDINATOR_ADDRESS" in env:
        numbers = []
        for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
            if not env.get(name, "").isdigit():
                raise InputError(
                    f"JAX_COORDINATOR_ADDRESS is set: {name} must be a number, "
                    f"it is {env.get(name, 'absent')!r}"
                )
            numbers.append(int(env[name]))
        processes, number = numbers
        jax.distributed.initialize(env["JAX_COORDINATOR_ADDRESS"], processes, number)
    elif _tasks(env) > 1:
        jax.distributed.initialize(local_device_ids=local_devices(env, _visible_gpus(env)))
    elif importlib.util.find_spec("libtpu") and glob.glob("/dev/accel*") + glob.glob("/dev/vfio/*"):
        # JAX asks the TPU machine itself how many workers there are.
        try:
            jax.distributed.initialize()
        except (RuntimeError, ValueError) as error:
            logging.warning("This TPU machine runs alone: jax.distributed says %s", error)


def _tasks(env: Mapping[str, str]) -> int:
    """Tasks of the SLURM step or Open MPI job that this process is one of; else 1."""
    # An interactive shell inside a SLURM allocation carries SLURM_NTASKS but is no step of it.
    if "SLURM_STEP_ID" in env and "SLURM_PROCID" in env:
        return int(env.get("SLURM_STEP_NUM_TASKS", "1"))
    return int(env.get("OMPI_COMM_WORLD_SIZE", "1"))


def local_devices(env: Mapping[str, str], visible: int) -> list[int] | None:
    """The GPUs of this task, by their number among those it sees; None where it sees none.

    Tasks of one machine that all see the same GPUs share them evenly; a task that sees one GPU,
    or is alone on its machine, takes all that it sees.
    """
    if not visible:
        return None
    # "8(x4)": eight tasks on each of four machines.
    tasks = int(re.split(r"[(,]", env.get("SLURM_STEP_TASKS_PER_NODE", ""))[0] or 0)
    tasks = tasks or int(env.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1"))
    local = int(env.get("SLURM_LOCALID", env.get("OMPI_COMM_WORLD_LOCAL_RANK", "0")))
    if tasks == 1 or visible < tasks or visible % tasks:
        return list(range(visible))
    share = visible // tasks
    return list(range(local * share, (local + 1) * share))


def _visible_gpus(env: Mapping[str, str]) -> int:
    chosen = env.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return len([name for name in chosen.split(",") if name.strip()])
    return len(glob.glob("/dev/nvidia[0-9]*"))


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over `devices`, all by default, process by process.

    Each process's devices stand side by side, so that the rows a process reads are the rows it
    holds; JAX's own order, which follows a TPU's wiring, interleaves them.
    """
    chosen = jax.devices() if devices is None else devices
    ordered = sorted(chosen, key=lambda device: (device.process_index, device.id))
    return Mesh(np.asarray(ordered), (AXIS,), axis_types=(AxisType.Auto,))


def sharded(mesh: Mesh) -> NamedSharding:
    """The leading axis over the devices."""
    return NamedSharding(mesh, P(AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, P())


def split_rows(function: Callable[..., Any], mesh: Mesh, rows: int) -> Callable[..., Any]:
    """A function that each device runs by itself on its share of one argument's leading axis.

    Args:
      function: of several arguments; row i of its result depends on row i of that one alone.
      mesh: the devices.
      rows: the argument's place; the others are whole on every device.
    """

    def run(*arguments: Any) -> Any:
        specs = tuple(P(AXIS) if place == rows else P() for place in range(len(arguments)))
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
