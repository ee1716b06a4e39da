"""A step on eight devices is the step on one, and steps follow each other alike."""

import jax
import numpy as np
import pytest

from grnet_jax import sharding as meshes
from grnet_jax.errors import InputError
from grnet_jax.training.step import make_train_step
from tests.small import small_config
from tests.training.steps import build, draw_batch, first_step

_EMBEDDING_LOSS = {"loss.embedding_weight": 0.5, "loss.embedding_temperature": 0.2}
_PARK = {
    "model.num_classes": 5,
    "model.relaxation.channels": 6,
    "model.relaxation.path": "all",
    "loss.weight": 0.1,
    "loss.class_weight": 1.0,
    "loss.distance": "l2",
}
_CHUNKS = {"train.microbatch_size": 8}
# Fields and tolerance by case; embeddings of GRNet are float32 whatever the model computes in.
_CASES = {
    "grnet": ({}, 1e-9),
    "global_baseline": ({}, 1e-9),
    "kpm": ({}, 1e-9),
    "grnet projection": ({**_EMBEDDING_LOSS, "model.embedding_dim": 6}, 1e-5),
    # On XLA's CPU the sharded gradient of the relaxation's second bias is off by 3e-8 of its size.
    "embedding triplet": (_PARK, 1e-7),
    "vam": ({}, 1e-7),
    "grnet_aligned": ({}, 1e-5),
    "embedding ap chunks": ({**_PARK, **_CHUNKS, "loss.name": "ap"}, 1e-7),
    "fashionnet": ({"model.dropout": 0.25}, 1e-9),
}
_FAST = ("grnet", "global_baseline")


# In float32 the rounding of a sum can decide which cell wins a max-pooling window, and the
# backbone's gradient jumps; in float64 nothing but the formulas is left to differ.
@pytest.mark.parametrize(
    "case",
    [case if case in _FAST else pytest.param(case, marks=pytest.mark.slow) for case in _CASES],
)
def test_eight_devices_equal_one(case):
    fields, tolerance = _CASES[case]
    config = small_config(case.split()[0], **{"model.dtype": "float64", **fields})
    one, eight = (first_step(config, devices) for devices in (1, 8))
    np.testing.assert_allclose(eight.loss, one.loss, rtol=tolerance)
    pairs = zip(
        *(jax.tree.leaves((first.grads, first.batch_stats)) for first in (one, eight)), strict=True
    )
    for x, y in pairs:
        # Biases before a BatchNorm have no gradient but its rounding.
        np.testing.assert_allclose(y, x, atol=tolerance * max(np.abs(x).max(), 1e-3))


@pytest.mark.slow
def test_steps_on_eight_devices_with_divided_parameters_too_follow_those_on_one():
    losses = []
    for devices, parts in ((1, 1), (8, 1), (8, 4)):
        run, objective = build(small_config(), devices, parts)
        step = make_train_step(objective, run.tx, run.schedule, run.mesh)
        state = run.create_state()
        for number in range(3):
            batch = meshes.place_batch(draw_batch(run.config, seed=number), run.mesh)
            state, metrics = step(state, batch)
        assert int(state.step) == 3
        losses.append(float(metrics["loss"]))
        # Parameters and the optimizer's momentum lie in parts, before the steps and after them.
        held = sum(x.addressable_data(0).size for x in jax.tree.leaves(state))
        assert held < sum(x.size for x in jax.tree.leaves(state)) / (0.6 * parts)
    np.testing.assert_allclose(losses, losses[0], rtol=1e-4)


@pytest.mark.slow
def test_chunks_with_frozen_statistics_are_the_whole_batch():
    frozen = {"model.dtype": "float64", "model.backbone.frozen_batch_norm": True}
    whole, chunks = (first_step(small_config(**frozen, **extra)) for extra in ({}, _CHUNKS))
    # Images are normalized in float32, and a loop's program may round their last digit otherwise.
    for x, y in zip(
        *(jax.tree.leaves((one.loss, one.grads)) for one in (whole, chunks)), strict=True
    ):
        np.testing.assert_allclose(y, x, rtol=0, atol=2e-6 * max(np.abs(x).max(), 1e-3))


@pytest.mark.slow
def test_accumulated_steps_with_frozen_statistics_are_one_large_batch():
    fields = {
        **{"model.backbone.frozen_batch_norm": True, "model.num_classes": 5},
        **{"loss.class_weight": 1.0, "optimizer.warmup_steps": 0, "optimizer.learning_rate": 0.1},
        **{"loss.name": "classification", "optimizer.name": "sgd", "sampler.name": "images"},
    }
    found = []
    for parts in (1, 2):
        run, objective = build(
            small_config("embedding", **fields, **{"train.accumulate_steps": parts})
        )
        step = make_train_step(objective, run.tx, run.schedule, run.mesh)
        batch, state = draw_batch(run.config), run.create_state()
        batch["category"][5] = 0  # a mean over the known: equally many in both halves
        n = len(batch["image"]) // parts
        for start in range(0, parts * n, n):
            part = {name: value[start : start + n] for name, value in batch.items()}
            state, _ = step(state, meshes.place_batch(part, run.mesh))
        found.append(jax.device_get(state.params))
    before = jax.device_get(run.create_state().params)
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), found[0], before)
    assert max(jax.tree.leaves(moved)) > 1e-4
    for x, y in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(y, x, atol=1e-6)


def test_a_batch_that_the_devices_cannot_share_is_named():
    with pytest.raises(InputError, match=r"train\.batch_size: 12 cannot be shared evenly by 8"):
        meshes.check_divisible(12, meshes.make_mesh(), "train.batch_size")
