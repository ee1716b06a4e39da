"""Training some parts of a model, from a run that has the others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grnet_jax.training.setup import build_run, check_trainable, restore_run, start_state

from grnet_jax import sharding
from grnet_jax.errors import InputError
from grnet_jax.training import loop
from grnet_jax.training.optimizers import make_optimizer, trainable_mask
from tests.training.test_step import first_step, small_config


def _descriptor_config(config):
    config.model.descriptor_dim = 6
    config.loss.descriptor_weight = 1.0
    config.model.backbone.frozen_batch_norm = True
    return config


@pytest.mark.slow
def test_the_gradient_is_that_of_the_parts_alone():
    config = _descriptor_config(small_config())
    _, _, loss, everything, _, _ = first_step(config, 1, "float32")
    config.optimizer.trainable = "projection"
    _, _, same_loss, grads, _, _ = first_step(config, 1, "float32")
    np.testing.assert_allclose(loss, same_loss, rtol=1e-6)
    np.testing.assert_allclose(
        grads["projection"]["kernel"], everything["projection"]["kernel"], rtol=1e-5, atol=1e-7
    )
    assert np.any(grads["projection"]["kernel"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves((grads["backbone"], grads["graph"])))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_other_parameters_stay(name):
    config = small_config()
    config.optimizer.name, config.optimizer.weight_decay = name, 0.1
    config.optimizer.trainable = "a"
    params = {"a": {"kernel": jnp.ones((2, 3))}, "ab": {"kernel": jnp.ones((4, 5))}}
    tx = make_optimizer(config.optimizer, lambda _: 0.1)
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
    assert all(jax.tree.leaves(trainable_mask(params, "")))
    with pytest.raises(InputError, match=r"no parameter is in 'grap'.*backbone, graph"):
        trainable_mask(params, "grap")


@pytest.mark.slow
def test_a_descriptor_learns_for_a_run_that_stays_as_it_was(tiny_config, tmp_path):
    config = tiny_config()
    config.train.steps, config.train.eval_every = 3, 0
    loop.train(config, tmp_path / "first")
    before = restore_run(tmp_path / "first", sharding.make_mesh())[1]

    config = _descriptor_config(config)
    config.train.init_from, config.train.init_parts = str(tmp_path / "first"), "shared"
    config.loss.pair_weight, config.optimizer.trainable = 0.0, "projection"
    loop.train(config, tmp_path / "second")
    run, after = restore_run(tmp_path / "second", sharding.make_mesh())
    for part in before.params:
        jax.tree.map(np.testing.assert_array_equal, after.params[part], before.params[part])
    jax.tree.map(np.testing.assert_array_equal, after.batch_stats, before.batch_stats)
    fresh = run.create_state().params["projection"]["kernel"]
    assert np.abs(after.params["projection"]["kernel"] - fresh).max() > 1e-5

    config.model.intra_scale = False  # as many parameters, other scores
    with pytest.raises(InputError, match=r"intra_scale: True there, False here"):
        start_state(build_run(config, sharding.make_mesh()))


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
        ({"train.init_parts": "head"}, "'head' is none of"),
        ({"train.init_parts": "shared"}, "changes nothing without train.init_from"),
    ],
)
def test_what_cannot_be(fields, message):
    config = small_config()
    config.update_from_flattened_dict(fields)
    with pytest.raises(InputError, match=message):
        check_trainable(build_run(config, sharding.make_mesh(jax.devices()[:1])))
