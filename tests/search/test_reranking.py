"""The cascade against a naive one, over devices, stores, processes and kills."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from grnet_jax.evaluation.protocols import identical_rows
from grnet_jax.search import ranking, reranking
from grnet_jax.search.chunk_files import ChunkFiles
from grnet_jax.search.fingerprints import Fingerprint
from grnet_jax.search.ranking import ExhaustiveSearch, make_score, rank
from grnet_jax.search.reranking import CascadeSearch, lift_scores, make_cascade_scores
from grnet_jax.search.store import FeatureStore
from grnet_jax.sharding import make_mesh
from tests.search.cases import OfRegions, make_case, naive_order, naive_ranks, naive_scores


def _search(gallery, size, *, devices=8, top=5, **options):
    mesh = make_mesh(jax.devices()[:devices])
    scores = make_cascade_scores(OfRegions(), mesh)({})
    return CascadeSearch(scores, gallery, mesh, size, top, **options)


def _naive(query, gallery, positives, size, shortlists=None):
    """Ranks, and the shortlists in order, one query and one image after the other."""
    products, scores = naive_scores(query, gallery)
    everything = range(products.shape[1])
    orders, lists = [], []
    for q, rows in enumerate(positives):
        short = naive_order(products[q], everything)[:size]
        if shortlists is not None:
            short = shortlists[q]
        rest = set(everything) - set(short)
        orders.append(naive_order(scores[q], short, rows) + naive_order(products[q], rest, rows))
        lists.append(naive_order(scores[q], short))
    return naive_ranks(orders, positives), np.array(lists)


def _same(one, two):
    for field in ("ranks", "other_ranks", "indices", "scores"):
        np.testing.assert_array_equal(getattr(one, field), getattr(two, field))


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(
    ("size", "queries", "images", "listed"), [(1, 512, 64, 64), (5, 16, 3, 2), (20, 8, 64, 12)]
)
def test_it_ranks_as_a_naive_cascade(monkeypatch, devices, size, queries, images, listed):
    monkeypatch.setattr(ranking, "_CHUNK_QUERIES", queries)
    monkeypatch.setattr(ranking, "_EMBEDDING_ROWS", images)
    monkeypatch.setattr(reranking, "_LIST_ROWS", listed)
    query, gallery, positives = make_case(regions=True)
    others = identical_rows(positives, np.random.default_rng(0).integers(0, 12, 35))
    scored, compared = [], []
    search = _search(
        gallery, size, devices=devices,
        progress=lambda pairs, _: scored.append(pairs),
        compared=lambda pairs, _: compared.append(pairs),
    )  # fmt: skip
    found = rank(search, query, positives, others)
    ranks, lists = _naive(query, gallery, positives, size)
    assert (ranks > size).any()
    assert ((ranks > 0) & (ranks <= size)).any()
    np.testing.assert_array_equal(found.ranks, ranks)
    np.testing.assert_array_equal(found.other_ranks, _naive(query, gallery, others, size)[0])
    np.testing.assert_array_equal(found.indices, lists[:, :5])
    scores = np.take_along_axis(naive_scores(query, gallery)[1], found.indices, axis=1)
    np.testing.assert_array_equal(found.scores, scores)
    assert (sum(scored), sum(compared)) == (21 * size, 21 * 35)


@pytest.mark.parametrize("size", [35, 100])
def test_a_shortlist_of_the_whole_gallery_ranks_as_all_pairs_do(size):
    query, gallery, positives = make_case(1, regions=True)
    gallery.features.regions[[3, 8]] = np.nan
    positives[0, 0] = 3
    mesh = make_mesh()
    everything = ExhaustiveSearch(make_score(OfRegions(), mesh)({}), gallery, mesh, 9)
    wanted = rank(everything, query, positives)
    _same(wanted, rank(_search(gallery, size, top=9), query, positives))


def test_lifted_scores_keep_their_order_and_ties():
    products = np.array([[5.0, -3.0, 1000.0, 0.5, 7.0]], np.float32)
    scores = np.array([[np.nan, -0.0, 0.0, -9.0]], np.float32)
    lift_scores(products, np.array([[4, 0, 2, 3]]), scores)
    assert np.isnan(products[0, 4])
    assert products[0, 0] == products[0, 2] > products[0, 3] > 1000 > products[0, 1] == -3


@pytest.mark.parametrize("seed", range(2))
def test_ranks_behind_a_shortlist_that_misses_some_of_the_best(monkeypatch, seed):
    """As `approx_max_k` on an accelerator may."""
    query, gallery, positives = make_case(seed, regions=True)
    listed = np.random.default_rng(seed).random(35) < 0.6  # for all queries alike
    assert listed.sum() > 10

    def some(keys, count, recall_target):
        assert recall_target == 0.5
        return jax.lax.top_k(jnp.where(listed, keys, -jnp.inf), count)

    monkeypatch.setattr(jax.lax, "approx_max_k", some)
    ranking._top_indices.clear_cache()
    found = rank(_search(gallery, 10, recall=0.5), query, positives)
    ranking._top_indices.clear_cache()
    # In a naive cascade the others are in no shortlist either.
    lowered = np.where(listed, naive_scores(query, gallery)[0], -1e9)
    short = [naive_order(row, range(35))[:10] for row in lowered]
    ranks, _ = _naive(query, gallery, positives, 10, short)
    np.testing.assert_array_equal(found.ranks, ranks)


def test_an_approximate_shortlist_still_orders_the_whole_gallery():
    query, gallery, _ = make_case(4, regions=True)
    everything = np.tile(np.arange(35), (21, 1))  # all are positives: ranks are all places
    found = rank(_search(gallery, 6, recall=0.3), query, everything)
    np.testing.assert_array_equal(found.ranks, np.tile(np.arange(1, 36), (21, 1)))


@dataclasses.dataclass(frozen=True)
class _Failing:
    """A source that gives out after so many readings, of embeddings and of all together."""

    source: object
    left: list

    def __len__(self):
        return len(self.source)

    def take(self, rows):
        if not self.left[0]:
            raise ConnectionError("gone")
        self.left[0] -= 1
        return self.source.take(rows)

    def embeddings(self):
        return _Failing(self.source.embeddings(), self.left)


@pytest.mark.parametrize("readings", [1, 3, 5])
def test_a_cascade_that_was_cut_off_goes_on(tmp_path, monkeypatch, readings):
    monkeypatch.setattr(ranking, "_CHUNK_QUERIES", 8)
    monkeypatch.setattr(ranking, "_QUERY_ROWS", 1)  # two readings a chunk, of three
    query, gallery, positives = make_case(6, regions=True)
    others = positives[:, ::-1]
    whole = rank(_search(gallery, 20), query, positives, others)
    files = ChunkFiles(epath.Path(tmp_path) / "ranking", "a")
    cut = _search(_Failing(gallery, [readings]), 20)
    with pytest.raises(ConnectionError):
        rank(cut, query, positives, others, files=files)
    pairs = {True: 0, False: 0}

    def progress(count, before):
        pairs[before] += count

    search = _search(gallery, 20, progress=progress)
    _same(whole, rank(search, query, positives, others, files=files))
    done = readings // 2 * 8
    assert pairs == {True: done * 20, False: (21 - done) * 20}


def test_a_store_ranks_as_memory_does(tmp_path):
    query, gallery, positives = make_case(7, regions=True)
    ids = np.array([str(number) for number in range(35)])
    origin = Fingerprint("m", 1, "p")
    store = FeatureStore(tmp_path / "gallery.lance", origin, ids, gallery.features)
    with store.writer() as writer:
        writer.add(np.arange(35)[::-1].copy(), gallery.take(np.arange(35)[::-1]))
    reader = store.reader()
    one, two = (rank(_search(source, 9), query, positives) for source in (gallery, reader))
    _same(one, two)
    assert reader.embeddings().take(np.array([4])).regions is None
