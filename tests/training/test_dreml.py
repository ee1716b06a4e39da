"""DREML: members that learn groupings of the items of their own, and their ensemble."""

import json

import jax
import numpy as np
import pytest
from grnet_jax.training.embedding_objectives import embedding_objective
from grnet_jax.training.setup import build_run

from configs import dreml
from configs.common import DATASETS
from grnet_jax import commands, models
from grnet_jax import sharding as meshes
from grnet_jax.errors import InputError
from grnet_jax.losses import random_meta_classes
from grnet_jax.training import loop
from grnet_jax.training.objectives import make_objective
from tests.training.test_embedding_objectives import random_batch, small_config


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_config_builds_for_every_set(dataset):
    config = dreml.get_config(dataset)
    run = build_run(config, meshes.make_mesh(jax.devices()[:1]))
    make_objective(run.matcher, config)
    assert models.scores_by_descriptor(run.matcher)
    assert config.model.classes == 192


class _Distances(models.InnerProduct):
    """Logits that are the photos' first pixels."""

    classes: int = 5

    def classify(self, photos, train=False):
        x = -photos.reshape(len(photos), -1)[:, : self.classes].astype("float32") / 64
        return models.Features(models.unit_vectors(x)), x


def _member(grouping):
    config = small_config("proxy_nca")
    config.model.proxies = True
    config.loss.update({"label": "meta_class", "class_weight": 1.0, "proxy_scale": 2.0})
    config.loss.grouping = grouping
    return config


@pytest.mark.parametrize("grouping", [0, 3])
def test_labels_are_the_members_own_grouping_of_the_items(grouping):
    batch = random_batch()
    batch["item"] = np.where(np.arange(len(batch["item"])) == 1, -1, batch["item"])
    objective = embedding_objective(_Distances(), _member(grouping))
    found, _ = objective({}, {}, {**batch, "step": 0}, lambda tree: tree)
    groups = random_meta_classes(np.arange(20), 5, grouping)
    wanted = []
    for photo, item in zip(batch["photo"], batch["item"], strict=True):
        if item >= 0:
            near = np.exp(-2.0 * np.float64(photo.reshape(-1)[:5]) / 64)
            own = near[groups[item]]
            wanted.append(-np.log(own / (near.sum() - own)))
    np.testing.assert_allclose(found, np.mean(wanted), rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss.grouping": -1}, r"loss\.grouping: expected 0 or more, got -1"),
        ({"model.proxies": False}, r"loss\.name: 'proxy_nca' with model\.proxies=False"),
        ({"loss.proxy_scale": 0.0}, r"loss\.proxy_scale: expected"),
        ({"loss.class_weight": 0.0}, r"loss\.class_weight: 0, and nothing else to train on"),
    ],
)
def test_bad_fields_are_named(fields, message):
    config = _member(0)
    config.update_from_flattened_dict(fields)
    with pytest.raises(InputError, match=message):
        embedding_objective(_Distances(), config)


def _tiny(tiny_config):
    config, base = dreml.get_config(), tiny_config()
    config.data.update(dir=base.data.dir, size="tiny", image_size=32)
    for section in ("train", "eval", "optimizer"):
        config[section] = base[section]
    config.eval.calibration = False
    config.train.steps, config.train.eval_every, config.optimizer.warmup_steps = 2, 0, 1
    config.model.dim, config.model.classes = 8, 4
    return config


@pytest.mark.slow
def test_members_are_one_ensemble(tiny_config, tmp_path):
    for grouping in (0, 1):
        config = _tiny(tiny_config)
        config.loss.grouping = grouping
        assert loop.train(config, str(tmp_path / str(grouping))).finished
    config.eval.ensemble = f"{tmp_path / '0'},{tmp_path / '1'}"
    commands.evaluate([], config, "", str(tmp_path / "out"))
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert 0 <= found["protocols"]["all"]["map"] <= 1
