"""Which images a step holds."""

import numpy as np
import pytest

from input_pipeline import DOMAINS, DatasetError, PhotoIndex, SamplerConfig, steps_per_epoch
from input_pipeline.index import index_photos
from input_pipeline.records import PhotoRecord
from input_pipeline.sampling import ImageSampler, ItemSampler, PairSampler, Sampler


def make_index(photos: list[tuple[str, int]]) -> PhotoIndex:
    """An index of photos (item, domain)."""
    records = [
        PhotoRecord(
            image=bytes([number]),
            photo_id=str(number),
            item_id=item,
            domain=DOMAINS[domain],
            height=1,
            width=1,
            box=(0.0, 0.0, 1.0, 1.0),
        )
        for number, (item, domain) in enumerate(photos)
    ]
    return index_photos({"train": records}, {})["train"]


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
    return np.concatenate(
        [
            sampler.sample(step, batch_size=batch, host=host, hosts=hosts).rows
            for step in steps
            for host in range(hosts)
        ]
    )


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


@pytest.mark.parametrize(
    "make",
    [
        lambda index, seed: PairSampler(index, "pairs", seed),
        lambda index, seed: PairSampler(index, "items", seed),
        lambda index, seed: ItemSampler(index, 2, True, seed),
        lambda index, seed: ItemSampler(index, 2, False, seed),
        lambda index, seed: ImageSampler(len(index), seed),
    ],
    ids=["pairs", "pairs of items", "items", "items of any domain", "images"],
)
def test_a_step_is_a_function_of_seed_and_step_shared_by_hosts(make):
    index = make_index(PHOTOS)
    straight = rows_of(make(index, 5), range(9), batch=4)
    np.testing.assert_array_equal(straight[-12:], rows_of(make(index, 5), range(6, 9), batch=4))
    np.testing.assert_array_equal(straight, rows_of(make(index, 5), range(9), batch=4, hosts=2))
    assert (straight != rows_of(make(index, 6), range(9), batch=4)).any()
    whole = make(index, 5).sample(3, batch_size=6)
    parts = [make(index, 5).sample(3, batch_size=6, host=host, hosts=3) for host in range(3)]
    for name, values in vars(whole).items():
        together = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(together, values)


def test_flat_batches():
    sampled = PairSampler(make_index(PHOTOS), "pairs", seed=5).sample(0, batch_size=3)
    flat, by_place = sampled.flat(), sampled.flat(by_place=True)
    np.testing.assert_array_equal(flat.rows, sampled.rows.reshape(-1))
    np.testing.assert_array_equal(by_place.rows, np.concatenate([*sampled.rows.T]))
    assert by_place.draws.shape == (6, 6)
    np.testing.assert_array_equal(by_place.draws[4], sampled.draws[1, 1])


def test_coins_are_fair_and_independent():
    sampler = PairSampler(make_index(PHOTOS), "pairs", seed=1)
    flips = sampler.sample(0, batch_size=20_000).flip
    both = flips.mean(axis=0)
    assert np.abs(both - 0.5).max() < 0.02
    assert abs((flips[:, 0] == flips[:, 1]).mean() - 0.5) < 0.02
    assert abs((flips[1:, 0] == flips[:-1, 0]).mean() - 0.5) < 0.02


def test_epoch_length_in_steps():
    split = FakeSplit(make_index(PHOTOS))
    assert steps_per_epoch(split, SamplerConfig(), 2) == 4
    assert steps_per_epoch(split, SamplerConfig(), 100) == 1
    assert steps_per_epoch(split, SamplerConfig(epoch="items"), 3) == 1


def test_large_index_is_packed_in_parts(monkeypatch):
    whole = make_index(PHOTOS)
    monkeypatch.setattr("input_pipeline.index._ROWS_PER_PART", 4)
    parts = make_index(PHOTOS)
    for name in ("photo_id", "item", "domain", "box", "size", "content", "items"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_items_of_both_domains():
    index = make_index(PHOTOS)
    sampler = ItemSampler(index, images_per_item=3, cross_domain=True, seed=4)
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
    sampler = ItemSampler(index, images_per_item=4, cross_domain=False, seed=0)
    assert sampler.epoch_length == 3  # b and e have one photo
    for group in rows_of(sampler, range(20), batch=3):
        item = index.item[group[0]]
        own = set(np.flatnonzero(index.item == item).tolist())
        assert set(group.tolist()) <= own
        assert len(set(group.tolist())) == min(4, len(own))


def test_images_come_once_an_epoch():
    dealt = rows_of(ImageSampler(11, seed=2), range(11), batch=2)
    for epoch in (dealt[:11, 0], dealt[11:, 0]):
        assert sorted(epoch) == list(range(11))
    assert (dealt[:11] != dealt[11:]).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"no pairs to train on.*1 customer and 1 shop"),
        ({"name": "items"}, "no items to train on: no item has both"),
        (
            {"name": "items", "cross_domain": False},
            "no items to train on: no item has two photos",
        ),
    ],
)
def test_splits_without_training_groups(changes, message):
    split = FakeSplit(make_index([("a", 0), ("b", 1)]))
    with pytest.raises(DatasetError, match=message):
        steps_per_epoch(split, SamplerConfig(**changes), 2)
