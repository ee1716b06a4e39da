"""Small folders in COCO's form."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.input_pipeline.conftest import photo_bytes

HEIGHT, WIDTH = 24, 36
TURNS = {  # from the upright picture to the stored one, for each EXIF orientation
    1: lambda picture: picture,
    2: lambda picture: picture[:, ::-1],
    3: lambda picture: picture[::-1, ::-1],
    4: lambda picture: picture[::-1],
    5: lambda picture: picture.swapaxes(0, 1),
    6: lambda picture: np.rot90(picture, 1),
    7: lambda picture: picture[::-1, ::-1].swapaxes(0, 1),
    8: lambda picture: np.rot90(picture, -1),
}
STAR = [4.0, 3.0, 30.0, 6.0, 12.0, 20.0, 16.5, 9.25]  # four corners, one of them inwards


def runs_of(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed runs: down the columns, outside first."""
    flat = np.concatenate([[0], mask.T.reshape(-1), [2]])
    return np.diff(np.flatnonzero(np.diff(flat)), prepend=0).tolist()


def ring() -> np.ndarray:
    """uint8 [24, 36]: a frame of 1 around a hole; it touches the photo's left edge."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[2:20, 0:30] = 1
    mask[6:15, 5:21] = 0
    return mask


def annotation(key: int, image: int | str, category: int, box: list[float], **fields: Any) -> dict:
    """An entry of `annotations`."""
    return {"id": key, "image_id": image, "category_id": category, "bbox": box, **fields}


def street() -> dict[str, list[dict]]:
    """Five photos: one with three objects, one with a crowd, one without objects, two with one."""
    size = {"height": HEIGHT, "width": WIDTH}
    return {
        "images": [{"id": n, "file_name": f"{n:04}.jpg", **size} for n in range(1, 6)],
        "annotations": [
            annotation(
                11, 1, 7, [0, 2, 30, 18], segmentation={"size": [24, 36], "counts": runs_of(ring())}
            ),
            annotation(12, 1, 3, [4, 3, 26, 17], segmentation=[STAR], area=-1.0),
            annotation(13, 1, 3, [1.5, 2.25, 3, 4], segmentation=[]),
            annotation(14, 2, 9, [10, 10, 26.5, 14], iscrowd=1),
            annotation(15, 4, 7, [1, 1, 34, 22], segmentation=None, iscrowd=0),
            annotation(16, 5, 9, [2, 2, 5, 6]),
        ],
        "categories": [
            {"id": 7, "name": "bag", "supercategory": "fashion"},
            {"id": 3, "name": "dress"},
            {"id": 9, "name": "café au lait"},
        ],
    }


def write_photos(folder: Path, content: Mapping[str, list[dict]]) -> None:
    """A photo of 24 x 36 pixels for each image."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(content["images"]):
        data = photo_bytes(number, size=(HEIGHT, WIDTH))
        (folder / image["file_name"]).write_bytes(data)


def write_json(path: Path, content: object) -> None:
    """A file of annotations."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_coco(root: Path, content: Mapping[str, list[dict]] | None = None) -> Path:
    """A single annotations.json on one line, the photos in `images`."""
    content = street() if content is None else content
    write_photos(root / "images", content)
    write_json(root / "annotations.json", content)
    return root
