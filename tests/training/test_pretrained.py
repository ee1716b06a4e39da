"""Training that starts from a weights file, and fields that follow the backbone."""

import json
import shutil

import jax
import numpy as np
import pytest
from grnet_jax.training.setup import build_run, check_pretrained, start_state

import grnet_jax
from grnet_jax import sharding
from grnet_jax.backbones import build_classifier
from grnet_jax.backbones.preprocessing import PREPROCESSING
from grnet_jax.backbones.pretrained.weights import Weights, write_weights
from grnet_jax.errors import InputError
from grnet_jax.training import loop
from grnet_jax.training.checkpoints import CheckpointError


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weights file of the small backbone: its path and its variables."""
    photos = np.zeros((1, 32, 32, 3), np.float32)
    shapes = jax.eval_shape(build_classifier("small", 7).init, jax.random.key(0), photos)
    rng = np.random.default_rng(5)
    variables = jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape).astype(np.float32), shapes)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    write_weights(path, Weights("small", "imagenet", variables, "small.pth", "0" * 64, 7))
    return str(path), variables


def test_the_backbone_starts_from_the_file_and_the_graph_afresh(tiny_config, weights):
    config = tiny_config()
    path, variables = weights
    devices = mesh.make_mesh(jax.devices()[:2])
    fresh = build_run(config, devices).create_state()
    config.model.backbone.pretrained = path
    state = start_state(build_run(config, devices))
    for name in ("params", "batch_stats"):
        found = getattr(state, name)["backbone"]
        jax.tree.map(np.testing.assert_array_equal, found, variables[name]["backbone"])
    jax.tree.map(np.testing.assert_array_equal, state.params["graph"], fresh.params["graph"])
    assert jax.tree.structure(state) == jax.tree.structure(fresh)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, fresh.opt_state)


def test_a_run_starts_from_the_file_and_needs_it_no_more(tiny_config, weights, tmp_path):
    path, _ = weights
    copy = tmp_path / "copy.safetensors"
    shutil.copy(path, copy)
    config = tiny_config()
    config.model.backbone.pretrained = str(copy)
    config.train.steps = 3
    assert loop.train(config, tmp_path / "run").finished
    copy.unlink()
    assert grnet_jax.load(tmp_path / "run").step == 3
    assert loop.train(config, tmp_path / "run").finished  # there is nothing left to start
    with pytest.raises(InputError, match=r"copy\.safetensors: no such file"):
        loop.train(config, tmp_path / "other")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.backbone.name", "googlenet", r"set --config\.model\.backbone\.name=small"),
        (
            "model.backbone.preprocessing",
            "imagenet_v2",
            r"set --config\.model\.backbone\.preprocessing=imagenet",
        ),
        ("train.init_from", "somewhere", "only one can be given"),
        ("model.backbone.pretrained", "nowhere.safetensors", "nowhere.safetensors: no such file"),
    ],
)
def test_a_file_that_does_not_agree_is_named(tiny_config, weights, field, value, message):
    config = tiny_config()
    config.model.backbone.pretrained = weights[0]
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=message):
        check_pretrained(build_run(config, mesh.make_mesh(jax.devices()[:1])).config)


def test_a_file_without_a_backbone_is_named(tiny_config, tmp_path):
    path = str(tmp_path / "head.safetensors")
    head = {"params": {"head": {"fc": {"bias": np.zeros(3, np.float32)}}}}
    write_weights(path, Weights("small", "imagenet", head, "x", "0" * 64, 3))
    config = tiny_config()
    config.model.backbone.pretrained = path
    with pytest.raises(InputError, match=r"head\.safetensors: \d+ parameters do not fit"):
        start_state(build_run(config, mesh.make_mesh(jax.devices()[:1])))


@pytest.mark.slow
def test_a_run_that_saw_photos_otherwise_is_no_start(tiny_config, tmp_path):
    config = tiny_config()
    config.train.steps = 3
    loop.train(config, tmp_path / "first")
    config.model.backbone.preprocessing = "googlenet"
    config.train.init_from = str(tmp_path / "first")
    with pytest.raises(InputError, match=r"set --config\.model\.backbone\.preprocessing=imagenet"):
        loop.train(config, tmp_path / "second")


@pytest.mark.slow
def test_a_run_of_another_version_is_named(tiny_config, tmp_path):
    config = tiny_config()
    config.train.steps = 3
    loop.train(config, tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    del fields["data"]["interpolation"]
    path.write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match=r"another version of this package.*interpolation"):
        grnet_jax.load(tmp_path)


def test_another_width_is_named(tiny_config, weights, tmp_path):
    variables = jax.tree.map(np.asarray, weights[1])
    variables["params"]["backbone"]["down1"]["conv"]["kernel"] = np.zeros((3, 3, 3, 5), np.float32)
    path = str(tmp_path / "narrow.safetensors")
    write_weights(path, Weights("small", "imagenet", variables, "x", "0" * 64, 7))
    config = tiny_config()
    config.model.backbone.pretrained = path
    with pytest.raises(
        InputError, match=r"params/backbone/down1/conv/kernel: \(3, 3, 3, 5\) there"
    ):
        start_state(build_run(config, mesh.make_mesh(jax.devices()[:1])))


@pytest.mark.parametrize(
    ("backbone", "named", "expected"),
    [
        ("small", "", "imagenet"),
        ("googlenet", "", "googlenet"),
        ("seresnet50", "", "imagenet_bicubic"),
        ("seresnet50", "imagenet_v2", "imagenet_v2"),
    ],
)
def test_open_fields_follow_the_backbone(tiny_config, backbone, named, expected):
    config = tiny_config()
    config.model.backbone.name, config.model.backbone.preprocessing = backbone, named
    resolved = build_run(config, mesh.make_mesh(jax.devices()[:1])).config
    wanted = PREPROCESSING[expected]
    assert resolved.model.backbone.preprocessing == expected
    assert resolved.data.interpolation == wanted.interpolation
    assert resolved.data.center_fraction == wanted.center_fraction
    assert config.data.interpolation == ""  # the given one is left as it was


def test_fields_that_are_given_stay(tiny_config):
    config = tiny_config()
    config.data.interpolation, config.data.center_fraction = "bicubic", 0.5
    resolved = build_run(config, mesh.make_mesh(jax.devices()[:1])).config
    assert (resolved.data.interpolation, resolved.data.center_fraction) == ("bicubic", 0.5)
