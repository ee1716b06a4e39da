"""The synthetic street-to-shop data set: garments drawn by a program, with all annotations."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

from input_pipeline.builder import Contents, ShardSource
from input_pipeline.config import PrepareOptions
from input_pipeline.errors import DatasetError
from input_pipeline.records import PhotoRecord
from input_pipeline.synthetic.rendering import ItemJob, RenderedPhoto, render, render_item
from input_pipeline.vocabulary import VIEWS

PICTURE_SIZE = 160  # pixels, of the long side
_PHOTOS_PER_SHARD = 4096


@dataclasses.dataclass(frozen=True)
class SplitSize:
    """How many items a split has, and how many customer photos each (beside 1 shop photo).

    Of items that come in several colors so many in a row are one garment, which is their category.
    """

    items: int
    customers: int
    colors: int = 1


SIZES: dict[str, dict[str, SplitSize]] = {
    "small": {
        "train": SplitSize(1600, 3),
        "val": SplitSize(150, 2),
        "test": SplitSize(500, 4),
    },
    "tiny": {
        "train": SplitSize(24, 2),
        "val": SplitSize(8, 2),
        "test": SplitSize(12, 2),
    },
    "colors": {
        "train": SplitSize(800, 3, colors=4),
        "val": SplitSize(80, 2, colors=4),
        "test": SplitSize(200, 4, colors=4),
    },
}


def folder_name(source: str) -> str:
    """Returns the size, "small" where none is said.

    Raises:
      DatasetError: naming the sizes there are.
    """
    size = source or "small"
    if size not in SIZES:
        raise DatasetError(f"dataset.source={size!r}: expected one of {', '.join(SIZES)}")
    return size


def contents(source: str, options: PrepareOptions) -> Contents:
    """Plans the records: the items of each split in order, an item's shop image first."""
    splits = split_sizes(source, options)
    shards = {split: plan_shards(split, size, options, _record) for split, size in splits.items()}
    return Contents(PhotoRecord, shards, summary={})


def split_sizes(source: str, options: PrepareOptions) -> dict[str, SplitSize]:
    """Returns the size of each split."""
    splits = dict(SIZES[folder_name(source)])
    if options.items:
        splits["train"] = dataclasses.replace(splits["train"], items=options.items)
    return splits


def plan_shards(
    split: str,
    size: SplitSize,
    options: PrepareOptions,
    record: Callable[[RenderedPhoto, str, str], Any],
    *,
    objects: bool = False,
) -> list[ShardSource]:
    """Returns files of whole items, about `_PHOTOS_PER_SHARD` images each."""
    step = max(1, _PHOTOS_PER_SHARD // (size.customers + 1))
    parts = [range(size.items)[start : start + step] for start in range(0, size.items, step)]
    pool = not options.beam_runner
    return [
        functools.partial(_render, options.seed, split, size, part, record, objects, pool=pool)
        for part in parts
    ]


def _render(
    seed: int,
    split: str,
    size: SplitSize,
    numbers: range,
    record: Callable[[RenderedPhoto, str, str], Any],
    objects: bool,
    *,
    pool: bool,
) -> Iterator[Any]:
    jobs = (
        ItemJob(seed, split, number, size.customers, PICTURE_SIZE, size.colors, objects)
        for number in numbers
    )
    items = render(jobs, len(numbers)) if pool else map(render_item, jobs)
    shown = tqdm(items, f"Rendering {split}", len(numbers), unit=" items")
    for item, photos in zip(numbers, shown, strict=True):
        style = f" {item // size.colors}" if size.colors > 1 else ""
        for number, photo in enumerate(photos):
            photo_id = f"{split}/{photo.item_id}/{photo.domain}_{number}"
            yield record(photo, photo_id, photo.category + style)


def _record(photo: RenderedPhoto, photo_id: str, category: str) -> PhotoRecord:
    return PhotoRecord(
        image=photo.jpeg,
        photo_id=photo_id,
        item_id=photo.item_id,
        domain=photo.domain,
        height=photo.size[0],
        width=photo.size[1],
        box=photo.box,
        category=category,
        clothes_type=photo.clothes_type,
        attributes=photo.attributes,
        landmarks=photo.landmarks,
        mask=photo.mask,
        view=VIEWS.index(photo.view),
        occluded=int(photo.occluded),
        cropped=int(photo.cropped),
    )
