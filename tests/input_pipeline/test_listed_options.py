"""Options of all listed sets: which problems stop, and photos stored at a given size."""

import io
import json

import numpy as np
import pytest
from input_pipeline.datasets.on_error import KINDS, parse_on_error
from input_pipeline.datasets.resizing import Resize
from PIL import Image

from input_pipeline import DatasetError, ManifestError, prepare
from input_pipeline.images import encode_png
from tests.input_pipeline.conftest import check, photo_bytes, write_manifest
from tests.input_pipeline.conftest import load as load_from

HEADER = "image,item_id,domain,split,x_1,y_1,x_2,y_2"
ROWS = [
    "c.jpg,a,customer,train,2,3,20,22",
    "s.jpg,a,shop,train,,,,",
    "gone.png,a,shop,train,,,,",  # no such file
    "b.jpg,b,shop,train,9,3,5,20",  # a box without size
]


def load(folder, rows=ROWS, header=HEADER, **options):
    path = write_manifest(folder / "photos", rows, header)
    return load_from("manifest", path, folder / "data", **options)


def test_kinds_that_are_skipped(tmp_path, capsys):
    with pytest.raises(ManifestError) as caught:
        load(tmp_path, on_error="missing photo")
    assert len(caught.value.problems) == 1  # of the other kind
    assert "has no size" in caught.value.problems[0]
    dataset = load(tmp_path, on_error="missing photo, box")
    assert len(dataset.split("train")) == 2
    assert dataset.summary["problems"] == {"box": 1, "missing photo": 1}
    assert dataset.summary["on_error"] == "box,missing photo"
    assert "(2 bad rows were left out)" in capsys.readouterr().out


def test_the_check_says_which_kinds_to_skip(tmp_path, capsys):
    path = write_manifest(tmp_path, ROWS, HEADER)
    command = ["--dataset=manifest", f"--source={path}", "--check"]
    assert prepare.main([*command, "--on_error=box"]) == 2
    said = "2 bad rows, 1 problems that stop preparing; --on_error=skip leaves all bad rows "
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"{said}out, --on_error='missing photo' those of these kinds."
    )
    assert prepare.main([*command, "--on_error=box,missing photo"]) == 0


def test_kinds_that_stop():
    assert parse_on_error("", ["box"]).is_fatal("domain")
    assert not parse_on_error("", ["box"]).is_fatal("box")
    assert parse_on_error("error", ["box"]).is_fatal("box")
    assert not any(parse_on_error("skip", []).is_fatal(kind) for kind in KINDS)
    assert parse_on_error("box,domain", ["path"]).is_fatal("path")
    with pytest.raises(DatasetError, match=r"--on_error='box,hat': 'hat' is neither"):
        parse_on_error("box,hat", [])


def test_many_skipped_rows_are_summed_up(tmp_path, capsys):
    rows = [*ROWS[:2], *(f"gone{n}.png,a,shop,train,,,," for n in range(30))]
    load(tmp_path, rows, on_error="skip")
    printed = capsys.readouterr().out
    assert printed.count("Skipped ") == 20
    assert "Skipped: missing photo: 30 in all; --check lists them" in printed


def test_stored_size(tmp_path):
    """A photo of 80 x 120 pixels (width x height), stored with a longer side of 60."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "c.jpg").write_bytes(photo_bytes(1, size=(120, 80)))
    (folder / "turned.jpg").write_bytes(photo_bytes(2, size=(80, 120), exif=exif_of(6)))
    (folder / "s.jpg").write_bytes(photo_bytes(3, size=(60, 40)))
    rows = [
        "c.jpg,a,customer,train,10,20,70,110",
        "turned.jpg,b,shop,train,0,0,80,120",
        "s.jpg,a,shop,train,,,,",
    ]
    split = load(tmp_path, rows, max_side=60).split("train")
    large, turned, small = (split.record(row) for row in range(3))
    for record in (large, turned):
        assert (record.height, record.width, record.orientation) == (60, 40, 1)
        assert Image.open(io.BytesIO(record.image)).format == "JPEG"
        assert Image.open(io.BytesIO(record.image)).size == (40, 60)
    np.testing.assert_allclose(large.box, (5, 10, 35, 55))
    np.testing.assert_allclose(turned.box, (0, 0, 40, 60))
    assert small.image == (folder / "s.jpg").read_bytes()  # as it was
    # The same picture: near Pillow's own reduction of the file.
    reduced = Image.open(folder / "c.jpg").reduce(2)
    assert np.abs(split.picture(0).astype(int) - np.asarray(reduced)).mean() < 4
    np.testing.assert_array_equal(split.index.resize_scale, np.float32([0.5, 0.5, 1]))


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def test_landmarks_and_masks_shrink_with_their_photo():
    small = Resize.to_max_side(100, 50, 40)
    assert (small.height, small.width) == (40, 20)
    landmarks = np.array([[0, 49, 99], [1, 0, 0], [-1, 0, 0], [2, 60, -3]], np.int32)
    assert small.landmarks(landmarks).tolist() == [[0, 19, 39], [1, 0, 0], [-1, 0, 0], [2, 24, -2]]
    mask = np.zeros((100, 50), np.uint8)
    mask[10:60, 5:25] = 255
    found = np.asarray(Image.open(io.BytesIO(small.mask(encode_png(mask)))))
    wanted = np.zeros((40, 20), np.uint8)
    wanted[4:24, 2:10] = 255
    np.testing.assert_array_equal(found, wanted)
    assert small.mask(b"") == b""


def test_photos_with_a_category_and_no_item(tmp_path):
    rows = ["a.jpg,train,hat", "b.jpg,train,shirt", "c.jpg,test,hat"]
    dataset = load(tmp_path, rows, header="image,split,category")
    split = dataset.split("train")
    records = [split.record(row) for row in range(2)]
    assert [(r.photo_id, r.item_id, r.domain, r.category) for r in records] == [
        ("a.jpg", "a.jpg", "shop", "hat"),
        ("b.jpg", "b.jpg", "shop", "shirt"),
    ]
    assert split.index.categories[split.index.category].tolist() == ["hat", "shirt"]
    with pytest.raises(ManifestError, match=r"photos\.csv:3: field 'category': is empty"):
        load(tmp_path, ["a.jpg,train,hat", "b.jpg,train,"], header="image,split,category")
    with pytest.raises(ManifestError, match="column 'domain' is missing"):
        load(tmp_path, ["a.jpg,i,train,hat"], header="image,item_id,split,category")


FIND_HEADER = "image,item_id,domain,split,view,occluded,cropped"


def test_findfashion_beside_the_paper(tmp_path, capsys):
    rows = [
        "c1.jpg,a,customer,test,front,0,0",
        "c2.jpg,a,customer,test,back,1,0",
        "s.jpg,a,shop,test,front,0,0",
        "t.jpg,b,customer,train,side,0,1",
    ]
    path = write_manifest(tmp_path, rows, FIND_HEADER)
    report = check("findfashion", path)
    lines = {line["what"]: (line["found"], line["paper"]) for line in report.summary["release"]}
    assert lines == {
        "photos": (4, 565_041),
        "pairs": (2, 382_230),
        "easy test queries": (1, 30_746),
        "hard_view test queries": (1, 11_383),
        "hard_occlusion test queries": (1, 1_250),
        "hard_cropping test queries": (0, 3_883),
    }
    assert prepare.main(["--dataset=findfashion", f"--source={path}", "--check"]) == 0
    assert "photos  " in capsys.readouterr().out


def test_findfashion_needs_its_flags(tmp_path):
    path = write_manifest(tmp_path, ["c.jpg,a,customer,test"])
    with pytest.raises(ManifestError, match="column 'occluded' is missing"):
        check("findfashion", path)


def test_the_summary_is_stored(tmp_path):
    dataset = load(tmp_path, on_error="skip", max_side=500)
    stored = json.loads((dataset.directory / "summary.json").read_text())
    assert (stored["on_error"], stored["skipped_rows"]) == ("skip", 2)
    assert (stored["options"]["on_error"], stored["options"]["max_side"]) == ("skip", 500)
    with pytest.raises(DatasetError, match="was prepared with --max_side=500, not 0"):
        load(tmp_path, on_error="skip", max_side=0)
