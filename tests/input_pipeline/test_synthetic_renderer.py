"""The synthetic renderer: determinism, honest annotations, shares, families, difficulty."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from input_pipeline import synthetic
from input_pipeline.datasets.synthetic import SplitSize, _record, _render
from input_pipeline.synthetic import Photo, garments, items, make_item, palette, photos_of_item
from input_pipeline.synthetic.photo import MUCH, view_of_yaw
from input_pipeline.synthetic.shop import render_shop

REPOSITORY = Path(__file__).resolve().parents[2]
SIZE = 64


def digest(photos: list[Photo]) -> str:
    """One hash over everything of the photos."""
    whole = hashlib.sha256()
    for photo in photos:
        for array in (photo.image, photo.landmarks, photo.mask):
            whole.update(array.tobytes())
        whole.update(photo.jpeg)
        whole.update(repr((photo.box, photo.view, photo.occluded, photo.cropped)).encode())
    return whole.hexdigest()


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[tuple[synthetic.Item, list[Photo]]]]:
    """Small photos of both kinds of split, shared by the tests that only look at them."""
    return {
        split: [photos_of_item(11, split, i, customers=5, picture_size=SIZE) for i in range(60)]
        for split in ("train", "test")
    }


def test_same_bytes_again_in_any_order() -> None:
    forwards = [digest(photos_of_item(5, "val", i, customers=2)[1]) for i in (3, 900_001)]
    backwards = [digest(photos_of_item(5, "val", i, customers=2)[1]) for i in (900_001, 3)]
    assert forwards == backwards[::-1]
    assert forwards[0] != digest(photos_of_item(6, "val", 3, customers=2)[1])


def test_same_bytes_in_another_process() -> None:
    program = (
        f"import sys; sys.path[:0] = [{str(REPOSITORY)!r}, {str(Path(__file__).parent)!r}]\n"
        "from test_synthetic_renderer import digest\n"
        "from input_pipeline.synthetic import photos_of_item\n"
        "photos_of_item(5, 'test', 16, customers=1)\n"
        "print(digest(photos_of_item(5, 'test', 17, customers=2)[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == digest(photos_of_item(5, "test", 17, customers=2)[1])


def test_more_customers_do_not_change_the_first() -> None:
    few = photos_of_item(2, "train", 8, customers=1, picture_size=SIZE)[1]
    many = photos_of_item(2, "train", 8, customers=3, picture_size=SIZE)[1]
    assert digest(few) == digest(many[:2])


def test_photo_forms(rendered: dict) -> None:
    for item, photos in rendered["test"][:30]:
        assert item.clothes_type == synthetic.CLOTHES_TYPES[item.category]
        assert [photo.domain for photo in photos] == ["shop"] + ["customer"] * 5
        assert photos[0].view == "front"
        assert not photos[0].occluded
        assert not photos[0].cropped
        for photo in photos:
            height, width = photo.mask.shape
            assert height == SIZE
            assert photo.image.shape == (height, width, 3)
            assert photo.image.dtype == np.uint8
            decoded = cv2.imdecode(np.frombuffer(photo.jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
            assert decoded.shape == photo.image.shape
            assert np.abs(decoded.astype(int) - photo.image).mean() < 20


def test_flags_follow_from_mask_areas(rendered: dict) -> None:
    for split in rendered:
        for _, photos in rendered[split]:
            for photo in photos:
                extent = photo.extent_mask
                assert not (photo.mask & ~extent).any()
                covered = 1 - photo.mask.sum() / extent.sum()
                outside = 1 - extent.sum() / photo.garment_area
                assert photo.occluded == (covered > MUCH)
                assert photo.cropped == (outside > MUCH)


def test_box_is_the_extent_of_the_garment(rendered: dict) -> None:
    for _, photos in rendered["train"]:
        for photo in photos:
            x_1, y_1, x_2, y_2 = photo.box
            height, width = photo.mask.shape
            assert 0 <= x_1 < x_2 <= width
            assert 0 <= y_1 < y_2 <= height
            rows, columns = np.nonzero(photo.extent_mask)
            assert (rows.min(), rows.max() + 1) == (y_1, y_2)
            assert (columns.min(), columns.max() + 1) == (x_1, x_2)
            outside = photo.mask.copy()
            outside[y_1:y_2, x_1:x_2] = False
            assert not outside.any()


def test_landmarks_lie_inside_unless_cut_off(rendered: dict) -> None:
    slots = {1: [0, 1, 2, 3, 6, 7], 2: [4, 5, 6, 7], 3: list(range(8))}
    for split in rendered:
        for item, photos in rendered[split]:
            for photo in photos:
                assert photo.landmarks.shape == (8, 3)
                assert photo.landmarks.dtype == np.int32
                height, width = photo.mask.shape
                for slot, (visibility, x, y) in enumerate(photo.landmarks.tolist()):
                    if slot not in slots[item.clothes_type]:
                        assert (visibility, x, y) == (-1, 0, 0)
                        continue
                    inside = 0 <= x < width and 0 <= y < height
                    assert visibility in (0, 1, 2)
                    assert inside == (visibility != 2)


def test_left_is_the_wearers_left(rendered: dict) -> None:
    for _, photos in rendered["train"]:
        for left, right in photos[0].landmarks.reshape(4, 2, 3):
            if left[0] != -1:
                assert left[1] > right[1]


def test_view_of_yaw() -> None:
    views = [view_of_yaw(math.radians(angle)) for angle in (0, 44, -46, 134, 136, -180, 350)]
    assert views == ["front", "front", "side", "side", "back", "back", "front"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_shares_of_hard_photos(rendered: dict, split: str) -> None:
    photos = [photo for _, taken in rendered[split] for photo in taken[1:]]
    shares = synthetic.SHARES[split]
    expected = {
        "side": (shares.side, [photo.view == "side" for photo in photos]),
        "back": (shares.back, [photo.view == "back" for photo in photos]),
        "cropped": (shares.cropped, [photo.cropped for photo in photos]),
        "occluded": (shares.occluded, [photo.occluded for photo in photos]),
    }
    for name, (share, flags) in expected.items():
        spread = math.sqrt(share * (1 - share) / len(photos))
        # 0.02 beyond chance: a few photos do not come out as planned.
        assert abs(np.mean(flags) - share) < 3.3 * spread + 0.02, name


def test_items_of_a_split() -> None:
    made = [make_item(0, "train", index) for index in range(1500)]
    assert {item.category for item in made} == set(synthetic.CATEGORIES)
    assert len(synthetic.CATEGORIES) >= 8
    assert set(synthetic.CLOTHES_TYPES.values()) == {1, 2, 3}
    for item in made:
        assert item.attributes == tuple(sorted(item.attributes))
        assert set(item.attributes) <= set(synthetic.ATTRIBUTES)
    sizes: dict[int, int] = {}
    for item in made:
        sizes[item.family] = sizes.get(item.family, 0) + 1
    assert set(sizes.values()) == {1, 2, 3, 4}
    assert np.mean([sizes[item.family] > 1 for item in made]) == pytest.approx(0.6)


def test_no_two_items_are_the_same_garment() -> None:
    made = [make_item(0, split, i).garment for split in items.SPLITS for i in range(400)]
    assert len(set(made)) == len(made)


def test_every_change_leaves_a_valid_garment() -> None:
    for index in range(800):
        garment = make_item(4, "train", index).garment
        cut = garments.CUTS[garment.category]
        for field in garments.LOCAL_FIELDS:
            value = getattr(garment, field)
            assert value in getattr(cut, field) or value == "none" or field == "neck"
        if garment.logo is not None and garment.sleeve == "none":
            assert not garment.logo.place.endswith("sleeve")


def test_siblings_differ_in_one_spot() -> None:
    compared = 0
    for index in range(120):
        item = make_item(1, "train", index)
        if item.change == "base":
            continue
        base = make_item(1, "train", item.family)
        assert base.change == "base"
        first, second = (
            render_shop(one, np.random.default_rng(index), 128) for one in (base, item)
        )
        garment = first.extent_mask | second.extent_mask
        apart = np.abs(first.image.astype(int) - second.image).max(axis=2) > 20
        share = (apart & garment).sum() / garment.sum()
        assert 0.0005 < share < 0.15, (index, item.change, share)
        compared += 1
    assert compared > 30


def _in_black(garment: garments.Garment) -> garments.Garment:
    """The garment without its colors."""
    black = (0, 0, 0)
    fabric = dataclasses.replace(garment.fabric, colors=(black,) * 3)
    logo = garment.logo and dataclasses.replace(garment.logo, color=black)
    return dataclasses.replace(garment, fabric=fabric, logo=logo, trim=black)


def test_items_in_a_row_may_differ_in_color_alone() -> None:
    for number in range(300):
        made = [make_item(2, "test", 4 * number + variant, colors=4) for variant in range(4)]
        base = make_item(2, "test", number)
        assert made[0].garment == base.garment
        assert {_in_black(item.garment) for item in made} == {_in_black(base.garment)}
        assert {item.attributes for item in made} == {base.attributes}
        assert [item.change for item in made[1:]] == ["color"] * 3
        main = [item.garment.fabric.colors[0] for item in made]
        pairs = itertools.combinations(main, 2)
        assert min(palette.distance(*pair) for pair in pairs) > 59


def test_the_category_of_items_in_several_colors_is_the_garment() -> None:
    size = SplitSize(items=4, customers=1, colors=2)
    records = [*_render(0, "test", size, range(4), _record, False, pool=False)]
    names = [f"{make_item(0, 'test', number).category} {number}" for number in (0, 1)]
    assert [record.category for record in records] == [name for name in names for _ in range(4)]
    assert len({record.item_id for record in records}) == 4


def color_histogram(photo: Photo) -> np.ndarray:
    """Square roots of a 6x6x6 RGB histogram of the garment's box."""
    x_1, y_1, x_2, y_2 = photo.box
    box = np.ascontiguousarray(photo.image[y_1:y_2, x_1:x_2])
    counts = cv2.calcHist([box], [0, 1, 2], None, [6, 6, 6], [0, 256] * 3).ravel()
    return np.sqrt(counts / counts.sum())


def test_color_alone_does_not_solve_it(rendered: dict) -> None:
    taken = [photos for _, photos in rendered["test"]]
    gallery = np.stack([color_histogram(photos[0]) for photos in taken])
    queries = np.stack([color_histogram(photo) for photos in taken for photo in photos[1:]])
    answers = (queries @ gallery.T).argmax(axis=1)
    top_1 = np.mean(answers == np.repeat(np.arange(60), 5))
    assert top_1 < 0.5
    # Nor is it noise: chance would be 1 in 60.
    assert top_1 > 0.05


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="split"):
        make_item(0, "holdout", 1)
    with pytest.raises(ValueError, match="index"):
        make_item(0, "train", -1)
    with pytest.raises(ValueError, match="customers"):
        photos_of_item(0, "train", 1, customers=-1)


def test_objects_are_what_is_seen_of_them(rendered) -> None:
    """One of the objects is the photographed garment, whose mask is drawn by other means."""
    shares, kinds = [], set()
    for item, photos in rendered["train"]:
        for photo in photos:
            of = [n for n, kind in enumerate(photo.objects, start=1) if kind == item.category]
            either = [np.count_nonzero((photo.owner == n) | photo.mask) for n in of]
            both = [np.count_nonzero((photo.owner == n) & photo.mask) for n in of]
            shares.append(max(b / e for b, e in zip(both, either, strict=True)))
            kinds |= set(photo.objects)
            assert photo.owner.max() <= len(photo.objects)
    assert np.median(shares) > 0.95
    assert np.quantile(shares, 0.02) > 0.7  # slivers differ along their edges
    assert {"Bag", "Shoe", "Trousers", "Dress"} <= kinds
