"""The retrieval of Kucer and Murray: its configs, the start, whole runs and an ensemble."""

import json

import jax
import numpy as np
import pytest
from grnet_jax.training.embedding_objectives import embedding_objective
from grnet_jax.training.setup import build_run

from configs import detect_then_retrieve
from configs.common import DATASETS
from grnet_jax import commands, models
from grnet_jax import sharding as meshes
from grnet_jax.errors import InputError
from grnet_jax.training import loop
from grnet_jax.training.objectives import make_objective
from tests.training.test_embedding_objectives import random_batch, small_config


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("loss", detect_then_retrieve.LOSSES)
def test_the_config_builds_for_every_set(dataset, loss):
    config = detect_then_retrieve.get_config(f"{dataset},{loss}")
    if loss == "classification":
        config.model.classes = config.model.classes or 7
    run = build_run(config, meshes.make_mesh(jax.devices()[:1]))
    make_objective(run.matcher, config)
    assert models.scores_by_descriptor(run.matcher)
    assert (config.loss.name, config.model.pooling) == (loss, "gem")
    published = dataset not in ("synthetic", "manifest")
    assert (config.model.backbone.name == "resnet50") == published
    if published and loss != "classification":
        assert config.data.image_size == 800
        assert (config.data.max_side, config.data.square) == (
            (800, False) if loss == "triplet" else (0, True)
        )
        assert config.model.backbone.frozen_batch_norm
        photos = config.train.batch_size * config.data.images_per_item
        assert photos % config.train.embed_chunk == 0


def test_the_argument_names_the_losses():
    assert detect_then_retrieve.get_config("").loss.name == "triplet"
    with pytest.raises(ValueError, match=r"unknown loss; .* \['triplet', 'ap', 'classification'\]"):
        detect_then_retrieve.get_config("synthetic,pairs")


class _Logits(models.InnerProduct):
    """Descriptors and logits that are the photos' first pixels."""

    classes: int = 20

    def classify(self, photos, train=False):
        x = photos.reshape(len(photos), -1)[:, : self.classes].astype("float32") / 64
        return models.Features(models.unit_vectors(x)), x


def test_items_as_classes():
    config = small_config("classification")
    config.loss.class_weight, config.loss.label = 1.0, "item"
    batch = random_batch()
    objective = embedding_objective(_Logits(), config)
    found, _ = objective({}, {}, {**batch, "step": 0}, lambda tree: tree)
    x = batch["photo"].reshape(len(batch["photo"]), -1)[:, :20] / 64
    own = x[np.arange(len(x)), batch["item"]]
    np.testing.assert_allclose(found, np.mean(np.log(np.exp(x).sum(axis=1)) - own), rtol=1e-5)
    config.loss.label = "colour"
    with pytest.raises(InputError, match=r"loss\.label: 'colour' is none of"):
        embedding_objective(_Logits(), config)


def _tiny(tiny_config, loss):
    config, base = detect_then_retrieve.get_config(f"synthetic,{loss}"), tiny_config()
    config.data.update(dir=base.data.dir, size="tiny", image_size=32)
    for section in ("train", "eval", "optimizer"):
        config[section] = base[section]
    config.eval.calibration = False
    config.train.eval_every = 0
    config.train.steps, config.optimizer.warmup_steps = 2, 1
    config.model.dim = 8
    return config


def test_a_head_with_too_few_items_is_refused(tiny_config, tmp_path):
    config = _tiny(tiny_config, "classification")
    config.model.classes = 3
    with pytest.raises(InputError, match=r"model\.classes: 3, but .* has \d+ items to train on"):
        loop.train(config, str(tmp_path))


def test_an_ensemble_is_not_trained(tiny_config, tmp_path):
    config = _tiny(tiny_config, "triplet")
    config.eval.ensemble = "runs/a,runs/b"
    with pytest.raises(InputError, match=r"eval\.ensemble=runs/a,runs/b: names trained runs for"):
        loop.train(config, str(tmp_path))


@pytest.mark.slow
def test_whole_runs_start_from_classes_and_are_one_ensemble(tiny_config, tmp_path):
    for loss in ("classification", "triplet", "ap"):
        config = _tiny(tiny_config, loss)
        if loss != "classification":
            config.train.init_from = str(tmp_path / "classification")
            config.train.init_parts = "backbone"
        assert loop.train(config, str(tmp_path / loss)).finished
    config = _tiny(tiny_config, "triplet")
    config.eval.ensemble = f"{tmp_path / 'triplet'},{tmp_path / 'ap'}"
    commands.evaluate([], config, "", str(tmp_path / "out"))
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["processing"]["ensemble"] == config.eval.ensemble
    assert 0 <= found["protocols"]["all"]["map"] <= 1
    with pytest.raises(SystemExit):
        commands.evaluate([], config, str(tmp_path / "triplet"), "")
