"""LookBench, from small folders in the forms of its release and of its package."""

import pandas as pd
import pytest

from input_pipeline import DatasetError
from input_pipeline.errors import AnnotationError
from tests.input_pipeline import lookbench_trees as trees
from tests.input_pipeline.conftest import check, load, photo_bytes


def _records(root):
    split = load("lookbench", root, root.parent / "data").split("test")
    return [split.record(row) for row in range(len(split))]


def test_images_inside_the_files_and_distractors_beside_them(tmp_path):
    root = trees.write_release(tmp_path / "v1/real_streetlook")
    records = _records(root)
    expected = [
        (domain, item or f"noise/{number:06d}", category, photo_bytes(start + number))
        for start, domain, rows in (
            (0, "customer", trees.QUERIES),
            (10, "shop", trees.GALLERY),
            (20, "shop", trees.NOISE),
        )
        for number, (item, category) in enumerate(rows)
    ]
    assert [(r.domain, r.item_id, r.category, r.image) for r in records] == expected
    assert [record.photo_id for record in records[2:4]] == ["query/000002", "gallery/000000"]
    written = sorted(path for path in tmp_path.rglob("images/*/*"))
    assert len(written) == len(records)
    before = [path.stat().st_mtime_ns for path in written]
    assert not check("lookbench", root).checked.problems
    assert [path.stat().st_mtime_ns for path in written] == before


def test_paths_and_labels_of_the_packages_own_form(tmp_path):
    root = trees.write_paths(tmp_path / "shop")
    records = _records(root)
    assert [record.item_id for record in records] == ["7", "8", "8", "8", "7", "9", "7"]
    assert records[4].photo_id == "gallery/image_1.jpg"
    assert records[4].image == photo_bytes(11)


_QUERY = trees.released_row("a", "dress", 0)


@pytest.mark.parametrize(
    ("row", "kind", "text"),
    [
        ({"item_ID": ""}, "value", "field 'item_ID': is empty, and matches nothing"),
        ({"item_ID": None}, "value", "field 'item_ID': is empty, and matches nothing"),
        ({"image": None}, "format", "field 'image': expected a path or the bytes of an image"),
        ({"image": {"bytes": b"", "path": None}}, "format", "got nothing"),
        (
            {"image": {"bytes": b"no image", "path": None}},
            "unreadable_image",
            "is not a photo that",
        ),
        ({"image": {"bytes": None, "path": "x.jpg"}}, "missing_image", "x.jpg: no such file"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, kind, text):
    root = trees.write_release(tmp_path / "subset")
    path = trees.write_rows(root / "query.parquet", [_QUERY, _QUERY | row])
    (problem,) = check("lookbench", root).checked.problems
    assert problem.kind == kind
    assert f"{path}: row 1: " in str(problem)
    assert text in str(problem)


def test_whole_files_that_are_wrong(tmp_path):
    root = trees.write_release(tmp_path / "subset")
    path = trees.write_rows(root / "query.parquet", [{"image": "a.jpg", "id": 1}])
    with pytest.raises(AnnotationError, match=f"{path}: column 'label' is missing; .* image, id"):
        check("lookbench", root)
    path.write_text("PAR1")
    with pytest.raises(AnnotationError, match=f"{path}: cannot be read"):
        check("lookbench", root)
    path.unlink()
    with pytest.raises(DatasetError, match=r"query.parquet and query/query.parquet missing"):
        check("lookbench", root)
    columns = ["image", "label"]
    for part in ("query", "gallery"):
        pd.DataFrame([], columns=columns).to_parquet(root / f"{part}.parquet")
    (root.parent / "noise/part.parquet").unlink()
    with pytest.raises(AnnotationError, match="have no rows"):
        check("lookbench", root)
