"""DeepFashion2, from a small download in its form: records, items, masks, counts, problems."""

import io
import itertools
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from input_pipeline import DatasetError, prepare, query_subsets
from input_pipeline.errors import AnnotationError
from tests.input_pipeline import deepfashion2_trees as trees
from tests.input_pipeline.conftest import check
from tests.input_pipeline.conftest import load as load_from


def load(root, **options):
    return load_from("deepfashion2", root, root.parent / "data", **options)


def table_of(root):
    return check("deepfashion2", root).checked.table


def problems_of(root):
    """The kind and text of each problem, in the order of the files."""
    problems = check("deepfashion2", root).checked.problems
    return [(problem.kind, str(problem).replace(f"{root}/", "")) for problem in problems]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A download and the data set prepared from it: not to be changed."""
    root = trees.write_deepfashion2(tmp_path_factory.mktemp("whole") / "deepfashion2")
    return root, load(root)


@pytest.fixture
def root(tmp_path):
    return trees.write_deepfashion2(tmp_path / "deepfashion2")


def garments(root, folder):
    """Each garment with its image's name, key, source and pair_id, read as the format says."""
    for path in sorted((root / folder / "annos").iterdir()):
        content = json.loads(path.read_text())
        for key in sorted(key for key in content if key.startswith("item")):
            yield path.stem, key, content["source"], content["pair_id"], content[key]


@pytest.mark.parametrize(("folder", "split"), [("train", "train"), ("validation", "test")])
def test_records(whole, folder, split):
    (root, dataset), expected = whole, list(garments(whole[0], folder))
    assert len(dataset.split(split)) == len(expected) > 0
    for row, (name, key, source, pair_id, garment) in enumerate(expected):
        record = dataset.split(split).record(row)
        assert record.photo_id == f"{folder}/image/{name}.jpg"
        assert record.image == (root / record.photo_id).read_bytes()
        alone = "" if garment["style"] else f"/{name}/{key}"
        assert record.item_id == f"{folder}/{pair_id}/{garment['style']}{alone}"
        assert record.domain == {"user": "customer", "shop": "shop"}[source]
        assert record.category == garment["category_name"]
        assert record.box == tuple(garment["bounding_box"])
        points = np.array(garment["landmarks"]).reshape(-1, 3)  # x, y, visibility
        for landmark, (x, y, visibility) in zip(record.landmarks, points, strict=True):
            assert landmark.tolist() == [{2: 0, 1: 1, 0: -1}[visibility], x, y]
        mask = np.asarray(Image.open(io.BytesIO(record.mask)))
        rectangle = np.zeros((36, 24), np.uint8)
        rectangle[4:33, 3:21] = 255
        np.testing.assert_array_equal(mask[4:], rectangle[4:])
        # Above it the second polygon's tip: x from 10 to 14 at y = 2, narrowing downwards.
        assert mask[:2].max() == mask[2:4, :10].max() == mask[2:4, 14:].max() == 0
        assert mask[2:4, 11:13].min() == 255


@pytest.mark.parametrize(("folder", "split"), [("train", "train"), ("validation", "test")])
def test_pairs_are_those_of_pair_id_and_style(whole, folder, split):
    root, dataset = whole
    rows = [(*others, each["style"]) for _, _, *others, each in garments(root, folder)]
    expected = {
        (first, second)
        for first, second in itertools.product(range(len(rows)), repeat=2)
        if (rows[first][0], rows[second][0]) == ("user", "shop")
        and rows[first][1:] == rows[second][1:]
        and rows[first][-1] > 0
    }
    assert expected
    assert {tuple(pair) for pair in dataset.split(split).index.pairs.tolist()} == expected


def test_protocols_choose_by_the_levels(tmp_path):
    levels = list(itertools.product((1, 2, 3), repeat=3))
    for number, (viewpoint, occlusion, zoom_in) in enumerate(levels, 1):
        flags = {"viewpoint": viewpoint, "occlusion": occlusion, "zoom_in": zoom_in}
        trees.write_photo(tmp_path, "train", number, "user", 1, trees.garment(1, 1, **flags))
    table = table_of(tmp_path)
    flags = (table[name].to_numpy() for name in ("view", "occluded", "cropped"))
    chosen = query_subsets(*flags)
    for row, (viewpoint, occlusion, zoom_in) in enumerate(levels):
        names = ("hard_view", "hard_occlusion", "hard_cropping")
        hard = zip(names, (viewpoint == 3, occlusion >= 2, zoom_in >= 2), strict=True)
        expected = {name for name, level in hard if level} or {"easy"}
        assert {name for name, queries in chosen.items() if queries[row]} == expected


def test_counts(whole):
    dataset = whole[1]
    train, test = (dataset.summary["splits"][split] for split in ("train", "test"))
    assert (train["customer_photos"], train["shop_photos"]) == (3, 6)
    assert (train["items"], train["pairs"], train["queries_without_match"]) == (5, 4, 1)
    assert (test["items"], test["queries"], test["gallery"], test["pairs"]) == (2, 1, 2, 1)
    assert dataset.summary["notes"] == {}
    assert [tuple(line.values()) for line in dataset.summary["release"]] == [
        ("train images", 5, 5, 191_961, 390_884),
        ("train garments", 9, 9, 312_186, 636_624),
        ("validation images", 2, 2, 32_153, 33_669),
        ("validation garments", 3, 3, 52_490, 54_910),
    ]
    assert dataset.title == "DeepFashion2-derived"


NAME = "train/annos/000001.json"
OUTSIDE = "is outside the image of 24x36 pixels (upright)"
BOX = "field 'bounding_box': expected [x_1, y_1, x_2, y_2] in pixels, got "
POINTS = "field 'landmarks': expected whole numbers x, y, visibility (0, 1 or 2), got "
TOP = trees.garment(1, 1)
KINDS = {"bounding_box": "box", "segmentation": "mask", "landmarks": "landmarks"}
IMAGE = '{"source": "user", "pair_id": '


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        *(({name: None}, KINDS.get(name, "value"), f"field {name!r}: expected ") for name in TOP),
        ({"style": -1}, "value", "field 'style': expected a whole number, got -1"),
        ({"style": True}, "value", "field 'style': expected a whole number, got True"),
        ({"scale": 0}, "value", "field 'scale': expected 1, 2 or 3, got 0"),
        ({"zoom_in": "1"}, "value", "field 'zoom_in': expected 1, 2 or 3, got '1'"),
        ({"category_name": "top"}, "value", "field 'category_name': expected one of the 13 cat"),
        ({"category_id": 14}, "value", "field 'category_id': expected 1 to 13, got 14"),
        ({"category_id": 2}, "contradiction", "field 'category_id': expected 1, short sleeve top,"),
        ({"bounding_box": [2, 2, 22]}, "box", f"{BOX}[2, 2, 22]"),
        ({"bounding_box": [2, 2, 22, "34"]}, "box", f"{BOX}[2, 2, 22, '34']"),
        ({"bounding_box": [2, 2, 22, 38]}, "box", f"field 'y_2': 38 {OUTSIDE}"),
        ({"landmarks": [1, 2, 2]}, "landmarks", "field 'landmarks': expected 25 of a short slee"),
        ({"landmarks": [1, 2, 3] * 25}, "landmarks", f"{POINTS}a list of 75"),
        ({"landmarks": [1.5, 2, 2] * 25}, "landmarks", f"{POINTS}a list of 75"),
        ({"landmarks": [26, 3, 2] * 25}, "landmarks", f"landmark (26, 3) {OUTSIDE}"),
        ({"segmentation": []}, "mask", "field 'segmentation': expected a list of polygons, got []"),
        ({"segmentation": [[3, 3, 9, 3, 9, "9"]]}, "mask", "field 'segmentation': expected a poly"),
        (
            {"segmentation": [[3, 3, 9, 3, 9, 9], []]},
            "mask",
            "field 'segmentation': a polygon of 0",
        ),
        ({"segmentation": [[23, 2, 24, 2, 24, 9]]}, "mask", "field 'segmentation': all of it lies"),
    ],
)
def test_bad_garment(root, change, kind, message):
    trees.edit(root, "train", 1, lambda content: content["item1"].update(change))
    ((found, text),) = problems_of(root)
    assert (found, text[: len(message) + 32]) == (kind, f"{NAME}: item1: {message}")


def test_each_category_has_its_landmarks(tmp_path):
    for number in range(1, 14):
        trees.write_photo(tmp_path, "train", number, "shop", 1, trees.garment(number, 1))
    table = table_of(tmp_path)
    assert table["category"].tolist() == list(trees.NAMES)
    assert table["clothes_type"].tolist() == [1] * 6 + [2] * 3 + [3] * 4
    for number in range(1, 14):
        more = [*trees.garment(number, 1)["landmarks"], 1, 1, 2]
        trees.edit(tmp_path, "train", number, lambda c, m=more: c["item1"].update(landmarks=m))
    for number, (kind, text) in zip(range(1, 14), problems_of(tmp_path), strict=True):
        assert kind == "landmarks"
        assert f"expected {trees.landmark_count(number)} of a {trees.NAMES[number - 1]}" in text


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ("", "format", ":1: not JSON: is empty"),
        ('{"source": "user",\n "pair_id": 1,\n', "format", ":3: not JSON: "),
        ("[" * 100_000, "format", ":1: not read: lists in lists"),
        ("[1, 2]", "format", ": expected an object, got [1, 2]"),
        ("{}", "value", ": field 'source': expected user or shop, got nothing"),
        ('{"source": "shops"}', "value", ": field 'source': expected user or shop, got 'shops'"),
        (IMAGE + "-1}", "value", ": field 'pair_id': expected a whole number, got -1"),
        (IMAGE + "NaN}", "value", ": field 'pair_id': expected a whole number, got nan"),
        (IMAGE + "9" * 5000 + "}", "value", ": field 'pair_id': expected a whole number, got inf"),
        (
            IMAGE + '1, "pair_id": 1}',
            "value",
            ": field 'pair_id': expected a whole number, got two values",
        ),
        (IMAGE + '1, "item0": {}}', "format", ": field 'item0': there is no such field"),
        (IMAGE + '1, "item1": [1]}', "format", ": item1: expected an object, got [1]"),
        (
            IMAGE + '1, "item1": {}, "item1": {}}',
            "format",
            ": item1: expected an object, got two values",
        ),
    ],
)
def test_bad_file(root, content, kind, message):
    trees.paths(root, "train", 1)[1].write_text(content)
    ((found, text),) = problems_of(root)
    assert (found, text[: len(NAME + message)]) == (kind, NAME + message)
    assert len(table_of(root)) == 10


@pytest.mark.parametrize(
    ("name", "expected", "left"),
    [("source", "value", 10), ("pair_id", "value", 10), ("item_3", "format", 12)],
)
def test_what_is_wrong_with_an_image_is_told_once(root, name, expected, left):
    trees.edit(root, "train", 1, lambda content: content.update({name: []}))
    ((kind, text),) = problems_of(root)
    assert (kind, text[: len(NAME) + 2]) == (expected, f"{NAME}: ")
    assert len(table_of(root)) == left


def test_the_edge_is_tolerated_and_oddities_are_no_problems(root):
    def move(content):
        content["item1"]["bounding_box"] = [2, 2, 25, 34]
        content["item1"]["landmarks"][:3] = [24, 36, 1]
        content["item2"]["color"] = "red"
        content["item2"]["landmarks"][6:8] = [5, 5]  # of one that is not labeled

    trees.edit(root, "train", 1, move)
    trees.edit(root, "train", 2, lambda content: content["item1"].update(trees.garment(2, 1)))
    trees.edit(root, "train", 4, lambda content: content.pop("item1"))
    (root / "train/annos/readme.txt").write_text("")
    (root / "train/image/._000001.jpg").write_text("")
    rows, problems, notes = check("deepfashion2", root).checked
    moved = [f"{what} moved to the image's edge" for what in ("box", "landmark")]
    assert (problems, notes) == ([], dict.fromkeys([*moved, "image without a garment"], 1))
    assert rows.loc[0, ["x_1", "y_1", "x_2", "y_2"]].tolist() == [2, 2, 24, 34]
    assert rows["landmarks"][0][0].tolist() == [1, 23, 35]
    assert rows["landmarks"][1][2].tolist() == [-1, 0, 0]
    assert rows["item_id"][2] == "train/1/1"  # the category is no part of it


def test_image_without_annotation_and_annotation_without_image(root):
    trees.paths(root, "train", 2)[1].unlink()
    trees.paths(root, "validation", 2)[0].unlink()
    missing = "validation/annos/000002.json: {}: validation/image/000002.jpg: no such file"
    assert problems_of(root) == [
        ("reference", "train/annos/000002.json: no such file, for train/image/000002.jpg"),
        *(("missing_image", missing.format(item)) for item in ("item1", "item2")),
    ]


def test_garments_are_ordered_by_number_and_told_apart_by_their_items(root):
    trees.write_photo(root, "train", 1, "user", 1, *[trees.garment(1, 0)] * 11)
    path = trees.paths(root, "train", 1)[1]
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items()))))
    items = [item_id.split("/")[-1] for item_id in table_of(root)["item_id"][:11]]
    assert items == [f"item{number}" for number in range(1, 12)]
    trees.write_photo(root, "train", 1, "user", 1, *[trees.garment(1, 1)] * 2)
    text = "'train/image/000001.jpg' of item 'train/1/1' is listed at"
    assert problems_of(root) == [("duplicate", f"{NAME}: item2: {text} {NAME}: item1 already")]


def test_folders(root):
    shutil.rmtree(root / "train")
    dataset = load(root)
    assert dataset.splits == ("test",)
    what = [line["what"] for line in dataset.summary["release"]]
    assert what == ["validation images", "validation garments"]
    shutil.rmtree(root / "validation")
    with pytest.raises(DatasetError, match=r"no garment in train/annos/\S+ or validation/annos/"):
        load(root)


def test_preparing_refuses_or_skips(root, capsys):
    trees.edit(root, "train", 1, lambda content: content["item1"].update(style="x"))
    with pytest.raises(AnnotationError, match=r"000001\.json: item1: field 'style'"):
        load(root)
    assert prepare.main(["--dataset=deepfashion2", f"--source={root}", "--check"]) == 2
    assert "191,961" in capsys.readouterr().out
    dataset = load(root, on_error="value")
    assert dataset.summary["problems"] == {"value": 1}
    assert len(dataset.split("train")) == 8
    trees.edit(root, "train", 1, lambda content: content["item1"].update(style=1))
    assert load(root).directory != dataset.directory


def test_photos_with_all_their_garments(root):
    trees.edit(root, "train", 5, lambda content: content["item2"].update(bounding_box=[9, 9, 1, 9]))
    (root / "validation/annos/000002.json").write_text("{}}")
    dataset = load_from("deepfashion2_objects", root, root.parent / "data", on_error="skip")
    assert dataset.splits == ("train", "val")
    for folder, split in (("train", "train"), ("validation", "val")):
        part = dataset.object_split(split)
        assert part.index.categories.tolist() == list(trees.NAMES)
        expected = {}
        for path in sorted((root / folder / "annos").iterdir()):
            if path != root / "validation/annos/000002.json":
                content = json.loads(path.read_text())
                expected[f"{folder}/image/{path.stem}.jpg"] = [
                    (garment["category_id"] - 1, *garment["bounding_box"])
                    for garment in (content[key] for key in sorted(content) if "item" in key)
                    if garment["bounding_box"][0] < garment["bounding_box"][2]
                ]
        found = {}
        for row in range(len(part)):
            record = part.record(row)
            found[record.photo_id] = [
                (number, *box) for number, box in zip(record.categories, record.boxes, strict=True)
            ]
            assert all(record.masks)
            assert not record.crowd.any()
        assert found == expected
