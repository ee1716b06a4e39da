"""Exact Street2Shop (Kiapour et al., Where to Buy It, ICCV 2015)."""

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

from etils import epath

from input_pipeline.config import PrepareOptions
from input_pipeline.datasets.download import (
    DownloadConfig,
    compare,
    count_images,
    digest_files,
    download_config,
)
from input_pipeline.datasets.listed import ListedPhotos
from input_pipeline.datasets.listing import Listing, Location, PhotoRow, Problem, ValidationReport
from input_pipeline.datasets.street2shop_files import (
    PHOTO_LIST,
    ListedPhoto,
    PhotoFolder,
    find_photos,
    read_box,
    read_photo_list,
    read_photos,
)
from input_pipeline.errors import DatasetError
from input_pipeline.images import Box

# Queries of the release, (test, train): each photo, product and box counts once.
QUERIES = {
    "bags": (174, 579),
    "belts": (89, 235),
    "dresses": (3_292, 12_875),
    "eyewear": (138, 358),
    "footwear": (2_178, 6_486),
    "hats": (86, 400),
    "leggings": (517, 1_641),
    "outerwear": (666, 1_945),
    "pants": (130, 600),
    "skirts": (604, 3_337),
    "tops": (763, 2_173),
}
CATEGORIES = tuple(QUERIES)
_PAIR_SPLITS = ("train", "test")  # in this order: products of train are known before test's

KindAndText = tuple[str, str]  # of a problem


@dataclass(kw_only=True)
class Street2ShopConfig(DownloadConfig):
    """Which download: see `download_config`."""

    benchmark = "Exact Street2Shop"
    # Many photos' pages are gone, and one of the boxes has no size.
    skips = frozenset({"missing photo", "unreadable photo", "box", "duplicate row"})
    overhang = 1  # as DeepFashion's: a box may count its last pixel in, or from 1
    many_boxes = True
    watches_photos = True

    @classmethod
    def fingerprint(cls, root: epath.Path) -> str:
        """Returns a digest of the lists and of the photos' names, not of their content.

        The photos are downloaded one by one, each from its own URL: where more of them arrived,
        the data is prepared anew.
        """
        lists = [path for name in find_categories(root) for path in _lists(root, name).values()]
        folder = find_photos(root)
        names = "\0".join([folder.path.name, *folder.names.values()])
        key = f"{digest_files([*lists, root / PHOTO_LIST])} {names}"
        return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()

    @functools.cached_property
    def folder(self) -> PhotoFolder:
        """Returns the folder of the photos, with their names."""
        return find_photos(self.root)

    def without_lists(self) -> Self:
        """Returns the folder of the photos without their names."""
        other = replace(self)
        other.__dict__["folder"] = self.folder._replace(names={})
        return other

    def photo_path(self, image: str) -> epath.Path:
        """Returns the path of a photo from its file's name."""
        return self.folder.path / image

    def read(self) -> Listing:
        """Reads each category's training pairs, test pairs and shop photos."""
        reader = _Reader(self.root, self.folder)
        categories = find_categories(self.root)
        for category in categories:
            reader.read_category(category)
        if missing := [name for name in CATEGORIES if name not in categories]:
            reader.tolerated[f"category without files ({', '.join(missing)})"] += len(missing)
        return reader.listing()

    def compare(self, checked: ValidationReport) -> list[dict[str, object]]:
        """Returns counts of usable queries and photos, beside those of the release.

        What the lists have, whether or not it can be used, is in the summary's facts.
        """
        counts = Counter(
            (row.category, row.split) for row, _ in checked.rows if row.domain == "customer"
        )
        lines = [
            compare(f"{category}: {split} queries", counts[category, split], release)
            for category in CATEGORIES
            if f"listed_gallery_{category}" in checked.facts
            for split, release in zip(("test", "train"), QUERIES[category], strict=True)
        ]
        totals = [
            compare(
                f"{split} queries",
                sum(counts[category, split] for category in CATEGORIES),
                sum(release[index] for release in QUERIES.values()),
            )
            for index, split in enumerate(("test", "train"))
        ]
        return [
            *lines,
            *totals,
            compare("queries", counts.total(), sum(map(sum, QUERIES.values())), 39_479),
            compare("street photos", count_images(checked, domain="customer"), 20_357),
            compare("shop photos", count_images(checked, domain="shop"), None, 404_683),
        ]


def find_categories(root: epath.Path) -> list[str]:
    """Returns the categories whose lists are there.

    Raises:
      DatasetError: there is none, or a category has some of its lists and not all.
    """
    categories = []
    for category in CATEGORIES:
        paths = list(_lists(root, category).values())
        missing = [str(path.relative_to(root)) for path in paths if not path.exists()]
        if missing and len(missing) < len(paths):
            raise DatasetError(
                f"{root} (dataset.source): {', '.join(missing)} missing, which the category "
                f"{category} needs beside its other lists"
            )
        if not missing:
            categories.append(category)
    if not categories:
        raise DatasetError(
            f"{root} (dataset.source): has the lists of no category, as "
            "meta/json/train_pairs_bags.json, test_pairs_bags.json and retrieval_bags.json"
        )
    return categories


class Street2Shop(ListedPhotos):
    """Train and test, of up to 11 categories; the release has no val.

    Customer photos are the street photos, one row for each product and box in them. Products
    are numbered within their category: an item is category/product. A shop photo is stored once
    for each product: in train if any training pair names the product, else in test, also where
    no pair names it. The gallery that a category's queries are evaluated against is all of its
    shop photos, those of both splits.

    Some street photos are in train with a garment of one category and in test with one of another.
    """

    name = "street2shop"
    builder_config: Street2ShopConfig


def describe(source: str, options: PrepareOptions) -> tuple[type[Street2Shop], Street2ShopConfig]:
    """Returns the builder and its config."""
    return Street2Shop, download_config(Street2ShopConfig, source, options)


def _lists(root: epath.Path, category: str) -> dict[str, epath.Path]:
    """Returns where a category's lists lie: training pairs, test pairs and shop photos."""
    folder = root / "meta" / "json"
    pairs = {split: folder / f"{split}_pairs_{category}.json" for split in _PAIR_SPLITS}
    return {**pairs, "shop": folder / f"retrieval_{category}.json"}


class _Reader:
    """Gathers the rows of all categories, and what is wrong or odd in the lists."""

    def __init__(self, root: epath.Path, folder: PhotoFolder):
        self.rows: list[PhotoRow] = []
        self.problems: list[Problem] = []
        self.tolerated: Counter[str] = Counter()
        self._root = root
        self._folder = folder
        self._facts: dict[str, int] = {}
        self._dead: dict[str, set[int]] = {"customer": set(), "shop": set()}
        self._unlisted: set[int] = set()
        self._items: dict[tuple[str, int], str] = {}  # one string for all photos of an item
        self._listed = read_photo_list(root / PHOTO_LIST, self.problems, self.tolerated)
        if folder.others:
            self.tolerated["second file of a photo"] += folder.others

    def read_category(self, category: str) -> None:
        """Takes the three lists of a category."""
        lists = _lists(self._root, category)
        trained: dict[int, Location] = {}  # the first training pair of each product
        customers: dict[tuple[int, int], Location] = {}  # the first pair of each photo and product
        for split in _PAIR_SPLITS:
            listed = 0
            for photo, box, problems in self._pairs(lists[split]):
                listed += 1
                customers.setdefault((photo.photo, photo.product), photo.location)
                if split == "train":
                    trained.setdefault(photo.product, photo.location)
                elif first := trained.get(photo.product):
                    text = f"{photo.product} has a training pair at {first}"
                    problems.append(("item in two splits", f"field 'product': {text}"))
                self._add(photo, problems, "customer", split, category, box)
            self._facts[f"listed_{split}_queries_{category}"] = listed
        listed = 0
        for photo in self._shop_photos(lists["shop"]):
            listed += 1
            problems = []
            if pair := customers.get((photo.photo, photo.product)):
                text = f"{photo.photo} is the customer's photo of product {photo.product} at {pair}"
                problems.append(("domain", f"field 'photo': {text}"))
            split = "train" if photo.product in trained else "test"
            self._add(photo, problems, "shop", split, category, None)
        self._facts[f"listed_gallery_{category}"] = listed

    def listing(self) -> Listing:
        """Returns all rows, problems and counts."""
        if self._unlisted:
            self.tolerated["photo that photos.txt does not list"] += len(self._unlisted)
        dead = {f"dead_{domain}_photos": len(photos) for domain, photos in self._dead.items()}
        return Listing(
            rows=self.rows,
            problems=self.problems,
            tolerated=self.tolerated,
            facts={**dead, **self._facts},
        )

    def _pairs(
        self, path: epath.Path
    ) -> Iterator[tuple[ListedPhoto, Box | None, list[KindAndText]]]:
        """Yields the pairs that are new, their boxes, and what is wrong with these."""
        seen: dict[tuple[int, int, Box], Location] = {}
        keys = ("photo", "product", "bbox")
        for photo in read_photos(path, keys, self.problems, self.tolerated):
            box, texts = read_box(photo.bbox)
            first = (
                seen.setdefault((photo.photo, photo.product, box), photo.location) if box else None
            )
            if first in (None, photo.location):
                yield photo, box, [("box", text) for text in texts]
            else:
                self._add_repeated(photo, "photo, product and box", first)

    def _shop_photos(self, path: epath.Path) -> Iterator[ListedPhoto]:
        """Yields the photos that are new."""
        seen: dict[tuple[int, int], Location] = {}
        for photo in read_photos(path, ("photo", "product"), self.problems, self.tolerated):
            first = seen.setdefault((photo.photo, photo.product), photo.location)
            if first == photo.location:
                yield photo
            else:
                self._add_repeated(photo, "photo and product", first)

    def _add_repeated(self, photo: ListedPhoto, what: str, first: Location) -> None:
        text = f"field 'photo': {photo.photo}: this {what} is at {first} already"
        self.problems.append(Problem(photo.location, "duplicate row", text))

    def _add(
        self,
        photo: ListedPhoto,
        problems: list[KindAndText],
        domain: str,
        split: str,
        category: str,
        box: Box | None,
    ) -> None:
        """Takes an element as a row, unless something was problems or its photo is not there."""
        problems = [*problems, *self._photo_problems(photo.photo, domain)]
        self.problems += [Problem(photo.location, kind, text) for kind, text in problems]
        if problems:
            return
        self.rows.append(
            PhotoRow(
                location=photo.location,
                image=self._folder.names[photo.photo],
                item_id=self._items.setdefault(
                    (category, photo.product), f"{category}/{photo.product}"
                ),
                domain=domain,
                split=split,
                category=category,
                box=box,
                image_field="photo",
            )
        )

    def _photo_problems(self, photo: int, domain: str) -> Iterator[KindAndText]:
        listed = self._listed is None or photo in self._listed
        if photo in self._folder.names:
            if not listed:
                self._unlisted.add(photo)
        elif listed:
            self._dead[domain].add(photo)
            text = f"{self._folder.path.name}/ has no photo {photo:09d}"
            yield "missing photo", f"field 'photo': {text}"
        else:
            text = (
                f"{photo} is not in {PHOTO_LIST}, and {self._folder.path.name}/ has no such photo"
            )
            yield "unknown photo", f"field 'photo': {text}"
