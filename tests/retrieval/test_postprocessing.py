"""Whitening, augmentation and expansion against their definitions in float64."""

import jax
import numpy as np
import pytest
from sklearn.decomposition import PCA

import input_pipeline
from configs import colour_histogram
from grnet_jax.errors import InputError
from grnet_jax.models import Features
from grnet_jax.retrieval.digests import model_digest
from grnet_jax.retrieval.evaluation import Evaluator
from grnet_jax.retrieval.postprocessing import (
    Neighbours,
    Postprocessing,
    check_descriptors_used,
    learn_whitening,
    make_postprocessing,
    nearest,
    postprocess,
    take_in,
)
from grnet_jax.retrieval.report import results_dict
from grnet_jax.retrieval.sources import HeldFeatures
from grnet_jax.retrieval.tasks import Group, make_task
from grnet_jax.sharding import make_mesh
from grnet_jax.training.setup import build_run

_Q, _G, _D = 13, 29, 6


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _vectors(n, seed, d=_D):
    return _unit(np.random.default_rng(seed).standard_normal((n, d))).astype(np.float32)


def _search(devices=8, query_block=8, gallery_block=8, held=16):
    return Neighbours(make_mesh(jax.devices()[:devices]), query_block, gallery_block, held)


def _naive(descriptors, gallery, count, alpha, own=False):
    """Each descriptor's expansion, one at a time."""
    descriptors, gallery = (rows.astype(np.float64) for rows in (descriptors, gallery))
    found = []
    for number, x in enumerate(descriptors):
        similar = gallery @ x
        order = sorted(range(len(gallery)), key=lambda row: (-similar[row], row))
        taken = [row for row in order if not (own and row == number)][:count]
        weights = [max(similar[row], 0.0) ** alpha for row in taken]
        total = x + sum(w * gallery[row] for w, row in zip(weights, taken, strict=True))
        found.append(total / np.linalg.norm(total))
    return np.array(found)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("count", [1, 4, _G])
def test_expansion_is_its_definition(count, alpha):
    query, gallery = _vectors(_Q, 0), _vectors(_G, 1)
    found = take_in(query, gallery, count, alpha, _search())
    np.testing.assert_allclose(found, _naive(query, gallery, count, alpha), atol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("alpha", [0.0, 3.0])
@pytest.mark.parametrize("count", [1, 5, _G - 1])
def test_augmentation_is_its_definition(count, alpha):
    gallery = _vectors(_G, 1)
    found = take_in(gallery, gallery, count, alpha, _search(), of_itself=True)
    expected = _naive(gallery, gallery, count, alpha, own=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_of_equally_near_photos_the_lower_row_is_taken():
    gallery = np.eye(3, dtype=np.float32)[[0, 1, 1, 2, 1]]
    rows, similarity = nearest(np.eye(3, dtype=np.float32)[[1, 2]], gallery, 3, _search())
    np.testing.assert_array_equal(rows, [[1, 2, 4], [3, 0, 1]])
    np.testing.assert_array_equal(similarity, [[1, 1, 1], [1, 0, 0]])


def test_copies_are_neighbours_and_a_photo_is_not_its_own():
    # The last copy of row 1 has more copies before it than neighbours are asked for.
    gallery = np.eye(3, dtype=np.float32)[[0, 1, 1, 1, 1, 2]]
    for count in (1, 2, 3, 4, 5):
        found = take_in(gallery, gallery, count, 0.0, _search(), of_itself=True)
        np.testing.assert_allclose(found, _naive(gallery, gallery, count, 0.0, own=True), atol=1e-6)


def test_opposite_neighbours_weigh_nothing_but_in_a_plain_mean():
    query = np.array([[1, 0]], np.float32)
    gallery = np.array([[-0.6, 0.8]], np.float32)
    np.testing.assert_allclose(take_in(query, gallery, 1, 2.0, _search()), query)
    np.testing.assert_allclose(
        take_in(query, gallery, 1, 0.0, _search()), _unit(query + gallery), atol=1e-6
    )


@pytest.mark.parametrize("own", [False, True])
def test_devices_and_blocks_change_nothing(own):
    query, gallery = (
        (_vectors(_G, 1), _vectors(_G, 1)) if own else (_vectors(_Q, 0), _vectors(_G, 1))
    )
    whole = take_in(query, gallery, 4, 3.0, _search(), of_itself=own)
    for search in (_search(devices=1), _search(1, 3, 5, 6), _search(8, 16, 64, 1024)):
        found = take_in(query, gallery, 4, 3.0, search, of_itself=own)
        np.testing.assert_allclose(found, whole, atol=1e-6)


def test_many_rows_are_taken_in_in_blocks(monkeypatch):
    query, gallery = _vectors(_Q, 0), _vectors(_G, 1)
    whole = take_in(query, gallery, 4, 3.0, _search())
    whitened = learn_whitening(gallery, 3).apply(query)
    monkeypatch.setattr("grnet_jax.retrieval.postprocessing._READ_ROWS", 5)
    np.testing.assert_allclose(take_in(query, gallery, 4, 3.0, _search()), whole, atol=1e-7)
    np.testing.assert_allclose(learn_whitening(gallery, 3).apply(query), whitened, atol=1e-6)


_ALL = Postprocessing(
    whitening="gallery",
    whitening_dim=4,
    database_augmentation=3,
    database_augmentation_alpha=1.0,
    query_expansion=2,
    query_expansion_alpha=3.0,
)


def _everything(query, gallery, options=_ALL, groups=None, learned_on=None):
    sources = (HeldFeatures(Features(rows)) for rows in (query, gallery))
    groups = groups or [Group("", np.arange(len(query)), np.arange(len(gallery)))]
    found = postprocess(*sources, options, groups, _search(), learned_on)
    return [source.take(np.arange(len(source))).descriptor for source in found]


def test_a_permuted_gallery_gives_the_same_scores_permuted():
    query, gallery = _vectors(_Q, 0), _vectors(_G, 1)
    order = np.random.default_rng(2).permutation(_G)
    one, two = _everything(query, gallery), _everything(query, gallery[order])
    np.testing.assert_allclose(
        (one[0] @ one[1].T)[:, order], two[0] @ two[1].T, atol=1e-5
    )  # directions' signs may differ


@pytest.mark.parametrize(("n", "dim"), [(40, 3), (40, 6), (6, 3)])
def test_whitening_is_scikit_learns(n, dim):
    rng = np.random.default_rng(0)
    learned = (rng.standard_normal((n, _D)) * np.arange(1, _D + 1)).astype(np.float32)
    seen = _vectors(_Q, 1)
    found = learn_whitening(learned, dim).apply(seen)
    peer = PCA(dim, whiten=True, svd_solver="full").fit(learned.astype(np.float64))
    expected = _unit(peer.transform(seen.astype(np.float64)))
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-5)


def test_whitened_descriptors_have_the_identity_as_covariance():
    learned = _vectors(200, 0) * np.arange(1, _D + 1, dtype=np.float32)
    whitening = learn_whitening(learned, 0)
    white = (learned - whitening.mean).astype(np.float64) @ whitening.projection
    np.testing.assert_allclose(np.cov(white.T), np.eye(_D), atol=1e-4)


def test_directions_without_variance_are_left_out():
    learned = _vectors(50, 0)
    learned[:, 2] = 0.25
    assert learn_whitening(learned, 0).projection.shape == (_D, _D - 1)
    # Fewer photos than numbers: one direction less than photos.
    assert learn_whitening(_vectors(4, 0), 0).projection.shape == (_D, 3)
    with pytest.raises(InputError, match=r"eval\.whitening_dim=6: .* vary in 5 .* expected 0 to 5"):
        learn_whitening(learned, _D)
    for alike in (learned[:1], np.repeat(learned[:1], 9, axis=0)):
        with pytest.raises(InputError, match="all alike"):
            learn_whitening(alike, 0)


def test_whitening_can_be_learned_on_other_photos():
    query, gallery, other = _vectors(_Q, 0), _vectors(_G, 1), _vectors(50, 2)
    options = Postprocessing(whitening="train", whitening_dim=3)
    found = _everything(query, gallery, options, learned_on=HeldFeatures(Features(other)))
    whitening = learn_whitening(other, 3)
    np.testing.assert_array_equal(found[0], whitening.apply(query))
    np.testing.assert_array_equal(found[1], whitening.apply(gallery))


def test_the_steps_follow_each_other_and_stay_in_their_group():
    query, gallery = _vectors(_Q, 0), _vectors(_G, 1)
    places = [np.arange(0, 6), np.arange(6, _Q)], [np.arange(0, _G, 2), np.arange(1, _G, 2)]
    groups = [Group(name, *part) for name, *part in zip("ab", *places, strict=True)]
    groups.append(Group("empty", np.arange(0), np.arange(0)))
    queries, photos = _everything(query, gallery, groups=groups)
    whitening = learn_whitening(gallery, 4)
    for q, g in zip(*places, strict=True):
        part = whitening.apply(gallery[g])
        part = _naive(part, part, 3, 1.0, own=True)
        np.testing.assert_allclose(photos[g], part, atol=1e-5)
        expanded = _naive(whitening.apply(query[q]), part, 2, 3.0)
        np.testing.assert_allclose(queries[q], expanded, atol=1e-5)


def test_regions_stay_and_nothing_asked_is_nothing_done():
    regions = np.arange(_G * 4, dtype=np.float32).reshape(_G, 2, 2)
    source = HeldFeatures(Features(_vectors(_G, 1), regions))
    group = Group("", np.arange(_G), np.arange(_G))
    _, found = postprocess(source, source, _ALL, [group], _search())
    rows = np.array([4, 1])
    np.testing.assert_array_equal(found.take(rows).regions, regions[rows])
    assert found.take(rows).descriptor.shape == (2, 4)
    assert postprocess(source, source, Postprocessing(), [group], _search()) == (source, source)


@pytest.mark.parametrize(("own", "there"), [(True, _G - 1), (False, _G)])
def test_more_neighbours_than_there_are_is_an_error(own, there):
    gallery = _vectors(_G, 1)
    field = "database_augmentation" if own else "query_expansion"
    with pytest.raises(InputError, match=f"eval.{field}=40: the gallery has {there} .*photos"):
        take_in(gallery, gallery, 40, 0.0, _search(), of_itself=own)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"query_expansion": -1}, "eval.query_expansion: expected 0 or more, got -1"),
        ({"database_augmentation": -2}, "eval.database_augmentation: expected 0"),
        ({"query_expansion": 2, "query_expansion_alpha": -1.0}, "eval.query_expansion_alpha"),
        ({"whitening_dim": 8}, "eval.whitening_dim=8 does nothing while eval.whitening"),
        ({"query_expansion_alpha": 3.0}, "does nothing while eval.query_expansion is not set"),
        ({"database_augmentation_alpha": 1.0}, "while eval.database_augmentation is not"),
        ({"five_crop_share": 1.0}, "eval.five_crop_share: .* less than 1, got 1"),
        ({"five_crop_share": -0.5}, "eval.five_crop_share"),
    ],
)
def test_fields_that_cannot_be(fields, message):
    config = colour_histogram.get_config()
    config.eval.update(fields)
    with pytest.raises(InputError, match=message):
        build_run(config, make_mesh())


def test_options_that_a_matcher_of_regions_ignores_are_refused(tiny_config):
    for fields, names in (
        ({"query_expansion": 2}, "eval.query_expansion: "),
        ({"whitening": "gallery", "five_crop_share": 0.5}, "eval.whitening, eval.five_crop_share"),
    ):
        config = tiny_config()
        config.eval.update(fields)
        run = build_run(config, make_mesh())
        with pytest.raises(InputError, match=f"{names}.*scores regions"):
            Evaluator(run.matcher, run.config, run.mesh)
    check_descriptors_used(_ALL, 0.5, True)
    check_descriptors_used(Postprocessing(), 0.0, False)


@pytest.fixture(scope="module")
def case(tiny_config):
    """Evaluates the colour histogram on the tiny set with fields of config.eval."""
    config = colour_histogram.get_config()
    tiny = tiny_config()
    config.data, config.eval = tiny.data, tiny.eval
    config.eval.calibration = False
    dataset = input_pipeline.load_dataset(build_run(config, make_mesh()).config.data)

    def evaluate(store="", **fields):
        changed = config.copy_and_resolve_references()
        changed.eval.update(fields)
        run = build_run(changed, make_mesh())
        task = make_task(dataset, "test", run.config.data, whitening=changed.eval.whitening)
        return Evaluator(run.matcher, run.config, run.mesh).evaluate({}, task, store=str(store))

    return evaluate


_FIELDS = {**_ALL._asdict(), "whitening": "train"}


def test_evaluation_ranks_by_what_the_steps_give(case, tmp_path):
    plain = case(tmp_path / "store")
    held = case(**_FIELDS)
    # The same tables serve: post-processing comes after what is stored.
    stored = case(tmp_path / "store", **_FIELDS)
    np.testing.assert_array_equal(held.ranking.top_rows, stored.ranking.top_rows)
    np.testing.assert_array_equal(held.ranking.ranks, stored.ranking.ranks)
    assert np.any(plain.ranking.top_scores != held.ranking.top_scores)
    assert (tmp_path / "store" / "whitening-train.lance").exists()
    assert plain.processing == {}
    assert held.processing == _FIELDS
    assert "With eval.whitening=train, " in held.describe()
    assert results_dict(held, "x", 1)["processing"] == _FIELDS
    assert results_dict(plain, "x", 1)["processing"] == {}


def test_views_make_another_store(case, tmp_path):
    case(tmp_path / "store")
    with pytest.raises(InputError, match="model: "):
        case(tmp_path / "store", flip_average=True)


def test_only_views_change_the_models_digest():
    config = colour_histogram.get_config()
    config = build_run(config, make_mesh()).config
    before = model_digest(config, {})
    config.eval.update(_FIELDS)
    assert model_digest(config, {}) == before
    config.eval.flip_average = True
    flipped = model_digest(config, {})
    config.eval.five_crop_share = 0.5
    assert len({before, flipped, model_digest(config, {})}) == 3


def test_the_journal_knows_the_options(case, tmp_path, monkeypatch):
    keys = []

    def note(self, *args):
        keys.append(digest(self, *args))
        return keys[-1]

    digest = Evaluator._ranking_digest
    monkeypatch.setattr(Evaluator, "_ranking_digest", note)
    for fields in ({}, {"query_expansion": 2}, {"query_expansion": 3}, _FIELDS):
        case(tmp_path / "store", **fields)
    assert len(set(keys)) == 4


def test_a_task_without_the_split_is_refused(case, tiny_config):
    config = colour_histogram.get_config()
    config.data = tiny_config().data
    config.eval.update(whitening="train")
    run = build_run(config, make_mesh())
    task = make_task(input_pipeline.load_dataset(run.config.data), "test", run.config.data)
    with pytest.raises(InputError, match=r"eval\.whitening names a split"):
        Evaluator(run.matcher, run.config, run.mesh).evaluate({}, task)


def test_options_have_their_defaults_in_the_config():
    evaluation = colour_histogram.get_config().eval
    assert make_postprocessing(evaluation) == Postprocessing()
