"""The metric's score is that of dense layers on both photos' features side by side."""

import jax
import numpy as np
import pytest

from configs import wtbi
from grnet_jax import models
from grnet_jax.config import parse_config
from grnet_jax.errors import InputError
from grnet_jax.models.pair_metric import PairMetric
from grnet_jax.training.optimizers import trainable_mask
from grnet_jax.training.state import init_variables


def _built():
    config = wtbi.get_config()
    config.model.hidden = (16, 8)
    return models.build_matcher(parse_config(config).model)


@pytest.fixture(scope="module")
def built():
    matcher = _built()
    shapes = jax.eval_shape(lambda: init_variables(matcher, 32, seed=0))
    rng = np.random.default_rng(0)
    return matcher, jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def naive_logit(query, gallery, params):
    """One pair in float64, the features side by side under one layer."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    x = np.concatenate([query, gallery]).astype(np.float64)
    kernel = np.concatenate([params["query"]["kernel"], params["gallery"]["kernel"]])
    x = np.maximum(x @ kernel + params["query"]["bias"], 0)
    x = np.maximum(x @ params["dense2"]["kernel"] + params["dense2"]["bias"], 0)
    return (x @ params["logit"]["kernel"] + params["logit"]["bias"])[0]


def test_score_is_that_of_each_pair(built):
    matcher, variables = built
    rng = np.random.default_rng(1)
    maps = [rng.normal(size=(n, 3, 2, 128)).astype(np.float32) for n in (3, 4)]
    query, gallery = (matcher.apply(variables, one, method="pool") for one in maps)
    found = jax.jit(lambda v, q, g: models.score(matcher, v, q, g))(variables, query, gallery)
    means = [one.mean(axis=(1, 2), dtype=np.float64) for one in maps]
    wanted = [
        [naive_logit(x, y, variables["params"]["metric"]) for y in means[1]] for x in means[0]
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert not np.allclose(found[:3, :3], np.transpose(found[:3, :3]))  # it is no symmetric one
    again = models.score_prepared(matcher, models.prepare(matcher, variables), query, gallery)
    np.testing.assert_allclose(again, found, rtol=1e-4, atol=1e-4)


def test_the_metric_alone_learns(built):
    config, (_, variables) = wtbi.get_config(), built
    mask = trainable_mask(variables["params"], config.optimizer.trainable)
    assert all(jax.tree.leaves(mask["metric"]))
    assert not any(jax.tree.leaves(mask["backbone"]))
    assert config.model.backbone.frozen_batch_norm
    paper = wtbi.get_config("deepfashion_c2s")
    assert (paper.model.backbone.name, paper.train.init_from) == ("vgg16", "")
    assert isinstance(models.build_matcher(parse_config(paper).model), PairMetric)


@pytest.mark.parametrize("hidden", [(), (4, 0)])
def test_bad_widths_are_named(hidden):
    config = wtbi.get_config()
    config.model.hidden = hidden
    with pytest.raises(InputError, match=r"model\.hidden"):
        parse_config(config)
