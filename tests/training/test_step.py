"""One step on eight devices is the step on one, and the objective is what it says."""

import jax
import ml_collections
import numpy as np
import pytest

from configs import common, global_baseline, grnet, kpm, local_matching
from grnet_jax import sharding as meshes
from grnet_jax.errors import InputError
from grnet_jax.models import build_matcher
from grnet_jax.training.objectives import make_objective
from grnet_jax.training.setup import build_run, count_steps
from grnet_jax.training.step import make_train_step


def small_config(system=grnet) -> ml_collections.ConfigDict:
    config = system.get_config()
    config.data.image_size = 32
    if config.model.name == "grnet":
        config.model.node_dim = 16
        config.model.reasoning_dim = 8
    config.train.batch_items = 16
    config.train.steps = 10
    config.optimizer.warmup_steps = 2
    return config


def random_batch(items=16, size=32, seed=0):
    rng = np.random.default_rng(seed)
    photos = rng.integers(0, 256, (2, items, size, size, 3), dtype=np.uint8)
    item = np.arange(items, dtype=np.int32)
    item[3] = item[9]  # one item twice: its four pairs are all positive
    content = np.arange(items, dtype=np.int32)
    content[5] = content[6]
    return {"customer": photos[0], "shop": photos[1], "item": item, "content": content}


def first_step(config, devices, dtype):
    """Of the first batch, everything in that dtype.

    The matcher, its variables, loss, gradients, new batch statistics and metrics.
    """
    run = build_run(config, meshes.make_mesh(jax.devices()[:devices]))
    objective = make_objective(run.matcher, config)
    state = run.create_state()
    params, batch_stats = jax.tree.map(
        lambda leaf: leaf.astype(dtype), (state.params, state.batch_stats)
    )

    def replicate(tree):
        return jax.lax.with_sharding_constraint(tree, meshes.replicated(run.mesh))

    gradient = jax.jit(
        jax.value_and_grad(lambda p, b: objective(p, batch_stats, b, replicate), has_aux=True)
    )
    batch = meshes.place_batch(random_batch(), run.mesh)
    (loss, (found, metrics)), grads = gradient(params, batch)
    return run.matcher, {"params": params, "batch_stats": batch_stats}, loss, grads, found, metrics


# In float32 the rounding of a sum can decide which cell wins a max-pooling window, and the
# backbone's gradient jumps; in float64 nothing but the formulas is left to differ.
@pytest.mark.parametrize(
    ("system", "dtype", "tolerance"),
    [
        *((system, "float64", 1e-9) for system in (grnet, global_baseline)),
        *(
            pytest.param(system, "float64", 1e-9, marks=pytest.mark.slow)
            for system in (kpm, local_matching)
        ),
        *(
            pytest.param(system, "float32", 1e-5, marks=pytest.mark.slow)
            for system in (grnet, global_baseline)
        ),
    ],
)
def test_eight_devices_equal_one(system, dtype, tolerance):
    config = small_config(system)
    config.model.dtype = dtype
    with jax.enable_x64(dtype == "float64"):
        _, _, loss, grads, batch_stats, _ = first_step(config, 1, dtype)
        _, _, loss_8, grads_8, batch_stats_8, _ = first_step(config, 8, dtype)
        if dtype == "float32":
            grads, grads_8 = grads["graph"], grads_8["graph"]
        np.testing.assert_allclose(loss, loss_8, rtol=tolerance)
        found = jax.tree.leaves((grads_8, batch_stats_8))
        for x, y in zip(jax.tree.leaves((grads, batch_stats)), found, strict=True):
            np.testing.assert_allclose(x, y, atol=tolerance * max(np.abs(x).max(), 1e-6))


@pytest.mark.slow
def test_steps_on_eight_devices_follow_those_on_one():
    config = small_config()
    losses = []
    for devices in (1, 8):
        run = build_run(config, meshes.make_mesh(jax.devices()[:devices]))
        objective = make_objective(run.matcher, config)
        step = make_train_step(objective, run.tx, run.schedule, run.mesh)
        state = run.create_state()
        for number in range(3):
            batch = meshes.place_batch(random_batch(seed=number), run.mesh)
            state, metrics = step(state, batch)
        assert int(state.step) == 3
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_jit_equals_eager():
    config = small_config()
    run = build_run(config, meshes.make_mesh(jax.devices()[:1]))
    objective = make_objective(run.matcher, config)
    state = run.create_state()

    def loss(batch):
        return objective(state.params, state.batch_stats, batch, lambda tree: tree)[0]

    batch = {name: rows[:4] for name, rows in random_batch().items()}
    with jax.disable_jit():
        eager = loss(batch)
    np.testing.assert_allclose(jax.jit(loss)(batch), eager, rtol=1e-5)


@pytest.mark.parametrize("leave_out", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_loss_is_the_mean_over_all_pairs(leave_out):
    config = small_config()
    config.loss.leave_out_identical = leave_out
    config.loss.query_softmax_weight = 0.0
    run = build_run(config, meshes.make_mesh(jax.devices()[:1]))
    state = run.create_state()
    batch = random_batch()
    objective = make_objective(run.matcher, config)
    found, (_, metrics) = jax.jit(
        lambda b: objective(state.params, state.batch_stats, b, lambda tree: tree)
    )(batch)

    # Once more, pair by pair, from the photos in the order that BatchNorm sees them.
    photos = np.stack([batch["customer"], batch["shop"]], axis=1).reshape(-1, 32, 32, 3)
    features, _ = run.matcher.apply(
        state.variables, photos, train=True, method="embed", mutable=["batch_stats"]
    )
    losses, first = [], []
    for i in range(16):
        row = []
        for j in range(16):
            x, y = (
                jax.tree.map(lambda leaf, n=n: leaf[n : n + 1], features)
                for n in (2 * i, 2 * j + 1)
            )
            z = float(run.matcher.apply(state.variables, x, y, method="score")[0, 0])
            row.append(z)
            same = batch["item"][i] == batch["item"][j]
            identical = batch["content"][i] == batch["content"][j]
            if leave_out and identical and not same:
                continue
            losses.append(np.log1p(np.exp(-z if same else z)))
        own = [z for j, z in enumerate(row) if batch["item"][j] == batch["item"][i]]
        others = [z for j, z in enumerate(row) if batch["item"][j] != batch["item"][i]]
        first.append(max(own) > max(others))
    assert len(losses) == (254 if leave_out else 256)
    np.testing.assert_allclose(found, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(metrics["batch_top1"], np.mean(first))


def test_sgd_step_is_momentum_with_l2_and_clipping():
    config = small_config()
    config.optimizer = common.get_sgd()
    config.optimizer.clip_norm = 0.5
    config.optimizer.decay_epochs = 1.0
    run = build_run(config, meshes.make_mesh(jax.devices()[:1]), steps_per_epoch=2)
    weight, velocity = np.float32([3.0, 4.0]), np.zeros(2, np.float32)
    params, state = {"w": weight}, run.tx.init({"w": weight})
    gradients = [np.float32(g) for g in ([3.0, 4.0], [0.1, 0.2], [-0.3, 0.1])]
    for number, gradient in enumerate(gradients):
        updates, state = run.tx.update({"w": gradient}, state, params)
        params = {"w": params["w"] + updates["w"]}
        clipped = gradient * min(0.5 / np.linalg.norm(gradient), 1)
        velocity = 0.9 * velocity + clipped + 5e-4 * weight
        rate = 0.01 * 0.1 ** (number // 2)
        weight = weight - rate * velocity
        np.testing.assert_allclose(params["w"], weight, rtol=1e-5)


def test_the_papers_schedule_divides_by_ten_every_twenty_epochs():
    config = grnet.get_config("deepfashion_c2s")
    run = build_run(config, meshes.make_mesh(), steps_per_epoch=100)
    assert run.steps == 6000
    rates = [float(run.schedule(step)) for step in (0, 1999, 2000, 3999, 4000, 5999)]
    np.testing.assert_allclose(rates, [1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4], rtol=1e-5)


def test_cosine_rises_and_ends_at_zero():
    config = small_config()
    config.optimizer.warmup_steps = 4
    config.train.steps = 20
    run = build_run(config, meshes.make_mesh())
    rates = [float(run.schedule(step)) for step in range(21)]
    assert np.argmax(rates) == 4
    np.testing.assert_allclose(rates[4], 1e-3)
    np.testing.assert_allclose(rates[20], 0, atol=1e-9)


def test_steps_or_epochs():
    assert count_steps(ml_collections.ConfigDict({"steps": 0, "epochs": 1.5}), 10) == 15
    assert count_steps(ml_collections.ConfigDict({"steps": 7, "epochs": 0.0}), 10) == 7
    for steps, epochs in ((0, 0.0), (3, 2.0), (-1, 0.0)):
        with pytest.raises(InputError, match=r"train\.steps and train\.epochs"):
            count_steps(ml_collections.ConfigDict({"steps": steps, "epochs": epochs}), 10)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("optimizer.name", "adamax", "optimizer.name: 'adamax'"),
        ("optimizer.schedule", "linear", "optimizer.schedule: 'linear'"),
        ("optimizer.learning_rate", 0.0, r"optimizer\.learning_rate"),
        ("loss.name", "quartet", "loss.name: 'quartet'"),
        (
            "optimizer.warmup_steps",
            10,
            r"optimizer\.warmup_steps: 10 must be less",
        ),
        ("train.log_every", 0, r"train\.log_every: expected 1 or more, got 0"),
        ("train.checkpoint_every", 0, r"train\.checkpoint_every"),
        ("eval.gallery_block", 0, r"eval\.gallery_block"),
        ("eval.keep_top", 0, r"eval\.keep_top"),
        ("loss.pair_weight", -0.1, r"loss\.pair_weight: expected 0 or more"),
        ("loss.pair_weight", 0.0, r"nothing learns with both 0"),
        ("loss.descriptor_weight", -0.1, r"loss\.descriptor_weight: expected 0 or more"),
        ("loss.descriptor_temperature", 0.0, r"loss\.descriptor_temperature: .* got 0\.0"),
        ("loss.descriptor_temperature", np.nan, r"loss\.descriptor_temperature"),
        ("model.node_dim", 0, r"model\.node_dim"),
        ("model.reasoning_dim", -3, r"model\.reasoning_dim"),
        ("model.dtype", "float99", r"model\.dtype: 'float99'"),
    ],
)
def test_bad_fields_are_named(field, value, message):
    config = small_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=message):
        make_objective(build_run(config, meshes.make_mesh()).matcher, config)


def test_a_batch_that_the_devices_cannot_share_is_named():
    with pytest.raises(InputError, match=r"train\.batch_items: 12 cannot be shared evenly by 8"):
        meshes.check_divisible(12, meshes.make_mesh(), "train.batch_items")


def test_the_matcher_is_the_configs():
    assert build_matcher(small_config(global_baseline).model).graph.layers == 0


def test_objectives_name_the_sampler_they_need(tiny_config):
    config = tiny_config()
    config.data.sampler = "photos"
    with pytest.raises(InputError, match=r"data\.sampler: 'photos', but loss\.name=pairs trains"):
        make_objective(build_run(config, meshes.make_mesh()).matcher, config)
