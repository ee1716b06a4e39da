"""A user's own photos: what is kept, and what is said about mistakes."""

import os
import re

import numpy as np
import pytest
from PIL import Image

from input_pipeline import (
    AugmentConfig,
    DatasetError,
    ManifestError,
    SamplerConfig,
    image_batches,
    train_batches,
)
from input_pipeline.images import load_image
from tests.input_pipeline.conftest import IMAGE, photo_bytes, write_manifest
from tests.input_pipeline.conftest import load as load_from

FULL = "image,item_id,domain,split,category,x_1,y_1,x_2,y_2,view,occluded,cropped"


def load(path, tmp_path, **options):
    return load_from("manifest", path, tmp_path / "data", **options)


def problems_of(tmp_path, rows, header="image,item_id,domain,split", **changes):
    path = write_manifest(tmp_path / "photos", rows, header)
    with pytest.raises(ManifestError) as caught:
        load(path, tmp_path, **changes)
    assert str(caught.value).count("\n") >= len(caught.value.problems[:20])
    return [problem.removeprefix(f"{path}:") for problem in caught.value.problems]


GOOD = ["good.jpg,a,shop,train"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x.jpg,a,strore,train", "field 'domain': expected customer or shop, got 'strore'"),
        ("x.jpg,a,shop,dev", "field 'split': expected train, val or test, got 'dev'"),
        ("x.jpg,,shop,train", "field 'item_id': is empty"),
        (",a,shop,train", "field 'image': is empty"),
        ("gone.png,a,shop,train", "field 'image': gone.png: no such file"),
        ("/x.png,a,shop,train", "field 'image': expected a path relative to the CSV, got '/x.png'"),
        ("good.jpg,a,shop,train", "field 'image': 'good.jpg' of item 'a' is on line 2 already"),
        ("./good.jpg,a,shop,train", "field 'image': './good.jpg' of item 'a' is on line 2 already"),
        (
            "x.jpg,a,shop,test",
            "field 'split': item 'a' is in split 'train' on line 2, here in 'test'",
        ),
        ("x.jpg,a,shop", "expected 4 cells, got 3"),
        ("x.jpg,a,shop,train,", "expected 4 cells, got 5"),
    ],
)
def test_bad_row(tmp_path, row, message):
    assert problems_of(tmp_path, [*GOOD, row]) == [f"3: {message}"]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("1,2,three,4,,,", "field 'x_2': expected a number of pixels, got 'three'"),
        ("1,2,nan,4,,,", "field 'x_2': expected a number of pixels, got 'nan'"),
        ("1,2,inf,4,,,", "field 'x_2': expected a number of pixels, got 'inf'"),
        ("1,2,,4,,,", "field 'x_2': is empty, but x_1, y_1, y_2 given"),
        ("5,2,5,4,,,", "field 'x_2': the box has no size: x_2=5 is not above x_1=5"),
        ("5,9,9,4,,,", "field 'y_2': the box has no size: y_2=4 is not above y_1=9"),
        ("-1,2,9,4,,,", "field 'x_1': -1 is outside the picture, which is 36x24 pixels (upright)"),
        ("1,2,9,25,,,", "field 'y_2': 25 is outside the picture, which is 36x24 pixels (upright)"),
        (",,,,top,,", "field 'view': expected front, side or back, got 'top'"),
        (",,,,,yes,", "field 'occluded': expected 0 or 1, got 'yes'"),
        (",,,,,,2", "field 'cropped': expected 0 or 1, got '2'"),
    ],
)
def test_bad_optional_field(tmp_path, cells, message):
    assert problems_of(tmp_path, [f"x.jpg,a,shop,train,tee,{cells}"], FULL) == [f"2: {message}"]


def test_every_bad_row_is_listed(tmp_path):
    rows = [*GOOD, *(f"x.jpg,a{n},shop,nowhere" for n in range(25)), "y.jpg,b,door,nowhere"]
    problems = problems_of(tmp_path, rows)
    assert len(problems) == 27
    assert [problem.split(":")[0] for problem in problems][-3:] == ["27", "28", "28"]
    path = tmp_path / "photos" / "photos.csv"
    with pytest.raises(ManifestError, match="has 27 problems") as caught:
        load(path, tmp_path)
    message = str(caught.value)
    assert message.count("photos.csv:") == 27
    assert "on_error=skip" in message
    assert not list((tmp_path / "data").glob("manifest/*/*"))


def test_unreadable_photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cut.png").write_bytes(photo_bytes(kind="PNG", size=(90, 90))[:-100])
    (folder / "text.png").write_text("no photo")
    (folder / "empty.png").write_text("")
    (folder / "large.png").write_bytes(photo_bytes(kind="PNG", size=(40, 50)))
    (folder / "folder.png").mkdir()
    names = ["cut", "text", "empty", "large", "folder"]
    problems = problems_of(
        tmp_path, [f"{name}.png,a,shop,train" for name in names], max_pixels=1_999
    )
    expected = [
        # Over the limit before it is found to be cut.
        "2: field 'image': cut.png: a picture of 90x90 pixels",
        "3: field 'image': text.png: is not a photo that can be read",
        r"4: field 'image': empty.png: is empty \(0 bytes\)",
        r"5: field 'image': large.png: a picture of 50x40 pixels = 0.002 MP; limit 0.001999 MP",
        "6: field 'image': folder.png: (is a folder|cannot be read)",
    ]
    for problem, pattern in zip(problems, expected, strict=True):
        assert re.match(pattern, problem), problem
    (only,) = problems_of(tmp_path, ["cut.png,a,shop,train"])
    assert re.match("2: field 'image': cut.png: is damaged or truncated", only)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\n", "is empty|column 'image' is missing"),
        (b"image,item_id,domain\n", ":1: column 'split' is missing"),
        (b"image,item_id,domain,split,split\n", ":1: column 'split' is there twice"),
        (b"image,item_id,domain,split,x_1,y_1\n", ":1: a box needs all of x_1, y_1, x_2, y_2"),
        (b"image,item_id,domain,split\n\n", ":1: has a header and no rows"),
        (b"image,item_id,domain,split\na.jpg,caf\xe9,shop,train\n", ":2: not UTF-8: byte 0xe9"),
        (b'image,item_id,domain,split\n"a.jpg"x,a,shop,train\n', ":2: not a CSV row"),
        (b'image,item_id,domain,split\na.jpg,"a,shop,train\n', ":2: not a CSV row"),
    ],
)
def test_unreadable_manifest(tmp_path, content, message):
    path = tmp_path / "photos.csv"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=message) as caught:
        load(path, tmp_path)
    assert "on_error=skip" not in str(caught.value)


def test_missing_manifest_and_wrong_on_error(tmp_path):
    with pytest.raises(ManifestError, match="no such file"):
        load(tmp_path / "photos.csv", tmp_path)
    path = write_manifest(tmp_path, GOOD)
    with pytest.raises(DatasetError, match=r"--on_error='drop'"):
        load(path, tmp_path, on_error="drop")


def test_line_is_the_physical_line_where_the_row_begins(tmp_path):
    path = tmp_path / "photos.csv"
    (tmp_path / "a.jpg").write_bytes(photo_bytes())
    path.write_text(
        'image,item_id,domain,split,note\r\n\r\na.jpg,a,shop,train,"two\r\nlines"\r\n'
        "a.jpg,b,door,train,\r\n",
        newline="",
    )
    with pytest.raises(ManifestError) as caught:
        load(path, tmp_path)
    assert caught.value.problems == (
        f"{path}:5: field 'domain': expected customer or shop, got 'door'",
    )


def test_skipping_bad_rows(tmp_path, capsys):
    rows = [*GOOD, "c.jpg,a,customer,train", "gone.png,a,shop,train", "x.jpg,b,door,dev"]
    path = write_manifest(tmp_path / "photos", rows)
    dataset = load(path, tmp_path, on_error="skip")
    printed = capsys.readouterr().out
    assert f"Skipped {path}:4: field 'image': gone.png: no such file" in printed
    assert printed.count("Skipped") == 3
    assert dataset.summary["skipped_rows"] == 2
    assert len(dataset.split("train")) == 2
    load(path, tmp_path, on_error="skip")
    assert "(2 bad rows were left out)" in capsys.readouterr().out
    with pytest.raises(ManifestError):
        load(write_manifest(tmp_path / "bad", ["x.jpg,b,door,dev"]), tmp_path, on_error="skip")


def test_bom_spaces_extra_columns_and_paths_upwards(tmp_path, capsys):
    (tmp_path / "photo one.jpg").write_bytes(photo_bytes())
    folder = tmp_path / "lists"
    folder.mkdir()
    path = folder / "photos.csv"
    path.write_text(
        "split, domain ,item_id,image,color\ntest,shop,Bluse ü, ../photo one.jpg,red\n",
        encoding="utf-8-sig",
    )
    dataset = load(path, tmp_path)
    assert "columns that are not used: 'color'" in capsys.readouterr().out
    assert dataset.splits == ("test",)
    index = dataset.split("test").index
    assert index.items.tolist() == ["Bluse ü"]
    assert index.photo_id.tolist() == ["../photo one.jpg"]


def test_fields_are_stored(tmp_path):
    rows = ["c.jpg,a,customer,train,tee,1.5,2,30,20.25,side,1,0", "s.jpg,a,shop,train,,,,,,,,"]
    dataset = load(write_manifest(tmp_path / "photos", rows, FULL), tmp_path)
    index = dataset.split("train").index
    np.testing.assert_array_equal(index.box, np.float32([[1.5, 2, 30, 20.25], [0, 0, 36, 24]]))
    assert index.categories.tolist() == ["tee"]
    columns = (index.category, index.view, index.occluded, index.cropped, index.domain)
    assert [column.tolist() for column in columns] == [[0, -1], [1, -1], [1, -1], [0, -1], [0, 1]]
    np.testing.assert_array_equal(index.size, [[24, 36], [24, 36]])


def photo_kinds() -> dict[str, bytes]:
    """Photo files of all kinds, by name."""
    kinds = {}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        kinds[f"turned{orientation}.jpg"] = photo_bytes(orientation, quality=95, exif=exif)
    kinds["gray.jpg"] = photo_bytes(20, mode="L")
    kinds["cmyk.jpg"] = photo_bytes(21, mode="CMYK", quality=95)
    kinds["palette.png"] = photo_bytes(22, mode="P", kind="PNG")
    kinds["alpha.png"] = photo_bytes(23, mode="RGBA", kind="PNG")
    kinds["photo.webp"] = photo_bytes(24, kind="WEBP")
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds["turned.png"] = photo_bytes(25, kind="PNG", exif=exif)
    return kinds


@pytest.fixture(scope="module")
def kinds_dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    kinds = photo_kinds()
    for name, content in kinds.items():
        (folder / name).write_bytes(content)
    domains = ("shop", "customer")
    rows = [f"{name},item{n // 2},{domains[n % 2]},train" for n, name in enumerate(kinds)]
    return kinds, load(write_manifest(folder, rows), folder)


def test_files_are_kept_or_converted(kinds_dataset):
    kinds, dataset = kinds_dataset
    split = dataset.split("train")
    for row, (name, content) in enumerate(kinds.items()):
        record = split.record(row)
        kept = name.startswith(("turned", "gray")) and name.endswith(".jpg")
        assert (record.image == content) is kept
        assert record.image.startswith(b"\xff\xd8" if kept else b"\x89PNG")
        picture = load_image(content)
        assert (record.height, record.width) == picture.shape[:2]
        np.testing.assert_array_equal(split.picture(row), picture)


def test_every_kind_reaches_the_model_upright(kinds_dataset):
    split = kinds_dataset[1].split("train")
    (batch,) = image_batches(split, range(len(split)), IMAGE, batch=len(split))
    for photo, row in zip(batch["image"], batch["row"], strict=True):
        assert np.abs(photo.astype(int) - split.model_input(row, IMAGE)).max() <= 1


def test_byte_identical_photos_have_one_content(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (folder / f"{name}.jpg").write_bytes(photo_bytes(seed))
    rows = [f"{name}.jpg,{name},shop,train" for name in "abc"]
    content = load(write_manifest(folder, rows), tmp_path).split("train").index.content
    assert content[0] == content[1] != content[2]


def test_edits_prepare_anew(tmp_path, capsys):
    path = write_manifest(tmp_path / "photos", GOOD)
    first = load(path, tmp_path)
    assert load(path, tmp_path).directory == first.directory
    (tmp_path / "photos" / "good.jpg").write_bytes(photo_bytes(5, size=(50, 50)))
    second = load(path, tmp_path)
    assert second.split("train").index.size.tolist() == [[50, 50]]
    os.utime(tmp_path / "photos" / "good.jpg", (1, 1))
    third = load(path, tmp_path)
    path.write_text(path.read_text() + "x.jpg,b,customer,train\n")
    (tmp_path / "photos" / "x.jpg").write_bytes(photo_bytes(7))
    fourth = load(path, tmp_path)
    assert "delete what you no longer need" in capsys.readouterr().out
    folders = {dataset.directory for dataset in (first, second, third, fourth)}
    assert len(folders) == 4


def test_queries_without_a_match_are_counted_and_not_trained_on(tmp_path):
    rows = ["a.jpg,a,customer,train", "b.jpg,b,customer,test", "c.jpg,c,shop,test"]
    dataset = load(write_manifest(tmp_path / "photos", rows), tmp_path)
    assert dataset.summary["splits"]["test"]["queries_without_match"] == 1
    split = dataset.split("train")
    with pytest.raises(DatasetError, match="split 'train' has no pairs to train on"):
        train_batches(
            split,
            IMAGE,
            AugmentConfig(),
            SamplerConfig(),
            batch_size=2,
            start_step=0,
            steps=1,
            seed=0,
        )
