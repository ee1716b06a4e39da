"""Runs in processes of their own: several at once, and killed at any moment."""

import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from etils import epath

from grnet_jax.commands import STOPPED
from grnet_jax.sharding import make_mesh
from grnet_jax.training.build import restore_run
from tests import FAST_COMPILING

pytestmark = pytest.mark.slow

_ROOT = pathlib.Path(__file__).parents[2]
_FIELDS = {
    "dataset.source": "tiny",
    "image.size": 32,
    "model.node_dim": 16,
    "model.reasoning_dim": 8,
    "train.batch_size": 8,
    "train.steps": 12,
    "train.log_every": 2,
    "train.eval_every": 6,
    "train.checkpoint_every": 3,
    "optimizer.warmup_steps": 2,
}


def _start(workdir, data_dir, env=None, **fields):
    flags = [f"--config.{name}={value}" for name, value in (_FIELDS | fields).items()]
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    with open(f"{workdir}.log", "a") as log:
        return subprocess.Popen(
            [
                sys.executable,
                "train.py",
                "--config=configs/grnet.py",
                f"--config.dataset.dir={data_dir}",
                f"--workdir={workdir}",
                *flags,
            ],
            cwd=_ROOT,
            env=os.environ | cache | {"XLA_FLAGS": _devices(1)} | (env or {}),
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _devices(count):
    return f"{FAST_COMPILING} --xla_force_host_platform_device_count={count}"


def _start_processes(count, devices, workdir, data_dir, variables=None, **fields):
    variables = variables or _coordinated
    envs = [{"XLA_FLAGS": _devices(devices), **env} for env in variables(count)]
    return [_start(workdir, data_dir, env=env, **fields) for env in envs]


def _coordinated(count):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    return [
        dict(zip(names, (address, str(count), str(number)), strict=True)) for number in range(count)
    ]


def _slurm_tasks(count):
    """The variables of a job's tasks on one machine; its number gives the port."""
    step = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0"}
    step |= {"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_TASKS_PER_NODE": str(count)}
    step |= dict.fromkeys(("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"), str(count))
    return [
        step | dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID"), str(number))
        for number in range(count)
    ]


def _parameters(workdir):
    run, state = restore_run(epath.Path(workdir), make_mesh(jax.devices()[:1]))
    assert int(state.step) == run.steps
    return jax.tree.map(np.asarray, state)


def _saved_steps(workdir):
    """Steps of the checkpoints that are whole: unfinished ones have longer names."""
    return [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]


def _wait(*processes, status=0):
    for process in processes:
        assert process.wait(timeout=300) == status


def test_two_tasks_of_two_devices_with_divided_parameters_train_as_one(data_dir, tmp_path):
    fields = {"optimizer.name": "sgd", "train.eval_every": 12}
    _wait(_start(tmp_path / "one", data_dir, **fields))
    fields["train.model_parallel"] = 2
    _wait(*_start_processes(2, 2, tmp_path / "two", data_dir, _slurm_tasks, **fields))
    one, two = _parameters(tmp_path / "one"), _parameters(tmp_path / "two")
    for x, y in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
    log = (tmp_path / "two.log").read_text()
    assert "(64 pairs) on 4 device(s)" in log
    assert log.count("Wrote") == 1  # by the first process alone


def test_a_run_killed_at_any_moment_ends_as_if_it_never_was(data_dir, tmp_path):
    # One validation: the best checkpoint is the last.
    fields = {"train.steps": 150, "train.checkpoint_every": 4, "train.eval_every": 150}
    _wait(_start(tmp_path / "whole", data_dir, **fields))
    whole = _parameters(tmp_path / "whole")
    killed = tmp_path / "killed"
    draw = random.Random(0)
    during_a_save = 0
    for number in range(4):
        left_behind = _unfinished_saves(killed)
        process = _start(killed, data_dir, **fields)
        if number % 2:
            _wait_for_unfinished_save(killed, process, left_behind)
        elif number % 4:
            time.sleep(draw.uniform(0.5, 6))  # often before the first step
        else:
            _wait_for_training(killed, process)
            time.sleep(draw.uniform(0, 1))
        assert process.poll() is None, "it ended before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        during_a_save += bool(_unfinished_saves(killed) - left_behind)
    assert during_a_save
    _wait(_start(killed, data_dir, **fields))
    for x, y in zip(jax.tree.leaves(whole), jax.tree.leaves(_parameters(killed)), strict=True):
        np.testing.assert_array_equal(x, y)


def _wait_for_training(workdir, process):
    """Until a process that was just started logs that it trains."""
    log = pathlib.Path(f"{workdir}.log")
    before = log.read_text().count("items x 2 images")
    deadline = time.monotonic() + 100
    while process.poll() is None and time.monotonic() < deadline:
        if log.read_text().count("items x 2 images") > before:
            return
        time.sleep(0.01)


def _unfinished_saves(workdir):
    return {p.name for p in (workdir / "checkpoints").glob("*tmp*")}


def _wait_for_unfinished_save(workdir, process, before):
    """Until a checkpoint is being written whose folder is not one that was left behind before."""
    deadline = time.monotonic() + 100
    while process.poll() is None and time.monotonic() < deadline:
        if _unfinished_saves(workdir) - before:
            return
        time.sleep(0.001)


def test_a_lost_process_ends_the_others_and_the_job_resumes(data_dir, tmp_path):
    fields = {"train.steps": 400, "train.eval_every": 0, "train.checkpoint_every": 10}
    workdir = tmp_path / "job"
    first, second = _start_processes(2, 1, workdir, data_dir, **fields)
    deadline = time.monotonic() + 200
    while not _saved_steps(workdir) and time.monotonic() < deadline:
        time.sleep(0.2)
    second.send_signal(signal.SIGKILL)
    assert first.wait(timeout=200) != 0
    second.wait()
    saved = max(_saved_steps(workdir))
    resumed = _start_processes(2, 1, workdir, data_dir, **fields)
    text, deadline = "", time.monotonic() + 200
    while "from step" not in text and time.monotonic() < deadline:
        time.sleep(0.5)
        text = pathlib.Path(f"{workdir}.log").read_text()
    for process in resumed:
        process.send_signal(signal.SIGTERM)
    _wait(*resumed, status=STOPPED)
    text = pathlib.Path(f"{workdir}.log").read_text()
    assert any(f"from step {step}" in text for step in range(saved - 10, saved + 1))
    assert "Asked to stop" in text
