"""The paper's recipe, one real step of it: GoogLeNet, D = 512, C' = 128, SGD."""

import jax
import numpy as np
import pytest

from configs import grnet
from grnet_jax import sharding
from grnet_jax.config import parse_config
from grnet_jax.training.build import build_run
from grnet_jax.training.objectives import build_objective
from grnet_jax.training.step import make_train_step
from tests.training.steps import pair_batch

pytestmark = pytest.mark.slow


def test_a_step_of_the_papers_recipe_lowers_the_loss():
    config = parse_config(grnet.get_config("deepfashion_c2s"))
    devices = sharding.make_mesh(jax.devices()[:1])
    run = build_run(config, devices, steps_per_epoch=100)
    step = make_train_step(build_objective(run.matcher, config), run.tx, run.schedule, devices)
    batch = pair_batch(8, size=224)
    state, losses = run.create_state(), []
    for _ in range(4):
        state, metrics = step(state, sharding.place_batch(batch, devices))
        losses.append(float(metrics["loss"]))
    assert np.all(np.isfinite(losses))
    assert losses[-1] < losses[0]
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype("float32")}
