"""Where training starts: from a weights file, from another run, or from parts of either."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from etils import epath

from grnet_jax.backbones import build_classifier
from grnet_jax.backbones.pretrained.weights import Weights, write_weights
from grnet_jax.config import parse_config
from grnet_jax.errors import InputError
from grnet_jax.sharding import make_mesh
from grnet_jax.training.build import build_run
from grnet_jax.training.checkpoints import Checkpoints, write_config
from grnet_jax.training.init_from import check_pretrained, check_trainable, start_state
from grnet_jax.training.label_names import LabelNames, warn_of_other_labels
from tests.small import small_config


def _write(path, variables, backbone="small"):
    write_weights(path, Weights(backbone, "imagenet", variables, "x.pth", "0" * 64, 7))
    return str(path)


@pytest.fixture(scope="module", params=["small", "vgg_small"])
def weights(request, tmp_path_factory):
    """A weights file of each backbone: its name, path and variables."""
    return request.param, *_draw_weights(request.param, tmp_path_factory.mktemp("weights"))


def _draw_weights(backbone, folder):
    images = np.zeros((1, 32, 32, 3), np.float32)
    shapes = jax.eval_shape(build_classifier(backbone, 7).init, jax.random.key(0), images)
    rng = np.random.default_rng(5)
    variables = jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape).astype(np.float32), shapes)
    return _write(folder / f"{backbone}.safetensors", variables, backbone), variables


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory):
    return _draw_weights("small", tmp_path_factory.mktemp("weights"))


def _run(config):
    return build_run(parse_config(config), make_mesh(jax.devices()[:2]))


def test_layers_behind_the_last_stride_are_not_taken(tmp_path):
    path, variables = _draw_weights("efficientnet_lite0", tmp_path)
    backbone = {"backbone.name": "efficientnet_lite0", "backbone.stride": 4}
    fields = {**backbone, "backbone.pretrained": path, "backbone.preprocessing": "imagenet"}
    config = small_config("embedding", **{f"model.{name}": fields[name] for name in fields})
    run = _run(config)
    shapes = run.abstract_state().params["backbone"]
    state = start_state(run)
    expected = {name: variables["params"]["backbone"][name] for name in shapes}
    assert {"stem", "stage1_1"} < set(shapes) < set(variables["params"]["backbone"])
    _same(state.params["backbone"], expected)


def _same(tree, expected):
    jax.tree.map(np.testing.assert_array_equal, tree, expected)


def test_the_backbone_starts_from_the_file_and_the_rest_fresh(weights):
    backbone, path, variables = weights
    system = {"small": "grnet", "vgg_small": "fashionnet"}[backbone]
    config = small_config(system)
    fresh = _run(config).create_state()
    config.model.backbone.pretrained = path
    state = start_state(_run(config))
    for kind in ("params", "batch_stats"):
        tree, stages = getattr(state, kind), dict(variables[kind]["backbone"])
        if system == "fashionnet":  # both last stages start from the VGG's fifth
            last = stages.pop("stage4")
            _same([tree["conv5_global"], tree["conv5_pose"]], [last, last])
        _same(tree["backbone"], stages)
    for part in {"graph", "fc6_pose", "fc7_fusion"} & set(state.params):
        _same(state.params[part], fresh.params[part])
    assert jax.tree.structure(state) == jax.tree.structure(fresh)
    _same(state.opt_state, fresh.opt_state)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.backbone.name", "googlenet", r"set --config\.model\.backbone\.name=small"),
        ("model.backbone.preprocessing", "imagenet_v2", r"backbone\.preprocessing=imagenet$"),
        ("train.init_from", "somewhere", "only one can be given"),
        ("model.backbone.pretrained", "nowhere.safetensors", "nowhere.safetensors: no such file"),
    ],
)
def test_a_file_that_does_not_agree_is_named(small_weights, field, value, message):
    config = small_config(**{"model.backbone.pretrained": small_weights[0], field: value})
    with pytest.raises(InputError, match=message):
        check_pretrained(parse_config(config))


def test_a_file_of_another_shape_or_without_a_backbone_is_named(small_weights, tmp_path):
    variables = jax.tree.map(np.asarray, small_weights[1])
    variables["params"]["backbone"]["down1"]["conv"]["kernel"] = np.zeros((3, 3, 3, 5), np.float32)
    head = {"params": {"head": {"fc": {"bias": np.zeros(3, np.float32)}}}}
    for name, content, message in (
        ("narrow", variables, r"params/backbone/down1/conv/kernel: \(3, 3, 3, 5\) there"),
        ("head", head, r"head\.safetensors: \d+ parameters do not fit"),
    ):
        path = _write(tmp_path / f"{name}.safetensors", content)
        with pytest.raises(InputError, match=message):
            start_state(_run(small_config(**{"model.backbone.pretrained": path})))


def _saved_run(config, workdir):
    """A run of that config as training leaves it: its state."""
    run = _run(config)
    state = run.create_state()
    write_config(epath.Path(workdir), run.config, "")
    with Checkpoints(epath.Path(workdir)) as saved:
        saved.save(state, None)
    return state


def test_a_run_that_saw_images_otherwise_is_no_start(tmp_path):
    _saved_run(small_config(), tmp_path)
    fields = {"train.init_from": str(tmp_path), "model.backbone.preprocessing": "googlenet"}
    with pytest.raises(InputError, match=r"set --config\.model\.backbone\.preprocessing=imagenet"):
        start_state(_run(small_config(**fields)))


def test_frozen_parts_are_used_as_they_were_trained(tmp_path):
    saved = _saved_run(small_config(seed=7, **{"image.size": 64}), tmp_path)
    start = {"train.init_from": str(tmp_path), "train.init_params": "matching_names"}
    start |= {"model.backbone.frozen_batch_norm": True, "image.size": 48}
    state = start_state(_run(small_config(**start, **{"optimizer.trainable": "-backbone"})))
    _same(state.params, saved.params)
    with pytest.raises(InputError, match=r"image\.size: 64 there, 48 here"):
        start_state(_run(small_config(**start, **{"optimizer.trainable": "-backbone,-graph"})))
    colors = {"model.backbone.cell_color_weight": 0.3, "optimizer.trainable": "-backbone"}
    with pytest.raises(InputError, match=r"backbone\.cell_color_weight: 0\.0 there, 0\.3 here"):
        start_state(_run(small_config(**start, **colors)))


@pytest.mark.slow
def test_heads_of_other_labels_start_fresh(tmp_path):
    """Of a run on other labels all else is taken; where nothing fits it says so."""
    labels = {"model.num_classes": 5, "model.num_attributes": 11}
    saved = _saved_run(small_config("fashionnet", seed=7, **labels), tmp_path)
    start = {"train.init_from": str(tmp_path)}
    with pytest.raises(InputError, match=r"params/attribute/bias: \(11,\) there, \(52,\) here"):
        start_state(_run(small_config("fashionnet", **start)))
    start["train.init_params"] = "matching_shapes"
    run = _run(small_config("fashionnet", **start))
    state, fresh = start_state(run), run.create_state()
    for part, params in state.params.items():
        expected = fresh if part in ("attribute", "category") else saved
        _same(params, expected.params[part])
    _same(state.batch_stats, saved.batch_stats)
    with pytest.raises(InputError, match="no part of that model fits this model"):
        start_state(_run(small_config(**start)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer.trainable": "graph"}, "frozen_batch_norm=true"),
        ({"optimizer.trainable": "graph,backbone/down1"}, "frozen_batch_norm=true"),
        (
            {"optimizer.trainable": "graph", "model.backbone.frozen_batch_norm": True},
            "the backbone would stay at random",
        ),
        ({"optimizer.trainable": "grph"}, "no parameter is in 'grph'"),
    ],
)
def test_parts_that_cannot_learn_alone_are_named(fields, message):
    with pytest.raises(InputError, match=message):
        check_trainable(_run(small_config(**fields)))


def test_a_head_that_learned_other_labels_is_told(tmp_path, caplog):
    config = parse_config(small_config("fashionnet"))
    write_config(epath.Path(tmp_path), config, "")
    before = LabelNames(("coat", "dress"), ("plain",), True)
    (tmp_path / "labels.json").write_text(json.dumps(dataclasses.asdict(before)))

    def told(categories, **fields):
        train = config.train.model_copy(update={"init_from": str(tmp_path), **fields})
        index = SimpleNamespace(categories=np.array(categories), attributes=np.array(["plain"]))
        caplog.clear()
        warn_of_other_labels(config.model_copy(update={"train": train}), index)
        return caplog.text

    assert "other categories: number 1 was 'dress' and is 'blouse' now" in told(["coat", "blouse"])
    assert "number 2 was None and is 'tee' now" in told(["coat", "dress", "tee"])
    assert not told(["coat", "dress"])
    assert not told(["coat", "blouse"], init_params="backbone")
