"""The cascade against a naive one, over devices, stores, groups and kills."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

import input_pipeline
from configs import colour_histogram
from grnet_jax.errors import InputError
from grnet_jax.models import Features, Scoring
from grnet_jax.retrieval.cascade import (
    Shortlist,
    _SecondStage,
    make_cascade_scores,
    make_shortlist,
    rank_cascade,
)
from grnet_jax.retrieval.counting import NO_ROW
from grnet_jax.retrieval.evaluation import Evaluator
from grnet_jax.retrieval.journal import Journal
from grnet_jax.retrieval.ranking import make_score, rank_all
from grnet_jax.retrieval.report import format_table, results_dict
from grnet_jax.retrieval.sources import Distinct, HeldFeatures, Part
from grnet_jax.retrieval.store import FeatureStore, Origin
from grnet_jax.retrieval.tasks import identical_rows, make_task, positive_rows
from grnet_jax.sharding import make_mesh
from grnet_jax.training.setup import build_run

_FIELDS = ("ranks", "other_ranks", "top_rows", "top_scores")


class OfRegions(nn.Module):
    """Scores regions, and nothing of the descriptors."""

    def score(self, query, gallery):
        return jnp.einsum("qrc,grc->qg", query.regions, gallery.regions)


def _case(seed=0, queries=21, gallery=35):
    """Whole numbers: products are exact, and there are ties in both stages."""
    rng = np.random.default_rng(seed)

    def features(n):
        return Features(
            rng.integers(-2, 3, (n, 4)).astype(np.float32),
            rng.integers(-2, 3, (n, 2, 3)).astype(np.float32),
        )

    query, shop = features(queries), features(gallery)
    return query, shop, rng.integers(0, 12, queries), rng.integers(0, 12, gallery)


def _numbers(query, gallery):
    """Both stages' scores in float64."""
    query, gallery = (jax.tree.map(np.float64, part) for part in (query, gallery))
    products = query.descriptor @ gallery.descriptor.T
    return products, np.einsum("qrc,grc->qg", query.regions, gallery.regions)


def _rank(query, gallery, positives, size, *, devices=8, top=5, recall=1.0, **choices):
    mesh = make_mesh(jax.devices()[:devices])
    return rank_cascade(
        make_cascade_scores(OfRegions(), mesh, Scoring()),
        {},
        HeldFeatures(query),
        gallery if hasattr(gallery, "take") else HeldFeatures(gallery),
        positives,
        shortlist=Shortlist(size, recall),
        top=top,
        mesh=mesh,
        **{"query_block": 8, "gallery_block": 8} | choices,
    )


def _naive(products, scores, positives, size):
    """Ranks, and rows in order, by sorting: one query after the other, one photo after the other.

    Among equals the positives are last.
    """
    ranks, rows = [], []
    for q, wanted in enumerate(positives):
        wanted = {row for row in wanted if row >= 0}
        everything = range(products.shape[1])
        by_products = sorted(everything, key=lambda g, q=q: (-products[q, g], g))
        short, rest = by_products[:size], by_products[size:]
        order = sorted(short, key=lambda g, q=q, w=wanted: (-scores[q, g], g in w, g))
        order += sorted(rest, key=lambda g, q=q, w=wanted: (-products[q, g], g in w, g))
        found = [place for place, g in enumerate(order, start=1) if g in wanted]
        ranks.append(found + [0] * (positives.shape[1] - len(found)))
        rows.append(sorted(short, key=lambda g, q=q: (-scores[q, g], g)))
    return np.array(ranks), np.array(rows)


def _same(one, two):
    for name in _FIELDS:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(
    ("size", "query_block", "gallery_block", "held"),
    [(1, 8, 8, 1024), (5, 16, 3, 16), (12, 8, 5, 8), (34, 32, 64, 32), (12, 24, 12, 1024)],
)
def test_it_ranks_as_a_naive_cascade(devices, size, query_block, gallery_block, held):
    query, gallery, query_items, gallery_items = _case()
    positives = positive_rows(query_items, gallery_items)
    scored, compared = [], []
    found = _rank(
        query, gallery, positives, size, devices=devices, query_block=query_block,
        gallery_block=gallery_block, held_queries=held,
        progress=lambda pairs, _: scored.append(pairs),
        shortlisted=lambda pairs, _: compared.append(pairs),
    )  # fmt: skip
    products, scores = _numbers(query, gallery)
    ranks, rows = _naive(products, scores, positives, size)
    assert (ranks > size).any()
    assert ((ranks > 0) & (ranks <= size)).any()
    np.testing.assert_array_equal(found.ranks, ranks)
    np.testing.assert_array_equal(found.top_rows, rows[:, :5])
    np.testing.assert_array_equal(
        found.top_scores, np.take_along_axis(scores, found.top_rows, axis=1)
    )
    assert (sum(scored), sum(compared)) == (21 * size, 21 * 35)


@pytest.mark.parametrize("size", [35, 100])
def test_a_shortlist_of_the_whole_gallery_ranks_as_all_pairs_do(size):
    query, gallery, query_items, gallery_items = _case(1)
    positives = positive_rows(query_items, gallery_items)
    others = identical_rows(positives, np.random.default_rng(0).integers(0, 12, 35))
    mesh = make_mesh()
    wanted = rank_all(
        make_score(OfRegions(), mesh), {}, HeldFeatures(query), HeldFeatures(gallery), positives,
        query_block=8, gallery_block=8, top=9, mesh=mesh, other_positives=others,
    )  # fmt: skip
    _same(wanted, _rank(query, gallery, positives, size, top=9, other_positives=others))


def test_other_positives_are_ranked_beside_the_first():
    query, gallery, query_items, gallery_items = _case(2)
    positives = positive_rows(query_items, gallery_items)
    others = identical_rows(positives, np.random.default_rng(0).integers(0, 9, 35))
    assert others.shape[1] > positives.shape[1]
    found = _rank(query, gallery, positives, 10, other_positives=others, held_queries=8)
    products, scores = _numbers(query, gallery)
    np.testing.assert_array_equal(found.ranks, _naive(products, scores, positives, 10)[0])
    np.testing.assert_array_equal(found.other_ranks, _naive(products, scores, others, 10)[0])


def test_the_order_of_the_gallery_changes_nothing():
    query, gallery, query_items, gallery_items = _case(3)
    rng = np.random.default_rng(0)
    gallery.descriptor[:] = rng.standard_normal(gallery.descriptor.shape)  # without ties, that is
    order = rng.permutation(35)
    shuffled = HeldFeatures(gallery).take(order)
    one = _rank(query, gallery, positive_rows(query_items, gallery_items), 9)
    two = _rank(query, shuffled, positive_rows(query_items, gallery_items[order]), 9)
    np.testing.assert_array_equal(one.ranks, two.ranks)
    np.testing.assert_array_equal(one.top_scores, two.top_scores)


@pytest.mark.parametrize("recall", [0.3, 0.95])
def test_an_approximate_shortlist_still_orders_the_whole_gallery(recall):
    query, gallery, _, _ = _case(4)
    everything = np.tile(np.arange(35), (21, 1))  # all are positives: ranks are all places
    found = _rank(query, gallery, everything, 6, recall=recall)
    np.testing.assert_array_equal(found.ranks, np.tile(np.arange(1, 36), (21, 1)))


@pytest.mark.parametrize("seed", range(4))
def test_ranks_behind_a_shortlist_that_misses_some_of_the_best(monkeypatch, seed):
    """As `approx_max_k` on an accelerator may; it may also find too few."""
    query, gallery, query_items, gallery_items = _case(seed)
    positives = positive_rows(query_items, gallery_items)
    products, scores = _numbers(query, gallery)
    rng = np.random.default_rng(seed)
    keep = rng.random(35) < 0.6  # for all queries alike

    def some(keys, count, recall_target):
        assert recall_target == 0.5
        return jax.lax.top_k(jnp.where(keep, keys, -jnp.inf), count)

    monkeypatch.setattr(jax.lax, "approx_max_k", some)
    jax.clear_caches()
    found = _rank(query, gallery, positives, 10, recall=0.5)
    jax.clear_caches()
    kept = np.flatnonzero(keep)
    assert len(kept) > 10
    # In a naive cascade the others are in no shortlist either.
    lowered = np.where(keep, products, -1e9)
    short = np.array([sorted(range(35), key=lambda g, q=q: (-lowered[q, g], g))[:10]
                      for q in range(21)])  # fmt: skip
    for q, wanted in enumerate(positives):
        wanted = {row for row in wanted if row >= 0}
        rest = set(range(35)) - set(short[q])
        order = sorted(short[q], key=lambda g, q=q, w=wanted: (-scores[q, g], g in w))
        order += sorted(rest, key=lambda g, q=q, w=wanted: (-products[q, g], g in w))
        ranks = [place for place, g in enumerate(order, start=1) if g in wanted]
        assert found.ranks[q, : len(ranks)].tolist() == ranks
        assert not found.ranks[q, len(ranks) :].any()


def test_numbers_that_are_none_stand_where_all_pairs_have_them():
    query, gallery, query_items, gallery_items = _case(5)
    gallery.regions[[3, 8]] = np.nan
    gallery_items[3] = query_items[0]
    positives = positive_rows(query_items, gallery_items)
    mesh = make_mesh()
    wanted = rank_all(
        make_score(OfRegions(), mesh), {}, HeldFeatures(query), HeldFeatures(gallery), positives,
        query_block=8, gallery_block=8, top=5, mesh=mesh,
    )  # fmt: skip
    _same(wanted, _rank(query, gallery, positives, 35))
    gallery.descriptor[[3, 9]] = np.nan  # first in every shortlist, and last among positives
    found = _rank(query, gallery, positives, 34)
    for ranks, wanted in zip(found.ranks, positives, strict=True):
        ranks = ranks[ranks > 0]
        assert len(set(ranks.tolist())) == len(ranks) == (wanted >= 0).sum()
    assert found.ranks.max() <= 35


@dataclasses.dataclass(frozen=True)
class _Failing:
    """A source that gives out after so many readings, of descriptors and of all together."""

    source: HeldFeatures
    left: list

    def __len__(self):
        return len(self.source)

    def take(self, rows):
        if not self.left[0]:
            raise ConnectionError("gone")
        self.left[0] -= 1
        return self.source.take(rows)

    def descriptors(self):
        return _Failing(self.source.descriptors(), self.left)


@pytest.mark.parametrize("readings", [0, 2, 4, 5, 8, 12, 13])
def test_a_cascade_that_was_cut_off_goes_on(tmp_path, readings):
    query, gallery, query_items, gallery_items = _case(6)
    positives = positive_rows(query_items, gallery_items)
    choices = {"held_queries": 16, "other_positives": positives[:, ::-1]}
    whole = _rank(query, gallery, positives, 20, **choices)
    path = epath.Path(tmp_path) / "ranking.npz"
    cut = _Failing(HeldFeatures(gallery), [readings])
    with pytest.raises(ConnectionError):
        _rank(query, cut, positives, 20, journal=Journal(path, "a", seconds=0), **choices)
    pairs = {(stage, before): 0 for stage in ("scored", "compared") for before in (True, False)}

    def progress(stage, count, before):
        pairs[stage, before] += count

    journal = Journal(path, "a", seconds=0)
    found = _rank(
        query, gallery, positives, 20, journal=journal,
        progress=lambda *of: progress("scored", *of),
        shortlisted=lambda *of: progress("compared", *of), **choices,
    )  # fmt: skip
    _same(whole, found)
    assert pairs["scored", True] + pairs["scored", False] == 21 * 20
    assert pairs["compared", True] + pairs["compared", False] == 21 * 35
    assert (pairs["compared", True] > 0) == (readings > 2)
    assert (pairs["scored", True] > 0) == (readings > 6)
    assert journal.find("cascade-0") is not None
    assert journal.find("cascade-0-shortlist") is None  # what is done takes no room


class _Killed(Journal):
    """Ends when a part's ranks are about to be written."""

    def keep(self, name, *rest, **options):
        if name == "cascade-0":
            raise ConnectionError("gone")
        super().keep(name, *rest, **options)


def test_a_cascade_that_was_cut_off_after_its_last_scores_goes_on(tmp_path):
    query, gallery, query_items, gallery_items = _case(6)
    positives = positive_rows(query_items, gallery_items)
    whole = _rank(query, gallery, positives, 20)
    path = epath.Path(tmp_path) / "ranking.npz"
    with pytest.raises(ConnectionError):
        _rank(query, gallery, positives, 20, journal=_Killed(path, "a", seconds=0))
    journal = Journal(path, "a", seconds=0)
    assert len(journal.find("cascade-0-scores")["scores"]) == len(query.descriptor)
    _same(whole, _rank(query, gallery, positives, 20, journal=journal))


def test_a_photo_is_read_once_however_often_it_is_wanted():
    asked = []

    class Counting(HeldFeatures):
        def take(self, rows):
            asked.append(rows.tolist())
            return super().take(rows)

    _, gallery, _, _ = _case()
    rows = np.array([7, 3, 3, 34, 0, 7])
    found = Distinct(Counting(gallery)).take(rows)
    assert asked == [[0, 3, 7, 34]]
    for one, two in zip(
        jax.tree.leaves(found), jax.tree.leaves(HeldFeatures(gallery).take(rows)), strict=True
    ):
        np.testing.assert_array_equal(one, two)
    alone = Distinct(Part(Counting(gallery), np.arange(4, 9))).descriptors()
    np.testing.assert_array_equal(alone.take(rows[:1] - 6).descriptor, gallery.descriptor[[5]])
    assert len(alone) == 5
    assert alone.take(np.array([0])).regions is None


def test_a_store_ranks_as_memory_does(tmp_path):
    query, gallery, query_items, gallery_items = _case(7)
    positives = positive_rows(query_items, gallery_items)
    ids = np.array([str(number) for number in range(35)])
    store = FeatureStore(tmp_path / "gallery.lance", Origin("m", 1, "p"), ids, gallery)
    with store.writer() as writer:
        writer.add(np.arange(35)[::-1].copy(), HeldFeatures(gallery).take(np.arange(35)[::-1]))
    reader = store.reader()
    _same(_rank(query, gallery, positives, 9), _rank(query, reader, positives, 9))
    assert reader.descriptors().take(np.array([4])).regions is None


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_read_their_own_queries_lists(monkeypatch, processes):
    lists = np.arange(1, 21 * 10 + 1).reshape(21, 10)
    stage = _SecondStage(None, None, HeldFeatures(_case()[1]), 8, 4, None, Journal(), None)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    orders = []
    for process in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        width, order = stage._reading_order(lists, 8)
        assert width == 4  # of 10 in three parts
        orders.append(order.reshape(2, 3, 8 // processes, 4))
    whole = np.concatenate(orders, axis=2)
    for block in range(2):
        for part in range(3):
            for query in range(8):
                for column in range(4):
                    q, n = 8 + 8 * block + query, 4 * part + column
                    wanted = lists[q, n] if q < 21 and n < 10 else 0
                    assert whole[block, part, query, column] == wanted


@pytest.fixture(scope="module")
def tiny(tiny_config):
    """A config, the run's variables and the data set."""
    config = tiny_config()
    config.eval.count_identical = True
    run = build_run(config, make_mesh())
    return run.config, run, run.create_state().variables, input_pipeline.load_dataset(config.data)


def _evaluate(tiny, same_category=False, **fields):
    config, run, variables, dataset = tiny
    config = config.copy_and_resolve_references()
    store = fields.pop("store", "")
    config.eval.update(fields)
    task = make_task(dataset, "test", config.data, gallery="all", same_category=same_category)
    return Evaluator(run.matcher, config, run.mesh).evaluate(variables, task, store=store)


@pytest.mark.parametrize("same_category", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_shortlist_as_long_as_the_gallery_changes_no_figure(tiny, same_category):
    one = _evaluate(tiny, same_category)
    two = _evaluate(tiny, same_category, shortlist=44)
    _same(one.ranking, two.ranking)
    assert (two.calibration.pairs, two.share_scored) == (one.calibration.pairs, 1)


@pytest.mark.parametrize("same_category", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_grnet_by_the_cascade(tiny, tmp_path, same_category):
    """Its own scores and descriptors, and the naive cascade's order of them."""
    config, run, variables, _ = tiny
    size = 2 if same_category else 10
    found = _evaluate(tiny, same_category, shortlist=size, keep_top=44)
    stored = _evaluate(
        tiny, same_category, shortlist=size, keep_top=44, store=str(tmp_path / "store")
    )
    _same(found.ranking, stored.ranking)
    task = found.task
    features = [
        Evaluator(run.matcher, config, run.mesh).features(variables, task, rows, what, "", 0)
        for what, rows in (("queries", task.query_rows), ("gallery", task.gallery_rows))
    ]
    query, gallery = (part.take(np.arange(len(part))) for part in features)
    scores = run.matcher.apply(variables, query, gallery, method="score")
    short = 0
    for group in task.groups:
        products = query.descriptor[group.queries] @ gallery.descriptor[group.gallery].T
        ours = np.asarray(scores)[np.ix_(group.queries, group.gallery)]
        places = np.searchsorted(group.gallery, task.positives[group.queries])
        inside = np.isin(task.positives[group.queries], group.gallery)
        wanted = np.where(inside, places, -1)
        ranks, rows = _naive(products, ours, wanted, size)
        np.testing.assert_array_equal(
            found.ranking.ranks[group.queries][:, : ranks.shape[1]], ranks
        )
        n = rows.shape[1]
        np.testing.assert_array_equal(
            found.ranking.top_rows[group.queries][:, :n], group.gallery[rows]
        )
        np.testing.assert_allclose(
            found.ranking.top_scores[group.queries][:, :n],
            np.take_along_axis(ours, rows, axis=1),
            rtol=1e-4,
            atol=1e-5,
        )
        short += n * len(group.queries)
    pairs = sum(len(group.queries) * len(group.gallery) for group in task.groups)
    assert found.share_scored == short / pairs < 1
    assert found.calibration is None
    assert found.figures["all"].best_match is not None


def test_reports_say_what_was_scored(tiny):
    found = _evaluate(tiny, shortlist=11)
    assert "each query's 11 first by descriptors, 25.0% of all pairs" in format_table(found)
    results = results_dict(found, "grnet", 3)
    assert (results["shortlist"], results["share_scored"]) == (11, 0.25)
    plain = results_dict(_evaluate(tiny), "grnet", 3)
    assert (plain["shortlist"], plain["share_scored"]) == (0, 1)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("shortlist", -1, r"eval\.shortlist: expected 0 or more, got -1"),
        ("shortlist_recall", 0.0, r"eval\.shortlist_recall: expected more than 0, up to 1, got 0"),
        ("shortlist_recall", 1.5, r"eval\.shortlist_recall: .* got 1\.5"),
        ("shortlist_recall", 0.9, r"eval\.shortlist_recall=0\.9: .* without eval\.shortlist"),
    ],
)
def test_bad_fields_are_named(tiny_config, field, value, message):
    config = tiny_config()
    config.eval[field] = value
    with pytest.raises(InputError, match=message):
        build_run(config, make_mesh())


def test_a_matcher_that_scores_descriptors_needs_no_cascade():
    config = colour_histogram.get_config()
    config.eval.shortlist = 5
    with pytest.raises(InputError, match=r"eval\.shortlist=5: .* inner product of descriptors"):
        build_run(config, make_mesh())
    assert make_shortlist(config.eval, OfRegions()) == Shortlist(5)
    assert NO_ROW > 2**30
