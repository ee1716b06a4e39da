"""What a job's environment says about its processes."""

import os
import sys

import jax
import pytest

from grnet_jax import commands, compare, runtime
from grnet_jax.backbones import convert
from grnet_jax.errors import InputError
from input_pipeline import prepare


@pytest.mark.parametrize(
    ("env", "visible", "expected"),
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
def test_tasks_of_a_machine_share_its_gpus(env, visible, expected):
    assert runtime.local_devices(env, visible) == expected


@pytest.fixture
def initialized(monkeypatch):
    """Arguments that jax.distributed.initialize was called with."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: calls.append(arguments))
    return calls


_STEP = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}
_COORDINATOR = {"JAX_COORDINATOR_ADDRESS": "h:1"}


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        # A shell in an allocation is no step of it: a single process.
        ({"SLURM_NTASKS": "4"}, []),
        (
            _STEP | {"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2"},
            [{"local_device_ids": [0, 1, 2]}],
        ),
        (
            _COORDINATOR | {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
            [{"num_processes": 2, "process_id": 1}],
        ),
    ],
)
def test_several_processes_are_connected(env, expected, initialized, monkeypatch):
    monkeypatch.setattr(runtime.os, "environ", env)
    runtime.initialize_distributed()
    assert initialized == expected


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (_COORDINATOR, "Number of processes must be defined.*Set JAX_COORDINATOR_ADDRESS"),
        (_COORDINATOR | {"JAX_NUM_PROCESSES": "x"}, "JAX_NUM_PROCESSES must be a number"),
        # Open MPI without the variable by which JAX finds the coordinator.
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "coordinator_address should be defined"),
    ],
)
def test_what_a_job_lacks_is_named(env, message, monkeypatch):
    monkeypatch.setattr(runtime.os, "environ", env)
    monkeypatch.setattr(jax._src.xla_bridge, "backends_are_initialized", lambda: False)
    with pytest.raises(InputError, match=message):
        runtime.initialize_distributed()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputError("bad \udcff"), "error: bad \\udcff"),
        (OSError(36, "File name too long", "xxx"), "error: [Errno 36] File name too long: 'xxx'"),
    ],
)
def test_a_users_error_ends_with_its_message(error, message, capfd):
    with pytest.raises(SystemExit) as end, runtime.session():
        raise error
    assert end.value.code == 2
    assert capfd.readouterr().err.strip() == message


def test_a_config_file_that_is_none(capsys):
    with pytest.raises(SystemExit) as end, commands._one_message():
        compile("\0", "photo.jpg", "exec")
    assert end.value.code == 2
    assert "null bytes" in capsys.readouterr().err


def test_an_error_of_ours_is_not_hidden():
    with pytest.raises(OSError, match="refused"), runtime.session():
        raise ConnectionError("refused")


@pytest.mark.parametrize("printed", [1, 100_000])
def test_a_command_goes_on_where_its_output_is_closed(printed, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        with runtime.session():
            print("x" * printed)
            went_on = True
            print("y" * printed)
        output.flush()  # as at the end of Python, where an error would still be told
    assert went_on


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (compare.main, ["--metric=--", "a", "b"]),
        (convert.main, ["--output=--", "a"]),
        (prepare.main, ["--dataset=--"]),
    ],
)
def test_two_dashes_for_a_value_are_a_mistake(main, words, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith(f"error: argument {words[0][:-3]}: expected a value, got '--'")
