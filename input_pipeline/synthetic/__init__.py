"""A SYNTHETIC street-to-shop data set: clothes drawn by a program, not photographed.

`photos_of_item` renders one item's shop photo and its customer photos with the annotations that
fashion retrieval sets have: clothes type, category, attributes, box, landmarks, view, occlusion,
cropping. Everything is a pure function of (seed, split, index); splits share no garments. Only
numpy and OpenCV are used.
"""

from __future__ import annotations

from input_pipeline.synthetic.garments import ATTRIBUTES, CATEGORIES, CLOTHES_TYPES
from input_pipeline.synthetic.items import Item, make_item, stream
from input_pipeline.synthetic.photo import Photo
from input_pipeline.synthetic.shop import render_shop
from input_pipeline.synthetic.street import SHARES, render_customer
from input_pipeline.vocabulary import LANDMARKS, SPLITS

__all__ = [
    "ATTRIBUTES",
    "CATEGORIES",
    "CLOTHES_TYPES",
    "LANDMARKS",
    "SHARES",
    "SPLITS",
    "Item",
    "Photo",
    "make_item",
    "photos_of_item",
]


def photos_of_item(
    seed: int, split: str, index: int, *, customers: int, picture_size: int = 160, colors: int = 1
) -> tuple[Item, list[Photo]]:
    """Renders item `index` of a split: its shop photo, then `customers` customer photos.

    A pure function of its arguments; customer photo n does not depend on how many are asked for.
    picture_size is the height in pixels (shop photos are 0.8, customers' 0.75 times as wide);
    colors as of `make_item`.
    """
    if customers < 0:
        raise ValueError(f"customers must not be negative: {customers}")
    if picture_size < 32:
        raise ValueError(f"picture_size must be at least 32: {picture_size}")
    item = make_item(seed, split, index, colors)
    photos = [render_shop(item, stream(seed, split, 4, index), picture_size)]
    for number in range(customers):
        photos.append(render_customer(item, seed, split, index, number, picture_size))
    return item, photos
