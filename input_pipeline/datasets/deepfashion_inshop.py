"""DeepFashion: In-shop Clothes Retrieval."""

from collections import Counter
from dataclasses import dataclass, replace

from input_pipeline.config import PrepareOptions
from input_pipeline.datasets.deepfashion import PARTITION, DeepFashionConfig, folder_category
from input_pipeline.datasets.deepfashion_text import CLOTHES_TYPES, Annotations
from input_pipeline.datasets.download import compare, count_images, download_config
from input_pipeline.datasets.listed import ListedPhotos
from input_pipeline.datasets.listing import Listing, ValidationReport
from input_pipeline.vocabulary import DOMAINS, UNKNOWN, VIEWS

_BOXES = "Anno/list_bbox_inshop.txt"
_LANDMARKS = "Anno/list_landmarks_inshop.txt"
_ITEMS = "Anno/list_item_inshop.txt"
# Split and domain of each status; the domains of "train" alternate.
_STATUSES = {"train": ("train", ""), "query": ("test", "customer"), "gallery": ("test", "shop")}
# pose_type; zoomed and stand-alone photos (4 to 6) may show any side.
_VIEWS = {1: VIEWS.index("front"), 2: VIEWS.index("side"), 3: VIEWS.index("back")}


@dataclass(kw_only=True)
class InShopConfig(DeepFashionConfig):
    """Which download: see `download_config`."""

    benchmark = "DeepFashion's In-shop Clothes Retrieval"
    required = (PARTITION, _BOXES)
    optional = (_LANDMARKS, _ITEMS)

    def read(self) -> Listing:
        """Returns one row a photo, in the order of the partition."""
        annotations = Annotations()
        kinds = {"clothes_type": CLOTHES_TYPES, "pose_type": tuple("123456")}
        annotations.read_boxes(self.file(_BOXES), kinds)
        if path := self.optional_file(_LANDMARKS):
            annotations.read_landmarks(path, variation=True)
        items = annotations.read_items(self.optional_file(_ITEMS))
        rows = []
        photos_before: Counter[str] = Counter()  # of the training items
        columns = ("image_name", "item_id", "evaluation_status")
        for location, (image, item_id, status) in annotations.rows(self.file(PARTITION), columns):
            if not annotations.is_status(location, status, tuple(_STATUSES)):
                continue
            if not annotations.is_item(location, item_id, items, _ITEMS):
                continue
            split, domain = _STATUSES[status]
            if not domain:
                domain = DOMAINS[1 - photos_before[item_id] % 2]
                photos_before[item_id] += 1
            row = annotations.photo(location, "image_name", image, item_id, domain, split)
            if row:
                view = _VIEWS.get(annotations.box_kinds(image)["pose_type"], UNKNOWN)
                rows.append(replace(row, category=folder_category(image), view=view))
        return annotations.listing(rows)

    def compare(self, checked: ValidationReport) -> list[dict[str, object]]:
        """Returns counts of the photos and items of each part."""
        items = {
            split: len({row.item_id for row, _ in checked.rows if row.split == split})
            for split in ("train", "test")
        }
        return [
            compare("photos", count_images(checked), 52_712, 54_642),
            compare("train photos", count_images(checked, "train"), 25_882),
            compare("query photos", count_images(checked, "test", "customer"), 14_218),
            compare("gallery photos", count_images(checked, "test", "shop"), 12_612),
            compare("items", sum(items.values()), 7_982, 11_735),
            compare("train items", items["train"], 3_997),
            compare("test items", items["test"], 3_985),
        ]


class InShop(ListedPhotos):
    """Train, and test: its queries are the customer photos, its gallery the shop photos.

    All photos are a shop's, and those of the training items have no roles in the release. Here
    an item's photos alternate in the order of the partition, the first a shop photo, the second
    a customer photo, so that the pairs of train are photos of one item as those of test are.
    The category is that of the photo's folders, as WOMEN/Dresses.
    """

    name = "deepfashion_inshop"
    builder_config: InShopConfig


def describe(source: str, options: PrepareOptions) -> tuple[type[InShop], InShopConfig]:
    """Returns the builder and its config."""
    return InShop, download_config(InShopConfig, source, options)
