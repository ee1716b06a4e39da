"""Small downloads in the form of DeepFashion's benchmarks."""

from collections.abc import Sequence
from pathlib import Path

from tests.input_pipeline.conftest import photo_bytes

PARTITION = "Eval/list_eval_partition.txt"
C2S_BOXES = "Anno/list_bbox_consumer2shop.txt"
C2S_LANDMARKS = "Anno/list_landmarks_consumer2shop.txt"
INSHOP_BOXES = "Anno/list_bbox_inshop.txt"
INSHOP_LANDMARKS = "Anno/list_landmarks_inshop.txt"
BOX_COLUMNS = "x_1  y_1  x_2  y_2"
POINTS = {  # of clothes types, in a photo of 24 x 36 pixels (width x height)
    1: "0 008 004  0 015 004  1 002 012  0 021 012  0 007 030  2 000 000",
    2: "0 008 004  0 015 004  0 007 030  1 016 030",
    3: "0 008 004 0 015 004 1 002 012 0 021 012 0 008 018 0 015 018 0 007 030 0 016 030",
}


def write_list(
    root: Path,
    name: str,
    header: str,
    rows: Sequence[str],
    *,
    count: int | None = None,
    encoding: str = "utf-8",
) -> Path:
    """An annotation file: the number of rows, the header unless it is "", the rows."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [str(len(rows) if count is None else count), *([header] if header else []), *rows]
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def write_photo(root: Path, image: str, seed: int) -> None:
    """A photo of 24 x 36 pixels (width x height)."""
    path = root / image
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(photo_bytes(seed, size=(36, 24)))


def c2s_photos(item: int) -> dict[str, list[str]]:
    """Paths of an item's photos by domain."""
    category = ("TOPS/T_Shirt", "TROUSERS/Jeans", "DRESSES/Dress")[item % 3]
    folder = f"img/{category}/id_{item:08d}"
    return {
        "customer": [f"{folder}/comsumer_{n:02d}.jpg" for n in (1, 2)],
        "shop": [f"{folder}/shop_{n:02d}.jpg" for n in (1, 2)],
    }


def write_c2s(root: Path) -> Path:
    """Items 1 to 7 (train: 1 to 4, val: 5, test: 6, 7), each with two photos of either domain."""
    pairs, boxes, landmarks = [], [], []
    for item in range(1, 8):
        photos = c2s_photos(item)
        split = "train" if item < 5 else "val" if item == 5 else "test"
        clothes_type = item % 3 + 1
        for number, image in enumerate([*photos["customer"], *photos["shop"]]):
            write_photo(root, image, 10 * item + number)
            source = 1 if image in photos["shop"] else 2
            boxes.append(f"{image}    {clothes_type} {source}  002 003 023 0{33 + number}")
            landmarks.append(f"{image}  {clothes_type} 1  {POINTS[clothes_type]}")
        pairs += [
            f"{customer}      {shop}   id_{item:08d}      {split}"
            for customer in photos["customer"]
            for shop in photos["shop"]
        ]
    write_list(
        root, PARTITION, "image_pair_name_1 image_pair_name_2 item_id evaluation_status", pairs
    )
    write_list(root, C2S_BOXES, f"image_name clothes_type source_type {BOX_COLUMNS}", boxes)
    header = "image_name clothes_type variation_type landmark_visibility_1 landmark_location_x_1"
    write_list(root, C2S_LANDMARKS, header, landmarks)
    items = [f"id_{item:08d}" for item in range(1, 8)]
    write_list(root, "Anno/list_item_consumer2shop.txt", "", items)
    names = ["long sleeve   6", "floral print    1", "slim 4"]
    write_list(
        root,
        "Anno/list_attr_cloth.txt",
        "attribute_name  attribute_type",
        names,
        encoding="utf-8-sig",
    )
    values = [f"{item}   1 -1  {'1' if n % 2 else '-1'}" for n, item in enumerate(items)]
    write_list(root, "Anno/list_attr_items.txt", "item_id  attribute_labels", values)
    return root


def write_inshop(root: Path) -> Path:
    """Items 1 to 4 of train with three photos each, 5 to 7 of test with two queries and two."""
    rows, boxes, landmarks = [], [], []
    for item in range(1, 8):
        statuses = ["train"] * 3 if item < 5 else ["query", "query", "gallery", "gallery"]
        clothes_type = item % 3 + 1
        for number, status in enumerate(statuses):
            pose = (1, 2, 3, 5)[number]
            image = f"img/WOMEN/Blouses_Shirts/id_{item:08d}/{number + 1:02d}_{pose}_pose.jpg"
            write_photo(root / "Img", image, 10 * item + number)
            rows.append(f"{image}       id_{item:08d}    {status}")
            boxes.append(f"{image}  {clothes_type} {pose}  002 003 023 034")
            landmarks.append(f"{image}  {clothes_type} 1  {POINTS[clothes_type]}")
    write_list(root, PARTITION, "image_name item_id evaluation_status", rows)
    write_list(root, INSHOP_BOXES, f"image_name clothes_type pose_type {BOX_COLUMNS}", boxes)
    header = "image_name clothes_type variation_type landmark_visibility_1"
    write_list(root, INSHOP_LANDMARKS, header, landmarks)
    items = [f"id_{item:08d}" for item in range(1, 8)]
    write_list(root, "Anno/list_item_inshop.txt", "", items)
    return root


def write_attributes(root: Path, annotations: str = "Anno") -> Path:
    """Two folders of four photos each, in every split, three categories, three attributes."""
    photos = [
        f"img/{folder}/img_{number:08d}.jpg"
        for folder in ("Sheer_Pleated-Front_Blouse", "Two-Tone_Jeans")
        for number in range(1, 5)
    ]
    splits = ["train", "train", "val", "test"] * 2
    types = [1] * 4 + [2] * 4
    for number, image in enumerate(photos):
        write_photo(root / "Img", image, number)
    write_list(
        root,
        PARTITION,
        "image_name  evaluation_status",
        [f"{image}    {split}" for image, split in zip(photos, splits, strict=True)],
    )
    files = {
        "list_category_cloth.txt": (
            "category_name  category_type",
            ["Blouse  1", "Button-Down 1", "Jeans         2"],
        ),
        "list_category_img.txt": (
            "image_name  category_label",
            [f"{image}   {'03' if n >= 4 else 1}" for n, image in enumerate(photos)],
        ),
        "list_attr_cloth.txt": (
            "attribute_name  attribute_type",
            ["a-line       3", "acid wash jean  1", "abstract print 1"],
        ),
        "list_attr_img.txt": (
            "image_name  attribute_labels",
            [f"{image}   -1  {'1' if n >= 4 else '-1'}  0" for n, image in enumerate(photos)],
        ),
        "list_bbox.txt": (
            f"image_name  {BOX_COLUMNS}",
            [f"{image}  002 003 023 034" for image in photos],
        ),
        "list_landmarks.txt": (
            "image_name  clothes_type  landmark_visibility_1",
            [f"{image}  {t}  {POINTS[t]}" for image, t in zip(photos, types, strict=True)],
        ),
    }
    for name, (header, rows) in files.items():
        write_list(root, f"{annotations}/{name}", header, rows)
    return root


def write_fine(root: Path) -> Path:
    """Two folders of photos, three in train, one in val and two in test; two attributes."""
    splits = {"train": (1, 2, 3), "val": (4,), "test": (5, 6)}
    folder = root / "Anno_fine"
    images = []
    for split, numbers in splits.items():
        here = [f"img/Two-Tone_Jeans/img_{number:08d}.jpg" for number in numbers]
        images += here
        write_lines(folder / f"{split}.txt", here)
        write_lines(folder / f"{split}_cate.txt", ["2 " for _ in here])
        write_lines(folder / f"{split}_bbox.txt", ["002 003 023 034" for _ in here])
        write_lines(folder / f"{split}_attr.txt", [f"1 {number % 2} " for number in numbers])
    for number, image in enumerate(images):
        write_photo(root / "Img", image, number)
    files = {
        "list_category_cloth.txt": ("category_name  category_type", ["Blouse  1", "Jeans   2"]),
        "list_attr_cloth.txt": ("attribute_name  attribute_type", ["cotton  5", "tight  6"]),
        "list_landmarks.txt": (
            "image_name  clothes_type  landmark_visibility_1",
            [f"{image}  2  {POINTS[2]}" for image in images],
        ),
    }
    for name, (header, rows) in files.items():
        write_list(root, f"Anno_fine/{name}", header, rows)
    return root


def write_lines(path: Path, rows: Sequence[str]) -> None:
    """A file of the finer annotations, without count and header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def edit(path: Path, line: int, old: str, new: str) -> None:
    """Replaces text on one line, counted from 1; it must be there."""
    lines = path.read_text(encoding="utf-8").split("\n")
    changed = lines[line - 1].replace(old, new, 1)
    assert changed != lines[line - 1], lines[line - 1]
    lines[line - 1] = changed
    path.write_text("\n".join(lines), encoding="utf-8")


def append(path: Path, row: str) -> None:
    """Adds a row, and counts it."""
    lines = path.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join([str(int(lines[0]) + 1), *lines[1:-1], row, ""]), encoding="utf-8")
