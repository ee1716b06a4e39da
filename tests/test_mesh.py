"""Devices in order, and what a job's environment says."""

import types

import jax
import numpy as np
import pytest

from grnet_jax import mesh
from grnet_jax.errors import InputError


def test_a_processs_devices_stand_side_by_side(monkeypatch):
    monkeypatch.setattr(mesh, "Mesh", lambda devices, axes, axis_types: devices)
    wired = [types.SimpleNamespace(id=i, process_index=p) for i, p in enumerate([0, 1, 0, 1, 1, 0])]
    found = mesh.make_mesh(wired)
    assert [device.process_index for device in found] == [0, 0, 0, 1, 1, 1]
    assert [device.id for device in found] == [0, 2, 5, 1, 3, 4]


@pytest.mark.parametrize(
    ("env", "visible", "wanted"),
    [
        # One task a machine takes all its GPUs.
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "SLURM_LOCALID": "0"}, 8, list(range(8))),
        # Eight tasks that all see eight GPUs take one each.
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x4)", "SLURM_LOCALID": "3"}, 8, [3]),
        # Eight tasks of which each sees its own GPU alone.
        ({"SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_LOCALID": "3"}, 1, [0]),
        # Two tasks, four GPUs each.
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}, 8, [4, 5, 6, 7]),
        ({"SLURM_STEP_TASKS_PER_NODE": "2"}, 0, None),
    ],
)
def test_tasks_of_a_machine_share_its_gpus(env, visible, wanted):
    assert mesh.local_devices(env, visible) == wanted


@pytest.fixture
def initialised(monkeypatch):
    """Arguments that jax.distributed.initialize was called with."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: calls.append((a, k)))
    return calls


def _environment(monkeypatch, env):
    monkeypatch.setattr(mesh.os, "environ", env)


def test_a_single_process_is_not_initialised(initialised, monkeypatch):
    _environment(monkeypatch, {"SLURM_NTASKS": "4"})  # a shell in an allocation, no step
    mesh.initialise_distributed()
    assert not initialised


def test_a_slurm_step_is_initialised(initialised, monkeypatch):
    _environment(
        monkeypatch,
        {
            "SLURM_STEP_ID": "0",
            "SLURM_PROCID": "1",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
            "CUDA_VISIBLE_DEVICES": "0,1,2,3",
        },
    )
    mesh.initialise_distributed()
    assert initialised == [((), {"local_device_ids": [0, 1, 2, 3]})]


def test_a_coordinator_is_taken_at_its_word(initialised, monkeypatch):
    env = {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    _environment(monkeypatch, env)
    mesh.initialise_distributed()
    assert initialised == [(("h:1", 2, 1), {})]


@pytest.mark.parametrize("wrong", [{}, {"JAX_NUM_PROCESSES": "x", "JAX_PROCESS_ID": "0"}])
def test_a_coordinator_without_numbers_is_named(initialised, monkeypatch, wrong):
    _environment(monkeypatch, {"JAX_COORDINATOR_ADDRESS": "h:1"} | wrong)
    with pytest.raises(InputError, match="JAX_NUM_PROCESSES must be a number"):
        mesh.initialise_distributed()
    assert not initialised


def test_batches_are_placed_in_order():
    devices = mesh.make_mesh()
    rows = np.arange(16)
    placed = mesh.place_batch({"row": rows}, devices)["row"]
    np.testing.assert_array_equal(placed, rows)
    assert placed.sharding.is_equivalent_to(mesh.sharded(devices), 1)
