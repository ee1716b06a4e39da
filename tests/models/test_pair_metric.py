"""The metric's score is that of dense layers on both images' features side by side."""

import jax
import numpy as np

from configs import wtbi
from grnet_jax import models
from grnet_jax.models import region_matcher
from grnet_jax.training.optimizers import trainable_mask
from tests.small import random_variables, small_matcher


def naive_logit(query, gallery, params):
    """One pair in float64, the features side by side under one layer."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    x = np.concatenate([query, gallery]).astype(np.float64)
    kernel = np.concatenate([params["query"]["kernel"], params["gallery"]["kernel"]])
    x = np.maximum(x @ kernel + params["query"]["bias"], 0)
    x = np.maximum(x @ params["dense2"]["kernel"] + params["dense2"]["bias"], 0)
    return (x @ params["logit"]["kernel"] + params["logit"]["bias"])[0]


def test_score_is_that_of_each_pair(monkeypatch):
    matcher = small_matcher("wtbi", hidden=(16, 8))
    variables = random_variables(matcher)
    rng = np.random.default_rng(1)
    maps = [rng.normal(size=(n, 3, 2, 128)).astype(np.float32) for n in (3, 4)]
    query, gallery = (matcher.apply(variables, one, method="pool") for one in maps)
    scores = jax.jit(lambda v, q, g: models.score(matcher, v, q, g))(variables, query, gallery)
    means = [one.mean(axis=(1, 2), dtype=np.float64) for one in maps]
    expected = [
        [naive_logit(x, y, variables["params"]["metric"]) for y in means[1]] for x in means[0]
    ]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    assert not np.allclose(scores[:3, :3], np.transpose(scores[:3, :3]))  # it is no symmetric one
    for tile in (0, 1, 3):
        monkeypatch.setattr(region_matcher, "choose_tile", lambda numbers, tile=tile: tile)
        fused = models.fuse(matcher, variables)
        again = models.score_fused(matcher, fused, query, gallery)
        np.testing.assert_allclose(again, scores, rtol=1e-4, atol=1e-4)


def test_the_metric_alone_learns():
    config = wtbi.get_config()
    params = jax.eval_shape(lambda: random_variables(small_matcher("wtbi")))["params"]
    mask = trainable_mask(params, config.optimizer.trainable)
    assert all(jax.tree.leaves(mask["metric"]))
    assert not any(jax.tree.leaves(mask["backbone"]))
    assert config.model.backbone.frozen_batch_norm
    paper = wtbi.get_config("deepfashion_c2s")
    assert (paper.model.backbone.name, paper.train.init_from) == ("vgg16", "")
