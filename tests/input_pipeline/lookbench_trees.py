"""A small folder in the form of LookBench's release, and one in the form of its package."""

from pathlib import Path
from typing import Any

import pandas as pd

from tests.input_pipeline.conftest import photo_bytes

QUERIES = [("a", "dress"), ("b", "bag"), ("b", "bag")]  # item, category
GALLERY = [("b", "bag"), ("a", "dress"), ("c", "dress"), ("a", "dress")]
NOISE = [("z", "shoe"), (None, "shoe")]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A parquet file of these rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(path, index=False)
    return path


def released_row(item: str | None, category: str, photo: int) -> dict[str, Any]:
    """A row with its image inside, as the hub stores them, and labels that are not read."""
    return {
        "image": {"bytes": photo_bytes(photo), "path": None},
        "item_ID": item,
        "category": category,
        "main_attribute": "red",
        "other_attributes": "long",
        "task": "single",
        "difficulty": "easy",
    }


def write_release(root: Path) -> Path:
    """A subset, with the folder of distractors beside it."""
    parts = {root / "query": QUERIES, root / "gallery": GALLERY, root.parent / "noise/part": NOISE}
    for start, (path, rows) in zip((0, 10, 20), parts.items(), strict=True):
        rows = [released_row(*row, start + number) for number, row in enumerate(rows)]
        write_rows(path.with_suffix(".parquet"), rows)
    return root


def write_paths(root: Path) -> Path:
    """As the package's own configuration has it: paths below the root, and numbers as labels."""
    numbers = {"a": 7, "b": 8, "c": 9}
    for start, (part, rows) in zip(
        (0, 10), {"query": QUERIES, "gallery": GALLERY}.items(), strict=True
    ):
        table = []
        for number, (item, _) in enumerate(rows):
            name = f"{part}/image_{number}.jpg"
            (root / part).mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(photo_bytes(start + number))
            table.append({"image": name, "label": numbers[item]})
        write_rows(root / part / f"{part}.parquet", table)
    return root
