"""DeepFashion2, from a small download in its form: records, items, masks, counts, problems."""

import io
import itertools
import json
import os

import numpy as np
import pytest
from etils import epath
from PIL import Image

from input_pipeline import DatasetError, prepare, query_subsets
from input_pipeline.datasets import deepfashion2_files
from input_pipeline.errors import AnnotationError
from tests.input_pipeline import deepfashion2_trees as trees
from tests.input_pipeline.conftest import check, describe, photo_bytes
from tests.input_pipeline.conftest import load as load_from


def load(root, **options):
    return load_from("deepfashion2", root, root.parent / "data", **options)


def problems_of(root):
    problems = check("deepfashion2", root).report.problems
    return [(problem.kind, str(problem).removeprefix(f"{root}/")) for problem in problems]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A download and the data set prepared from it: not to be changed."""
    root = trees.write_deepfashion2(tmp_path_factory.mktemp("whole") / "deepfashion2")
    return root, load(root)


@pytest.fixture
def root(tmp_path):
    return trees.write_deepfashion2(tmp_path / "deepfashion2")


def records(split):
    return [split.record(row) for row in range(len(split))]


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_records(whole):
    root, dataset = whole
    assert dataset.splits == ("train", "test")
    found = records(dataset.split("train"))
    image = "train/image/{:06d}.jpg"
    assert [(record.photo_id, record.item_id, record.domain) for record in found] == [
        (image.format(1), "train/1/1", "customer"),
        (image.format(1), "train/1/0/000001/item2", "customer"),
        (image.format(2), "train/1/1", "shop"),
        (image.format(3), "train/1/2", "shop"),
        (image.format(3), "train/1/1", "shop"),
        (image.format(3), "train/1/1", "shop"),
        (image.format(4), "train/2/1", "customer"),
        (image.format(5), "train/2/1", "shop"),
        (image.format(5), "train/2/0/000005/item2", "shop"),
    ]
    top, trousers = found[:2]
    assert top.image == (root / top.photo_id).read_bytes()
    assert (top.category, top.clothes_type) == ("short sleeve top", 1)
    assert (trousers.category, trousers.clothes_type) == ("trousers", 2)
    assert (found[6].category, found[6].clothes_type) == ("sling dress", 3)
    assert top.box == (2, 2, 22, 34)
    assert found[5].box == (0, 0, 24, 36)
    assert (top.height, top.width) == (36, 24)
    assert [record.item_id for record in records(dataset.split("test"))] == [
        *("validation/1/1", "validation/1/1", "validation/1/0/000002/item2")
    ]


def test_landmarks_are_recoded(whole):
    _, dataset = whole
    for record in records(dataset.split("train")):
        count = trees.landmark_count(trees.NAMES.index(record.category) + 1)
        assert record.landmarks.shape == (count, 3)
    skirt = records(dataset.split("train"))[3]
    np.testing.assert_array_equal(
        skirt.landmarks,
        [[0, 0, 0], [1, 1, 1], [-1, 0, 0], [0, 3, 3], [1, 4, 4], [-1, 0, 0], [0, 6, 6], [1, 7, 7]],
    )


@pytest.mark.parametrize("category_id", range(1, 14))
def test_each_category_has_its_landmarks(tmp_path, category_id):
    trees.write_photo(tmp_path / "d", "train", 1, "shop", 1, trees.garment(category_id, 1))
    ((row, _),) = check("deepfashion2", tmp_path / "d").report.rows
    assert row.category == trees.NAMES[category_id - 1]
    assert row.clothes_type == 1 + (category_id >= 7) + (category_id >= 10)
    landmarks = trees.garment(category_id, 1)["landmarks"]
    trees.edit(
        *(tmp_path / "d", "train", 1),
        lambda content: content["item1"].update(landmarks=[*landmarks, 1, 1, 2]),
    )
    ((kind, _),) = problems_of(tmp_path / "d")
    assert kind == "landmarks"


def test_pairs_are_those_of_pair_id_and_style(whole):
    root, dataset = whole
    for folder, split in (("train", "train"), ("validation", "test")):
        garments = [
            (content["source"], content["pair_id"], content[key])
            for path in sorted((root / folder / "annos").iterdir())
            for content in [json.loads(path.read_text())]
            for key in sorted(content)
            if key.startswith("item")
        ]
        expected = {
            (first, second)
            for first, second in itertools.product(range(len(garments)), repeat=2)
            if (garments[first][0], garments[second][0]) == ("user", "shop")
            and garments[first][1] == garments[second][1]
            and garments[first][2]["style"] == garments[second][2]["style"] > 0
        }
        assert expected
        assert {tuple(pair) for pair in dataset.split(split).pairs().tolist()} == expected


def test_flags_are_derived(whole):
    _, dataset = whole
    train = records(dataset.split("train"))
    assert [record.view for record in train] == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    dress = train[6]  # not worn, large zoom-in
    assert (dress.view, dress.occluded, dress.cropped) == (0, 0, 1)
    vest = records(dataset.split("test"))[0]
    assert (vest.view, vest.occluded, vest.cropped) == (1, 1, 0)


@pytest.mark.parametrize("viewpoint", [1, 2, 3])
@pytest.mark.parametrize("occlusion", [1, 2, 3])
@pytest.mark.parametrize("zoom_in", [1, 3])
def test_protocols_choose_by_the_levels(tmp_path, viewpoint, occlusion, zoom_in):
    garment = trees.garment(1, 1, viewpoint=viewpoint, occlusion=occlusion, zoom_in=zoom_in)
    trees.write_photo(tmp_path, "train", 1, "user", 1, garment)
    found = deepfashion2_files.read_garments(epath.Path(tmp_path) / "train/annos/000001.json")
    (row,) = found.rows
    flags = (np.array([flag]) for flag in (row.view, row.occluded, row.cropped))
    chosen = {name for name, queries in query_subsets(*flags).items() if queries[0]}
    hard = {
        name
        for name, level in (
            ("hard_view", viewpoint == 3),
            ("hard_occlusion", occlusion >= 2),
            ("hard_cropping", zoom_in >= 2),
        )
        if level
    }
    assert chosen == (hard or {"easy"})


def test_counts(whole):
    root, dataset = whole
    train, test = (dataset.summary["splits"][split] for split in ("train", "test"))
    assert (train["customer_photos"], train["shop_photos"]) == (3, 6)
    assert (train["items"], train["pairs"], train["queries_without_match"]) == (5, 4, 1)
    assert (test["items"], test["queries"], test["gallery"], test["pairs"]) == (2, 1, 2, 1)
    assert dataset.summary["facts"] == {"garments_of_style_0": 3}
    assert dataset.summary["tolerated"] == {}
    assert dataset.summary["release"] == [
        {"what": "train photos", "found": 5, "release": 191_961, "paper": 390_884},
        {"what": "train garments", "found": 9, "release": 312_186, "paper": 636_624},
        {"what": "validation photos", "found": 2, "release": 32_153, "paper": 33_669},
        {"what": "validation garments", "found": 3, "release": 52_490, "paper": 54_910},
    ]
    checked = check("deepfashion2", root).summary
    assert checked["release"] == dataset.summary["release"]


def test_one_folder_is_enough(root):
    for path in sorted((root / "train").rglob("*.*")):
        path.unlink()
    for folder in ("train/annos", "train/image", "train"):
        (root / folder).rmdir()
    dataset = load(root)
    assert dataset.splits == ("test",)
    assert [line["what"] for line in dataset.summary["release"]] == [
        *("validation photos", "validation garments")
    ]


def test_masks_of_the_records(whole):
    _, dataset = whole
    mask = pixels(records(dataset.split("train"))[0].mask)
    expected = np.zeros((36, 24), np.uint8)
    expected[4:33, 3:21] = 255
    # Above the rectangle the second polygon's tip: x from 10 to 14 at y = 2, narrowing downwards.
    np.testing.assert_array_equal(mask[4:], expected[4:])
    assert mask[:2].max() == 0
    assert mask[2:4, 11:13].min() == 255
    assert mask[2:4, :10].max() == 0 == mask[2:4, 14:].max()


def test_mask_fits_the_upright_photo(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo, _ = trees.paths(root, "train", 1)
    photo.write_bytes(photo_bytes(1, size=(24, 36), exif=exif.tobytes()))
    record = load(root).split("train").record(0)
    assert (record.height, record.width, record.orientation) == (36, 24, 6)
    assert pixels(record.mask).shape == (36, 24)
    assert pixels(record.mask)[20, 12] == 255


def test_masks_shrink_with_their_photos(root):
    record = load(root, max_side=18).split("train").record(0)
    assert (record.height, record.width) == (18, 12)
    mask = pixels(record.mask)
    assert mask.shape == (18, 12)
    assert mask[3:16, 2:10].min() == 255
    assert record.box == (1, 1, 11, 17)


def test_nothing_of_an_outline_stays_in_memory(root):
    checked = check("deepfashion2", root)
    values = [value for row, _ in checked.report.rows for value in row_values(row)]
    assert values
    assert not any(isinstance(value, (list, dict)) for value in values)


def row_values(row):
    return [getattr(row, name) for name in type(row).__slots__]


def distance_to_edges(polygon, x, y):
    ends = np.array(polygon, float).reshape(-1, 2)
    starts = np.roll(ends, 1, axis=0)
    along = ends - starts
    length = (along**2).sum(axis=1)
    offset = np.array([x, y]) - starts
    share = np.clip((offset * along).sum(axis=1) / np.where(length, length, 1), 0, 1)
    return np.sqrt(((offset - share[:, None] * along) ** 2).sum(axis=1)).min()


def is_inside(polygon, x, y):
    """Whether a ray to the right crosses an odd number of edges."""
    crossed = False
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    for (x_1, y_1), (x_2, y_2) in zip(points, [*points[1:], points[0]], strict=True):
        if (y_1 > y) != (y_2 > y) and x < x_1 + (y - y_1) * (x_2 - x_1) / (y_2 - y_1):
            crossed = not crossed
    return crossed


def drawn(folder, polygons, height, width):
    """The mask of a garment with these polygons, in a photo of that size."""
    garment = trees.garment(1, 1, segmentation=polygons, bounding_box=[0, 0, width, height])
    trees.write_photo(folder, "train", 1, "user", 1, garment)
    config = describe("deepfashion2", folder)
    listing = config.read()
    assert listing.problems == []
    return pixels(config.mask(listing.rows[0], height, width))


@pytest.mark.parametrize("seed", range(8))
def test_a_mask_is_the_union_of_what_the_polygons_enclose(tmp_path, seed):
    """By each pixel's center, where that is not on an edge; polygons reach out of the photo."""
    random = np.random.default_rng(seed)
    height, width = 40, 30
    polygons = []
    for _ in range(random.integers(1, 4)):
        center, count = random.uniform((0, 0), (width, height)), random.integers(3, 9)
        angles = np.sort(random.uniform(0, 2 * np.pi, count))
        reach = random.uniform(4, 18, count)
        points = center + reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        polygons.append(points.round(seed % 3).ravel().tolist())
    mask = drawn(tmp_path, polygons, height, width)
    assert mask.shape == (height, width)
    assert set(np.unique(mask)) <= {0, 255}
    sure = 0
    for row, column in itertools.product(range(height), range(width)):
        x, y = column + 0.5, row + 0.5
        if min(distance_to_edges(polygon, x, y) for polygon in polygons) > 0.75:
            expected = any(is_inside(polygon, x, y) for polygon in polygons)
            assert mask[row, column] == 255 * expected, (row, column)
            sure += 1
    assert sure > height * width / 2


def test_a_part_within_another_is_no_hole(tmp_path):
    polygons = [[0, 0, 9, 0, 9, 9, 0, 9], [3, 3, 6, 3, 6, 6, 3, 6]]
    assert drawn(tmp_path, polygons, 9, 9).min() == 255


@pytest.mark.parametrize(
    "polygons",
    [
        [[1, 2, 3, 4, 5]],
        [[1, 2, 3, 4]],
        [[3, 3, 9, 3, 9, 9], []],
        [[3, 3, 9, 3, 9, "9"]],
        [[3, 3, 9, 3, 9, True]],
        [[3, 3, 9, 3, 9, 100_001]],
        [[3, 3, 9, 3, 9, 10**400]],
        [{"counts": "x"}],
        {"size": [36, 24], "counts": [0, 864]},
        [],
        {},
        None,
        1,
        [[3, 3, 9, 3, 6, 3]],  # encloses nothing
    ],
)
def test_no_outline(root, polygons):
    change = {"segmentation": polygons}
    trees.edit(root, "train", 1, lambda content: content["item1"].update(change))
    ((kind, text),) = problems_of(root)
    assert kind == "outline"
    assert text.startswith(f"{ITEM}field 'segmentation': ")


ITEM = "train/annos/000001.json:1: item1: "
OUTSIDE = "is outside the picture, which is 24x36 pixels (upright)"


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"style": None}, "fields", "field 'style': expected a whole number, got null"),
        ({"style": -1}, "fields", "field 'style': expected a whole number, got -1"),
        ({"style": True}, "fields", "field 'style': expected a whole number, got true"),
        ({"scale": 0}, "fields", "field 'scale': expected 1, 2 or 3, got 0"),
        ({"occlusion": 4}, "unknown occluded", "field 'occlusion': expected 1, 2 or 3, got 4"),
        ({"zoom_in": "1"}, "unknown cropped", "field 'zoom_in': expected 1, 2 or 3, got '1'"),
        ({"viewpoint": 2.0}, "unknown view", "field 'viewpoint': expected 1, 2 or 3, got 2.0"),
        (
            {"category_name": "short sleeved top"},
            "unknown category",
            "field 'category_name': expected one of the 13 categories, got 'short sleeved top'",
        ),
        ({"category_id": 14}, "unknown category", "field 'category_id': expected 1 to 13, got 14"),
        (
            {"category_id": 2},
            "category",
            "field 'category_id': is 2, which is 'long sleeve top'; category_name is "
            "'short sleeve top'",
        ),
        (
            {"bounding_box": [2, 2, 22]},
            "box",
            "field 'bounding_box': expected [x_1, y_1, x_2, y_2], numbers of pixels, got "
            "[2, 2, 22]",
        ),
        (
            {"bounding_box": [2, 2, 22, "34"]},
            "box",
            "field 'bounding_box': expected [x_1, y_1, x_2, y_2], numbers of pixels, got "
            "[2, 2, 22, '34']",
        ),
        (
            {"bounding_box": [22, 2, 2, 34]},
            "box",
            "field 'x_2': the box has no size: x_2=2 is not above x_1=22",
        ),
        (
            {"landmarks": [1, 2, 2]},
            "landmarks",
            "field 'landmarks': a short sleeve top has 25, which take 75 numbers; got 3",
        ),
        (
            {"landmarks": [1, 2, 3] * 25},
            "landmarks",
            "field 'landmarks': expected a visibility of 0, 1 or 2, got 3",
        ),
        (
            {"landmarks": [1.5, 2, 2] * 25},
            "landmarks",
            "field 'landmarks': expected whole numbers x, y, visibility, got a list of 75",
        ),
        (
            {"segmentation": [[1, 2, 3, 4]]},
            "outline",
            "field 'segmentation': a polygon of 2 points: expected at least 3",
        ),
        (
            {"segmentation": [[22, 2, 24, 2, 24, 9]]},
            "outline",
            "field 'segmentation': the polygons enclose nothing in the box [2, 2, 22, 34]",
        ),
    ],
)
def test_bad_garment(root, change, kind, message):
    trees.edit(root, "train", 1, lambda content: content["item1"].update(change))
    assert problems_of(root) == [(kind, ITEM + message)]


@pytest.mark.parametrize("name", trees.garment(1, 1))
def test_missing_field(root, name):
    trees.edit(root, "train", 1, lambda content: content["item1"].pop(name))
    assert problems_of(root) == [("fields", f"{ITEM}field {name!r}: is missing")]


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"source": "shops"}, "unknown source", "field 'source': expected user or shop, got 'sho"),
        ({"source": 1}, "fields", "field 'source': expected a text, got 1"),
        ({"pair_id": "1"}, "fields", "field 'pair_id': expected a whole number, got '1'"),
        ({"item1": [1]}, "fields", "item1: expected an object, got [1]"),
        ({"item_3": {}}, "fields", "field 'item_3': there is no such field"),
        ({"item0": {}}, "fields", "field 'item0': there is no such field"),
    ],
)
def test_bad_photo(root, change, kind, message):
    trees.edit(root, "train", 1, lambda content: content.update(change))
    ((found, text),) = problems_of(root)
    assert found == kind
    assert text.startswith(f"train/annos/000001.json:1: {message}")


@pytest.mark.parametrize("name", ["source", "pair_id"])
def test_a_photo_without_what_is_said_of_it_loses_all_garments(root, name):
    trees.edit(root, "train", 1, lambda content: content.pop(name))
    checked = check("deepfashion2", root, on_error="skip")
    assert [str(problem) for problem in checked.report.problems] == [
        f"{root}/train/annos/000001.json:1: field {name!r}: is missing"
    ]
    assert len(checked.report.rows) == 10
    assert checked.summary["splits"]["train"]["customer_photos"] == 1


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"", 1, "is empty"),
        (b'{"source": "user",\n "pair_id": 1,\n', 3, "not JSON: Expecting property name"),
        (b'{"source":\n"\xff"}', 2, "not UTF-8: byte 0xff"),
        (b"[1, 2]", 1, "expected an object, got [1, 2]"),
        (b"null", 1, "expected an object, got null"),
        (b'{"source": NaN}', 1, "holds NaN, which is no number"),
        (b'{\n"pair_id": 1,\n"pair_id": 2}', 2, "field 'pair_id': is there twice"),
        (b"[" * 100_000, 1, "is nested too deeply"),
        (b'{"pair_id": ' + b"9" * 5000 + b"}", 1, "holds a number of too many digits"),
    ],
)
def test_bad_file(root, content, line, message):
    _, path = trees.paths(root, "train", 1)
    path.write_bytes(content)
    ((kind, text),) = problems_of(root)
    assert kind == "fields"
    assert text.startswith(f"train/annos/000001.json:{line}: {message}")


def test_problems_name_the_line_of_the_garment(root):
    trees.edit(root, "train", 1, lambda content: content["item2"].update(style="x"), indent=1)
    _, path = trees.paths(root, "train", 1)
    lines = path.read_text().split("\n")
    (line,) = [number for number, text in enumerate(lines, 1) if '"item2"' in text]
    assert line > 10
    ((_, text),) = problems_of(root)
    assert text.startswith(f"train/annos/000001.json:{line}: item2: field 'style'")


def test_box_and_landmark_outside_the_photo(root):
    def move(content):
        content["item1"]["bounding_box"] = [2, 2, 22, 38]
        content["item2"]["landmarks"][:3] = [26, 3, 2]

    trees.edit(root, "train", 1, move)
    assert problems_of(root) == [
        ("box", f"train/annos/000001.json:1: item1: field 'y_2': 38 {OUTSIDE}"),
        ("landmarks", f"train/annos/000001.json:1: item2: landmark (26, 3) {OUTSIDE}"),
    ]


def test_the_edge_is_tolerated(root):
    def move(content):
        content["item1"]["bounding_box"] = [2, 2, 25, 34]
        content["item1"]["landmarks"][:3] = [24, 36, 1]

    trees.edit(root, "train", 1, move)
    checked = check("deepfashion2", root)
    row = checked.report.rows[0].row
    assert row.box == (2, 2, 24, 34)
    assert row.landmarks[0].tolist() == [1, 23, 35]
    assert checked.summary["tolerated"] == {
        "box moved to the photo's edge": 1,
        "landmark moved to the photo's edge": 1,
    }


def test_oddities_are_counted(root):
    def change(content):
        content["item2"]["color"] = "red"
        content["item2"]["landmarks"][6:8] = [5, 5]

    trees.edit(root, "train", 1, change)
    trees.edit(root, "train", 2, lambda content: content["item1"].update(trees.garment(2, 1)))
    trees.edit(root, "train", 4, lambda content: content.pop("item1"))
    (root / "train/annos/readme.txt").write_text("")
    (root / "train/image/._000001.jpg").write_text("")
    checked = check("deepfashion2", root)
    assert checked.report.problems == []
    assert checked.summary["tolerated"] == {
        "field of a garment that the format does not have": 1,
        "file that is neither photo nor annotation": 2,
        "garment of another category than its item's first": 1,
        "photo without a garment": 1,
        "place of a landmark that is not labeled": 1,
    }
    row = checked.report.rows[1].row
    assert row.landmarks[2].tolist() == [-1, 0, 0]
    # As in the release's evaluation the category is no part of the item.
    assert checked.report.rows[2].row.item_id == "train/1/1"
    assert checked.summary["splits"]["train"]["pairs"] == 3


def test_photo_without_annotation_and_annotation_without_photo(root):
    trees.paths(root, "train", 2)[1].unlink()
    trees.paths(root, "validation", 2)[0].unlink()
    missing = "validation/image/000002.jpg: no such file"
    assert problems_of(root) == [
        (
            "photo without a box",
            "train/annos/000002.json:1: there is no such file, for the photo "
            "train/image/000002.jpg",
        ),
        *(
            ("missing photo", f"validation/annos/000002.json:1: {item}: field 'image': {missing}")
            for item in ("item1", "item2")
        ),
    ]


def test_the_same_garment_twice(root):
    trees.edit(root, "train", 1, lambda content: content.update(item3=content["item1"]))
    ((kind, text),) = problems_of(root)
    assert kind == "duplicate row"
    assert text == (
        "train/annos/000001.json:1: item3: field 'image': 'train/image/000001.jpg' of item "
        f"'train/1/1' is at {root}/train/annos/000001.json:1: item1 already"
    )


def test_garments_are_ordered_by_number(root):
    garment = trees.garment(1, 0)
    trees.write_photo(root, "train", 1, "user", 1, *[garment] * 11)
    path = trees.paths(root, "train", 1)[1]
    content = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(content.items()))))
    rows = [row for row, _ in check("deepfashion2", root).report.rows][:11]
    assert [row.item_id.split("/")[-1] for row in rows] == [f"item{n}" for n in range(1, 12)]


def test_missing_folders(tmp_path):
    (tmp_path / "d").mkdir()
    with pytest.raises(DatasetError, match="has neither a folder train nor validation"):
        load(tmp_path / "d")
    (tmp_path / "d/train/image").mkdir(parents=True)
    with pytest.raises(DatasetError, match="train/annos missing, which DeepFashion2 has"):
        load(tmp_path / "d")
    (tmp_path / "d/train/annos").mkdir()
    with pytest.raises(AnnotationError, match="train/annos: has no annotation file"):
        load(tmp_path / "d")
    trees.write_photo(tmp_path / "d", "train", 1, "user", 1)
    with pytest.raises(AnnotationError, match="no photo has a garment"):
        load(tmp_path / "d")
    trees.paths(tmp_path / "d", "train", 1)[1].unlink()
    trees.paths(tmp_path / "d", "train", 1)[1].mkdir()
    with pytest.raises(AnnotationError, match=r"annos/000001\.json: cannot be read"):
        load(tmp_path / "d")


def test_preparing_refuses_or_skips(root):
    trees.edit(root, "train", 1, lambda content: content["item1"].update(style="x"))
    with pytest.raises(AnnotationError, match=r"000001\.json:1: item1: field 'style'"):
        load(root)
    dataset = load(root, on_error="fields")
    assert dataset.summary["problems"] == {"fields": 1}
    assert len(dataset.split("train")) == 8
    assert dataset.split("train").record(0).item_id == "train/1/0/000001/item2"


def test_annotations_that_change_while_they_are_stored(root):
    config = describe("deepfashion2", root)
    row = config.read().rows[0]
    assert config.mask(row, 36, 24)
    for change in (
        lambda content: content["item1"].update(segmentation=[]),
        lambda content: content.pop("item1"),
    ):
        trees.edit(root, "train", 1, change)
        with pytest.raises(AnnotationError, match=r"000001\.json:1: item1: has changed since"):
            config.mask(row, 36, 24)


def test_another_state_has_another_name(root):
    def name():
        return describe("deepfashion2", root).name

    first = name()
    assert name() == first
    path = trees.paths(root, "validation", 2)[1]
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    second = name()
    path.rename(path.with_name("000003.json"))
    third = name()
    trees.paths(root, "train", 1)[0].touch()  # photos are no part of it
    assert name() == third
    assert len({first, second, third}) == 3


class Bucket:
    """A folder that lists as one of a bucket does."""

    def __init__(self, folder):
        self.folder, self.parent = folder, folder.parent

    def __fspath__(self):
        return "gs://bucket/annos"

    def iterdir(self):
        return self.folder.iterdir()


def test_names_in_a_bucket(root):
    folder = epath.Path(root) / "train/annos"
    names, others = deepfashion2_files.list_names(Bucket(folder), ".json")
    assert (names, others) == ([f"00000{n}.json" for n in range(1, 6)], 0)
    before = deepfashion2_files.digest_states([Bucket(folder)])
    os.utime(folder / "000001.json", (0, 0))
    assert deepfashion2_files.digest_states([Bucket(folder)]) == before
    (folder / "000001.json").unlink()
    assert deepfashion2_files.digest_states([Bucket(folder)]) != before


def test_check_command(root, capsys):
    trees.edit(root, "validation", 1, lambda content: content.update(source="web"))
    assert prepare.main(["--dataset=deepfashion2", f"--source={root}", "--check"]) == 2
    out = capsys.readouterr().out
    assert "validation/annos/000001.json:1: field 'source': expected user or shop" in out
    assert "191,961" in out
