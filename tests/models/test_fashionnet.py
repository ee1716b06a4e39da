"""FashionNet's branches: what reaches which, and what a VGG's weights become."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import fashionnet
from grnet_jax import models
from grnet_jax.backbones.pooling import max_pool
from grnet_jax.backbones.preprocessing import normalize
from grnet_jax.errors import InputError
from grnet_jax.models.landmark_pooling import pool_landmarks
from grnet_jax.training.state import init_variables


def small_model(**fields):
    model = fashionnet.get_config().model
    model.hidden = model.embedding = 16
    model.landmark_window = 2
    model.update_from_flattened_dict(fields)
    return model


def _photos(n, size=32):
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def _drawn(matcher, size=32):
    """Variables without compiling `init`."""
    shapes = jax.eval_shape(lambda: init_variables(matcher, size, seed=0))
    rng = np.random.default_rng(1)

    def draw(x):
        if len(x.shape) == 1:  # biases, and BatchNorm's scales and statistics
            return rng.uniform(0.1, 1, x.shape).astype(np.float32)
        scale = np.sqrt(2 / np.prod(x.shape[:-1]))
        return (scale * rng.normal(size=x.shape)).astype(np.float32)

    return jax.tree.map(draw, shapes)


@pytest.fixture(scope="module")
def built():
    matcher = models.build_matcher(small_model())
    return matcher, _drawn(matcher)


def _predict(matcher, variables, photos):
    return jax.jit(lambda v, p: matcher.apply(v, p, method="predict"))(variables, photos)


def test_outputs_and_their_shapes(built):
    features, found = _predict(*built, _photos(3))
    assert found.landmarks.shape == (3, 8, 2)
    assert found.visibility.shape == (3, 8, 4)
    assert found.category.shape == (3, 13)
    assert found.attributes.shape == (3, 52)
    np.testing.assert_allclose(jnp.linalg.norm(features.descriptor, axis=1), 1, rtol=1e-4)
    assert models.has_predictions(built[0])


def test_equals_its_layers_in_numpy(built):
    """From the shared map on, with every dense layer a float64 product."""
    matcher, variables = built
    photos = _photos(2)
    features, found = _predict(matcher, variables, photos)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])

    def dense(name, x):
        return np.asarray(x, np.float64) @ params[name]["kernel"] + params[name]["bias"]

    def hidden(name, x):
        return np.maximum(dense(name, x), 0)

    bound = matcher.bind(variables)
    maps = bound.backbone(normalize(photos, "imagenet"), False)
    shared, pooled = maps[4], maps[8]
    np.testing.assert_array_equal(pooled, max_pool(shared, 2, 2, ceil=False))

    def last(stage):
        return np.asarray(max_pool(stage(pooled, False), 2, 2, ceil=False)).reshape(2, -1)

    pose = hidden("fc7_pose", hidden("fc6_pose", last(bound.conv5_pose)))
    points = dense("landmarks", pose).reshape(2, 8, 2)
    visibility = dense("visibility", pose).reshape(2, 8, 4)
    visible = visibility.argmax(axis=-1) == 0
    assert visible.any()
    local = pool_landmarks(shared, points.astype(np.float32), visible, window=2, bins=2)
    branches = [
        hidden("fc6_global", last(bound.conv5_global)),
        hidden("fc6_local", np.asarray(local).reshape(2, -1)),
    ]
    fused = hidden("fc7_fusion", np.concatenate(branches, axis=1))
    descriptor = dense("descriptor", fused)
    descriptor /= np.linalg.norm(descriptor, axis=1, keepdims=True)
    for ours, wanted in (
        (found.landmarks, points),
        (found.visibility, visibility),
        (found.category, dense("category", fused)),
        (found.attributes, dense("attribute", fused)),
        (features.descriptor, descriptor),
    ):
        np.testing.assert_allclose(ours, wanted, atol=1e-4 * np.abs(wanted).max())


def test_the_gradient_of_recognition_does_not_reach_the_pose_branch(built):
    matcher, variables = built
    photos = _photos(2)

    def losses(params):
        found = matcher.apply({**variables, "params": params}, photos, method="predict")[1]
        return [jnp.sum(jnp.square(part)) for part in (found.category, found.landmarks)]

    @jax.jit
    def gradients(params):
        pull = jax.vjp(losses, params)[1]
        return [pull(list(which))[0] for which in jnp.eye(2)]

    of_category, of_landmarks = gradients(variables["params"])
    for name in ("conv5_pose", "fc6_pose", "fc7_pose", "landmarks", "visibility"):
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_category[name])), name
    assert any(np.any(leaf) for leaf in jax.tree.leaves(of_category["backbone"]))
    for name in ("conv5_global", "fc6_global", "fc6_local", "fc7_fusion"):
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_landmarks[name])), name


def test_without_pooling_there_is_no_local_branch():
    matcher = models.build_matcher(small_model(pooling="none"))
    params = jax.eval_shape(lambda: init_variables(matcher, 32, seed=0))["params"]
    assert "fc6_local" not in params
    assert params["fc7_fusion"]["kernel"].shape == (16, 16)


def test_without_attributes_there_is_no_head_of_them():
    matcher = models.build_matcher(small_model(attributes=0))
    params = jax.eval_shape(lambda: init_variables(matcher, 32, seed=0))["params"]
    assert "attribute" not in params
    found = jax.eval_shape(lambda: models.predict(matcher, _drawn(matcher), _photos(2)))
    assert found.attributes is None
    assert found.category.shape == (2, 13)


def test_a_vggs_weights_become_the_shared_and_both_last_stages(built):
    matcher, variables = built
    theirs = {f"stage{number}": {"number": number} for number in range(1, 5)}
    taken = matcher.take_backbone(theirs)
    assert taken == {
        "backbone": {f"stage{number}": {"number": number} for number in range(1, 4)},
        "conv5_global": {"number": 4},
        "conv5_pose": {"number": 4},
    }
    assert set(variables["params"]["backbone"]) == set(taken["backbone"])


def test_the_papers_size():
    config = fashionnet.get_config("deepfashion_attributes")
    matcher = models.build_matcher(config.model)
    params = jax.eval_shape(lambda: init_variables(matcher, 224, seed=0))["params"]
    shapes = {name: params[name]["kernel"].shape for name in params if "kernel" in params[name]}
    assert shapes["fc6_global"] == shapes["fc6_pose"] == (7 * 7 * 512, 4096)
    assert shapes["fc6_local"] == (8 * 2 * 2 * 512, 4096)
    assert shapes["fc7_fusion"] == (2 * 4096, 4096)
    assert (shapes["category"], shapes["attribute"]) == ((4096, 50), (4096, 1000))
    assert set(params["backbone"]) == {"stage1", "stage2", "stage3", "stage4"}


def test_the_finer_annotations_have_their_own_number_of_attributes():
    config = fashionnet.get_config("deepfashion_fine")
    assert (config.model.categories, config.model.attributes) == (50, 26)
    assert config.data.sampler == "photos"
    assert {config.loss[phase].triplets for phase in config.loss.phases} == {0.0}


def test_every_landmark_starts_in_the_middle():
    matcher = models.build_matcher(small_model())
    photos = _photos(2)
    _, found = _predict(matcher, init_variables(matcher, photos.shape[1], seed=0), photos)
    np.testing.assert_array_equal(found.landmarks, 0.5)


def test_dropout_needs_training_and_a_key(built):
    _, variables = built
    matcher = models.build_matcher(small_model(dropout=0.5, **{"backbone.frozen_batch_norm": True}))
    photos = _photos(2)

    @functools.partial(jax.jit, static_argnums=0)
    def category(train, **options):
        return matcher.apply(variables, photos, train, method="predict", **options)[1].category

    plain = category(False)
    np.testing.assert_array_equal(category(True), plain)
    one, other = (category(True, rngs={"dropout": jax.random.key(seed)}) for seed in (1, 2))
    assert not np.allclose(one, plain)
    assert not np.allclose(one, other)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("categories", 0, r"model\.categories: expected 1 or more"),
        ("pooling", "joints", r"model\.pooling: 'joints' is none of"),
        ("landmark_bins", 3, r"model\.landmark_bins: expected 1 to model\.landmark_window"),
        ("dropout", 1.0, r"model\.dropout: expected 0 to less than 1"),
        ("dtype", "int8", r"model\.dtype: 'int8'"),
        ("backbone.name", "resnet50", r"model\.backbone\.name: FashionNet is made of a VGG's"),
    ],
)
def test_bad_fields_are_named(field, value, message):
    model = small_model()
    model.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=message):
        models.build_matcher(model)


def test_given_points_are_pooled_around_in_the_landmarks_place():
    matcher = models.build_matcher(small_model(pooling="given", given_keypoints=3))
    variables = _drawn(matcher)
    rng = np.random.default_rng(4)
    points, visible = rng.uniform(size=(2, 3, 2)).astype(np.float32), np.ones((2, 3), bool)
    batch = {"photo": _photos(2), "points": points, "points_visible": visible}
    predict = jax.jit(lambda v, p: models.predict(matcher, v, p))
    found = predict(variables, models.photos_of(matcher, batch))
    hidden = predict(variables, models.photos_of(matcher, {**batch, "points_visible": ~visible}))
    np.testing.assert_array_equal(found.landmarks, hidden.landmarks)
    assert not np.allclose(found.category, hidden.category)
    with pytest.raises(InputError, match=r"model\.pooling=given: photos alone have no points"):
        jax.eval_shape(lambda: models.embed(matcher, variables, batch["photo"]))
    fewer = models.photos_of(matcher, {**batch, "points": points[:, :2]})
    with pytest.raises(
        InputError, match=r"model\.given_keypoints: 3, but data\.points has 2 points"
    ):
        jax.eval_shape(lambda: models.embed(matcher, variables, fewer))
    with pytest.raises(InputError, match=r"eval\.search\.flip_average: images with"):
        models.embed_augmented(matcher, variables, models.photos_of(matcher, batch), True)


@pytest.mark.parametrize(("pooling", "points"), [("given", 0), ("landmarks", 2)])
def test_given_points_are_counted_in_the_config(pooling, points):
    with pytest.raises(InputError, match=r"model\.given_keypoints: "):
        models.build_matcher(small_model(pooling=pooling, given_keypoints=points))


@pytest.mark.slow
def test_it_equals_the_network_in_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: make parity")
    from benchmarks.fashionnet_speed import TorchFashionNet

    matcher = models.build_matcher(fashionnet.get_config().model)
    shapes = jax.eval_shape(lambda: init_variables(matcher, 64, seed=0))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        value = rng.standard_normal(leaf.shape).astype(np.float32)
        if path[-1].key == "kernel":
            return value * np.sqrt(2 / np.prod(leaf.shape[:-1])).astype(np.float32)
        return np.abs(value) + 0.5 if path[-1].key in ("var", "scale") else 0.3 * value

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    photos = rng.integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    features, found = matcher.apply(variables, photos, method="predict")
    visible = np.argmax(found.visibility, axis=-1) == 0
    assert visible.any()
    assert not visible.all()
    with torch.no_grad():
        wanted = TorchFashionNet(matcher, variables, "cpu")(torch.from_numpy(photos))
    ours = {"descriptor": features.descriptor, **found.__dict__}
    for name, value in wanted.items():
        np.testing.assert_allclose(ours[name], value.numpy(), rtol=1e-3, atol=2e-4, err_msg=name)
