"""Whole runs on the tiny synthetic set: resuming, stopping, and every way to be refused."""

import gc
import gzip
import json
import os
import shutil
import signal
import sys
import threading
import types

import jax
import numpy as np
import pytest
from etils import epath

import grnet_jax
from grnet_jax.backbones import build_classifier
from grnet_jax.backbones.pretrained.weights import Weights, write_weights
from grnet_jax.config import parse_config
from grnet_jax.errors import InputError
from grnet_jax.sharding import make_mesh
from grnet_jax.training import checkpoints, loop
from grnet_jax.training.build import build_run
from grnet_jax.training.checkpoints import CheckpointError, Checkpoints
from grnet_jax.training.writers import make_writer
from input_pipeline import PrepareOptions, load_dataset

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
    config = parse_config(tiny_config(**{"train.profile": (3, 4)}))
    return config, workdir, loop.train(config, str(workdir)).state


def _restored(config, workdir, best=False):
    run = build_run(config, make_mesh())
    with Checkpoints(epath.Path(workdir)) as saved:
        restore = saved.restore_best if best else saved.restore_last
        return restore(run.abstract_state())


def test_a_finished_run_leaves_its_checkpoints_config_and_events(whole_run):
    config, workdir, state = whole_run
    assert int(state.step) == config.train.steps
    _assert_same(_restored(config, workdir), state)
    assert checkpoints.read_config(epath.Path(workdir)) == config
    assert json.loads((workdir / "config.json").read_text())["prepared"].startswith("tiny/")
    assert list(workdir.glob("events.out.tfevents*"))
    assert int(_restored(config, workdir, best=True).step) in (3, 6)


def test_steps_that_are_profiled_leave_a_trace(whole_run):
    folder = whole_run[1] / "profile"
    assert [*folder.glob("**/*.xplane.pb")]  # TensorBoard's
    (trace,) = folder.glob("**/perfetto_trace.json.gz")
    assert "train_step" in gzip.decompress(trace.read_bytes()).decode()


def test_metrics_go_to_wandb_too(tiny_config, tmp_path, monkeypatch):
    asked, logged = [], []
    run = types.SimpleNamespace(
        log=lambda scalars, step: logged.append((step, scalars)),
        finish=lambda: logged.append("finished"),
    )
    fake = types.SimpleNamespace(init=lambda **given: asked.append(given) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = parse_config(tiny_config(**{"train.wandb": "street", "seed": 3}))
    for _ in range(2):  # who goes on does so there
        with make_writer(epath.Path(tmp_path), config) as writer:
            writer.write_scalars(2, {"train/loss": 0.5})
    assert logged == [(2, {"train/loss": 0.5}), "finished"] * 2
    assert asked[0] == asked[1]
    assert (asked[0]["project"], asked[0]["config"]["seed"]) == ("street", 3)
    assert list(tmp_path.glob("events.out.tfevents*"))
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if not installed
    with pytest.raises(InputError, match=r"train\.wandb: needs the package wandb.*pip install"):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


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


@pytest.mark.parametrize("content", ["", "[]", '{"top5": 0.5}', "\xff"])
def test_damaged_metrics_are_named(tmp_path, content):
    path = tmp_path / "checkpoints" / "3" / "metrics" / "metrics"
    path.parent.mkdir(parents=True)
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"metrics: is damaged; delete .*checkpoints/3 to"):
        Checkpoints(epath.Path(tmp_path))


def test_nothing_but_damaged_checkpoints_is_an_error(whole_run, tmp_path):
    config, workdir, _ = whole_run
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    for step in ("3", "6"):
        shutil.rmtree(copy / "checkpoints" / step / "state" / "d")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be read"):
        _restored(config, copy)


def test_another_configs_run_is_refused_naming_the_fields(whole_run, tiny_config):
    _, workdir, _ = whole_run
    other = {"model.node_dim": 8, "optimizer.learning_rate": 0.5, "train.log_every": 1}
    with pytest.raises(CheckpointError, match="another config") as caught:
        loop.train(parse_config(tiny_config("grnet", **other)), str(workdir))
    assert "model.node_dim: 16 there, 8 now" in str(caught.value)
    assert "optimizer.learning_rate: 0.001 there, 0.5 now" in str(caught.value)
    assert "log_every" not in str(caught.value)  # may differ


def test_a_longer_training_goes_on_and_a_shorter_one_is_refused(whole_run, tmp_path):
    config, workdir, _ = whole_run
    copy = shutil.copytree(workdir, tmp_path / "run")
    longer = config.model_copy(update={"train": config.train.model_copy(update={"steps": 8})})
    assert int(loop.train(longer, str(copy)).state.step) == 8
    with pytest.raises(CheckpointError, match=r"train\.steps: 8 there, 6 now"):
        loop.train(config, str(copy))


def test_a_second_training_in_a_workdir_is_refused(whole_run, tmp_path):
    config, workdir, _ = whole_run
    copy = epath.Path(shutil.copytree(workdir, tmp_path / "run"))
    with (
        checkpoints.lock_workdir(copy),
        pytest.raises(CheckpointError, match="another process trains in it"),
    ):
        loop.train(config, copy)


def test_another_data_set_behind_the_same_fields_is_refused(whole_run, tmp_path):
    """As when the images of a manifest change; here by another option of preparing."""
    config, workdir, _ = whole_run
    dataset = config.dataset.model_copy(update={"dir": str(tmp_path)})
    load_dataset(dataset, PrepareOptions(items=10))
    with pytest.raises(CheckpointError, match=r"data: 'tiny/.*\d' there, 'tiny/.*, items 10' now"):
        loop.train(config.model_copy(update={"dataset": dataset}), str(workdir))


def _write_config(workdir, folder, change):
    """Writes the config of a run to a folder, changed: a function of its content."""
    content = change(json.loads((workdir / "config.json").read_text()))
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / "config.json").write_bytes(text)
    return epath.Path(folder)


def test_a_field_that_a_stored_config_lacks_has_its_default(whole_run, tmp_path, caplog):
    config, workdir, _ = whole_run

    def older(content):
        del content["train"]["init_from"], content["eval"]["search"]
        return content

    folder = _write_config(workdir, tmp_path, older)
    for _ in range(2):
        assert checkpoints.read_config(folder) == config  # whose two are the defaults
    assert len(caplog.messages) == 1
    assert "config.json lacks train.init_from, eval.search: another version" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: [], r"config\.json:1: expected the config of a run, got \[\]"),
        (lambda content: b'{"name": "caf\xe9"}', r"config\.json:1: not UTF-8: byte 0xe9"),
        (lambda content: json.dumps(content).encode()[:99], r"config\.json:1: not JSON"),
        (lambda content: b"\0" * 99, r"config\.json:1: not UTF-8: byte 0x00"),
        (lambda content: content | {"model": 3}, r"config\.model\.name='3': expected one of"),
        (lambda content: content | {"loss": [1]}, r"config\.loss\.name='\[1\]': expected one of"),
        (
            lambda content: content | {"speed": 3},
            r"config\.json: these fields are not those of this version[^\n]*\nconfig\.speed: unkn",
        ),
    ],
)
def test_a_stored_config_that_is_none_is_named(whole_run, tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        checkpoints.read_config(_write_config(whole_run[1], tmp_path, change))


def test_a_missing_file_of_boxes_is_named(whole_run, tmp_path):
    config = whole_run[0]
    image = config.image.model_copy(update={"detections": "no.csv", "crop": "detected"})
    with pytest.raises(InputError, match=r"image\.detections='no\.csv': cannot be read"):
        loop.train(config.model_copy(update={"image": image}), tmp_path)


def test_a_workdir_without_a_run_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="holds no run"):
        checkpoints.read_config(epath.Path(tmp_path))


def test_a_workdir_without_a_checkpoint_is_named(tiny_config, tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint yet"):
        _restored(parse_config(tiny_config()), tmp_path, best=True)


def test_a_loss_that_is_no_number_stops_the_run(tiny_config, tmp_path):
    sgd = {"name": "sgd", "clip_norm": 0.0, "learning_rate": 2e9, "warmup_steps": 0}
    fields = {f"optimizer.{name}": value for name, value in sgd.items()}
    fields |= {"train.checkpoint_every": 1, "train.log_every": 1}
    config = parse_config(tiny_config("grnet", **fields))
    with pytest.raises(loop.NonFiniteLossError) as caught:
        loop.train(config, str(tmp_path))
    message = str(caught.value)
    assert "step 2" in message or "step 3" in message
    assert "gradient norm" in message
    assert "parameter norm" in message
    last = _restored(config, tmp_path)
    assert f"the last good one is step {int(last.step)}" in message
    assert f"step {int(last.step) + 1}:" in message


def test_a_run_starts_from_a_weights_file_and_needs_it_no_more(tiny_config, tmp_path):
    images = np.zeros((1, 32, 32, 3), np.float32)
    shapes = jax.eval_shape(build_classifier("small", 7).init, jax.random.key(0), images)
    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), shapes)
    path = tmp_path / "small.safetensors"
    write_weights(path, Weights("small", "imagenet", variables, "x.pth", "0" * 64, 7))
    fields = {"train.steps": 3, "train.eval_every": 0, "model.backbone.pretrained": str(path)}
    config = parse_config(tiny_config("grnet", **fields))
    assert loop.train(config, tmp_path / "run").finished
    path.unlink()
    assert grnet_jax.load(tmp_path / "run").step == 3
    assert loop.train(config, tmp_path / "run").finished  # there is nothing left to start
    with pytest.raises(InputError, match=r"small\.safetensors: no such file"):
        loop.train(config, tmp_path / "other")


@pytest.mark.parametrize(
    ("system", "fields", "message"),
    [
        ("grnet", {"train.batch_size": 9}, "train.batch_size: 9 cannot be shared evenly by 8"),
        ("grnet", {"eval.batch_size": 9}, "eval.batch_size: 9 cannot be shared evenly by 8"),
        ("grnet", {"train.microbatch_size": 5}, "train.microbatch_size: 5 does not divide"),
        (
            "embedding",
            {"model.num_classes": 3, "loss.class_weight": 1.0},
            r"model\.num_classes: 3, but .* has \d+ categories: set",
        ),
        (
            "embedding",
            {"model.num_classes": 3, "loss.class_weight": 1.0, "loss.label": "item"},
            r"model\.num_classes: 3, but .* has \d+ items to train on: set",
        ),
        (
            "fashionnet",
            {"model.num_classes": 12},
            r"model\.num_classes: 12, but .* has 13 categories: set --config\.model\.num_classes",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_first(tiny_config, tmp_path, system, fields, message):
    config = parse_config(tiny_config(system, **fields))
    with pytest.raises(InputError, match=message):
        loop.train(config, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_matcher_without_parameters_is_not_trained(tmp_path):
    from configs import color_histogram

    with pytest.raises(InputError, match="nothing to train"):
        loop.train(parse_config(color_histogram.get_config()), str(tmp_path))
