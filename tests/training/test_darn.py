"""DARN trains by FashionNet's objective: customers' photos against shops', each by its stream."""

import json

import jax
import numpy as np
import pytest
from grnet_jax.training.setup import build_run

from configs import darn
from grnet_jax import commands, losses, models
from grnet_jax import sharding as meshes
from grnet_jax.errors import InputError
from grnet_jax.inference import LoadedMatcher
from grnet_jax.models import DomainPhotos
from grnet_jax.training import loop
from grnet_jax.training.objectives import make_objective
from tests.training.test_recognition import Index, check_eight_devices, random_batch


def small_config():
    config = darn.get_config()
    config.data.image_size = 32
    config.model.backbone.name = "small"
    config.model.hidden = 16
    config.train.batch_size = 8
    config.train.steps = 10
    config.optimizer.warmup_steps = 2
    return config


@pytest.mark.slow
def test_eight_devices_equal_one():
    check_eight_devices(small_config())


@pytest.mark.slow
def test_triplets_are_customers_against_shops():
    config = small_config()
    run = build_run(config, meshes.make_mesh(jax.devices()[:1]))
    objective = make_objective(run.matcher, config, steps=10, index=Index())
    state, batch = run.create_state(), random_batch()
    compute = jax.jit(lambda b: objective(state.params, state.batch_stats, b, lambda x: x))
    value, (_, metrics) = compute({**batch, "step": 0})
    (features, found), _ = jax.jit(
        lambda v, p: run.matcher.apply(v, p, True, method="predict", mutable=["batch_stats"])
    )(state.variables, models.photos_of(run.matcher, batch))
    x, item, domain = np.float64(features.descriptor), batch["item"], batch["domain"]
    each = []
    for anchor in np.flatnonzero(domain == 0):
        for positive in np.flatnonzero((domain == 1) & (item == item[anchor])):
            for negative in np.flatnonzero((domain == 1) & (item != item[anchor])):
                near = np.sum((x[anchor] - x[positive]) ** 2)
                far = np.sum((x[anchor] - x[negative]) ** 2)
                each.append(max(0.0, config.loss.margin + near - far) / 2)
    weights = losses.attribute_weights(*Index().attribute_counts())
    wanted = {
        "category": losses.class_cross_entropy(found.category, batch["category"]),
        "attributes": losses.attribute_cross_entropy(
            found.attributes, batch["attributes"], *weights
        ),
        "triplets": np.mean(each),
    }
    assert {name for name in metrics if name.startswith("loss_")} == {f"loss_{w}" for w in wanted}
    for term, one in wanted.items():
        np.testing.assert_allclose(metrics[f"loss_{term}"], one, rtol=1e-4)
    total = sum(config.loss.all[term] * one for term, one in wanted.items())
    np.testing.assert_allclose(value, total, rtol=1e-4)


def test_a_weight_for_landmarks_is_named():
    config = small_config()
    config.loss.all.visibility = 0.5
    with pytest.raises(InputError, match=r"visibility: model\.name=darn finds no landmarks"):
        make_objective(models.build_matcher(config.model), config)


@pytest.mark.slow
def test_trains_evaluates_and_stores_end_to_end(data_dir, tmp_path):
    config = small_config()
    config.data.dir, config.data.size, config.model.attributes = str(data_dir), "tiny", 49
    config.train.steps = config.train.eval_every = config.train.checkpoint_every = 2
    config.optimizer.warmup_steps = 1
    config.eval.batch = 16
    config.eval.query_block = config.eval.gallery_block = 8
    assert loop.train(config, tmp_path).finished
    commands.evaluate([], config, str(tmp_path), "")
    plain = json.loads((tmp_path / "results.json").read_text())["protocols"]
    assert (tmp_path / "recognition.json").exists()
    config.eval.store = str(tmp_path / "store")
    commands.evaluate([], config, str(tmp_path), "")
    again = json.loads((tmp_path / "results.json").read_text())["protocols"]
    assert again["all"]["map"] == pytest.approx(plain["all"]["map"], abs=1e-6)


@pytest.mark.slow
def test_a_loaded_matcher_takes_the_stream_of_what_is_embedded():
    config = small_config()
    config.eval.batch = 8
    run = build_run(config, meshes.make_mesh(jax.devices()[:1]))
    loaded = LoadedMatcher(run, run.create_state())
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    customer, shop = (loaded.embed([photo], shop=kind).descriptor for kind in (False, True))
    assert not np.allclose(customer, shop)
    both = DomainPhotos(np.stack([photo, photo]), np.array([0, 1], np.int32))
    framed = models.embed(run.matcher, run.create_state().variables, both).descriptor
    np.testing.assert_allclose(np.concatenate([customer, shop]), framed, atol=1e-4)
