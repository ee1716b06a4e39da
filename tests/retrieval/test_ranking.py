"""Ranking in blocks over devices, with a matcher whose answers are known."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest
from etils import epath

from configs import grnet
from grnet_jax.errors import InputError
from grnet_jax.metrics import calibration_sums, fine_edges, positive_ranks
from grnet_jax.models import Features, build_matcher
from grnet_jax.retrieval.embedding import embed_rows, host_rows, make_embed
from grnet_jax.retrieval.journal import Journal
from grnet_jax.retrieval.ranking import make_score, prepare_score, rank_all, score_blocks
from grnet_jax.retrieval.sources import HeldFeatures, Part
from grnet_jax.retrieval.tasks import identical_rows, positive_rows
from grnet_jax.sharding import make_mesh
from grnet_jax.training.state import init_variables


class InnerProduct(nn.Module):
    """Scores by the inner product; embeds a photo as its mean colour."""

    def embed(self, photos, train=False):
        return Features(descriptor=photos.mean(axis=(1, 2)))

    def score(self, query, gallery):
        return query.descriptor @ gallery.descriptor.T


def _case(seed=0, queries=21, gallery=35):
    rng = np.random.default_rng(seed)
    # Whole numbers: products are exact, and there are ties.
    query = Features(rng.integers(-3, 4, (queries, 4)).astype(np.float32))
    shop = Features(rng.integers(-3, 4, (gallery, 4)).astype(np.float32))
    return query, shop, rng.integers(0, 20, queries), rng.integers(0, 18, gallery)


def _rank(query, gallery, positives, *, devices=8, top=5, **choices):
    mesh = make_mesh(jax.devices()[:devices])
    return rank_all(
        make_score(InnerProduct(), mesh),
        {},
        HeldFeatures(query),
        gallery if hasattr(gallery, "take") else HeldFeatures(gallery),
        positives,
        mesh=mesh,
        top=top,
        **{"query_block": 8, "gallery_block": 8} | choices,
    )


def _sorted_rows(scores, k):
    """The k best rows of each query, best first; of equal scores the lower row is first."""
    return np.array([sorted(range(len(row)), key=lambda j: (-row[j], j))[:k] for row in scores])


def _same(one, two):
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(two, field.name))


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(
    ("query_block", "gallery_block", "held"), [(8, 16, 8), (16, 7, 1024), (32, 64, 32), (8, 5, 16)]
)
def test_blocks_and_devices_change_nothing(devices, query_block, gallery_block, held):
    query, gallery, query_items, gallery_items = _case()
    positives = positive_rows(query_items, gallery_items)
    seen = []
    found = _rank(
        query,
        gallery,
        positives,
        devices=devices,
        query_block=query_block,
        gallery_block=gallery_block,
        calibration_edges=fine_edges(15),
        held_queries=held,
        progress=lambda pairs, _: seen.append(pairs),
    )
    scores = query.descriptor @ gallery.descriptor.T
    assert (scores[:, :, None] == scores[:, None]).sum() > scores.size  # there are ties
    np.testing.assert_array_equal(found.ranks, positive_ranks(scores, positives))
    np.testing.assert_array_equal(found.top_rows, _sorted_rows(scores, 5))
    np.testing.assert_array_equal(
        np.take_along_axis(scores, found.top_rows, axis=1), found.top_scores
    )
    assert sum(seen) == scores.size
    wanted = calibration_sums(scores, query_items[:, None] == gallery_items, fine_edges(15))
    np.testing.assert_array_equal(found.calibration.counts, wanted.counts)
    np.testing.assert_array_equal(found.calibration.hits, wanted.hits)
    for one, other in zip(found.calibration, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_numbers_of_all_kinds_rank_as_they_do_all_at_once(seed):
    """Real numbers, infinite ones and none, against `positive_ranks` on the scores of one block."""
    query, gallery, query_items, gallery_items = _case(seed, queries=24, gallery=40)
    rng = np.random.default_rng(seed)
    for features in (query, gallery):
        features.descriptor[:] = rng.standard_normal(features.descriptor.shape)
    query.descriptor[:, 0] = np.abs(query.descriptor[:, 0])
    gallery.descriptor[::7] = gallery.descriptor[0]
    gallery.descriptor[3, 0], gallery.descriptor[4, 0], gallery.descriptor[11, 0] = (
        np.nan,
        np.inf,
        -np.inf,
    )
    gallery_items[[0, 3, 4, 7, 11]] = query_items[:5]
    positives = positive_rows(query_items, gallery_items)
    mesh = make_mesh()
    blocks = score_blocks(
        make_score(InnerProduct(), mesh), {}, query, gallery,
        query_block=8, gallery_block=8, mesh=mesh,
    )  # fmt: skip
    scores = np.concatenate([block for _, block in blocks])
    found = _rank(query, gallery, positives, top=40)
    np.testing.assert_array_equal(found.ranks, positive_ranks(scores, positives))
    first = np.where(np.isnan(scores), np.inf, scores)
    np.testing.assert_array_equal(found.top_rows, _sorted_rows(first, 40))


def test_other_positives_are_ranked_beside_the_first():
    query, gallery, query_items, gallery_items = _case(1)
    positives = positive_rows(query_items, gallery_items)
    content = np.random.default_rng(0).integers(0, 12, len(gallery_items))
    others = identical_rows(positives, content)
    assert others.shape[1] > positives.shape[1]
    scores = query.descriptor @ gallery.descriptor.T
    found = _rank(query, gallery, positives, other_positives=others, held_queries=8)
    np.testing.assert_array_equal(found.ranks, positive_ranks(scores, positives))
    np.testing.assert_array_equal(found.other_ranks, positive_ranks(scores, others))


def test_the_order_of_the_gallery_changes_nothing():
    query, gallery, query_items, gallery_items = _case(2)
    order = np.random.default_rng(0).permutation(len(gallery_items))
    shuffled = Features(gallery.descriptor[order])
    one = _rank(query, gallery, positive_rows(query_items, gallery_items))
    two = _rank(query, shuffled, positive_rows(query_items, gallery_items[order]))
    np.testing.assert_array_equal(one.ranks, two.ranks)
    np.testing.assert_array_equal(one.top_scores, two.top_scores)


def test_a_part_of_a_gallery_ranks_as_that_part_alone():
    query, gallery, query_items, gallery_items = _case(3)
    rows = np.flatnonzero(np.arange(35) % 3)
    positives = positive_rows(query_items, gallery_items[rows])
    one = _rank(query, Features(gallery.descriptor[rows]), positives)
    _same(one, _rank(query, Part(HeldFeatures(gallery), rows), positives))


class Failing(HeldFeatures):
    """A source that gives out after some blocks have been read in order."""

    left = 0

    def take(self, rows):
        if len(rows) > 1 and np.all(np.diff(rows) == 1):
            if self.left == 0:
                raise ConnectionError("gone")
            object.__setattr__(self, "left", self.left - 1)
        return super().take(rows)


@pytest.mark.parametrize("blocks", [0, 1, 3, 6, 8])
def test_a_ranking_that_was_cut_off_goes_on(tmp_path, blocks):
    query, gallery, query_items, gallery_items = _case(4)
    positives = positive_rows(query_items, gallery_items)
    path = epath.Path(tmp_path) / "ranking.npz"
    choices = {
        "held_queries": 16,
        "other_positives": positives[:, ::-1],
        "calibration_edges": fine_edges(15),
    }
    whole = _rank(query, gallery, positives, **choices)
    assert whole.calibration.counts.sum() == 21 * 35
    cut = Failing(gallery)
    object.__setattr__(cut, "left", blocks)
    with pytest.raises(ConnectionError):
        _rank(query, cut, positives, journal=Journal(path, "a", seconds=0), **choices)
    pairs = {True: 0, False: 0}

    def progress(count, before):
        pairs[before] += count

    journal = Journal(path, "a", seconds=0)
    _same(whole, _rank(query, gallery, positives, journal=journal, progress=progress, **choices))
    assert sum(pairs.values()) == 21 * 35
    assert (pairs[True] > 0) == (blocks > 0)
    # A key of other blocks, models or photos: nothing of the file is used.
    pairs = {True: 0, False: 0}
    other = Journal(path, "b", seconds=0)
    _same(whole, _rank(query, gallery, positives, journal=other, progress=progress, **choices))
    assert pairs[True] == 0
    other.remove()
    assert not path.exists()


@pytest.mark.parametrize("content", [b"nothing", b""])
def test_a_damaged_journal_is_passed_over(tmp_path, content):
    path = epath.Path(tmp_path) / "ranking.npz"
    journal = Journal(path, "a", seconds=0)
    journal.keep("x", lambda: {"position": np.array(3)})
    assert Journal(path, "a").find("x")["position"] == 3
    whole = path.read_bytes()
    for damaged in (content, whole[:-30], whole[:60]):
        path.write_bytes(damaged)
        assert Journal(path, "a").find("x") is None


def test_scores_that_depend_on_the_place_are_told_of(caplog):
    class Uneven(InnerProduct):
        def score(self, query, gallery):
            scores = query.descriptor @ gallery.descriptor.T
            return scores + 1e-3 * np.arange(scores.shape[1])

    query, gallery, query_items, gallery_items = _case()
    mesh = make_mesh()
    rank_all(
        make_score(Uneven(), mesh), {}, HeldFeatures(query), HeldFeatures(gallery),
        positive_rows(query_items, gallery_items), query_block=8, gallery_block=8, top=1, mesh=mesh,
    )  # fmt: skip
    assert "scored differently" in caplog.text


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_batches_side_by_side_are_all_rows_in_order(hosts):
    rows = np.arange(100, 121)
    parts = [host_rows(rows, 8, host, hosts).reshape(-1, 8 // hosts) for host in range(hosts)]
    together = np.concatenate(parts, axis=1).reshape(-1)
    np.testing.assert_array_equal(together[: len(rows)], rows)
    assert set(together[len(rows) :]) <= {120}


def test_embedding_keeps_the_order_and_drops_the_padding():
    photos = np.random.default_rng(0).integers(0, 256, (13, 4, 4, 3), dtype=np.uint8)
    mesh = make_mesh()

    def batches(rows, batch):
        for start in range(0, len(rows), batch):
            yield {"photo": photos[rows[start : start + batch]]}

    rows = np.array([5, 2, 11, 0, 12, 1, 7, 3, 9])
    found = embed_rows(make_embed(InnerProduct(), mesh), {}, batches, rows, batch=8, mesh=mesh)
    np.testing.assert_allclose(found.descriptor, photos[rows].mean(axis=(1, 2)), rtol=1e-5)


def test_a_block_that_devices_cannot_share_is_named():
    query, gallery, query_items, gallery_items = _case()
    with pytest.raises(InputError, match=r"eval\.query_block: 12 cannot"):
        _rank(query, gallery, positive_rows(query_items, gallery_items), query_block=12)


def test_grnet_ranks_alike_on_one_device_and_eight():
    config = grnet.get_config()
    config.model.node_dim, config.model.reasoning_dim = 16, 8
    matcher = build_matcher(config.model)
    variables = init_variables(matcher, 32, seed=0)
    photos = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    found = []
    for devices in (1, 8):
        mesh = make_mesh(jax.devices()[:devices])
        features = embed_rows(
            make_embed(matcher, mesh),
            variables,
            lambda rows, batch: (
                {"photo": photos[rows[i : i + batch]]} for i in range(0, len(rows), batch)
            ),
            np.arange(40),
            batch=16,
            mesh=mesh,
        )
        query, gallery = (
            jax.tree.map(lambda x, r=r: x[r], features) for r in np.split(np.arange(40), 2)
        )
        found.append(
            rank_all(
                make_score(matcher, mesh),
                prepare_score(matcher, variables, mesh),
                HeldFeatures(query),
                HeldFeatures(gallery),
                positive_rows(np.arange(20), np.arange(20)),
                query_block=8,
                gallery_block=8,
                top=20,
                mesh=mesh,
            )
        )
    one, eight = found
    np.testing.assert_allclose(one.top_scores, eight.top_scores, rtol=1e-5)
    np.testing.assert_array_equal(one.ranks, eight.ranks)
