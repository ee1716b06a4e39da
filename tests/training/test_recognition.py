"""FashionNet's objective is the weighted sum of its losses, on any number of devices."""

import json

import jax
import numpy as np
import pytest
from grnet_jax.recognize.__main__ import main as recognize
from grnet_jax.training.phases import make_weights
from grnet_jax.training.recognition import TERMS, check_labels
from grnet_jax.training.setup import build_run, restore_run, start_state

from configs import fashionnet, grnet
from grnet_jax import commands, losses, models
from grnet_jax import sharding as meshes
from grnet_jax.backbones import build_classifier
from grnet_jax.backbones.pretrained.weights import Weights, write_weights
from grnet_jax.errors import InputError
from grnet_jax.training import loop
from grnet_jax.training.checkpoints import Checkpoints, write_config
from grnet_jax.training.objectives import make_objective
from input_pipeline import load_dataset
from input_pipeline.crops import transform_landmarks


class Index:
    """As much of a split's index as the objective reads."""

    categories = np.arange(13).astype(str)
    attributes = np.arange(52).astype(str)

    def attribute_counts(self):
        return np.arange(1, 53), 100 - np.arange(1, 53)


def small_config():
    config = fashionnet.get_config()
    config.data.image_size = 32
    config.model.hidden = config.model.embedding = 16
    config.model.landmark_window = 2
    config.train.batch_size = 8
    config.train.steps = 10
    config.optimizer.warmup_steps = 2
    return config


def random_batch(n=16, size=32, seed=0):
    rng = np.random.default_rng(seed)
    visibility = rng.integers(-1, 3, (n, 8)).astype(np.int32)
    visibility[3] = -1
    category = rng.integers(0, 13, n).astype(np.int32)
    category[5] = -1
    return {
        "photo": rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8),
        "item": np.repeat(np.arange(n // 2), 2).astype(np.int32),
        "domain": np.tile([0, 1], n // 2).astype(np.int32),
        "category": category,
        "attributes": rng.integers(-1, 2, (n, 52)).astype(np.int8),
        "landmarks": rng.uniform(size=(n, 8, 2)).astype(np.float32),
        "visibility": visibility,
    }


def loss_and_gradients(config, devices, dtype):
    run = build_run(config, meshes.make_mesh(jax.devices()[:devices]))
    objective = make_objective(run.matcher, config, steps=10, index=Index())
    state = run.create_state()
    params, batch_stats = jax.tree.map(
        lambda leaf: leaf.astype(dtype), (state.params, state.batch_stats)
    )

    def replicate(tree):
        return jax.lax.with_sharding_constraint(tree, meshes.replicated(run.mesh))

    def loss(params, batch):
        return objective(params, batch_stats, {**batch, "step": 0}, replicate)

    batch = meshes.place_batch(random_batch(), run.mesh)
    (value, (batch_stats, metrics)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        params, batch
    )
    return value, metrics, grads, batch_stats


def check_eight_devices(config):
    """The loss and its gradients in float64, with dropout, are those of one device."""
    config.model.dtype = "float64"
    config.model.dropout = 0.25
    with jax.enable_x64(True):
        one, eight = (loss_and_gradients(config, devices, "float64") for devices in (1, 8))
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
            # Biases before a BatchNorm have no gradient but its rounding.
            np.testing.assert_allclose(y, x, atol=1e-9 * max(np.abs(x).max(), 1e-3))


@pytest.mark.slow
def test_eight_devices_equal_one():
    check_eight_devices(small_config())


@pytest.mark.slow
def test_loss_is_the_weighted_sum():
    config = small_config()
    run = build_run(config, meshes.make_mesh(jax.devices()[:1]))
    objective = make_objective(run.matcher, config, steps=10, index=Index())
    state, batch = run.create_state(), random_batch()

    @jax.jit
    def at(step):
        return objective(
            state.params, state.batch_stats, {**batch, "step": step}, lambda tree: tree
        )

    (features, found), _ = run.matcher.apply(
        state.variables, batch["photo"], True, method="predict", mutable=["batch_stats"]
    )
    has, has_not = Index().attribute_counts()
    weights = losses.attribute_weights(has, has_not)
    positive, negative = losses.comparison_masks(batch["item"], batch["item"])
    wanted = {
        "landmarks": losses.landmark_regression(
            found.landmarks, batch["landmarks"], batch["visibility"] == 0
        ),
        "visibility": losses.visibility_cross_entropy(found.visibility, batch["visibility"]),
        "category": losses.class_cross_entropy(found.category, batch["category"]),
        "attributes": losses.attribute_cross_entropy(
            found.attributes, batch["attributes"], *weights
        ),
        "triplets": losses.triplet_loss(
            features.descriptor, features.descriptor, positive, negative, margin=0.3
        ).loss,
    }
    for step, phase in ((0, "pose"), (4, "recognition")):
        value, (_, metrics) = at(step)
        total = 0
        for term in TERMS:
            np.testing.assert_allclose(metrics[f"loss_{term}"], wanted[term], rtol=1e-4)
            np.testing.assert_allclose(metrics[f"weight_{term}"], config.loss[phase][term])
            total += config.loss[phase][term] * wanted[term]
        np.testing.assert_allclose(value, total, rtol=1e-4)


def test_phases_follow_each_other_by_their_shares():
    loss = fashionnet.get_loss()
    loss.rounds = 2
    weights = make_weights(loss, TERMS, 40)
    each = [float(weights(step)["visibility"]) for step in range(40)]
    np.testing.assert_allclose(each, ([1.0] * 6 + [0.1] * 14) * 2, rtol=1e-6)


def test_a_phase_without_a_share_never_comes():
    loss = fashionnet.get_loss()
    loss.pose.share, loss.recognition.share, loss.rounds = 0.0, 1.0, 3
    weights = make_weights(loss, ("visibility",), 9)
    np.testing.assert_allclose([weights(step)["visibility"] for step in range(9)], 0.1, rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("loss.rounds", 0, r"loss\.rounds: expected 1 or more"),
        ("loss.phases", (), r"loss\.phases: expected at least one"),
        ("loss.phases", ("pose", "rest"), r"loss\.phases: there is no section loss\.rest"),
        ("loss.pose.share", 0.5, r"loss\.recognition\.share: expected 1 in all, got 1\.2"),
        ("loss.pose.landmarks", -1.0, r"loss\.pose\.landmarks: expected 0 or more"),
        ("loss.margin", -0.1, r"loss\.margin"),
        ("loss.most_frequent_attributes", 53, r"expected 0 to model\.attributes=52, got 53"),
        ("data.sampler", "pairs", r"trains on 'items' or 'photos'"),
        ("data.sampler", "photos", r"data\.sampler=photos has no triplets"),
    ],
)
def test_bad_fields_are_named(field, value, message):
    config = small_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=message):
        make_objective(models.build_matcher(config.model), config)


def test_a_matcher_that_recognises_nothing_and_other_labels_are_named():
    config = small_config()
    config.model = grnet.get_config().model
    with pytest.raises(InputError, match=r"model\.name=grnet recognises nothing"):
        make_objective(models.build_matcher(config.model), config)
    config = small_config()
    config.model.categories = 12
    with pytest.raises(InputError, match=r"the data set has 13: set --config\.model\.categories"):
        check_labels(config.model, Index())
    check_labels(grnet.get_config().model, Index())


@pytest.mark.slow
def test_trains_and_evaluates_end_to_end(data_dir, tmp_path):
    """Six steps on the tiny synthetic set; the figures are those of the predictions."""
    config = small_config()
    config.data.dir, config.data.size, config.model.attributes = str(data_dir), "tiny", 49
    config.train.steps = 6
    config.train.log_every = 2
    config.train.eval_every = config.train.checkpoint_every = 3
    config.eval.batch = 16
    config.eval.query_block = config.eval.gallery_block = 8
    assert loop.train(config, tmp_path).finished
    commands.evaluate([], config, str(tmp_path), "")
    assert (tmp_path / "results.json").exists()
    found = json.loads((tmp_path / "recognition.json").read_text())
    assert (found["photos"], found["split"]) == (36, "test")

    split = load_dataset(config.data).split("test")
    run, state = restore_run(tmp_path, meshes.make_mesh())
    rows = np.arange(len(split))
    photos = np.stack([split.framed(row, run.config.data) for row in rows])
    predicted = models.predict(run.matcher, state.variables, photos)
    label = split.index.category
    right = np.asarray(predicted.category).argmax(axis=1) == label
    values = found["values"]
    np.testing.assert_allclose(values["category_top1"], right.mean(), atol=0.03)
    commonest = np.bincount(label).max() / len(label)
    np.testing.assert_allclose(values["category_commonest"], commonest, atol=1e-6)
    has = split.index.attribute_values(rows) > 0
    order = np.argsort(-np.asarray(predicted.attributes), axis=1)[:, :5]
    hits = np.take_along_axis(has, order, axis=1).sum()
    np.testing.assert_allclose(values["attribute_recall5"], hits / has.sum(), atol=0.02)
    cut = split.cuts(run.config.data)
    points, visibility = transform_landmarks(split.index.landmarks, cut, np.zeros(len(rows), bool))
    apart = np.linalg.norm(np.asarray(predicted.landmarks) - points, axis=-1)[visibility == 0]
    np.testing.assert_allclose(values["landmark_error"], apart.mean(), rtol=0.02)
    np.testing.assert_allclose(values["landmark_pdj_0.1"], (apart <= 0.1).mean(), atol=0.03)
    assert values["landmarks_visible"] == (visibility == 0).sum()
    assert dict(found["pdj"])[0.1] == values["landmark_pdj_0.1"]
    _check_recognize_command(split, predicted, tmp_path)


def _check_recognize_command(split, predicted, workdir):
    """The command sees photo files as evaluation does; others are passed over and counted."""
    folder = workdir / "photos"
    (folder / "deeper").mkdir(parents=True)
    for place, row in (("a.jpg", 0), ("deeper/b.jpg", 5)):
        (folder / place).write_bytes(split.record(row).image)
    (folder / "notes.txt").write_text("no photo")
    box = ",".join(map(str, split.record(0).box))
    output = workdir / "told"
    arguments = [str(folder / "a.jpg"), f"--workdir={workdir}", f"--output={output}"]
    assert recognize([*arguments, f"--box={box}"]) == 0
    (told,) = json.loads((output / "recognised.json").read_text())["photos"]
    logits = np.asarray(predicted.category)[0]
    assert told["categories"][0][0] == str(split.index.categories[logits.argmax()])
    shares = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(told["categories"][0][1], shares.max(), atol=0.05)
    assert recognize([str(folder), f"--workdir={workdir}", f"--output={output}"]) == 0
    content = json.loads((output / "recognised.json").read_text())
    assert [one["photo"][-5:] for one in content["photos"]] == ["a.jpg", "b.jpg"]
    assert all((output / one["picture"]).exists() for one in content["photos"])
    (skipped,) = content["skipped"]
    assert "notes.txt: is not a photo that can be read" in skipped["reason"]
    with pytest.raises(SystemExit):
        recognize([str(folder / "notes.txt"), f"--workdir={workdir}", f"--output={output}"])


@pytest.mark.slow
def test_photos_without_items_train_on_what_they_have(data_dir, tmp_path):
    config = small_config()
    config.data.dir, config.data.size, config.model.attributes = str(data_dir), "tiny", 49
    config.data.sampler = "photos"
    for phase in config.loss.phases:
        config.loss[phase].triplets = 0.0
    config.train.steps = config.train.checkpoint_every = 2
    config.optimizer.warmup_steps = 1
    config.train.eval_every = 0
    assert loop.train(config, tmp_path).finished


@pytest.mark.slow
def test_trains_and_evaluates_around_the_annotated_landmarks(data_dir, tmp_path):
    config = small_config()
    config.data.dir, config.data.size, config.model.attributes = str(data_dir), "tiny", 49
    config.model.pooling, config.model.given_keypoints = "given", 8
    config.data.points = "landmarks"
    config.train.steps = config.train.eval_every = config.train.checkpoint_every = 2
    config.optimizer.warmup_steps = 1
    config.eval.batch = 16
    config.eval.query_block = config.eval.gallery_block = 8
    assert loop.train(config, tmp_path / "run").finished


@pytest.mark.slow
def test_trains_and_evaluates_around_given_points(data_dir, tmp_path):
    config = small_config()
    config.data.dir, config.data.size, config.model.attributes = str(data_dir), "tiny", 49
    names = {
        str(name)
        for split in ("train", "val", "test")
        for name in load_dataset(config.data).split(split).index.photo_id
    }
    rows = ["image,x_neck,y_neck", *(f"{name},60,50" for name in sorted(names))]
    (tmp_path / "joints.csv").write_text("\n".join(rows) + "\n")
    config.model.pooling, config.model.given_keypoints = "given", 1
    with pytest.raises(InputError, match=r"data\.points=''"):
        build_run(config, meshes.make_mesh())
    config.data.points = str(tmp_path / "joints.csv")
    config.train.steps = config.train.eval_every = config.train.checkpoint_every = 2
    config.optimizer.warmup_steps = 1
    config.eval.batch = 16
    config.eval.query_block = config.eval.gallery_block = 8
    assert loop.train(config, tmp_path / "run").finished


@pytest.mark.slow
def test_a_vggs_weights_start_shared_and_last_stages(tmp_path):
    photos = np.zeros((1, 32, 32, 3), np.float32)
    shapes = jax.eval_shape(build_classifier("vgg_small", 7).init, jax.random.key(0), photos)
    rng = np.random.default_rng(5)
    variables = jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape).astype(np.float32), shapes)
    path = tmp_path / "vgg.safetensors"
    write_weights(path, Weights("vgg_small", "imagenet", variables, "x", "0" * 64, 7))
    config = small_config()
    fresh = build_run(config, meshes.make_mesh(jax.devices()[:1])).create_state()
    config.model.backbone.pretrained = str(path)
    state = start_state(build_run(config, meshes.make_mesh(jax.devices()[:1])))
    for name in ("params", "batch_stats"):
        found, theirs = getattr(state, name), variables[name]["backbone"]
        wanted = {f"stage{number}": theirs[f"stage{number}"] for number in (1, 2, 3)}
        jax.tree.map(np.testing.assert_array_equal, found["backbone"], wanted)
        for last in ("conv5_global", "conv5_pose"):
            jax.tree.map(np.testing.assert_array_equal, found[last], theirs["stage4"])
    for layer in ("fc6_pose", "fc7_fusion"):
        jax.tree.map(np.testing.assert_array_equal, state.params[layer], fresh.params[layer])


def _saved_run(config, workdir):
    """A run of that config as training leaves it, and its state."""
    run = build_run(config, meshes.make_mesh(jax.devices()[:1]))
    state = run.create_state()
    write_config(workdir, config.to_dict())
    with Checkpoints(workdir) as saved:
        saved.save(state, config.to_dict(), None)
    return state


@pytest.mark.slow
def test_heads_of_other_labels_start_afresh(tmp_path):
    """Of a run on other labels all else is taken; where nothing fits it says so."""
    before = small_config()
    before.seed, before.model.categories, before.model.attributes = 7, 5, 11
    theirs = _saved_run(before, tmp_path)
    config = small_config()
    config.train.init_from = str(tmp_path)
    run = build_run(config, meshes.make_mesh(jax.devices()[:1]))
    with pytest.raises(InputError, match=r"params/attribute/bias: \(11,\) there, \(52,\) here"):
        start_state(run)
    config.train.init_parts = "fitting"
    run = build_run(config, meshes.make_mesh(jax.devices()[:1]))
    state, fresh = start_state(run), run.create_state()
    for part, found in state.params.items():
        wanted = fresh if part in ("attribute", "category") else theirs
        jax.tree.map(np.testing.assert_array_equal, found, wanted.params[part])
    jax.tree.map(np.testing.assert_array_equal, state.batch_stats, theirs.batch_stats)

    config.model = grnet.get_config().model
    config.loss, config.data.sampler = grnet.get_config().loss, "pairs"
    config.model.backbone.preprocessing = "imagenet"
    with pytest.raises(InputError, match="no part of that model fits this model"):
        start_state(build_run(config, meshes.make_mesh(jax.devices()[:1])))
