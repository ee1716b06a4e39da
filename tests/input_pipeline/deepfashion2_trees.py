"""Small downloads in the form of DeepFashion2."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.input_pipeline.conftest import photo_bytes

NAMES = (
    *("short sleeve top", "long sleeve top", "short sleeve outwear", "long sleeve outwear"),
    *("vest", "sling", "shorts", "trousers", "skirt"),
    *("short sleeve dress", "long sleeve dress", "vest dress", "sling dress"),
)
# Where each category's landmarks end among the 294 of all categories in a row.
LANDMARK_ENDS = (25, 58, 89, 128, 143, 158, 168, 182, 190, 219, 256, 275, 294)
WIDTH, HEIGHT = 24, 36


def landmark_count(category_id: int) -> int:
    return LANDMARK_ENDS[category_id - 1] - (0, *LANDMARK_ENDS)[category_id - 1]


def garment(category_id: int, style: int, **changes: Any) -> dict[str, Any]:
    """One of the objects item1, item2, ...; landmark n lies at (n % 24, n % 36)."""
    landmarks = []
    for number in range(landmark_count(category_id)):
        visibility = (2, 1, 0)[number % 3]
        place = [number % WIDTH, number % HEIGHT] if visibility else [0, 0]
        landmarks += [*place, visibility]
    return {
        "segmentation": [[3, 4, 21, 4, 21, 33, 3, 33, 3, 4], [10, 2, 14, 2, 12, 12, 10, 2]],
        "scale": 2,
        "viewpoint": 2,
        "zoom_in": 1,
        "landmarks": landmarks,
        "style": style,
        "bounding_box": [2, 2, 22, 34],
        "category_id": category_id,
        "occlusion": 1,
        "category_name": NAMES[category_id - 1],
        **changes,
    }


def paths(root: Path, folder: str, number: int) -> tuple[Path, Path]:
    """A photo and its annotation file."""
    return root / folder / f"image/{number:06d}.jpg", root / folder / f"annos/{number:06d}.json"


def write_photo(
    root: Path, folder: str, number: int, source: str, pair_id: int, *garments: dict[str, Any]
) -> None:
    """A photo of 24 x 36 pixels (width x height), and its annotation file of one line."""
    photo, annotation = paths(root, folder, number)
    for path in (photo, annotation):
        path.parent.mkdir(parents=True, exist_ok=True)
    photo.write_bytes(photo_bytes(number + 100 * (folder == "train"), size=(HEIGHT, WIDTH)))
    content = {f"item{n}": garment for n, garment in enumerate(garments, 1)}
    annotation.write_text(json.dumps({**content, "source": source, "pair_id": pair_id}))


def write_deepfashion2(root: Path) -> Path:
    """Nine garments on five photos of train, three on two photos of validation."""
    write_photo(root, "train", 1, "user", 1, garment(1, 1), garment(8, 0))
    write_photo(root, "train", 2, "shop", 1, garment(1, 1, bounding_box=[1, 2, 23, 34]))
    write_photo(
        *(root, "train", 3, "shop", 1),
        garment(9, 2),
        garment(1, 1, viewpoint=3),
        garment(1, 1, bounding_box=[0, 0, 24, 36]),
    )
    write_photo(root, "train", 4, "user", 2, garment(13, 1, zoom_in=3, viewpoint=1))
    write_photo(root, "train", 5, "shop", 2, garment(13, 1), garment(7, 0))
    write_photo(root, "validation", 1, "user", 1, garment(5, 1, occlusion=2, viewpoint=3))
    write_photo(root, "validation", 2, "shop", 1, garment(5, 1), garment(3, 0))
    return root


def read(root: Path, folder: str, number: int) -> dict[str, Any]:
    return json.loads(paths(root, folder, number)[1].read_text())


def edit(
    root: Path, folder: str, number: int, change: Callable[[dict[str, Any]], object], **layout: Any
) -> None:
    """Changes the content of an annotation file in place."""
    content = read(root, folder, number)
    change(content)
    paths(root, folder, number)[1].write_text(json.dumps(content, **layout))
