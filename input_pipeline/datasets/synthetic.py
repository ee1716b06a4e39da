"""The synthetic street-to-shop data set: garments drawn by a program, with all annotations."""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import tensorflow_datasets as tfds
from tqdm import tqdm

from input_pipeline.config import PrepareOptions
from input_pipeline.datasets.base import PhotoBuilder, ShardSource
from input_pipeline.datasets.records import PhotoRecord
from input_pipeline.datasets.rendering import ItemJob, RenderedPhoto, render, render_item
from input_pipeline.errors import DatasetError
from input_pipeline.vocabulary import VIEWS

PICTURE_SIZE = 160  # pixels, of the long side
_PHOTOS_PER_SHARD = 4096


@dataclass(frozen=True)
class SplitSize:
    """How many items a split has, and how many customer photos each (beside 1 shop photo)."""

    items: int
    customers: int


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
}


@dataclass(kw_only=True)
class SyntheticConfig(tfds.core.BuilderConfig):
    """Which synthetic set."""

    splits: Mapping[str, SplitSize]
    options: PrepareOptions

    @property
    def seed(self) -> int:
        """Returns the seed of the drawing."""
        return self.options.seed


class Synthetic(PhotoBuilder):
    """Renders the items of each split in order, an item's shop photo first."""

    name = "synthetic"
    builder_config: SyntheticConfig

    def shards(self) -> Mapping[str, Sequence[ShardSource]]:
        """Returns files of whole items, about `_PHOTOS_PER_SHARD` photos each."""
        return {
            split: self._shards_of(split, size)
            for split, size in self.builder_config.splits.items()
        }

    def _shards_of(self, split: str, size: SplitSize) -> list[ShardSource]:
        step = max(1, _PHOTOS_PER_SHARD // (size.customers + 1))
        items = range(size.items)
        parts = [items[start : start + step] for start in range(0, size.items, step)]
        if self.apart:
            return [
                functools.partial(self._render, split, size.customers, part, pool=False)
                for part in parts
            ]
        # One pool for all shards, which are written in turn.
        photos = self._render(split, size.customers, items)
        return [
            functools.partial(itertools.islice, photos, len(part) * (size.customers + 1))
            for part in parts
        ]

    def _render(
        self, split: str, customers: int, numbers: range, pool: bool = True
    ) -> Iterator[PhotoRecord]:
        seed = self.builder_config.seed
        jobs = (ItemJob(seed, split, number, customers, PICTURE_SIZE) for number in numbers)
        items = render(jobs, len(numbers)) if pool else map(render_item, jobs)
        with tqdm(total=len(numbers), desc=f"Rendering {split}", unit=" items") as bar:
            for photos in items:
                bar.update()
                if bar.n == len(numbers):
                    bar.close()  # nothing is taken after the last photo, so this is the last call
                for number, photo in enumerate(photos):
                    yield _record(photo, f"{split}/{photo.item_id}/{photo.domain}_{number}")


def describe(source: str, options: PrepareOptions) -> tuple[type[Synthetic], SyntheticConfig]:
    """Returns the builder and its config; the source is a name in SIZES, "" for "small".

    Raises:
      DatasetError: naming the sizes there are.
    """
    size = source or "small"
    if size not in SIZES:
        raise DatasetError(f"dataset.source={size!r}: expected one of {', '.join(SIZES)}")
    splits = dict(SIZES[size])
    if options.items:
        splits["train"] = SplitSize(options.items, splits["train"].customers)
    return Synthetic, SyntheticConfig(name=size, splits=splits, options=options)


def _record(photo: RenderedPhoto, photo_id: str) -> PhotoRecord:
    return PhotoRecord(
        image=photo.jpeg,
        photo_id=photo_id,
        item_id=photo.item_id,
        domain=photo.domain,
        height=photo.size[0],
        width=photo.size[1],
        box=photo.box,
        category=photo.category,
        clothes_type=photo.clothes_type,
        attributes=photo.attributes,
        landmarks=photo.landmarks,
        mask=photo.mask,
        view=VIEWS.index(photo.view),
        occluded=int(photo.occluded),
        cropped=int(photo.cropped),
    )
