"""Exact Street2Shop, from small downloads in its form: records, counts, problems."""

import pytest

from input_pipeline import DatasetError
from input_pipeline.errors import AnnotationError
from tests.input_pipeline import street2shop_trees as trees
from tests.input_pipeline.conftest import check
from tests.input_pipeline.conftest import load as load_from


def load(root, **options):
    return load_from("street2shop", root, root.parent / "data", **options)


def problems_of(root):
    """The kind and text of each problem, in the order of the files."""
    problems = check("street2shop", root).checked.problems
    return [(problem.kind, str(problem).replace(f"{root}/", "")) for problem in problems]


def records(split):
    return [split.record(row) for row in range(len(split))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A download and the data set prepared from it: not to be changed."""
    root = trees.write_street2shop(tmp_path_factory.mktemp("downloads") / "street2shop")
    return root, load(root)


@pytest.fixture
def root(tmp_path):
    return trees.write_street2shop(tmp_path / "street2shop")


def change(root, name, number, value):
    """Puts a value in the place of an element, counted from 1; one more is added."""
    elements = trees.read_list(root, name)
    elements[number - 1 : number] = [value]
    trees.write_list(root, name, elements)


def test_records(whole):
    root, dataset = whole
    trained = {(name, item) for name, pairs in trees.PAIRS.items() for _, item, _ in pairs}
    expected = {"train": [], "test": []}
    for category in ("bags", "dresses"):
        for split in expected:
            for photo, item, (left, top, width, height) in trees.PAIRS[f"{split}_pairs_{category}"]:
                box = (left, top, left + width, top + height)
                expected[split].append(("customer", f"{category}/{item}", photo, box))
        for photo, item in trees.SHOP_PHOTOS[f"retrieval_{category}"]:
            split = "train" if (f"train_pairs_{category}", item) in trained else "test"
            expected[split].append(("shop", f"{category}/{item}", photo, (0, 0, 24, 36)))
    assert dataset.splits == ("train", "test")
    for split, rows in expected.items():
        found = records(dataset.split(split))
        assert [(r.domain, r.item_id, int(r.photo_id[:9]), r.box) for r in found] == rows
        for record in found:
            path = trees.photo_path(root, int(record.photo_id[:9]))
            assert (record.photo_id, record.image) == (path.name, path.read_bytes())
            assert record.category == record.item_id.split("/")[0]
            assert (record.height, record.width) == (36, 24)
            flags = (record.view, record.occluded, record.cropped, record.clothes_type)
            assert flags == (-1, -1, -1, -1)
    assert dataset.split("test").index.categories.tolist() == ["bags", "dresses"]


def test_counts(whole):
    summary = whole[1].summary
    keys = ("items", "customer_photos", "shop_photos", "pairs", "queries_without_match")
    assert [summary["splits"]["train"][key] for key in keys] == [3, 4, 4, 6, 0]
    assert [summary["splits"]["test"][key] for key in keys] == [4, 4, 4, 4, 0]
    assert (summary["skipped_rows"], summary["problems"], summary["notes"]) == (0, {}, {})
    release = {line.pop("what"): tuple(line.values()) for line in summary["release"]}
    assert release == {  # listed, found, of the release, of the paper
        "bags: test queries": (2, 2, 174, None),
        "bags: train queries": (3, 3, 579, None),
        "dresses: test queries": (2, 2, 3292, None),
        "dresses: train queries": (1, 1, 12875, None),
        "test queries": (4, 4, 8637, None),
        "train queries": (4, 4, 30629, None),
        "queries": (8, 8, 39266, 39479),
        "street images": (6, 6, 20357, None),
        "shop images": (8, 8, None, 404683),
    }


GOOD = trees.element(4, 20, trees.BOX)
PHOTO, PRODUCT = "field 'photo': ", "field 'product': "
ID = "expected a whole number of up to 9 digits, got "
SIDES = "field 'bbox': expected numbers as left, top, width and height, got "
OUTSIDE = "is outside the image of 24x36 pixels (upright)"


def with_bbox(**bbox):
    return {**GOOD, "bbox": {**GOOD["bbox"], **bbox}}


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ([4, 20], "format", "expected an object, got [4, 20]"),
        (None, "format", "expected an object, got nothing"),
        ({"product": 20, "bbox": GOOD["bbox"]}, "format", f"{PHOTO}{ID}nothing"),
        ({**GOOD, "photo": "4"}, "format", f"{PHOTO}{ID}'4'"),
        ({**GOOD, "photo": True}, "format", f"{PHOTO}{ID}True"),
        ({**GOOD, "photo": 4.0}, "format", f"{PHOTO}{ID}4.0"),
        ({**GOOD, "photo": 10**9}, "format", f"{PHOTO}{ID}1000000000"),
        ({**GOOD, "photo": 10**30}, "format", f"{PHOTO}{ID}1e+30"),
        ({**GOOD, "product": -1}, "format", f"{PRODUCT}{ID}-1"),
        ({**GOOD, "product": ["x" * 99]}, "format", f"{PRODUCT}{ID}['{'x' * 79}...]"),
        ({"photo": 4, "product": 20}, "box", f"{SIDES}nothing"),
        ({**GOOD, "bbox": [1, 2, 3, 4]}, "box", f"{SIDES}[1, 2, 3, 4]"),
        ({**GOOD, "bbox": {"top": 1, "left": 2}}, "box", f"{SIDES}{{'top': 1, 'left': 2}}"),
        (with_bbox(left="2"), "box", f"{SIDES}{{'width': 20, 'top': 3, 'left': '2', "),
        (with_bbox(left=False), "box", f"{SIDES}{{'width': 20, 'top': 3, 'left': False, "),
        (with_bbox(width=10**400), "box", f"{SIDES}{{'width': inf, 'top': 3, 'left': 2, "),
        (with_bbox(width=0.0), "box", "field 'x_2': the box has no size"),
        (with_bbox(left=6), "box", f"field 'x_2': 26 {OUTSIDE}"),
        (with_bbox(top=-2), "box", f"field 'y_1': -2 {OUTSIDE}"),
        (trees.element(4, 11, trees.BOX), "contradiction", f"{PRODUCT}11 has a training pair at "),
        (trees.element(3, 20, trees.BOX), "duplicate", "'000000003.jpg' of item 'bags/20' is list"),
        (trees.element(9, 20, trees.BOX), "reference", f"{PHOTO}9 is not in photos/photos.txt, an"),
        (trees.element(901, 20, trees.BOX), "missing_image", "000000901.jpg: no such file"),
    ],
)
def test_bad_pair(root, value, kind, message):
    change(root, "test_pairs_bags", 2, value)
    ((found, text),) = problems_of(root)
    assert found == kind
    assert text.startswith(f"meta/json/test_pairs_bags.json: element 2: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "1: not JSON: is empty"),
        (b'{"photo": 1}', "1: expected a list, got {'photo': 1}"),
        (b'[{"photo": 101,\n "product": 10}', "2: not JSON: "),
        (b"[1,\n\n2, \xff]", "3: not UTF-8: byte 0xff"),
        (b"[" * 100_000, "1: not read: lists in lists, too many"),
    ],
)
def test_no_json_list(root, content, message):
    path = trees.list_path(root, "retrieval_bags")
    path.write_bytes(content)
    with pytest.raises(AnnotationError) as caught:
        load(root, on_error="skip")
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}:{message}")


def test_empty_lists(root):
    for name in [*trees.PAIRS, *trees.SHOP_PHOTOS]:
        assert load(root).splits
        trees.write_list(root, name, [])
    with pytest.raises(AnnotationError, match="street2shop: lists no image"):
        load(root)


def test_boxes_of_floats_and_over_the_edge_by_a_pixel(root):
    change(root, "test_pairs_bags", 1, {**GOOD, "photo": 3, **with_bbox(left=2.0, width=19.5)})
    change(root, "test_pairs_bags", 2, {**with_bbox(left=5), "photo": 3})
    dataset = load(root)
    assert [r.box for r in records(dataset.split("test"))[:2]] == [(2, 3, 21.5, 33), (5, 3, 24, 33)]
    assert dataset.summary["notes"] == {"box moved to the image's edge": 1}


def test_known_faults_are_left_out_and_counted(root):
    """Dead images, damaged ones, boxes without size and repeated rows."""
    for photo in (4, 104):
        trees.photo_path(root, photo).unlink()
    trees.photo_path(root, 106).write_bytes(trees.photo_path(root, 106).read_bytes()[:300])
    change(root, "train_pairs_bags", 3, trees.element(2, 11, (0, 0, 0, 0)))
    change(root, "retrieval_bags", 6, trees.element(101, 10))
    summary = (dataset := load(root)).summary
    kinds = {"box": 1, "duplicate": 1, "missing_image": 2, "unreadable_image": 1}
    assert (summary["problems"], summary["skipped_rows"]) == (kinds, 5)
    assert summary["splits"]["test"]["queries_without_match"] == 1
    release = {line["what"]: (line["listed"], line["found"]) for line in summary["release"]}
    assert release["bags: test queries"] == (2, 1)
    assert release["shop images"] == (8, 6)
    # A product keeps its split where its training pairs are bad: else its shop images would move.
    train = records(dataset.split("train"))
    assert [r.item_id for r in train if r.domain == "shop"] == ["bags/10", "bags/10", "bags/11"]


def test_a_customers_image_among_a_shops(root):
    change(root, "retrieval_bags", 4, trees.element(3, 20))
    ((kind, text),) = problems_of(root)
    assert kind == "contradiction"
    assert text.startswith("meta/json/retrieval_bags.json: element 4: '000000003.jpg' is in domain")


def test_without_the_list_of_urls_an_unknown_image_is_a_missing_one(root):
    trees.photo_path(root, 4).unlink()
    path = trees.write_photo_list(root, [photo for photo in trees.PHOTOS if photo not in (4, 104)])
    assert [kind for kind, _ in problems_of(root)] == ["reference"]
    path.write_bytes(b"\xef\xbb\xbf4,http://caf\xe9/a,b\r\n\r\n" + path.read_bytes())
    assert [kind for kind, _ in problems_of(root)] == ["missing_image"]
    path.unlink()
    assert [kind for kind, _ in problems_of(root)] == ["missing_image"]


def test_other_names_of_images(root):
    folder = root / "images"
    (root / "photos").rename(folder)
    (folder / "000000101.jpg").rename(folder / "101.JPEG")  # as one of the usual scripts does
    (folder / "000000102.jpg").rename(folder / "000000102.jpeg")
    (folder / "000000103.jpg").rename(folder / "000000103.png")  # as another does, of any image
    trees.write_photo(folder / "000000104.png", 104, "PNG")
    trees.write_photo(folder / "105.jpg", 999)
    (folder / "000000001.part").write_bytes(b"")
    (folder / "1000000001.jpg").write_bytes(b"")
    dataset = load(root)
    assert dataset.summary["problems"] == {}
    images = {r.photo_id: r for split in dataset.splits for r in records(dataset.split(split))}
    for name in ("101.JPEG", "000000102.jpeg", "000000103.png", "000000104.jpg", "000000105.jpg"):
        assert images[name].image == (folder / name).read_bytes()


def test_wrong_source(root, tmp_path):
    trees.write_photo(tmp_path / "photos" / "000000001.jpg", 1)
    with pytest.raises(DatasetError, match=r"meta/json/ lacks train_pairs_bags\.json, test_pairs"):
        load_from("street2shop", tmp_path, tmp_path)
    trees.list_path(root, "test_pairs_bags").unlink()
    with pytest.raises(DatasetError, match=r"meta/json/ lacks test_pairs_bags\.json$"):
        load(root)
    for name in ("train_pairs_bags", "retrieval_bags"):
        trees.list_path(root, name).unlink()
    assert load(root).split("test").index.categories.tolist() == ["dresses"]  # one is enough
    trees.write_photo(root / "images" / "000000001.jpg", 1)
    with pytest.raises(DatasetError, match="photos/ and images/ both hold images"):
        load(root)
    (root / "images" / "000000001.jpg").unlink()
    (root / "photos").rename(root / "pictures")
    with pytest.raises(DatasetError, match="photos/ and images/ hold no image"):
        load(root)


def test_more_images_are_prepared_anew(root):
    late = trees.photo_path(root, 104)
    content = late.read_bytes()
    late.unlink()
    first = load(root)
    assert load(root).directory == first.directory
    late.write_bytes(content)
    datasets = [first, load(root)]
    change(root, "test_pairs_bags", 2, with_bbox(left=1))
    datasets.append(load(root))
    assert len({dataset.directory for dataset in datasets}) == 3
    assert [d.summary["splits"]["test"]["gallery"] for d in datasets] == [3, 4, 4]
