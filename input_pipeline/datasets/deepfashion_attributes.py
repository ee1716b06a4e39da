"""DeepFashion: Category and Attribute Prediction."""

from dataclasses import dataclass

from input_pipeline.config import PrepareOptions
from input_pipeline.datasets.deepfashion import PARTITION, DeepFashionConfig
from input_pipeline.datasets.deepfashion_text import Annotations, AttributeRow, labeled
from input_pipeline.datasets.download import compare, count_images, download_config
from input_pipeline.datasets.listed import ListedPhotos
from input_pipeline.datasets.listing import Listing, ValidationReport
from input_pipeline.vocabulary import SPLITS

_CATEGORIES = "Anno/list_category_cloth.txt"
_PHOTO_CATEGORIES = "Anno/list_category_img.txt"
_ATTRIBUTE_NAMES = "Anno/list_attr_cloth.txt"
_PHOTO_ATTRIBUTES = "Anno/list_attr_img.txt"
_BOXES = "Anno/list_bbox.txt"
_LANDMARKS = "Anno/list_landmarks.txt"
# Of attributes, by the numbers in their list.
_TYPES = {1: "texture", 2: "fabric", 3: "shape", 4: "part", 5: "style"}


@dataclass(kw_only=True)
class AttributesConfig(DeepFashionConfig):
    """Which download: see `download_config`."""

    benchmark = "DeepFashion's Category and Attribute Prediction"
    required = (PARTITION, _CATEGORIES, _PHOTO_CATEGORIES, _BOXES)
    optional = (_ATTRIBUTE_NAMES, _PHOTO_ATTRIBUTES, _LANDMARKS)

    def read(self) -> Listing:
        """Returns one row a photo, in the order of the partition."""
        annotations = Annotations()
        annotations.read_boxes(self.file(_BOXES), {})
        if path := self.optional_file(_LANDMARKS):
            annotations.read_landmarks(path, variation=False)
        categories = self._categories(annotations)
        attributes = annotations.read_attributes(
            self.optional_file(_ATTRIBUTE_NAMES),
            self.optional_file(_PHOTO_ATTRIBUTES),
            "image_name",
        )
        rows = []
        columns = ("image_name", "evaluation_status")
        for location, (image, status) in annotations.rows(self.file(PARTITION), columns):
            if not annotations.is_status(location, status, SPLITS):
                continue
            if image not in categories:
                text = f"field 'image_name': {image!r} has no category in {_PHOTO_CATEGORIES}"
                annotations.add(location, "photo without a category", text)
                continue
            row = annotations.photo(location, "image_name", image, image, "shop", status)
            if row:
                there = attributes.get(image, AttributeRow())
                rows.append(labeled(row, categories[image], there))
        return annotations.listing(rows, _TYPES)

    def compare(self, checked: ValidationReport) -> list[dict[str, object]]:
        """Returns the count of photos."""
        return [compare("photos", count_images(checked), 289_222)]

    def _categories(self, annotations: Annotations) -> dict[str, tuple[str, int]]:
        """Returns for each photo the name and the clothes type of its category."""
        labels = annotations.read_categories(self.file(_CATEGORIES))
        categories: dict[str, tuple[str, int]] = {}
        for location, (image, label) in annotations.rows(
            self.file(_PHOTO_CATEGORIES), ("image_name", "category_label")
        ):
            chosen = annotations.category(location, labels, label)
            if chosen is None:
                continue
            if image not in categories:
                categories[image] = chosen
            elif categories[image] == chosen:
                annotations.tolerated["repeated row of a category"] += 1
            else:
                text = f"field 'image_name': {image!r} has another category on an earlier line"
                annotations.add(location, "duplicate row", text)
        return categories


class Attributes(ListedPhotos):
    """Photos with category and attributes, in the release's splits; no pairs.

    The release has no items and no roles: its folders are search words, and a folder's photos
    are spread over the splits. Each photo is an item of its own here, its path the item_id, and
    every one is called a shop photo. Where a photo has landmarks its clothes type is theirs,
    otherwise its category's.
    """

    name = "deepfashion_attributes"
    builder_config: AttributesConfig


def describe(source: str, options: PrepareOptions) -> tuple[type[Attributes], AttributesConfig]:
    """Returns the builder and its config."""
    return Attributes, download_config(AttributesConfig, source, options)
