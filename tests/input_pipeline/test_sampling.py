"""Which pairs a step holds."""

import numpy as np
import pytest

from input_pipeline import DatasetError, PhotoIndex, steps_per_epoch
from input_pipeline.datasets.records import NO_LANDMARKS
from input_pipeline.index import IndexBuilder, build_indices
from input_pipeline.sampling import ImageSampler, ItemSampler, PairSampler, Sampler
from tests.input_pipeline.conftest import make_data


def make_index(photos: list[tuple[str, int]]) -> PhotoIndex:
    """An index of photos (item, domain)."""
    builder = IndexBuilder()
    for number, (item, domain) in enumerate(photos):
        builder.add(
            item_id=item,
            category="",
            photo_id=str(number),
            domain=domain,
            view=-1,
            occluded=-1,
            cropped=-1,
            box=(0, 0, 1, 1),
            size=(1, 1),
            resize_scale=1.0,
            content_digest=bytes([number]) * 16,
            clothes_type=-1,
            landmarks=NO_LANDMARKS,
            attributes=(),
            unknown_attributes=(),
        )
    return build_indices({"train": builder})["train"]


# 7 pairs: a has 2 x 2, b has none, c has 1 x 1, d has 2 x 1
PHOTOS = [
    ("a", 1), ("b", 0), ("a", 0), ("c", 0), ("a", 0), ("d", 1), ("c", 1), ("a", 1), ("d", 0),
    ("d", 0), ("e", 1),
]  # fmt: skip


class FakeSplit:
    name = "train"

    def __init__(self, index: PhotoIndex):
        self.index = index


def rows_of(sampler: Sampler, steps: range, batch: int, hosts: int = 1) -> np.ndarray:
    plans = [
        sampler.plan(step, batch_size=batch, host=host, hosts=hosts)
        for step in steps
        for host in range(hosts)
    ]
    return np.concatenate([plan.rows for plan in plans])


def test_pairs_are_all_combinations():
    index = make_index(PHOTOS)
    expected = {(2, 0), (2, 7), (4, 0), (4, 7), (3, 6), (8, 5), (9, 5)}
    assert {tuple(pair) for pair in index.pairs.tolist()} == expected
    assert len(index.pairs) == 7
    assert index.pairs.dtype == np.int32
    assert index.items[index.paired_items].tolist() == ["a", "c", "d"]
    assert index.counts()["queries_without_match"] == 1


def test_every_epoch_holds_every_pair_once():
    index = make_index(PHOTOS)
    dealt = rows_of(PairSampler(index, "pairs", seed=3), range(7), batch=2)  # two epochs of 7
    for epoch in (dealt[:7], dealt[7:]):
        assert sorted(map(tuple, epoch)) == sorted(map(tuple, index.pairs))
    assert (dealt[:7] != dealt[7:]).any()


def test_items_epoch_draws_one_pair_of_every_item():
    index = make_index(PHOTOS)
    sampler = PairSampler(index, "items", seed=0)
    dealt = rows_of(sampler, range(100), batch=3)
    for epoch in dealt.reshape(100, 3, 2):
        assert sorted(index.item[epoch[:, 0]]) == sorted(index.paired_items)
        np.testing.assert_array_equal(index.item[epoch[:, 0]], index.item[epoch[:, 1]])
    # Every pair turns up: the shop photo is drawn independently of the customer photo.
    assert {tuple(pair) for pair in dealt} == {tuple(pair) for pair in index.pairs}


def test_batches_larger_than_an_epoch_are_full():
    sampler = PairSampler(make_index(PHOTOS), "pairs", seed=0)
    assert len(rows_of(sampler, range(1), batch=20)) == 20


@pytest.mark.parametrize("epoch", ["pairs", "items"])
def test_a_step_is_a_function_of_seed_and_step(epoch):
    index = make_index(PHOTOS)
    straight = rows_of(PairSampler(index, epoch, seed=5), range(9), batch=4)
    late = rows_of(PairSampler(index, epoch, seed=5), range(6, 9), batch=4)
    np.testing.assert_array_equal(straight[-12:], late)
    assert (straight != rows_of(PairSampler(index, epoch, seed=6), range(9), batch=4)).any()


def test_hosts_share_a_batch():
    sampler = PairSampler(make_index(PHOTOS), "pairs", seed=5)
    whole = sampler.plan(3, batch_size=6, host=0, hosts=1)
    parts = [sampler.plan(3, batch_size=6, host=host, hosts=3) for host in range(3)]
    np.testing.assert_array_equal(np.concatenate([part.rows for part in parts]), whole.rows)
    np.testing.assert_array_equal(np.concatenate([part.flip for part in parts]), whole.flip)


def test_coins_are_fair_and_independent():
    sampler = PairSampler(make_index(PHOTOS), "pairs", seed=1)
    flips = sampler.plan(0, batch_size=20_000, host=0, hosts=1).flip
    both = flips.mean(axis=0)
    assert np.abs(both - 0.5).max() < 0.02
    assert abs((flips[:, 0] == flips[:, 1]).mean() - 0.5) < 0.02
    assert abs((flips[1:, 0] == flips[:-1, 0]).mean() - 0.5) < 0.02


def test_epoch_length_in_steps():
    split = FakeSplit(make_index(PHOTOS))
    assert steps_per_epoch(split, make_data(), 2) == 4
    assert steps_per_epoch(split, make_data(), 100) == 1
    assert steps_per_epoch(split, make_data(epoch="items"), 3) == 1


def test_no_pairs():
    split = FakeSplit(make_index([("a", 0), ("b", 1)]))
    with pytest.raises(DatasetError, match=r"no pairs to train on.*1 customer and 1 shop"):
        steps_per_epoch(split, make_data(), 2)
    with pytest.raises(DatasetError, match=r"config\.data\.epoch"):
        PairSampler(split.index, "photos", seed=0)


def test_large_index_is_packed_in_parts(monkeypatch):
    whole = make_index(PHOTOS)
    monkeypatch.setattr("input_pipeline.index._ROWS_PER_PART", 4)
    parts = make_index(PHOTOS)
    for name in ("photo_id", "item", "domain", "box", "size", "content", "items"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_items_of_both_domains():
    index = make_index(PHOTOS)
    sampler = ItemSampler(index, images_per_item=3, domains="both", seed=4)
    assert sampler.epoch_length == 3  # a, c and d have both
    dealt = rows_of(sampler, range(60), batch=3)
    for epoch in dealt.reshape(60, 3, 3):
        assert sorted(index.items[index.item[epoch[:, 0]]]) == ["a", "c", "d"]
        assert (index.item[epoch] == index.item[epoch[:, :1]]).all()
        np.testing.assert_array_equal(index.domain[epoch], np.tile([0, 1, 1], (3, 1)))
        shops = {index.items[index.item[group[0]]]: set(group[1:].tolist()) for group in epoch}
        # No photo is repeated where there are enough: a has two shop photos, c and d one.
        assert shops == {"a": {0, 7}, "c": {6}, "d": {5}}
    customers = dealt[index.item[dealt[:, 0]] == 0][:, 0]
    assert 15 < (customers == 2).sum() < 45  # either customer photo of a, in 60 epochs


def test_items_of_any_domain():
    index = make_index(PHOTOS)
    sampler = ItemSampler(index, images_per_item=4, domains="any", seed=0)
    assert sampler.epoch_length == 3  # b and e have one photo
    for group in rows_of(sampler, range(20), batch=3):
        item = index.item[group[0]]
        own = set(np.flatnonzero(index.item == item).tolist())
        assert set(group.tolist()) <= own
        assert len(set(group.tolist())) == min(4, len(own))


def test_photos_come_once_an_epoch():
    dealt = rows_of(ImageSampler(11, seed=2), range(11), batch=2)
    for epoch in (dealt[:11, 0], dealt[11:, 0]):
        assert sorted(epoch) == list(range(11))
    assert (dealt[:11] != dealt[11:]).any()


@pytest.mark.parametrize("domains", ["both", "any"])
def test_item_batches_are_a_function_of_seed_and_step(domains):
    index = make_index(PHOTOS)
    one, other = (ItemSampler(index, 2, domains, seed=9) for _ in range(2))
    straight = rows_of(one, range(8), batch=4)
    np.testing.assert_array_equal(straight[-8:], rows_of(other, range(6, 8), batch=4))
    np.testing.assert_array_equal(straight, rows_of(other, range(8), batch=4, hosts=2))
    assert (straight != rows_of(ItemSampler(index, 2, domains, seed=8), range(8), batch=4)).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "garments"}, r"config\.data\.sampler='garments': expected pairs, items or"),
        ({"sampler": "items", "domains": "shop"}, r"config\.data\.domains='shop'"),
        ({"sampler": "items", "images_per_item": 1}, r"config\.data\.images_per_item=1"),
        ({"sampler": "items"}, "no items to train on: no item has both"),
        ({"sampler": "items", "domains": "any"}, "no items to train on: no item has two photos"),
    ],
)
def test_samplers_that_cannot_be(changes, message):
    split = FakeSplit(make_index([("a", 0), ("b", 1)]))
    with pytest.raises(DatasetError, match=message):
        steps_per_epoch(split, make_data(**changes), 2)
