"""The paper's recipe, one real step of it: GoogLeNet, D = 512, C' = 128, SGD."""

import jax
import numpy as np
import pytest
from grnet_jax.training.setup import build_run

from configs import grnet
from grnet_jax import sharding
from grnet_jax.training.objectives import make_objective
from grnet_jax.training.step import make_train_step

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_of_the_papers_recipe_lowers_the_loss(dtype):
    config = grnet.get_config("deepfashion_c2s")
    config.model.dtype = dtype
    config.train.batch_size = 8
    devices = mesh.make_mesh(jax.devices()[:1])
    run = build_run(config, devices, steps_per_epoch=100)
    step = make_train_step(make_objective(run.matcher, config), run.tx, run.schedule, devices)
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (2, 8, 224, 224, 3), dtype=np.uint8)
    item = np.arange(8, dtype=np.int32)
    batch = {"customer": photos[0], "shop": photos[1], "item": item, "content": item}
    state, losses = run.create_state(), []
    for _ in range(4):
        state, metrics = step(state, mesh.place_batch(batch, devices))
        losses.append(float(metrics["loss"]))
    assert np.all(np.isfinite(losses))
    assert losses[-1] < losses[0]
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype("float32")}
