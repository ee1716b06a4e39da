"""The study of Park et al.: its config on every data set, its losses, and a whole run."""

import flax.linen as nn
import jax
import ml_collections
import numpy as np
import pytest
from grnet_jax.retrieval.evaluation import Evaluator
from grnet_jax.retrieval.tasks import make_task
from grnet_jax.training.setup import build_run

from configs import fir
from configs.common import DATASETS
from grnet_jax import models
from grnet_jax import sharding as meshes
from grnet_jax.errors import InputError
from grnet_jax.models.matcher import unit_vectors
from grnet_jax.training import loop
from grnet_jax.training.objectives import make_objective
from grnet_jax.training.optimizers import make_schedule

_LOSSES = {
    "OC": {"name": "classification"},
    "OC+OS": {"similarity": "category"},
    "OC+IS": {"similarity": "item"},
}


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_config_builds_for_every_set(dataset):
    config = fir.get_config(dataset)
    run = build_run(config, meshes.make_mesh(jax.devices()[:1]))
    assert models.scores_by_descriptor(run.matcher)
    assert config.data.crop == "none"
    assert (config.loss.class_weight, config.loss.weight, config.loss.margin) == (1.0, 0.1, 0.3)
    for fields in _LOSSES.values():
        config.loss.update(fields)
        make_objective(run.matcher, config)


def test_the_rate_falls_at_epochs_100_and_150_of_200():
    config = fir.get_config("deepfashion_c2s")
    run = build_run(config, meshes.make_mesh(jax.devices()[:1]), steps_per_epoch=10)
    assert run.steps == 2000
    rates = [float(run.schedule(step)) for step in (0, 999, 1000, 1499, 1500, 1999)]
    np.testing.assert_allclose(rates, [1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6], rtol=1e-5)


def test_its_optimiser_is_adam():
    run = build_run(fir.get_config("deepfashion_c2s"), meshes.make_mesh(jax.devices()[:1]))
    weight, first, second = np.array([3.0, -4.0]), np.zeros(2), np.zeros(2)
    params = {"w": weight}
    state = run.tx.init(params)
    for step, gradient in enumerate(np.array([[3.0, 4.0], [0.1, 0.2], [-0.3, 0.1]]), start=1):
        updates, state = run.tx.update({"w": gradient}, state, params)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        change = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        np.testing.assert_allclose(updates["w"], -1e-4 * change, rtol=1e-4)


@pytest.mark.parametrize("epochs", [(150.0, 100.0), (0.0, 10.0), (5.0, 5.0)])
def test_epochs_that_do_not_rise_are_refused(epochs):
    optimizer = fir.get_config("deepfashion_c2s").optimizer
    optimizer.decay_at = epochs
    with pytest.raises(InputError, match=r"optimizer\.decay_at: expected rising epochs above 0"):
        make_schedule(optimizer, 100, 10)


class _Linear(models.InnerProduct):
    """Descriptors and logits that are linear in the photos."""

    classes: int = 4

    @nn.compact
    def classify(self, photos, train=False):
        x = photos.reshape(len(photos), -1) / 255.0
        return models.Features(unit_vectors(nn.Dense(3)(x))), nn.Dense(self.classes)(x)


def _naive(descriptor, logits, batch, loss):
    """Loss of loops over photos in float64; anchors are customer photos, candidates shop photos."""
    entropies, hinges = [], []
    for row, label in zip(logits, batch["category"], strict=True):
        if label >= 0:
            entropies.append(np.log(np.exp(row).sum()) - row[label])
    group, domain = batch[loss.similarity], batch["domain"]
    places = range(len(group))
    customers = [i for i in places if domain[i] == 0 and group[i] >= 0]
    shops = [j for j in places if domain[j] == 1 and group[j] >= 0]
    for i in customers:
        distances = {j: np.linalg.norm(descriptor[i] - descriptor[j]) for j in shops}
        for p in shops:
            for n in shops:
                if group[p] == group[i] != group[n]:
                    hinges.append(max(0, 0.3 + distances[p] - distances[n]))
    return np.mean(entropies), 0.0 if loss.name == "classification" else np.mean(hinges)


@pytest.mark.parametrize("name", _LOSSES)
def test_losses_equal_loops(name):
    config = fir.get_config()
    config.loss.update(_LOSSES[name])
    rng = np.random.default_rng(0)
    batch = {
        "photo": rng.integers(0, 256, (12, 2, 2, 3), dtype=np.uint8),
        "item": np.repeat(np.arange(6, dtype=np.int32), 2),
        "category": np.repeat(np.array([0, 0, 1, -1, 1, 3], np.int32), 2),
        "domain": np.tile(np.array([0, 1], np.int32), 6),
    }
    matcher = _Linear()
    params = matcher.init(jax.random.key(0), batch["photo"], method="classify")["params"]
    objective = make_objective(matcher, config)
    found, (_, metrics) = objective(params, {}, {**batch, "step": 0}, lambda tree: tree)
    features, logits = matcher.apply({"params": params}, batch["photo"], method="classify")
    descriptor, logits = np.float64(features.descriptor), np.float64(logits)
    entropy, triplets = _naive(descriptor, logits, batch, config.loss)
    np.testing.assert_allclose(found, entropy + 0.1 * triplets, rtol=1e-5)
    np.testing.assert_allclose(metrics["class_loss"], entropy, rtol=1e-5)
    assert (triplets > 0) == (name != "OC")


def _tiny(tiny_config) -> ml_collections.ConfigDict:
    config, base = fir.get_config(), tiny_config()
    domains = {"sampler": config.data.sampler, "crop": config.data.crop}
    for section in ("data", "train", "eval", "optimizer"):
        config[section] = base[section]
    config.data.update(domains)
    config.eval.calibration = False
    return config


@pytest.mark.slow
@pytest.mark.parametrize("name", _LOSSES)
def test_a_whole_run_trains_and_evaluates(tiny_config, tmp_path, name):
    config = _tiny(tiny_config)
    config.loss.update(_LOSSES[name])
    state, finished = loop.train(config, str(tmp_path))
    assert finished
    run = build_run(config, meshes.make_mesh())
    task = make_task(loop._load_dataset(config), "val", run.config.data)
    figures = Evaluator(run.matcher, run.config, run.mesh).evaluate(state.variables, task).figures
    assert 0 <= figures["all"].values["top1"] <= figures["all"].values["top50"] <= 1
