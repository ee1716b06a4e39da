"""Several matchers as one: descriptors side by side, members with pipelines of their own."""

import copy
import types

import jax
import numpy as np
import pytest

from configs import colour_histogram
from grnet_jax import models
from grnet_jax import sharding as meshes
from grnet_jax.errors import InputError
from grnet_jax.models import Features, build_matcher
from grnet_jax.retrieval.ensembles import (
    EnsembleEvaluator,
    Joined,
    Member,
    check_members,
    ensemble_variables,
    member_data,
)
from grnet_jax.retrieval.evaluation import Evaluator
from grnet_jax.retrieval.sources import HeldFeatures
from grnet_jax.retrieval.tasks import configured_task


def _member(name="runs/a", matcher=None, model="embedding", **data):
    config = colour_histogram.get_config()
    config.model.name = model
    config.data.update(data)
    return Member(name, matcher or models.InnerProduct(), config, {})


def test_descriptors_are_side_by_side_and_of_length_one():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(7, d)).astype(np.float32) for d in (3, 5)]
    joined = Joined(tuple(HeldFeatures(Features(part)) for part in parts))
    rows = np.array([4, 0, 4])
    wanted = np.concatenate(parts, axis=1)[rows].astype(float)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert len(joined) == 7
    np.testing.assert_allclose(joined.take(rows).descriptor, wanted, rtol=1e-5)
    np.testing.assert_allclose(joined.descriptors().take(rows).descriptor, wanted, rtol=1e-5)


def test_members_see_photos_as_in_their_training():
    data = colour_histogram.get_config().data
    trained = copy.deepcopy(data)
    trained.update(image_size=24, crop="none", square=True, long_side=50, size="tiny", dir="else")
    seen = member_data(data, trained)
    for field in ("image_size", "crop", "square", "long_side"):
        assert seen[field] == trained[field] != data[field]
    data.detections, trained.detections = "", "theirs.csv"
    assert member_data(data, trained).detections == "theirs.csv"
    data.detections = "given.csv"
    assert member_data(data, trained).detections == "given.csv"
    assert (seen.size, seen.dir) == (data.size, data.dir)  # what is measured is the evaluation's


def test_members_of_other_data_or_without_inner_products_are_named():
    check_members([_member(), _member("runs/b", crop="none", image_size=8)])
    with pytest.raises(InputError, match=r"data\.seed=0, runs/b with 1; expected members of the"):
        check_members([_member(), _member("runs/b", seed=1)])
    grnet = types.SimpleNamespace()
    with pytest.raises(
        InputError, match=r"runs/b is of model\.name=grnet, whose score is no inner"
    ):
        check_members([_member(), _member("runs/b", matcher=grnet, model="grnet")])


@pytest.fixture(scope="module")
def ensemble(data_dir):
    """(config, members, data set, task): colour histograms of whole photos and of boxes."""
    from input_pipeline import load_dataset

    config = colour_histogram.get_config()
    config.data.update(dir=str(data_dir), size="tiny", interpolation="bilinear", center_share=1.0)
    config.eval.batch, config.eval.query_block, config.eval.gallery_block = 16, 8, 8
    members = []
    for crop, size in (("none", 16), ("box", 24)):
        own = copy.deepcopy(config)
        own.data.crop, own.data.image_size = crop, size
        members.append(Member(f"runs/{crop}", build_matcher(own.model), own, {}))
    dataset = load_dataset(config.data)
    views = [member_data(config.data, member.config.data) for member in members]
    task = configured_task(dataset, config, also_cut=[(dataset, view) for view in views])
    return config, members, dataset, task


def _evaluate(ensemble, members, store="", **fields):
    config, _, dataset, task = ensemble
    config = copy.deepcopy(config)
    config.eval.update(fields)
    mesh = meshes.make_mesh(jax.devices()[:1])
    evaluator = EnsembleEvaluator(members, config, [dataset] * len(members), mesh)
    return evaluator.evaluate(ensemble_variables(members), task, store=store)


def test_ranking_is_that_of_naive_concatenation(ensemble):
    _, members, _, task = ensemble
    query, gallery = [], []
    for member in members:
        for rows, into in ((task.query_rows, query), (task.gallery_rows, gallery)):
            photos = np.stack([task.photos.framed(row, member.config.data) for row in rows])
            features = models.embed(member.matcher, member.variables, photos)
            into.append(np.asarray(features.descriptor, float))
    query, gallery = (np.concatenate(parts, axis=1) for parts in (query, gallery))
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    scores = query @ gallery.T
    found = _evaluate(ensemble, members).ranking
    # The pipeline's pixels are within a grey level of `framed`'s.
    np.testing.assert_allclose(found.top_scores[:, 0], scores.max(axis=1), atol=0.02)
    best = np.take_along_axis(scores, found.top_rows[:, :1], axis=1)[:, 0]
    np.testing.assert_allclose(best, scores.max(axis=1), atol=0.02)


def test_one_member_or_one_twice_is_that_member(ensemble):
    _, members, _, task = ensemble
    own = members[1]
    alone = Evaluator(own.matcher, own.config, meshes.make_mesh(jax.devices()[:1]))
    wanted = alone.evaluate(own.variables, task).figures["all"].values
    for chosen in ([own], [own, own]):
        found = _evaluate(ensemble, chosen).figures["all"].values
        for name in ("top1", "top20", "map"):
            assert found[name] == pytest.approx(wanted[name], abs=1e-6)


@pytest.mark.slow
def test_the_members_order_and_the_store_change_nothing(ensemble, tmp_path):
    _, members, _, _ = ensemble
    plain = _evaluate(ensemble, members).figures["all"].values
    for chosen, store in ((members[::-1], ""), (members, str(tmp_path))):
        found = _evaluate(ensemble, chosen, store).figures["all"].values
        assert found["map"] == pytest.approx(plain["map"], abs=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["member_0", "member_1"]
