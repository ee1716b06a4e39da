"""DeepFashion2: street and shop photos of several garments each."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from etils import epath
from pycocotools import mask as coco_mask
from tqdm import tqdm

from input_pipeline.config import PrepareOptions
from input_pipeline.datasets.deepfashion2_files import (
    FOLDERS,
    digest_states,
    list_names,
    read_garments,
    read_polygons,
)
from input_pipeline.datasets.download import (
    DownloadConfig,
    check_there,
    compare,
    count_images,
    download_config,
)
from input_pipeline.datasets.listed import ListedPhotos
from input_pipeline.datasets.listing import (
    AHEAD,
    THREADS,
    Listing,
    Location,
    PhotoRow,
    Problem,
    ValidationReport,
)
from input_pipeline.datasets.segmentation import RLE
from input_pipeline.errors import AnnotationError, DatasetError
from input_pipeline.images import encode_png
from input_pipeline.parallel import ordered_map

# Photos and garments of each folder; the paper's were not all released.
_RELEASE = {"train": (191_961, 312_186), "validation": (32_153, 52_490)}
_PAPER = {"train": (390_884, 636_624), "validation": (33_669, 54_910)}


@dataclass(kw_only=True)
class DeepFashion2Config(DownloadConfig):
    """Which download: see `download_config`."""

    benchmark = "DeepFashion2"
    overhang = 1  # a coordinate may count the last pixel in
    many_boxes = True

    @classmethod
    def fingerprint(cls, root: epath.Path) -> str:
        """Returns a digest of the annotation files' names, sizes and times, not content."""
        folders = _folders(root)
        if not folders:
            raise DatasetError(
                f"{root} (dataset.source): has neither a folder train nor validation"
            )
        parts = [f"{folder}/{part}" for folder in folders for part in ("image", "annos")]
        check_there(cls.benchmark, root, parts)
        return digest_states(root / folder / "annos" for folder in folders)

    def read(self) -> Listing:
        """Returns one row a garment, in the order of the files and of the garments' numbers."""
        listing = Listing(rows=[], problems=[])
        for folder in _folders(self.root):
            _read_folder(self.root / folder, listing)
        if not listing.rows and not listing.problems:
            raise AnnotationError([f"{self.root}: no photo has a garment"])
        listing.tolerated.update(_other_categories(listing.rows))
        listing.facts["garments_of_style_0"] = sum(
            row.item_id.split("/")[2] == "0" for row in listing.rows
        )
        return listing

    def photo_path(self, image: str) -> epath.Path:
        """Returns the path of a photo, whose name begins with train/ or validation/."""
        return self.root / image

    def mask(self, row: PhotoRow, height: int, width: int) -> bytes:
        """Returns the mask that the garment's polygons enclose, drawn on the upright photo.

        Coordinates are COCO's: (0, 0) is the outer corner of the first pixel.
        """
        polygons = [points.tolist() for points in read_polygons(row)]
        parts = coco_mask.frPyObjects(polygons, height, width)
        inside = RLE(height, width, coco_mask.merge(parts)["counts"]).pixels()
        return encode_png(inside * np.uint8(255))

    def compare(self, checked: ValidationReport) -> list[dict[str, object]]:
        """Returns counts of photos and garments of each folder."""
        garments = Counter(row.split for row, _ in checked.rows)
        return [
            compare(f"{folder} {what}", count, release, paper)
            for folder in _folders(self.root)
            for what, count, release, paper in zip(
                ("photos", "garments"),
                (count_images(checked, FOLDERS[folder]), garments[FOLDERS[folder]]),
                _RELEASE[folder],
                _PAPER[folder],
                strict=True,
            )
        ]


class DeepFashion2(ListedPhotos):
    """A record for each garment; train is the training split and validation the test split.

    The test photos of the release have no public labels and are not read.

    Garments are of one item where pair_id and style are the same, whatever category either is
    said to have, as in the release's evaluation. Those of style 0 have no partner: each is an item
    of its own, in the gallery where a shop shows it, and else a query without match. Items are
    named by folder, pair_id and style, for both folders count pair_ids from 1.

    The flags of FindFashion's protocols are derived, so that figures are "DeepFashion2-derived":
    viewpoint 3 (side or back, which are not told apart) is stored as side; 1 (not worn) and 2
    as front; occlusion of 2 or 3 (medium, heavy) as occluded; zoom_in of 2 or 3 (medium, large) as
    cropped.

    Landmarks are in the category's own order and number; visibility 0 visible, 1 occluded, -1 not
    labeled.
    """

    name = "deepfashion2"
    builder_config: DeepFashion2Config


def describe(source: str, options: PrepareOptions) -> tuple[type[DeepFashion2], DeepFashion2Config]:
    """Returns the builder and its config."""
    return DeepFashion2, download_config(DeepFashion2Config, source, options)


def _folders(root: epath.Path) -> list[str]:
    return [folder for folder in FOLDERS if (root / folder).is_dir()]


def _read_folder(folder: epath.Path, listing: Listing) -> None:
    """Adds what the annotation files of train or validation hold."""
    annotations, others = list_names(folder / "annos", ".json")
    if not annotations:
        raise AnnotationError([f"{folder / 'annos'}: has no annotation file, as 000001.json"])
    photos, more_others = list_names(folder / "image", ".jpg")
    if others + more_others:
        listing.tolerated["file that is neither photo nor annotation"] += others + more_others
    known = {name.removesuffix(".json") for name in annotations}
    for name in photos:
        number = name.removesuffix(".jpg")
        if number not in known:
            text = f"there is no such file, for the photo {folder.name}/image/{name}"
            location = Location(folder / "annos" / f"{number}.json", 1)
            listing.problems.append(Problem(location, "photo without a box", text))
    paths = (folder / "annos" / name for name in annotations)
    with ThreadPoolExecutor(THREADS) as pool:
        files = ordered_map(pool, read_garments, paths, AHEAD)
        title = f"Reading {folder.name}/annos"
        for rows, problems, tolerated in tqdm(files, title, len(annotations), unit=" files"):
            listing.rows += rows
            listing.problems += problems
            listing.tolerated.update(tolerated)


def _other_categories(rows: list[PhotoRow]) -> Counter[str]:
    """Returns how many garments have another category than the first of their item."""
    first: dict[str, str] = {}
    count = sum(first.setdefault(row.item_id, row.category) != row.category for row in rows)
    return Counter({"garment of another category than its item's first": count} if count else {})
