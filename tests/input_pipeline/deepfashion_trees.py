"""Small downloads in the form of DeepFashion's benchmarks, with images of 24 x 36 pixels."""

from collections.abc import Sequence
from pathlib import Path

from tests.input_pipeline.conftest import photo_bytes

PARTITION = "Eval/list_eval_partition.txt"
C2S_BOXES = "Anno/list_bbox_consumer2shop.txt"
C2S_LANDMARKS = "Anno/list_landmarks_consumer2shop.txt"
INSHOP_BOXES = "Anno/list_bbox_inshop.txt"
CORNERS = "x_1  y_1  x_2  y_2"
CATEGORIES, ATTRIBUTES = (f"{name}_name  {name}_type" for name in ("category", "attribute"))
LANDMARKS = "landmark_visibility_1 landmark_location_x_1"
POINTS = {  # of clothes types
    1: "0 008 004  0 015 004  1 002 012  0 021 012  0 007 030  2 000 000",
    2: "0 008 004  0 015 004  0 007 030  1 016 030",
    3: "0 008 004 0 015 004 1 002 012 0 021 012 0 008 018 0 015 018 0 007 030 0 016 030",
}


def write_list(root: Path, name: str, header: str, rows: Sequence[str], mark: str = "") -> None:
    """An annotation file: the number of rows, the header unless it is "", the rows."""
    lines = [f"{mark}{len(rows)}", *([header] if header else []), *rows]
    write_lines(root / name, lines)


def write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_photo(root: Path, image: str, seed: int) -> None:
    path = root / image
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(photo_bytes(seed, size=(36, 24)))


def write_items(root: Path, name: str) -> list[str]:
    """The list of items 1 to 7."""
    items = [f"id_{item:08d}" for item in range(1, 8)]
    write_list(root, f"Anno/list_item_{name}.txt", "", items)
    return items


def c2s_photos(item: int) -> dict[str, list[str]]:
    """Paths of an item's images by domain."""
    category = ("TOPS/T_Shirt", "TROUSERS/Jeans", "DRESSES/Dress")[item % 3]
    names = {"customer": "comsumer", "shop": "shop"}
    return {
        domain: [f"img/{category}/id_{item:08d}/{name}_{n:02d}.jpg" for n in (1, 2)]
        for domain, name in names.items()
    }


def write_c2s(root: Path) -> Path:
    """Items 1 to 7 (train: 1 to 4, val: 5, test: 6, 7), each with two images of either domain."""
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
    header = "image_pair_name_1 image_pair_name_2 item_id evaluation_status"
    write_list(root, PARTITION, header, pairs)
    write_list(root, C2S_BOXES, f"image_name clothes_type source_type {CORNERS}", boxes)
    header = f"image_name clothes_type variation_type {LANDMARKS}"
    write_list(root, C2S_LANDMARKS, header, landmarks)
    names = ["long sleeve   6", "floral print    1", "slim 4"]
    write_list(root, "Anno/list_attr_cloth.txt", ATTRIBUTES, names, mark="\ufeff")
    items = write_items(root, "consumer2shop")
    values = [f"{item}   1 -1  {'1' if n % 2 else '-1'}" for n, item in enumerate(items)]
    write_list(root, "Anno/list_attr_items.txt", "item_id  attribute_labels", values)
    return root


def write_inshop(root: Path, attributes: str = "Anno/attributes") -> Path:
    """Items 1 to 4 of train with three images each, 5 to 7 of test with two queries and two."""
    rows, boxes, landmarks = [], [], []
    for item in range(1, 8):
        statuses = ["train"] * 3 if item < 5 else ["query", "query", "gallery", "gallery"]
        clothes_type = item % 3 + 1
        for number, status in enumerate(statuses):
            pose = (1, 4, 6)[number] if item < 5 else (1, 2, 3, 5)[number]
            image = f"img/WOMEN/Blouses_Shirts/id_{item:08d}/{number + 1:02d}_{pose}_pose.jpg"
            write_photo(root / "Img", image, 10 * item + number)
            rows.append(f"{image}       id_{item:08d}    {status}")
            boxes.append(f"{image}  {clothes_type} {pose}  002 003 023 034")
            landmarks.append(f"{image}  {clothes_type} 1  {POINTS[clothes_type]}")
    write_list(root, PARTITION, "image_name item_id evaluation_status", rows)
    write_list(root, INSHOP_BOXES, f"image_name clothes_type pose_type {CORNERS}", boxes)
    header = f"image_name clothes_type variation_type {LANDMARKS}"
    write_list(root, "Anno/list_landmarks_inshop.txt", header, landmarks)
    names = ["v neck", "1950s", "pointelle 2"]  # without types
    write_list(root, f"{attributes}/list_attr_cloth.txt", "attribute_name", names)
    values = [
        f"{item} -1 {'0' if n % 2 else '-1'} 1 "
        for n, item in enumerate(write_items(root, "inshop"))
    ]
    write_list(root, f"{attributes}/list_attr_items.txt", "item_id attribute_labels", values)
    return root


def write_attributes(root: Path, folder: str = "Anno") -> Path:
    """Two folders of four images each, in every split; three categories, of which one has none."""
    photos = [
        f"img/{place}/img_{number:08d}.jpg"
        for place in ("Sheer_Pleated-Front_Blouse", "Two-Tone_Jeans")
        for number in range(1, 5)
    ]
    statuses, labels = ["train", "train", "val", "test"] * 2, ["1"] * 4 + ["03"] * 4
    types, values = [1] * 4 + [2] * 4, ["-1  -1  0"] * 4 + ["-1  1  0"] * 4
    for number, image in enumerate(photos):
        write_photo(root / "Img", image, number)

    def write(name: str, header: str, cells: Sequence[str]) -> None:
        rows = [f"{image}   {cell}" for image, cell in zip(photos, cells, strict=True)]
        write_list(root, name, f"image_name  {header}", rows)

    write(PARTITION, "evaluation_status", statuses)
    write(f"{folder}/list_category_img.txt", "category_label", labels)
    write(f"{folder}/list_attr_img.txt", "attribute_labels", values)
    write(f"{folder}/list_bbox.txt", CORNERS, ["002 003 023 034"] * 8)
    points = [f"{kind}  {POINTS[kind]}" for kind in types]
    write(f"{folder}/list_landmarks.txt", f"clothes_type {LANDMARKS}", points)
    names = ["Blouse  1", "Button-Down 1", "Jeans         2"]
    write_list(root / folder, "list_category_cloth.txt", CATEGORIES, names)
    names = ["a-line       3", "acid wash jean  1", "abstract print 1"]
    write_list(root / folder, "list_attr_cloth.txt", ATTRIBUTES, names)
    return root


def write_fine(root: Path) -> Path:
    """Six images of a folder; two categories, of which one has none; two attributes."""
    folder, landmarks = root / "Anno_fine", []
    for split, numbers in {"train": (1, 2, 3), "val": (4,), "test": (5, 6)}.items():
        images = [f"img/Two-Tone_Jeans/img_{number:08d}.jpg" for number in numbers]
        for number, image in zip(numbers, images, strict=True):
            write_photo(root / "Img", image, number)
        write_lines(folder / f"{split}.txt", images)
        write_lines(folder / f"{split}_cate.txt", ["2 " for _ in images])
        write_lines(folder / f"{split}_bbox.txt", ["002 003 023 034" for _ in images])
        write_lines(folder / f"{split}_attr.txt", [f"1 {number % 2} " for number in numbers])
        landmarks += [f"{image}  2  {POINTS[2]}" for image in images]
    write_list(folder, "list_landmarks.txt", f"image_name clothes_type {LANDMARKS}", landmarks)
    write_list(folder, "list_category_cloth.txt", CATEGORIES, ["Blouse  1", "Jeans   2"])
    write_list(folder, "list_attr_cloth.txt", ATTRIBUTES, ["cotton  5", "tight  6"])
    return root


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
