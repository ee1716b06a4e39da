"""Optimizers against their formulas, learning rates and loss weights by step, parts that learn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import fashionnet, fir, grnet
from grnet_jax.config import parse_config
from grnet_jax.errors import InputError
from grnet_jax.sharding import make_mesh
from grnet_jax.training.build import build_run, count_steps
from grnet_jax.training.loss_schedule import build_loss_weights
from grnet_jax.training.optimizers import build_optimizer, trainable_mask
from grnet_jax.training.state import TrainState
from tests.small import small_config

_GRADIENTS = np.float32([[3.0, 4.0], [0.1, 0.2], [-0.3, 0.1]])


def _run(config, steps_per_epoch=100):
    return build_run(parse_config(config), make_mesh(jax.devices()[:1]), steps_per_epoch)


def test_sgd_is_momentum_with_l2_and_clipping():
    config = grnet.get_config("deepfashion_c2s")
    config.optimizer.update(clip_norm=0.5, lr_milestones=(1.0, 2.0))
    run = _run(config, steps_per_epoch=2)
    weight, velocity = np.float32([3.0, 4.0]), np.zeros(2, np.float32)
    params, state = {"w": weight}, run.tx.init({"w": weight})
    for number, gradient in enumerate(_GRADIENTS):
        updates, state = run.tx.update({"w": gradient}, state, params)
        params = {"w": params["w"] + updates["w"]}
        clipped = gradient * min(0.5 / np.linalg.norm(gradient), 1)
        velocity = 0.9 * velocity + clipped + 5e-4 * weight
        weight = weight - 0.01 * 0.1 ** (number // 2) * velocity
        np.testing.assert_allclose(params["w"], weight, rtol=1e-5)


def test_accumulated_gradients_are_one_step_of_their_mean():
    config = grnet.get_config("deepfashion_c2s")
    config.optimizer.update(clip_norm=0.5, lr_milestones=(1.0, 2.0))
    plain = _run(config, steps_per_epoch=2)
    config.train.accumulate_steps = 2
    accumulating = _run(config, steps_per_epoch=4)  # twice the steps, and so milestones there too
    params = {"w": np.float32([3.0, 4.0])}
    expected, state = params, plain.tx.init(params)
    found, accumulated = params, accumulating.tx.init(params)
    for gradient in _GRADIENTS:
        updates, state = plain.tx.update({"w": gradient}, state, expected)
        expected = optax.apply_updates(expected, updates)
        for part in (gradient + 1, gradient - 1):
            updates, accumulated = accumulating.tx.update({"w": part}, accumulated, found)
            found = optax.apply_updates(found, updates)
        np.testing.assert_allclose(found["w"], expected["w"], rtol=1e-5)


@pytest.mark.parametrize("every", [1, 2])
def test_the_average_of_the_parameters_is_what_is_evaluated(every):
    config = grnet.get_config("deepfashion_c2s")
    config.optimizer.ema_decay, config.train.accumulate_steps = 0.75, every
    run = _run(config)
    params, statistics = {"w": np.float32([3.0, 4.0])}, {"mean": np.zeros(2)}
    state = TrainState(np.int32(0), {"w": np.zeros(2)}, {}, run.tx.init({"w": np.zeros(2)}))
    state = state.started_from(params, statistics)
    expected = params["w"]
    for gradient in np.repeat(_GRADIENTS, every, axis=0):
        updates, opt_state = run.tx.update({"w": gradient}, state.opt_state, state.params)
        moved = optax.apply_updates(state.params, updates)
        if not np.array_equal(moved["w"], state.params["w"]):
            expected = 0.75 * expected + 0.25 * moved["w"]
        state = dataclasses.replace(state, params=moved, opt_state=opt_state)
        np.testing.assert_allclose(state.variables["params"]["w"], expected, rtol=1e-6)
    assert not np.allclose(state.params["w"], expected)
    assert state.variables["batch_stats"] is statistics


def test_adamw_without_decay_is_adam():
    run = _run(fir.get_config("deepfashion_c2s"))
    params, first, second = {"w": np.array([3.0, -4.0])}, np.zeros(2), np.zeros(2)
    state = run.tx.init(params)
    for step, gradient in enumerate(_GRADIENTS, start=1):
        updates, state = run.tx.update({"w": gradient}, state, params)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        change = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        np.testing.assert_allclose(updates["w"], -1e-4 * change, rtol=1e-4)


@pytest.mark.parametrize(
    ("system", "steps", "rates"),
    [
        (grnet, 6000, {0: 1e-2, 1999: 1e-2, 2000: 1e-3, 3999: 1e-3, 4000: 1e-4, 5999: 1e-4}),
        (fir, 20_000, {0: 1e-4, 9999: 1e-4, 10_000: 1e-5, 14_999: 1e-5, 15_000: 1e-6}),
    ],
)
def test_the_papers_rates_fall_at_their_epochs(system, steps, rates):
    run = _run(system.get_config("deepfashion_c2s"))
    assert run.steps == steps
    np.testing.assert_allclose([run.schedule(step) for step in rates], [*rates.values()], rtol=1e-5)


def test_cosine_rises_and_ends_at_zero():
    run = _run(small_config(**{"optimizer.warmup_steps": 4, "train.steps": 20}))
    rates = [float(run.schedule(step)) for step in range(21)]
    assert np.argmax(rates) == 4
    np.testing.assert_allclose(rates[4], 1e-3)
    np.testing.assert_allclose(rates[20], 0, atol=1e-9)


def test_a_short_run_warms_up_for_a_tenth_of_it():
    run = _run(small_config(**{"optimizer.warmup_steps": 100, "train.steps": 20}))
    rates = [float(run.schedule(step)) for step in range(21)]
    assert np.argmax(rates) == 2


def test_schedules_that_do_not_fit_the_run_are_named():
    config = grnet.get_config("deepfashion_c2s")
    config.optimizer.lr_milestones = (0.1, 0.11)
    with pytest.raises(InputError, match=r"optimizer\.lr_milestones: two of .* are the same step"):
        _run(config, steps_per_epoch=10)


@pytest.mark.parametrize(
    ("steps", "epochs", "expected"), [(0, 1.5, 15), (7, 0.0, 7), (7, 2.0, 7), (0, 0.01, 1)]
)
def test_steps_win_over_epochs(steps, epochs, expected):
    config = parse_config(small_config(**{"train.steps": steps, "train.epochs": epochs}))
    assert count_steps(config.train, 10) == expected


def test_phases_follow_each_other_by_their_fractions():
    loss = parse_config(fashionnet.get_config()).loss
    weights_at = build_loss_weights(loss.phases, loss.cycles, 40)
    weights = [weights_at(step) for step in range(40)]
    visibility = [float(one["visibility"]) for one in weights]
    np.testing.assert_allclose(visibility, ([1.0] * 6 + [0.1] * 14) * 2, rtol=1e-6)
    np.testing.assert_allclose([weights[0]["triplets"], weights[39]["triplets"]], [0.1, 1.0])


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_parameters_that_do_not_learn_stay(name):
    fields = {"name": name, "weight_decay": 0.1, "trainable": "a"}
    config = small_config(**{f"optimizer.{field}": value for field, value in fields.items()})
    params = {"a": {"kernel": jnp.ones((2, 3))}, "ab": {"kernel": jnp.ones((4, 5))}}
    tx = build_optimizer(parse_config(config).optimizer, lambda _: 0.1)
    grads = jax.tree.map(lambda leaf: 0.5 * leaf, params)
    updates, _ = tx.update(grads, tx.init(params), params)
    assert np.all(updates["a"]["kernel"] < 0)
    assert not np.any(updates["ab"]["kernel"])


def test_parts_are_named_by_whole_words():
    params = {"graph": {"w": 0}, "backbone": {"conv1": {"k": 0}, "conv10": {"k": 0}}}
    assert trainable_mask(params, "graph, backbone/conv1") == {
        "graph": {"w": True},
        "backbone": {"conv1": {"k": True}, "conv10": {"k": False}},
    }
    assert trainable_mask(params, "-backbone/conv1,-graph") == {
        "graph": {"w": False},
        "backbone": {"conv1": {"k": False}, "conv10": {"k": True}},
    }
    assert all(jax.tree.leaves(trainable_mask(params, "")))
    with pytest.raises(InputError, match="expected parts that learn, or each with -"):
        trainable_mask(params, "graph,-backbone")
    with pytest.raises(InputError, match=r"no parameter is in 'grap'.*backbone, graph"):
        trainable_mask(params, "grap")
