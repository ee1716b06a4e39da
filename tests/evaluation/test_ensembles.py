"""Several matchers as one: embeddings side by side, members with pipelines of their own."""

import types

import jax
import numpy as np
import pytest

from configs import color_histogram
from grnet_jax import commands, models
from grnet_jax.config import parse_config
from grnet_jax.errors import InputError
from grnet_jax.evaluation.ensembles import (
    EnsembleEvaluator,
    Member,
    _changed_files,
    _member_config,
    ensemble_variables,
)
from grnet_jax.evaluation.protocols import build_protocol
from grnet_jax.evaluation.retrieval import RetrievalEvaluator
from grnet_jax.models import Features, build_matcher
from grnet_jax.search.features import Concatenated, InMemoryFeatures
from grnet_jax.sharding import make_mesh
from input_pipeline import load_dataset
from tests.small import small_config


def _config(data_dir="data", source="tiny", search=(), **image):
    values = color_histogram.get_config().to_dict()
    values["dataset"].update(dir=str(data_dir), source=source)
    values["image"].update(image)
    values["eval"].update(batch_size=16, search=dict(search))
    return parse_config(values)


def test_embeddings_are_side_by_side_and_of_length_one():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(7, d)).astype(np.float32) for d in (3, 5)]
    joined = Concatenated(tuple(InMemoryFeatures(Features(part)) for part in parts))
    rows = np.array([4, 0, 4])
    wanted = np.concatenate(parts, axis=1)[rows].astype(float)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert len(joined) == 7
    np.testing.assert_allclose(joined.take(rows).embedding, wanted, rtol=1e-5)
    np.testing.assert_allclose(joined.embeddings().take(rows).embedding, wanted, rtol=1e-5)


@pytest.fixture(scope="module")
def ensemble(data_dir):
    """(data set, members): color histograms of whole images and of boxes."""
    members = []
    for crop, size in (("none", 16), ("box", 24)):
        config = _config(data_dir, crop=crop, size=size)
        members.append(Member(f"runs/{crop}", build_matcher(config.model), config, {}))
    return load_dataset(members[0].config.dataset), members


def _evaluate(ensemble, members, data_dir, store="", **image):
    config = _config(data_dir, search={"store": store}, **image)
    mesh = make_mesh(jax.devices()[:1])
    evaluator = EnsembleEvaluator(config, members, mesh, ensemble[0])
    return evaluator.run(ensemble_variables(members))


def test_ranking_is_that_of_naive_concatenation(ensemble, data_dir):
    _, members = ensemble
    found = _evaluate(ensemble, members, data_dir, size=40)
    assert found.processing["ensemble"] == "runs/none,runs/box"
    protocol = found.protocol
    query, gallery = [], []
    for member in members:  # images as in the member's training, not as the evaluation has them
        image = member.config.image
        for rows, into in ((protocol.query_rows, query), (protocol.gallery_rows, gallery)):
            images = np.stack([protocol.images.model_input(row, image) for row in rows])
            features = models.embed(member.matcher, member.variables, images)
            into.append(np.asarray(features.embedding, float))
    query, gallery = (np.concatenate(parts, axis=1) for parts in (query, gallery))
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    scores = query @ gallery.T
    # The pipeline's pixels are within a gray level of `model_input`'s.
    np.testing.assert_allclose(found.ranking.scores[:, 0], scores.max(axis=1), atol=0.02)
    best = np.take_along_axis(scores, found.ranking.indices[:, :1], axis=1)[:, 0]
    np.testing.assert_allclose(best, scores.max(axis=1), atol=0.02)


def test_one_member_or_one_twice_is_that_member(ensemble, data_dir):
    dataset, members = ensemble
    own, mesh = members[1], make_mesh(jax.devices()[:1])
    images = (member.config.image for member in members)
    protocol = build_protocol(
        dataset, own.config.image, own.config.eval.protocol, also_cropped=list(images)
    )
    wanted = RetrievalEvaluator(own.config, own.matcher, mesh, protocol).run({}).values
    for chosen in ([own], [own, own]):
        found = _evaluate(ensemble, chosen, data_dir).values
        for name in ("top1", "top20", "map"):
            assert found[name] == pytest.approx(wanted[name], abs=1e-6)


@pytest.mark.slow
def test_the_members_order_and_the_store_change_nothing(ensemble, data_dir, tmp_path):
    members = ensemble[1]
    plain = _evaluate(ensemble, members, data_dir).values
    for chosen, store in ((members[::-1], ""), (members, str(tmp_path))):
        found = _evaluate(ensemble, chosen, data_dir, store).values
        assert found["map"] == pytest.approx(plain["map"], abs=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["member_0", "member_1"]


def test_members_of_other_data_or_without_inner_products_are_named(ensemble):
    dataset, (one, _) = ensemble
    other = one._replace(name="runs/b", config=_config(source="small"))
    with pytest.raises(InputError, match=r"dataset\.source='tiny', runs/b with 'small'; expected"):
        EnsembleEvaluator(one.config, [one, other], make_mesh(), dataset)
    grnet = one._replace(name="runs/c", matcher=types.SimpleNamespace())
    with pytest.raises(InputError, match=r"runs/c is of model\.name=color_histogram, whose score"):
        EnsembleEvaluator(one.config, [one, grnet], make_mesh(), dataset)


def test_another_model_than_the_members_is_named(ensemble, monkeypatch):
    one = ensemble[1][0]
    run = types.SimpleNamespace(matcher=one.matcher, config=one.config)
    state = types.SimpleNamespace(variables={}, step=0)
    monkeypatch.setattr(commands, "restore_matcher", lambda name, mesh: (run, state))
    given = parse_config(small_config("embedding"))
    with pytest.raises(InputError, match=r"config\.model\.\S+: the run was trained with"):
        commands._open_ensemble(["runs/a", "runs/b"], given, make_mesh(), "")


@pytest.mark.parametrize("name", ["detections", "keypoints"])
def test_files_of_boxes_and_keypoints_are_the_evaluations_or_the_members(name, ensemble):
    def of(file):
        image = own.config.image.model_copy(update={name: file})
        return own.config.model_copy(update={"image": image})

    own = ensemble[1][0]
    members = [own._replace(config=of(file)) for file in ("first.csv", "second.csv")]
    for asked, expected in (("first.csv", "second.csv"), ("asked.csv", "asked.csv")):
        files = _changed_files(of(asked), members[0].config)
        found = [_member_config(of(asked), member.config, files).image for member in members]
        assert [getattr(image, name) for image in found] == [asked, expected]
