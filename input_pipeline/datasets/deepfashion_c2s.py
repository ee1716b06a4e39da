"""DeepFashion: Consumer-to-shop Clothes Retrieval."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from input_pipeline.config import PrepareOptions
from input_pipeline.datasets.deepfashion import PARTITION, DeepFashionConfig, folder_category
from input_pipeline.datasets.deepfashion_text import CLOTHES_TYPES, Annotations, AttributeRow
from input_pipeline.datasets.download import compare, count_images, download_config
from input_pipeline.datasets.listed import ListedPhotos
from input_pipeline.datasets.listing import Listing, Location, PhotoRow, ValidationReport
from input_pipeline.vocabulary import SPLITS

_BOXES = "Anno/list_bbox_consumer2shop.txt"
_LANDMARKS = "Anno/list_landmarks_consumer2shop.txt"
_ITEMS = "Anno/list_item_consumer2shop.txt"
_ATTRIBUTE_NAMES = "Anno/list_attr_cloth.txt"
_ITEM_ATTRIBUTES = "Anno/list_attr_items.txt"
_SOURCES = {1: "shop", 2: "customer"}  # source_type
# The photo columns of the pairs.
_DOMAINS = {"image_pair_name_1": "customer", "image_pair_name_2": "shop"}


@dataclass(kw_only=True)
class ConsumerToShopConfig(DeepFashionConfig):
    """Which download: see `download_config`."""

    benchmark = "DeepFashion's Consumer-to-shop Clothes Retrieval"
    required = (PARTITION, _BOXES)
    optional = (_LANDMARKS, _ITEMS, _ATTRIBUTE_NAMES, _ITEM_ATTRIBUTES)

    def read(self) -> Listing:
        """Returns one row a photo and item, in the order in which the pairs first name them."""
        annotations = Annotations()
        kinds = {"clothes_type": CLOTHES_TYPES, "source_type": ("1", "2")}
        annotations.read_boxes(self.file(_BOXES), kinds)
        if path := self.optional_file(_LANDMARKS):
            annotations.read_landmarks(path, variation=True)
        pairs = _Pairs(
            annotations,
            annotations.read_items(self.optional_file(_ITEMS)),
            annotations.read_attributes(
                self.optional_file(_ATTRIBUTE_NAMES),
                self.optional_file(_ITEM_ATTRIBUTES),
                "item_id",
            ),
        )
        columns = (*_DOMAINS, "item_id", "evaluation_status")
        for location, (customer, shop, item_id, status) in annotations.rows(
            self.file(PARTITION), columns
        ):
            pairs.add(location, (customer, shop), item_id, status)
        rows = [row for row in pairs.photos.values() if row]
        return annotations.listing(rows, pairs_listed=len(pairs.seen))

    def compare(self, checked: ValidationReport) -> list[dict[str, object]]:
        """Returns counts of photos and of the pairs listed."""
        return [
            compare("photos", count_images(checked), 239_557),
            compare("pairs listed", checked.facts["pairs_listed"], 195_540, 251_361),
        ]


class _Pairs:
    """Gathers the photos of the pairs; photos has None for one that cannot be used."""

    def __init__(
        self,
        annotations: Annotations,
        items: set[str] | None,
        attributes: Mapping[str, AttributeRow],
    ):
        self.photos: dict[tuple[str, str], PhotoRow | None] = {}
        self.seen: set[tuple[str, str, str]] = set()
        self._annotations = annotations
        self._items = items
        self._attributes = attributes
        self._homes: dict[str, tuple[Location, str]] = {}
        self._domains: dict[tuple[str, str], str] = {}

    def add(self, location: Location, images: tuple[str, str], item_id: str, status: str) -> None:
        """Takes one row of the pairs."""
        if not self._annotations.is_status(location, status, SPLITS):
            return
        if not self._annotations.is_item(location, item_id, self._items, _ITEMS):
            return
        first, split = self._homes.setdefault(item_id, (location, status))
        if status != split:
            text = f"item {item_id!r} is in split {split!r} on line {first.line}"
            text = f"field 'evaluation_status': {text}, here in {status!r}"
            self._annotations.add(location, "item in two splits", text)
            return
        if (*images, item_id) in self.seen:
            self._annotations.tolerated["repeated pair"] += 1
            return
        self.seen.add((*images, item_id))
        for (field, domain), image in zip(_DOMAINS.items(), images, strict=True):
            self._add_photo(location, field, image, item_id, domain, status)

    def _add_photo(
        self, location: Location, field: str, image: str, item_id: str, domain: str, split: str
    ) -> None:
        key = image, item_id
        if self._domains.setdefault(key, domain) != domain:
            text = f"{image!r} is a {self._domains[key]} photo in an earlier row"
            self._annotations.add(location, "domain", f"field {field!r}: {text}")
        if key in self.photos:
            return
        row = self._annotations.photo(location, field, image, item_id, domain, split)
        source = self._annotations.box_kinds(image).get("source_type")
        if row and source and _SOURCES[source] != domain:
            text = f"{image!r} is a {_SOURCES[source]} photo at {row.box_location}"
            self._annotations.add(location, "domain", f"field {field!r}: {text}")
            row = None
        if row:
            attributes = self._attributes.get(item_id, AttributeRow())
            row = replace(row, category=folder_category(image), **attributes._asdict())
        self.photos[key] = row


class ConsumerToShop(ListedPhotos):
    """Customer and shop photos in the release's splits.

    The pairs are listed by item: every customer photo of an item is paired with every shop
    photo of it, here as there, and each photo is stored once for each item. The category is that
    of the photo's folders, as TOPS/T_Shirt; the attributes are the item's.
    """

    name = "deepfashion_c2s"
    builder_config: ConsumerToShopConfig


def describe(
    source: str, options: PrepareOptions
) -> tuple[type[ConsumerToShop], ConsumerToShopConfig]:
    """Returns the builder and its config."""
    return ConsumerToShop, download_config(ConsumerToShopConfig, source, options)
