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
from grnet_jax.config import parse_config
from grnet_jax.errors import InputError
from grnet_jax.models.landmark_pooling import pool_landmarks
from grnet_jax.training.state import init_variables
from tests.small import random_images, random_variables, small_matcher


@pytest.fixture(scope="module")
def built():
    matcher = small_matcher("fashionnet")
    return matcher, random_variables(matcher)


def _predict(matcher, variables, images):
    return jax.jit(lambda v, p: matcher.apply(v, p, method="predict"))(variables, images)


def test_equals_its_layers_in_numpy(built):
    """From the shared map on, with every dense layer a float64 product."""
    matcher, variables = built
    images = random_images(2)
    features, predictions = _predict(matcher, variables, images)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])

    def dense(name, x):
        return np.asarray(x, np.float64) @ params[name]["kernel"] + params[name]["bias"]

    def hidden(name, x):
        return np.maximum(dense(name, x), 0)

    bound = matcher.bind(variables)
    maps = bound.backbone(normalize(images, "imagenet"), False)
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
    embedding = dense("descriptor", fused)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    for output, expected in (
        (predictions.landmarks, points),
        (predictions.visibility, visibility),
        (predictions.category, dense("category", fused)),
        (predictions.attributes, dense("attribute", fused)),
        (features.embedding, embedding),
    ):
        np.testing.assert_allclose(output, expected, atol=1e-4 * np.abs(expected).max())
    assert models.has_predictions(matcher)


def test_the_gradient_of_recognition_does_not_reach_the_pose_branch(built):
    matcher, variables = built
    images = random_images(2)

    def losses(params):
        predictions = matcher.apply({**variables, "params": params}, images, method="predict")[1]
        return [jnp.sum(jnp.square(part)) for part in (predictions.category, predictions.landmarks)]

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


def test_without_pooling_or_attributes_there_are_no_layers_for_them():
    matcher = small_matcher("fashionnet", pooling="none", num_attributes=0)
    variables = jax.eval_shape(lambda: random_variables(matcher))
    assert not {"fc6_local", "attribute"} & set(variables["params"])
    assert variables["params"]["fc7_fusion"]["kernel"].shape == (16, 16)
    predictions = jax.eval_shape(lambda v: models.predict(matcher, v, random_images(2)), variables)
    assert predictions.attributes is None
    assert predictions.category.shape == (2, 13)


def test_a_vggs_weights_become_the_shared_and_both_last_stages(built):
    matcher, variables = built
    taken = matcher.take_backbone({f"stage{n}": {"number": n} for n in range(1, 5)})
    assert taken == {
        "backbone": {f"stage{n}": {"number": n} for n in range(1, 4)},
        "conv5_global": {"number": 4},
        "conv5_pose": {"number": 4},
    }
    assert set(variables["params"]["backbone"]) == set(taken["backbone"])


def test_the_papers_size():
    config = fashionnet.get_config("deepfashion_attributes")
    matcher = models.build_matcher(parse_config(config).model)
    params = jax.eval_shape(lambda: init_variables(matcher, 224, seed=0))["params"]
    shapes = {name: params[name]["kernel"].shape for name in params if "kernel" in params[name]}
    assert shapes["fc6_global"] == shapes["fc6_pose"] == (7 * 7 * 512, 4096)
    assert shapes["fc6_local"] == (8 * 2 * 2 * 512, 4096)
    assert shapes["fc7_fusion"] == (2 * 4096, 4096)
    assert (shapes["category"], shapes["attribute"]) == ((4096, 50), (4096, 1000))
    assert set(params["backbone"]) == {"stage1", "stage2", "stage3", "stage4"}


def test_the_finer_annotations_have_their_own_number_of_attributes():
    config = parse_config(fashionnet.get_config("deepfashion_fine"))
    assert (config.model.num_classes, config.model.num_attributes) == (50, 26)
    assert config.sampler.name == "images"
    assert config.loss.largest_weight("triplets") == 0


def test_every_landmark_starts_in_the_middle(built):
    matcher, variables = built
    layer, pose = matcher.bind(variables).landmarks.clone(parent=None), jnp.ones((2, 16))
    points, _ = layer.init_with_output(jax.random.key(0), pose)
    np.testing.assert_array_equal(points, 0.5)


def test_dropout_needs_training_and_a_key(built):
    _, variables = built
    matcher = small_matcher("fashionnet", dropout=0.5, **{"backbone.frozen_batch_norm": True})
    images = random_images(2)

    @functools.partial(jax.jit, static_argnums=0)
    def category(train, **options):
        return matcher.apply(variables, images, train, method="predict", **options)[1].category

    plain = category(False)
    np.testing.assert_array_equal(category(True), plain)
    one, other = (category(True, rngs={"dropout": jax.random.key(seed)}) for seed in (1, 2))
    assert not np.allclose(one, plain)
    assert not np.allclose(one, other)


def test_keypoints_are_pooled_around_in_the_landmarks_place():
    matcher = small_matcher("fashionnet", pooling="keypoints", num_keypoints=3)
    variables = random_variables(matcher)
    points = np.random.default_rng(4).uniform(size=(2, 3, 2)).astype(np.float32)
    visible = np.ones((2, 3), bool)
    batch = {"image": random_images(2), "points": points, "points_visible": visible}
    predict = jax.jit(lambda v, p: models.predict(matcher, v, p))
    seen = predict(variables, models.model_inputs(matcher, batch))
    hidden = predict(variables, models.model_inputs(matcher, {**batch, "points_visible": ~visible}))
    np.testing.assert_array_equal(seen.landmarks, hidden.landmarks)
    assert not np.allclose(seen.category, hidden.category)
    with pytest.raises(InputError, match=r"model\.pooling=keypoints: images alone have no keyp"):
        jax.eval_shape(lambda: models.embed(matcher, variables, batch["image"]))
    fewer = models.model_inputs(matcher, {**batch, "points": points[:, :2]})
    with pytest.raises(InputError, match=r"num_keypoints: 3, but image\.keypoints has 2 points"):
        jax.eval_shape(lambda: models.embed(matcher, variables, fewer))


@pytest.mark.slow
def test_it_equals_the_network_in_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: make parity")
    from benchmarks.fashionnet_speed import TorchFashionNet

    matcher = models.build_matcher(parse_config(fashionnet.get_config()).model)
    shapes = jax.eval_shape(lambda: init_variables(matcher, 64, seed=0))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        value = rng.standard_normal(leaf.shape).astype(np.float32)
        if path[-1].key == "kernel":
            return value * np.sqrt(2 / np.prod(leaf.shape[:-1])).astype(np.float32)
        return np.abs(value) + 0.5 if path[-1].key in ("var", "scale") else 0.3 * value

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    images = random_images(6, size=64)
    features, predictions = matcher.apply(variables, images, method="predict")
    visible = np.argmax(predictions.visibility, axis=-1) == 0
    assert visible.any()
    assert not visible.all()
    with torch.no_grad():
        expected = TorchFashionNet(matcher, variables, "cpu")(torch.from_numpy(images))
    outputs = {"embedding": features.embedding, **predictions.__dict__}
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value.numpy(), rtol=1e-3, atol=2e-4, err_msg=name)
