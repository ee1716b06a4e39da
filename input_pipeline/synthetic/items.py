"""Items of the synthetic data set: which garment has number `index` of a split."""

from __future__ import annotations

import dataclasses

import numpy as np

from input_pipeline.synthetic import garments
from input_pipeline.synthetic.garments import Garment
from input_pipeline.vocabulary import SPLITS

# How a block of ten consecutive items falls into families: 4 of 10 items stand alone.
_BLOCK = 10
_PARTITIONS: tuple[tuple[int, ...], ...] = (
    (1, 1, 1, 1, 2, 4),
    (1, 1, 1, 1, 3, 3),
    (1, 1, 1, 1, 2, 2, 2),
)


@dataclasses.dataclass(frozen=True)
class Item:
    """One garment for sale.

    item_id is unique over the splits of a seed; clothes_type is 1 upper, 2 lower, 3 full body;
    attributes are sorted names of ATTRIBUTES; family numbers the items of one cut and fabric
    within the split; change names the local detail by which the item differs from its family's
    base ("base" for the base itself), or "color".
    """

    item_id: str
    category: str
    clothes_type: int
    attributes: tuple[str, ...]
    family: int
    garment: Garment
    change: str


def stream(seed: int, split: str, *numbers: int) -> np.random.Generator:
    """Returns the random stream that belongs to these numbers; splits never share one."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: one of {', '.join(SPLITS)}")
    return np.random.default_rng([seed, SPLITS.index(split), *numbers])


def family_of(seed: int, split: str, index: int) -> tuple[int, int]:
    """Returns an item's family and its number in it, without looking at other items."""
    block, offset = divmod(index, _BLOCK)
    rng = stream(seed, split, 1, block)
    sizes = rng.permutation(_PARTITIONS[int(rng.integers(len(_PARTITIONS)))])
    start = 0
    for size in sizes:
        if offset < start + size:
            return block * _BLOCK + start, offset - start
        start += int(size)
    raise AssertionError("family sizes of a block must add up to the block")


def make_item(seed: int, split: str, index: int, colors: int = 1) -> Item:
    """Returns item `index` of a split: a pure function of its arguments, in constant time.

    With several colors so many items in a row are one garment and differ in color alone.
    """
    if index < 0:
        raise ValueError(f"index must not be negative: {index}")
    number, variant = divmod(index, colors)
    family, member = family_of(seed, split, number)
    garment = garments.sample_garment(stream(seed, split, 2, family))
    change = "base"
    if member:
        garment, change = garments.sibling(stream(seed, split, 3, family), garment, member)
    if variant:
        garment = garments.recolored(stream(seed, split, 7, number), garment, variant)
        change = "color"
    return Item(
        item_id=f"{split}_{index:07d}",
        category=garment.category,
        clothes_type=garments.CLOTHES_TYPES[garment.category],
        attributes=garments.attributes_of(garment),
        family=family,
        garment=garment,
        change=change,
    )
