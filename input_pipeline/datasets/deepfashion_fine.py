"""DeepFashion: the finer annotations of Category and Attribute Prediction, with 26 attributes."""

from collections.abc import Iterator
from dataclasses import dataclass

from input_pipeline.config import PrepareOptions
from input_pipeline.datasets.deepfashion import DeepFashionConfig
from input_pipeline.datasets.deepfashion_text import (
    Annotations,
    AttributeRow,
    labeled,
    read_lines,
    with_value,
)
from input_pipeline.datasets.download import download_config
from input_pipeline.datasets.listed import ListedPhotos
from input_pipeline.datasets.listing import Listing, Location
from input_pipeline.errors import AnnotationError
from input_pipeline.vocabulary import SPLITS

_CATEGORIES = "Anno_fine/list_category_cloth.txt"
_ATTRIBUTES = "Anno_fine/list_attr_cloth.txt"
_LANDMARKS = "Anno_fine/list_landmarks.txt"
# Of attributes, by the numbers in their list.
_TYPES = {1: "texture", 2: "sleeve", 3: "length", 4: "neckline", 5: "fabric", 6: "fit"}
# Of each split: line by line its photos, and what is said of them.
_PARTS = ("", "_cate", "_bbox", "_attr")


def _part(split: str, part: str) -> str:
    return f"Anno_fine/{split}{part}.txt"


@dataclass(kw_only=True)
class FineConfig(DeepFashionConfig):
    """Which download: see `download_config`."""

    benchmark = "DeepFashion's finer annotations"
    required = (
        _CATEGORIES,
        _ATTRIBUTES,
        *(_part(split, part) for split in SPLITS for part in _PARTS),
    )
    optional = (_LANDMARKS,)

    def read(self) -> Listing:
        """Returns one row a photo, split by split, in the order of the files."""
        annotations = Annotations()
        if path := self.optional_file(_LANDMARKS):
            annotations.read_landmarks(path, variation=False)
        categories = annotations.read_categories(self.file(_CATEGORIES))
        attributes = annotations.read_attribute_names(self.file(_ATTRIBUTES))
        rows = []
        for split in SPLITS:
            for (location, image), *said in self._lines(split):
                if not image.isprintable():
                    annotations.add(location, "fields", "holds a control character")
                    continue
                parts = dict(zip(_PARTS[1:], said, strict=True))
                box_location, box = parts["_bbox"]
                annotations.take_box(box_location, image, box.split(), {})
                row = annotations.photo(location, "image_name", image, image, "shop", split)
                category_place, label = parts["_cate"]
                category = annotations.category(category_place, categories, label)
                values = _values(annotations, attributes, *parts["_attr"])
                if row and category and values is not None:
                    there = AttributeRow(with_value("1", attributes, values))
                    rows.append(labeled(row, category, there))
        return annotations.listing(rows, _TYPES)

    def _lines(self, split: str) -> Iterator[tuple[tuple[Location, str], ...]]:
        """Returns the line of each file for each photo of a split.

        Raises:
          AnnotationError: a file has another number of lines than there are photos, or a line where
            no photo is. Which line is wrong cannot be told, so each could belong to its neighbor.
        """
        paths = [self.file(_part(split, part)) for part in _PARTS]
        lines = [list(read_lines(path)) for path in paths]
        photos = [line for line, _ in lines[0]]
        if not photos:
            raise AnnotationError([f"{paths[0]}:1: has no rows"])
        wrong = []
        for path, path_lines in zip(paths[1:], lines[1:], strict=True):
            numbers = [line for line, _ in path_lines]
            if len(numbers) != len(photos):
                text = f"has {len(numbers)} lines, expected {len(photos)}, a line for each photo of"
                wrong.append(f"{path}: {text} {paths[0].name}")
            elif numbers != photos:
                line = min(set(numbers) - set(photos))
                wrong.append(f"{path}:{line}: {paths[0].name} has no photo on this line")
        if wrong:
            raise AnnotationError(wrong)
        for each in zip(*lines, strict=True):
            yield tuple(
                (Location(path, line), text.strip())
                for path, (line, text) in zip(paths, each, strict=True)
            )


def _values(
    annotations: Annotations, names: list[str], location: Location, text: str
) -> list[str] | None:
    """Returns a value for each attribute; None, and the problem noted, where a line is wrong."""
    values = text.split()
    strange = sorted(set(values) - {"0", "1"})
    if len(values) != len(names):
        problem = f"expected {len(names)} values, got {len(values)}"
    elif strange:
        problem = f"expected 1 or 0, got {strange[0]!r}"
    else:
        return values
    annotations.add(location, "attributes", problem)
    return None


class Fine(ListedPhotos):
    """Photos with category and finer attributes, in the release's splits; no pairs.

    Every photo is a shop photo and an item of its own, its path the item_id. Where a photo has
    landmarks its clothes type is theirs, otherwise its category's.
    """

    name = "deepfashion_fine"
    builder_config: FineConfig


def describe(source: str, options: PrepareOptions) -> tuple[type[Fine], FineConfig]:
    """Returns the builder and its config."""
    return Fine, download_config(FineConfig, source, options)
