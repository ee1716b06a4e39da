"""Whole runs on the tiny synthetic set: resuming, stopping, and every way to be refused."""

import gc
import json
import os
import shutil
import signal
import threading

import jax
import numpy as np
import pytest
from etils import epath
from grnet_jax.training.setup import build_run

from grnet_jax.errors import InputError
from grnet_jax.sharding import make_mesh
from grnet_jax.training import checkpoints, loop
from grnet_jax.training.checkpoints import CheckpointError, Checkpoints

# Reading a damaged file, orbax leaves tasks of its own behind that cannot be awaited any more.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collect_what_orbax_leaves():
    """Here, and not in whatever test comes next."""
    yield
    gc.collect()


def _values(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def _assert_same(one, two):
    for x, y in zip(_values(one), _values(two), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def whole_run(tiny_config, tmp_path_factory):
    """A run of six steps that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole")
    return tiny_config(), workdir, loop.train(tiny_config(), str(workdir)).state


def _restored(config, workdir, best=False):
    run = build_run(config, make_mesh())
    with Checkpoints(epath.Path(workdir)) as saved:
        restore = saved.restore_best if best else saved.restore_last
        return restore(run.abstract_state())


def test_a_finished_run_leaves_its_checkpoints_config_and_events(whole_run):
    config, workdir, state = whole_run
    assert int(state.step) == config.train.steps
    _assert_same(_restored(config, workdir), state)
    written = checkpoints.read_config(epath.Path(workdir))
    assert written["data"].pop("prepared").startswith("tiny-")
    resolved = build_run(config, make_mesh()).config
    assert written == json.loads(json.dumps(resolved.to_dict()))
    assert list(workdir.glob("events.out.tfevents*"))
    assert int(_restored(config, workdir, best=True).step) in (3, 6)


def test_running_a_finished_run_again_changes_nothing(whole_run):
    config, workdir, state = whole_run
    _assert_same(loop.train(config, str(workdir)).state, state)


@pytest.mark.slow
def test_a_run_stopped_by_sigterm_resumes_to_the_same_end(whole_run, tmp_path, monkeypatch):
    config, _, state = whole_run
    kill = threading.Event()

    def log_then_kill(self, *args, _log=loop._Loop._log):
        _log(self, *args)
        if not kill.is_set():
            kill.set()
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop._Loop, "_log", log_then_kill)
    stopped, finished = loop.train(config, str(tmp_path))
    assert not finished
    assert 0 < int(stopped.step) < config.train.steps
    assert int(_restored(config, tmp_path).step) == int(stopped.step)
    _assert_same(loop.train(config, str(tmp_path)).state, state)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(whole_run, tmp_path, caplog):
    config, workdir, state = whole_run
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    for path in (copy / "checkpoints" / "6" / "state").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with caplog.at_level("WARNING", logger="absl"):
        assert int(_restored(config, copy).step) == 3
    assert "checkpoints/6 is damaged or" in caplog.text
    _assert_same(loop.train(config, str(copy)).state, state)  # and trains on from there
    assert int(_restored(config, copy).step) == 6  # saved anew


def test_nothing_but_damaged_checkpoints_is_an_error(whole_run, tmp_path):
    config, workdir, _ = whole_run
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    for step in ("3", "6"):
        shutil.rmtree(copy / "checkpoints" / step / "state" / "d")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be read"):
        _restored(config, copy)


def test_another_configs_run_is_refused_naming_the_fields(whole_run):
    config, workdir, _ = whole_run
    config = config.copy_and_resolve_references()
    config.model.node_dim = 8
    config.optimizer.learning_rate = 0.5
    config.train.log_every = 1  # may differ
    with pytest.raises(CheckpointError, match="another config") as caught:
        loop.train(config, str(workdir))
    assert "model.node_dim: 16 there, 8 now" in str(caught.value)
    assert "optimizer.learning_rate: 0.001 there, 0.5 now" in str(caught.value)
    assert "log_every" not in str(caught.value)


def test_another_data_set_behind_the_same_fields_is_refused(whole_run, tmp_path):
    """As when the photos of a manifest change."""
    config, workdir, _ = whole_run
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    path = copy / "config.json"
    path.write_text(path.read_text().replace('"prepared": "tiny-', '"prepared": "other-'))
    with pytest.raises(CheckpointError, match=r"data\.prepared: 'other-.* there, 'tiny-.* now"):
        loop.train(config, str(copy))


def test_a_workdir_without_a_run_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="holds no run"):
        checkpoints.read_config(epath.Path(tmp_path))


def test_a_workdir_without_a_checkpoint_is_named(tiny_config, tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint yet"):
        _restored(tiny_config(), tmp_path, best=True)


def test_a_loss_that_is_no_number_stops_the_run(tiny_config, tmp_path):
    config = tiny_config()
    config.optimizer.name = "sgd"
    config.optimizer.clip_norm = 0.0
    config.optimizer.learning_rate = 1e30
    config.optimizer.warmup_steps = 0
    config.train.checkpoint_every = 1
    config.train.log_every = 1
    with pytest.raises(loop.NonFiniteLossError) as caught:
        loop.train(config, str(tmp_path))
    message = str(caught.value)
    assert "step 2" in message or "step 3" in message
    assert "gradient norm" in message
    assert "parameter norm" in message
    last = _restored(config, tmp_path)
    assert f"the last good one is step {int(last.step)}" in message
    assert f"step {int(last.step) + 1}:" in message


@pytest.mark.parametrize("field", ["train.batch_size", "eval.batch", "eval.query_block"])
def test_a_batch_that_devices_cannot_share_is_refused_first(tiny_config, tmp_path, field):
    config = tiny_config()
    config.update_from_flattened_dict({field: 9})
    with pytest.raises(InputError, match=f"{field}: 9 cannot be shared evenly by 8"):
        loop.train(config, str(tmp_path))


def test_a_matcher_without_parameters_is_not_trained(tiny_config, tmp_path):
    from configs import colour_histogram

    config = tiny_config()
    config.model = colour_histogram.get_config().model
    with pytest.raises(InputError, match="nothing to train"):
        loop.train(config, str(tmp_path))
