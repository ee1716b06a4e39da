"""A labeled sheet of synthetic items: `python -m benchmarks.contact_sheet`.

One item a row: the shop photo, then customer photos with their view and o (occluded) and c
(cropped) flags. Items of a family stand next to each other.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from input_pipeline.synthetic import SPLITS, Item, Photo, photos_of_item

_LABEL = 14
_LANDMARK_COLORS = ((40, 200, 60), (240, 160, 30), (230, 40, 40))


def _annotated(photo: Photo) -> np.ndarray:
    image = photo.image.copy()
    x_1, y_1, x_2, y_2 = photo.box
    cv2.rectangle(image, (x_1, y_1), (x_2 - 1, y_2 - 1), (230, 40, 200), 1)
    for slot, (visibility, x, y) in enumerate(photo.landmarks.tolist()):
        if visibility in (0, 1):
            cv2.circle(image, (x, y), 2, _LANDMARK_COLORS[visibility], -1)
            cv2.putText(image, str(slot), (x + 2, y), 0, 0.3, (20, 20, 20), 1, cv2.LINE_AA)
    return image


def _tile(image: np.ndarray, size: int, label: str) -> np.ndarray:
    tile = np.full((size + _LABEL, size, 3), 255, np.uint8)
    scale = size / max(image.shape[:2])
    width, height = round(image.shape[1] * scale), round(image.shape[0] * scale)
    tile[_LABEL : _LABEL + height, :width] = cv2.resize(image, (width, height))
    cv2.putText(tile, label, (2, 10), 0, 0.33, (0, 0, 0), 1, cv2.LINE_AA)
    return tile


def _photo_label(item: Item, photo: Photo) -> str:
    if photo.domain == "shop":
        return f"{item.item_id.split('_')[-1].lstrip('0') or '0'} {item.category} {item.change}"
    flags = ("o" if photo.occluded else "") + ("c" if photo.cropped else "")
    return f"{photo.view} {flags}"


def contact_sheet(
    seed: int,
    split: str,
    items: int,
    customers: int = 6,
    start: int = 0,
    picture_size: int = 160,
    annotations: bool = False,
    box_size: int = 0,
) -> np.ndarray:
    """Draws `items` rows of photos, uint8 RGB.

    box_size > 0 adds, right of every photo, the garment's box at that size, as a network sees it.
    """
    rows = []
    for index in range(start, start + items):
        item, photos = photos_of_item(
            seed, split, index, customers=customers, picture_size=picture_size
        )
        tiles = []
        for photo in photos:
            image = _annotated(photo) if annotations else photo.image
            tiles.append(_tile(image, picture_size, _photo_label(item, photo)))
            if box_size:
                x_1, y_1, x_2, y_2 = photo.box
                crop = cv2.resize(photo.image[y_1:y_2, x_1:x_2], (box_size, box_size))
                padded = np.full((picture_size + _LABEL, box_size + 4, 3), 255, np.uint8)
                padded[_LABEL : _LABEL + box_size, :box_size] = crop
                tiles.append(padded)
        rows.append(np.hstack(tiles))
    return np.vstack(rows)


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--items", type=int, default=10)
    parser.add_argument("--start", type=int, default=0, help="first item")
    parser.add_argument("--customers", type=int, default=6, help="customer photos an item")
    parser.add_argument("--picture-size", type=int, default=160)
    parser.add_argument("--annotations", action="store_true", help="draw boxes and landmarks")
    parser.add_argument("--box-size", type=int, default=0, help="add crops of this size")
    arguments = parser.parse_args()
    sheet = contact_sheet(
        arguments.seed,
        arguments.split,
        arguments.items,
        arguments.customers,
        arguments.start,
        arguments.picture_size,
        arguments.annotations,
        arguments.box_size,
    )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(arguments.output), sheet[..., ::-1]):
        raise SystemExit(f"could not write {arguments.output}")
    print(f"wrote {arguments.output}: {arguments.items} items, {sheet.shape[1]}x{sheet.shape[0]}")


if __name__ == "__main__":
    main()
