"""Ranking against a naive one, over devices, chunks and kills."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from etils import epath

from configs import grnet
from grnet_jax.config import parse_config
from grnet_jax.evaluation.protocols import identical_rows, positive_rows, within_part
from grnet_jax.metrics import positive_ranks
from grnet_jax.models import Features, build_matcher
from grnet_jax.search import ranking
from grnet_jax.search.chunk_files import ChunkFiles
from grnet_jax.search.embed import embed_rows, host_rows, make_embed
from grnet_jax.search.features import FeatureSubset, InMemoryFeatures
from grnet_jax.search.fingerprints import Fingerprint
from grnet_jax.search.ranking import (
    ExhaustiveSearch,
    ItemImages,
    RankingResult,
    find,
    make_score,
    merge_rankings,
    rank,
    top_k,
)
from grnet_jax.search.store import FeatureStore
from grnet_jax.sharding import make_mesh
from grnet_jax.training.state import init_variables
from tests import FAST_COMPILING
from tests.search.cases import Dot, make_case, naive_order, naive_ranks, naive_scores

_ROOT = pathlib.Path(__file__).parents[2]


def _search(gallery, *, devices=8, top=5, **options):
    mesh = make_mesh(jax.devices()[:devices])
    return ExhaustiveSearch(make_score(Dot(), mesh)({}), gallery, mesh, top, **options)


def _same(one, two):
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(two, field.name))


@pytest.fixture(params=[(1, 512, 64), (8, 512, 7), (1, 8, 16), (8, 16, 64)])
def sizes(request, monkeypatch):
    """(devices, queries a chunk, gallery images a block), the latter two set."""
    devices, queries, images = request.param
    monkeypatch.setattr(ranking, "_CHUNK_QUERIES", queries)
    monkeypatch.setattr(ranking, "_EMBEDDING_ROWS", images)
    monkeypatch.setattr(ranking, "_QUERY_ROWS", 8 // devices)
    monkeypatch.setattr(ranking, "_MATRIX_ROWS", 9)
    return devices


def test_it_ranks_as_a_naive_ranking_whatever_the_chunks(sizes):
    query, gallery, positives = make_case()
    others = identical_rows(positives, np.random.default_rng(0).integers(0, 12, 35))
    assert others.shape[1] > positives.shape[1]
    seen = []
    search = _search(gallery, devices=sizes, progress=lambda pairs, _: seen.append(pairs))
    found = rank(search, query, positives, others)
    scores, _ = naive_scores(query, gallery)
    assert (scores[:, :, None] == scores[:, None]).sum() > scores.size  # there are ties
    for rows, ranks in ((positives, found.ranks), (others, found.other_ranks)):
        orders = [naive_order(*pair) for pair in zip(scores, [range(35)] * 21, rows, strict=True)]
        np.testing.assert_array_equal(ranks, naive_ranks(orders, rows))
    best = np.array([naive_order(row, range(35))[:5] for row in scores])
    np.testing.assert_array_equal(found.indices, best)
    np.testing.assert_array_equal(found.scores, np.take_along_axis(scores, best, axis=1))
    assert sum(seen) == scores.size


def test_numbers_of_all_kinds_rank_as_the_metric_has_them():
    """Real numbers, infinite ones and none."""
    query, gallery, positives = make_case(queries=24, gallery=40)
    rng = np.random.default_rng(0)
    for source in (query, gallery):
        source.features.embedding[:] = rng.standard_normal(source.features.embedding.shape)
    query.features.embedding[:, 0] = np.abs(query.features.embedding[:, 0])
    gallery.features.embedding[::7] = gallery.features.embedding[0]
    gallery.features.embedding[[3, 4, 11], 0] = np.nan, np.inf, -np.inf
    positives[:3, 0] = 3, 4, 11
    found = rank(_search(gallery, top=99), query, positives)
    scores = np.zeros((24, 40), np.float32)
    np.put_along_axis(scores, found.indices, found.scores, axis=1)  # all of them
    np.testing.assert_array_equal(found.ranks, positive_ranks(scores, positives))
    first = np.where(np.isnan(scores), np.inf, scores)
    np.testing.assert_array_equal(found.indices, [naive_order(row, range(40)) for row in first])


def test_of_equal_scores_the_lower_row_is_first_and_zeros_have_no_sign():
    scores = np.array([[0.0, -0.0, 1.0, -0.0, 0.0, np.nan]], np.float32)
    np.testing.assert_array_equal(top_k(scores, 99).indices, [[5, 2, 0, 1, 3, 4]])


def test_the_order_of_the_gallery_changes_nothing():
    query, gallery, positives = make_case(2)
    order = np.random.default_rng(0).permutation(35)
    moved = np.where(positives < 0, -1, np.argsort(order)[positives])
    one = rank(_search(gallery), query, positives)
    two = rank(_search(FeatureSubset(gallery, order)), query, moved)
    np.testing.assert_array_equal(one.ranks, two.ranks)
    np.testing.assert_array_equal(one.scores, two.scores)


def test_items_rank_by_their_best_image():
    """Images of one item, or of two; an item's competitors are items, equals before it."""
    query, gallery, positives = make_case(5)
    rng = np.random.default_rng(0)
    shown = np.stack([np.r_[np.arange(35), np.arange(35)], rng.integers(0, 9, 70)], axis=1)
    shown = np.unique(shown, axis=0)
    order = np.argsort(shown[:, 1], kind="stable")
    starts = np.unique(shown[order, 1], return_index=True)[1]
    own = rng.integers(-1, 9, 21)
    found = rank(_search(gallery), query, positives, items=ItemImages(shown[order, 0], starts, own))
    for row, item, place in zip(
        naive_scores(query, gallery)[0], own, found.item_ranks[:, 0], strict=True
    ):
        best = [max(row[g] for g, shows in shown if shows == one) for one in range(9)]
        others = sum(best[other] >= best[item] for other in range(9) if other != item)
        assert place == (0 if item < 0 else 1 + others)
    np.testing.assert_array_equal(found.ranks, rank(_search(gallery), query, positives).ranks)


def test_searching_finds_what_ranking_lists():
    query, gallery, positives = make_case(3)
    found, ranked = find(_search(gallery), query), rank(_search(gallery), query, positives)
    np.testing.assert_array_equal(found.indices, ranked.indices)
    np.testing.assert_array_equal(found.scores, ranked.scores)


class _Failing(InMemoryFeatures):
    """A source that gives out after some readings."""

    def take(self, rows):
        if not self.left:
            raise ConnectionError("gone")
        object.__setattr__(self, "left", self.left - 1)
        return super().take(rows)


@pytest.mark.parametrize("readings", [0, 2, 9])
def test_a_ranking_that_was_cut_off_goes_on(tmp_path, monkeypatch, readings):
    monkeypatch.setattr(ranking, "_CHUNK_QUERIES", 8)
    monkeypatch.setattr(ranking, "_QUERY_ROWS", 1)
    monkeypatch.setattr(ranking, "_EMBEDDING_ROWS", 8)  # five blocks a chunk, of three
    query, gallery, positives = make_case(4)
    options = {"other_positives": positives[:, ::-1]}
    whole = rank(_search(gallery), query, positives, **options)
    folder = epath.Path(tmp_path) / "ranking"
    cut = _Failing(gallery.features)
    object.__setattr__(cut, "left", readings)
    files = ChunkFiles(folder, "a")
    with pytest.raises(ConnectionError):
        rank(_search(cut), query, positives, files=files, **options)
    pairs = {True: 0, False: 0}

    def progress(count, before):
        pairs[before] += count

    search = _search(gallery, progress=progress)
    _same(whole, rank(search, query, positives, files=files, **options))
    assert pairs == {True: readings // 5 * 8 * 35, False: (21 - readings // 5 * 8) * 35}
    # A key of other models or images: nothing of the files is used.
    pairs.update({True: 0})
    other = ChunkFiles(folder, "b")
    _same(whole, rank(search, query, positives, files=other, **options))
    assert pairs[True] == 0
    other.remove()
    assert not folder.exists()


@pytest.mark.parametrize("length", [0, 9, 60, -30])
def test_a_damaged_chunk_is_computed_again(tmp_path, length):
    files = ChunkFiles(epath.Path(tmp_path), "a")
    files.save("x", {"ranks": np.arange(3)})
    np.testing.assert_array_equal(files.load("x")["ranks"], np.arange(3))
    path = tmp_path / "x.npz"
    path.write_bytes(path.read_bytes()[:length])
    assert files.load("x") is None
    assert ChunkFiles().load("x") is None


@pytest.mark.parametrize("processes", [2, 5])
def test_processes_share_the_queries(monkeypatch, processes):
    """Without communication: each process's part, and the parts side by side."""
    query, gallery, positives = make_case(1)
    whole = rank(_search(gallery), query, positives)
    parts = []
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    monkeypatch.setattr(ranking, "_gather", lambda array: parts.append(array) or array[None])
    for process in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        rank(_search(gallery), query, positives)
    ranks, indices, scores = (parts[number::3] for number in range(3))
    assert len({part.shape for part in ranks}) == 1  # as gathering needs them
    np.testing.assert_array_equal(np.concatenate(ranks)[:21, 0], whole.ranks)
    np.testing.assert_array_equal(np.concatenate(indices)[:21], whole.indices)
    np.testing.assert_array_equal(np.concatenate(scores)[:21], whole.scores)


def test_rankings_of_parts_are_those_of_masked_scores():
    """Against ranking everything at once, with other groups' images out of the competition."""
    rng = np.random.default_rng(0)
    queries, gallery = rng.integers(0, 3, 20), rng.integers(0, 3, 50)
    items, shop_items = rng.integers(0, 8, 20), rng.integers(0, 8, 50)
    same = (items[:, None] == shop_items) & (queries[:, None] == gallery)
    positives = np.array([np.pad(np.flatnonzero(row), (0, 50))[:50] for row in same])
    positives[np.arange(50)[None] >= same.sum(axis=1)[:, None]] = -1
    positives = positives[:, : same.sum(axis=1).max()]
    ranks_of = jax.jit(positive_ranks)
    scores = rng.normal(size=(20, 50)).astype(np.float32)
    masked = np.where(queries[:, None] == gallery, scores, -np.inf)
    parts = []
    for group in range(3):
        q, g = np.flatnonzero(queries == group), np.flatnonzero(gallery == group)
        own = scores[np.ix_(q, g)]
        ranks = np.asarray(ranks_of(own, within_part(positives[q], g)))
        best = top_k(own, 9)
        parts.append((RankingResult(best.indices, best.scores, ranks), q, g))
    merged = merge_rankings(parts, 20)
    np.testing.assert_array_equal(merged.ranks, ranks_of(masked, positives))
    np.testing.assert_array_equal(merged.indices, np.argsort(-masked, axis=1)[:, :9])


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_batches_side_by_side_are_all_rows_in_order(hosts):
    rows = np.arange(100, 121)
    parts = [host_rows(rows, 8, host, hosts).reshape(-1, 8 // hosts) for host in range(hosts)]
    together = np.concatenate(parts, axis=1).reshape(-1)
    np.testing.assert_array_equal(together[: len(rows)], rows)
    assert set(together[len(rows) :]) <= {120}


def _batches(images):
    def batches(rows, batch):
        for start in range(0, len(rows), batch):
            yield {"image": images[rows[start : start + batch]]}

    return batches


def test_embedding_keeps_the_order_and_drops_the_padding():
    images = np.random.default_rng(0).integers(0, 256, (13, 4, 4, 3), dtype=np.uint8)
    rows = np.array([5, 2, 11, 0, 12, 1, 7, 3, 9])
    mesh = make_mesh()
    embed = make_embed(Dot(), mesh)
    found = embed_rows(embed, {}, _batches(images), rows, batch=8, mesh=mesh)
    np.testing.assert_allclose(found.embedding, images[rows].mean(axis=(1, 2)), rtol=1e-5)


def test_grnet_ranks_alike_on_one_device_and_eight():
    config = grnet.get_config()
    config.model.node_dim, config.model.reasoning_dim = 16, 8
    matcher = build_matcher(parse_config(config).model)
    variables = init_variables(matcher, 32, seed=0)
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    found = []
    for devices in (1, 8):
        mesh = make_mesh(jax.devices()[:devices])
        embed = make_embed(matcher, mesh)
        how = {"rows": np.arange(40), "batch": 16, "mesh": mesh}
        features = InMemoryFeatures(embed_rows(embed, variables, _batches(images), **how))
        query, gallery = (FeatureSubset(features, r) for r in np.split(np.arange(40), 2))
        score = make_score(matcher, mesh)(variables)
        search = ExhaustiveSearch(score, gallery, mesh, 20)
        found.append(rank(search, query, np.arange(20)[:, None]))
    one, eight = found
    np.testing.assert_allclose(one.scores, eight.scores, rtol=1e-5)
    np.testing.assert_array_equal(one.ranks, eight.ranks)


def _shorten(change=setattr):
    """Eleven chunks, of three blocks of the gallery."""
    for name, size in (("_CHUNK_QUERIES", 2), ("_QUERY_ROWS", 2), ("_EMBEDDING_ROWS", 50)):
        change(ranking, name, size)


def _rank_stored(path, pause=0.0):
    """Ranks 21 queries among 150 stored images; also what the killed processes run."""
    rng = np.random.default_rng(1)
    features = rng.integers(-3, 4, (171, 4)).astype(np.float32)
    query, images = (InMemoryFeatures(Features(part)) for part in np.split(features, [21]))
    ids = np.array([str(number) for number in range(150)])
    origin = Fingerprint("m", 1, "p")
    store = FeatureStore(f"{path}/gallery.lance", origin, ids, query.features)
    missing = store.missing()
    if len(missing):
        with store.writer() as writer:
            writer.add(missing, images.take(missing))
    mesh = make_mesh(jax.devices()[:1])
    score = make_score(Dot(), mesh)({})

    def slow(*pair):
        time.sleep(pause)
        return score(*pair)

    before = []
    search = ExhaustiveSearch(
        slow, store.reader(), mesh, 7, lambda pairs, earlier: before.append(pairs * earlier)
    )
    positives = positive_rows(np.arange(21), np.arange(150) % 21)
    files = ChunkFiles(epath.Path(path) / "ranking", "key")
    return rank(search, query, positives, files=files), sum(before)


@pytest.mark.slow
def test_a_ranking_killed_at_any_moment_ends_as_if_it_never_was(tmp_path, monkeypatch):
    _shorten(monkeypatch.setattr)
    whole, _ = _rank_stored(tmp_path / "whole")
    killed = tmp_path / "killed"
    draw = np.random.default_rng(0)
    code = f"from {__name__} import _rank_stored, _shorten; _shorten(); "
    code += f"_rank_stored({str(killed)!r}, 0.1)"
    # A process killed while it writes to the compilation cache would spoil it for others.
    env = {"XLA_FLAGS": FAST_COMPILING, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    reached = [0]
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", code], cwd=_ROOT, env=os.environ | env)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if len(list(killed.glob("ranking/*.npz"))) > reached[-1]:
                break
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.2))
        assert process.poll() is None, "it ended before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        reached.append(len(list(killed.glob("ranking/*.npz"))))
    assert sorted(set(reached)) == reached  # each went on from where the last was killed
    found, before = _rank_stored(killed)
    assert 0 < before < 21 * 150
    _same(whole, found)
