"""Maps that are computed once are those that a step would compute, in one file for all runs."""

import dataclasses

import jax
import numpy as np
import pytest

from grnet_jax.backbones.efficientnet_lite import EfficientNetLite
from grnet_jax.config import parse_config
from grnet_jax.errors import InputError
from grnet_jax.models import ImagesAsMaps
from grnet_jax.sharding import make_mesh
from grnet_jax.training import frozen_features
from grnet_jax.training.build import build_run
from grnet_jax.training.frozen_features import load_frozen_features
from input_pipeline import load_dataset, train_batches

_VIEWS = 2
_NARROW = {"depths": (1,) * 7, "widths": (4, 4, 4, 4, 6, 6, 6)}
_AUGMENTED = {"augment.crop_jitter": 0.1, "augment.color_jitter": 0.2}


@pytest.fixture(scope="module")
def narrow():
    """An EfficientNet-Lite of one block a stage, and its variables."""
    network = EfficientNetLite(**_NARROW)
    return network, jax.jit(network.init)(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_the_layers_behind_a_map_give_the_same_last_map(narrow, stride):
    network, variables = narrow
    images = np.random.default_rng(0).normal(size=(2, 40, 32, 3)).astype(np.float32)
    maps = network.apply(variables, images)
    behind = network.layers_behind(stride)
    fewer = {k: {n: x for n, x in tree.items() if n in behind} for k, tree in variables.items()}
    rest = network.apply(fewer, maps[stride], stride=stride)
    np.testing.assert_array_equal(rest[32], maps[32])
    assert set(rest) == {one for one in maps if one > stride}


def _prepare(tiny_config, tmp_path, system="grnet", trainable="graph", **fields):
    fields = {"optimizer.trainable": trainable, "train.cached_views": _VIEWS, **_AUGMENTED} | fields
    config = parse_config(tiny_config(system, **fields))
    run = build_run(config, make_mesh(jax.devices()[:2]))
    split = load_dataset(config.dataset).split("train")
    state = run.create_state()
    return config, run, state, split, lambda: load_frozen_features(run, state, split, tmp_path, "x")


def _batches(config, split, frozen=None):
    return train_batches(
        split, config.image, config.augment, config.sampler,
        batch_size=8, start_step=3, steps=2, seed=7,
        views=_VIEWS, read_views=frozen and frozen.read,
    )  # fmt: skip


@pytest.mark.parametrize(("color", "reduction"), [(0.0, 0), (0.5, 8)])
def test_maps_are_those_of_the_same_views_computed_in_the_step(
    tiny_config, tmp_path, color, reduction
):
    fields = {
        "model.backbone.cell_color_weight": color,
        "model.backbone.reduction_channels": reduction,
    }
    config, run, state, split, load = _prepare(tiny_config, tmp_path, **fields)
    frozen = load()
    assert (frozen.stride, len(frozen.maps)) == (0, _VIEWS * len(split))
    feature_map = jax.jit(lambda x: run.matcher.apply(state.variables, x, method="feature_map"))
    for computed, read in zip(
        _batches(config, split), _batches(config, split, frozen), strict=True
    ):
        assert computed["step"] == read["step"]
        for name in ("item", "content"):
            np.testing.assert_array_equal(computed[name], read[name])
        for name in ("customer", "shop"):
            given = frozen.wrap(read)[name]
            assert isinstance(given, ImagesAsMaps)
            expected = feature_map(computed[name])
            np.testing.assert_allclose(feature_map(given), expected, atol=2e-3 * expected.max())


def test_runs_share_the_file_of_what_their_maps_depend_on(tiny_config, tmp_path, monkeypatch):
    def files(**fields):
        _prepare(tiny_config, tmp_path, **fields)[-1]()
        return sorted(tmp_path.glob("maps/*.npy"))

    first = files()
    with monkeypatch.context() as patch:
        patch.setattr(frozen_features, "_write", None)  # nothing is computed
        assert files(**{"optimizer.learning_rate": 0.5, "train.batch_size": 16}) == first
    assert len(files(**{"augment.crop_jitter": 0.2})) == 2
    assert len(files(seed=3)) == 3  # other random weights of the backbone


def test_part_of_a_backbone_may_stay(tiny_config, tmp_path, narrow, monkeypatch):
    trainable = "graph,backbone/stage3_0,backbone/stage4_0,backbone/stage5_0,backbone/head"
    config, run, state, split, _ = _prepare(tiny_config, tmp_path)
    network, variables = narrow
    matcher = run.matcher.clone(backbone=network)
    optimizer = config.optimizer.model_copy(update={"trainable": trainable})
    run = dataclasses.replace(
        run, matcher=matcher, config=config.model_copy(update={"optimizer": optimizer})
    )
    state = dataclasses.replace(
        state,
        params=state.params | {"backbone": variables["params"]},
        batch_stats={"backbone": variables["batch_stats"]},
    )
    frozen = load_frozen_features(run, state, split, tmp_path, "x")
    assert frozen.stride == 8
    feature_map = jax.jit(lambda x: matcher.apply(state.variables, x, method="feature_map"))
    computed, read = (next(_batches(config, split, one)) for one in (None, frozen))
    expected = feature_map(computed["shop"])
    given = feature_map(frozen.wrap(read)["shop"])
    np.testing.assert_allclose(given, expected, atol=5e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("system", "trainable", "fields", "problem"),
    [
        ("grnet", "graph,backbone", {}, "no map of small stays"),
        ("contrastive", "linear", {"model.color_weight": 0.5}, "needs images in every step"),
        ("darn", "customer", {}, "needs images in every step"),
        ("vam", "linear", {"model.nonshared": True}, "needs images in every step"),
    ],
)
def test_what_needs_images_is_refused(tiny_config, tmp_path, system, trainable, fields, problem):
    load = _prepare(tiny_config, tmp_path, system, trainable, **fields)[-1]
    with pytest.raises(InputError, match=f"train.cached_views: .*{problem}"):
        load()


def test_a_bucket_is_refused(tiny_config):
    _, run, state, split, _ = _prepare(tiny_config, None)
    with pytest.raises(InputError, match="expected a local folder"):
        load_frozen_features(run, state, split, "gs://bucket", "x")
