"""Objectives on batches of single photos, and a whole run of them."""

import jax
import ml_collections
import numpy as np
import pytest
from grnet_jax.retrieval.evaluation import Evaluator
from grnet_jax.retrieval.tasks import make_task
from grnet_jax.training.setup import build_run

from configs import embedding, grnet
from grnet_jax import sharding as meshes
from grnet_jax.errors import InputError
from grnet_jax.losses import average_precision_loss, class_cross_entropy, triplet_loss
from grnet_jax.training import loop
from grnet_jax.training.objectives import make_objective


def small_config(name="triplet") -> ml_collections.ConfigDict:
    config = embedding.get_config()
    config.data.image_size = 16
    config.model.dim = 8
    config.train.batch_size = 16
    config.train.steps = 10
    config.optimizer.warmup_steps = 2
    config.loss.name = name
    return config


def park_config(name="triplet") -> ml_collections.ConfigDict:
    """The relaxation module and the head of Park et al., weights 0.1 and 1."""
    config = small_config(name)
    config.model.classes = 5
    config.model.relaxation.channels = 6
    config.loss.form = "euclidean"
    config.loss.weight, config.loss.class_weight = 0.1, 1.0
    return config


def random_batch(items=16, size=16):
    rng = np.random.default_rng(0)
    item = np.repeat(np.arange(items, dtype=np.int32) // 2, 2)  # two groups of each item
    return {
        "photo": rng.integers(0, 256, (2 * items, size, size, 3), dtype=np.uint8),
        "item": item,
        "domain": np.tile(np.array([0, 1], np.int32), items),
        "category": rng.integers(-1, 5, 2 * items).astype(np.int32),
    }


def _results(config, devices, dtype="float32"):
    """((loss, (statistics, metrics)), gradients) and the run and state."""
    config.model.dtype = dtype
    run = build_run(config, meshes.make_mesh(jax.devices()[:devices]))
    objective = make_objective(run.matcher, config)
    state = run.create_state()
    params, stats = jax.tree.map(lambda x: x.astype(dtype), (state.params, state.batch_stats))

    def replicate(tree):
        return jax.lax.with_sharding_constraint(tree, meshes.replicated(run.mesh))

    gradient = jax.jit(
        jax.value_and_grad(
            lambda p, b: objective(p, stats, {**b, "step": 3}, replicate), has_aux=True
        )
    )
    return gradient(params, meshes.place_batch(random_batch(), run.mesh)), run, params, stats


@pytest.mark.parametrize("name", ["triplet", "ap", "classification"])
def test_loss_is_that_of_the_embeddings(name):
    config = park_config(name)
    config.model.relaxation.dropout = 0.0
    ((found, (_, metrics)), grads), run, params, stats = _results(config, 1)
    batch = random_batch()
    (features, logits), _ = run.matcher.apply(
        {"params": params, "batch_stats": stats}, batch["photo"], train=True, method="classify",
        mutable=["batch_stats"],
    )  # fmt: skip
    x = np.asarray(features.descriptor)
    customers, shops = x[::2], x[1::2]
    same = batch["item"][::2, None] == batch["item"][None, 1::2]
    wanted = class_cross_entropy(logits, batch["category"])
    if name == "triplet":
        wanted += 0.1 * triplet_loss(customers, shops, same, ~same, margin=0.3, distance="l2").loss
    elif name == "ap":
        wanted += 0.1 * average_precision_loss(customers @ shops.T, same, ~same).loss
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    known = batch["category"] >= 0
    right = np.argmax(logits, axis=1) == batch["category"]
    np.testing.assert_allclose(metrics["batch_accuracy"], right[known].mean(), rtol=1e-6)
    if name != "classification":
        scores = customers @ shops.T
        first = same[np.arange(len(same)), scores.argmax(axis=1)]
        np.testing.assert_allclose(metrics["batch_top1"], first.mean(), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["triplet", "ap", "proxy_nca"])
@pytest.mark.parametrize("chunk", [0, 8])
def test_eight_devices_equal_one(name, chunk):
    with jax.enable_x64(True):
        found = []
        for devices in (1, 8):
            config = park_config(name)
            config.model.proxies = name == "proxy_nca"
            config.loss.label = "meta_class" if config.model.proxies else "category"
            config.train.embed_chunk = chunk
            found.append(_results(config, devices, "float64")[0])
    # On XLA's CPU the sharded gradient of the relaxation's second bias is off by 3e-8 of its size.
    for x, y in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-7, atol=1e-7 * max(np.abs(x).max(), 1e-3))


@pytest.mark.slow
def test_pairs_in_chunks_with_frozen_statistics_are_the_whole_batch():
    with jax.enable_x64(True):
        found = []
        for chunk in (0, 8):
            config = grnet.get_config()
            config.data.image_size, config.train.batch_size = 32, 8
            config.model.node_dim, config.model.reasoning_dim = 8, 4
            config.model.dtype = "float64"
            config.model.backbone.frozen_batch_norm = True
            config.train.embed_chunk = chunk
            run = build_run(config, meshes.make_mesh(jax.devices()[:1]))
            objective = make_objective(run.matcher, config)
            state = run.create_state()
            params, stats = jax.tree.map(
                lambda x: x.astype("float64"), (state.params, state.batch_stats)
            )
            rng = np.random.default_rng(0)
            photos = rng.integers(0, 256, (2, 8, 32, 32, 3), dtype=np.uint8)
            batch = {"customer": photos[0], "shop": photos[1], "item": np.arange(8)}
            batch["content"] = batch["item"]
            found.append(
                jax.jit(
                    jax.value_and_grad(
                        lambda p, s=stats, b=batch, o=objective: o(p, s, b, lambda t: t)[0]
                    )
                )(params)
            )
    # BatchSpec are normalised in float32, and a loop's program may round their last digit otherwise.
    for x, y in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=2e-6 * max(np.abs(x).max(), 1e-3))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"domains": "shops"}, "loss.domains: 'shops' is none of"),
        ({"similarity": "colour"}, "loss.similarity: 'colour'"),
        ({"form": "cosine"}, "loss.form: 'cosine'"),
        ({"miner": "easy"}, "loss.miner: 'easy'"),
        ({"average": "sum"}, "loss.average: 'sum'"),
        ({"bins": 1}, "loss.bins: expected 2 or more, got 1"),
        ({"margin": -0.1}, "loss.margin: expected 0 or more"),
        ({"label_smoothing": 1.5}, "loss.label_smoothing: expected 1 or less, got 1.5"),
        ({"class_weight": 1.0}, "loss.class_weight: 1.0, but model.classes is 0"),
        ({"name": "classification"}, "loss.class_weight: 0, and nothing else"),
        ({"weight": 0.0}, "loss.class_weight: 0, and nothing else"),
    ],
)
def test_bad_fields_are_named(fields, message):
    config = small_config()
    config.loss.update(fields)
    run = build_run(config, meshes.make_mesh())
    with pytest.raises(InputError, match=message):
        make_objective(run.matcher, config)


def test_a_batch_of_one_item_has_no_negatives_and_is_refused():
    config = small_config()
    run = build_run(config, meshes.make_mesh())
    config.train.batch_size = 1
    with pytest.raises(InputError, match=r"train\.batch_size: expected 2 or more, got 1"):
        make_objective(run.matcher, config)


def test_objectives_name_what_they_train_and_train_on():
    config = small_config()
    config.data.sampler = "pairs"
    run = build_run(config, meshes.make_mesh())
    with pytest.raises(InputError, match=r"data\.sampler: 'pairs', but loss\.name=triplet .*items"):
        make_objective(run.matcher, config)
    other = build_run(grnet.get_config(), meshes.make_mesh())
    config.data.sampler = "items"
    with pytest.raises(InputError, match=r"trains model\.name=embedding alone"):
        make_objective(other.matcher, config)


def _tiny(tiny_config, model, **fields):
    config = embedding.get_config()
    base = tiny_config()
    for section in ("data", "train", "eval", "optimizer"):
        config[section] = base[section]
    config.eval.calibration = False
    config.data.sampler = "items"
    config.model.dim = 16
    config.model.update_from_flattened_dict(model)
    config.update_from_flattened_dict(fields)
    return config


@pytest.mark.slow
@pytest.mark.parametrize("name", ["triplet", "ap", "classification"])
def test_a_whole_run_trains_and_evaluates(tiny_config, tmp_path, name):
    model = {"classes": 13, "relaxation.channels": 8}
    fields = {"loss.name": name, "loss.class_weight": 1.0, "train.embed_chunk": 8}
    config = _tiny(tiny_config, model, **fields)
    if name == "classification":
        config.data.sampler = "photos"
    state, finished = loop.train(config, str(tmp_path))
    assert finished
    assert int(state.step) == config.train.steps
    run = build_run(config, meshes.make_mesh())
    dataset = loop._load_dataset(config)
    task = make_task(dataset, "val", run.config.data)
    figures = Evaluator(run.matcher, run.config, run.mesh).evaluate(state.variables, task).figures
    assert 0 <= figures["all"].values["top1"] <= 1


def test_a_head_with_too_few_classes_is_refused(tiny_config, tmp_path):
    config = _tiny(tiny_config, {"classes": 3}, **{"loss.class_weight": 1.0})
    with pytest.raises(InputError, match=r"model\.classes: 3, but .* has \d+ categories: set"):
        loop.train(config, str(tmp_path))
