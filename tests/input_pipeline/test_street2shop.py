"""Exact Street2Shop, from small downloads in its form: records, counts, problems."""

import json
import re

import pytest

from input_pipeline import DatasetError, prepare
from input_pipeline.datasets.street2shop_files import read_photos
from input_pipeline.errors import AnnotationError
from tests.input_pipeline import street2shop_trees as trees
from tests.input_pipeline.conftest import check
from tests.input_pipeline.conftest import load as load_from

WITHOUT = (
    "category without files (belts, eyewear, footwear, hats, leggings, outerwear, pants, skirts, "
    "tops)"
)


def load(root, **options):
    return load_from("street2shop", root, root.parent / "data", **options)


def problems_of(root, **changes):
    """What stops the preparation; nothing is left behind."""
    before = set((root.parent / "data").glob("*/*/*"))
    with pytest.raises(AnnotationError) as caught:
        load(root, **{"on_error": "error", **changes})
    assert set((root.parent / "data").glob("*/*/*")) == before
    return [problem.replace(f"{root}/", "") for problem in caught.value.problems]


def records(split):
    return [split.record(row) for row in range(len(split))]


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    """Not to be changed."""
    return trees.write_street2shop(tmp_path_factory.mktemp("downloads") / "street2shop")


@pytest.fixture
def root(tmp_path):
    return trees.write_street2shop(tmp_path / "street2shop")


def change(root, name, number, value):
    """Puts a value in the place of an element, counted from 1; one more is added."""
    elements = trees.read_list(root, name)
    elements[number - 1 : number] = [value]
    trees.write_list(root, name, elements)


def test_records(download):
    dataset = load(download)
    assert dataset.splits == ("train", "test")
    found = {
        split: [
            (record.domain, record.item_id, int(record.photo_id.removesuffix(".jpg")))
            for record in records(dataset.split(split))
        ]
        for split in dataset.splits
    }
    assert found["train"] == [
        ("customer", "bags/10", 1),
        ("customer", "bags/10", 1),
        ("customer", "bags/11", 2),
        ("shop", "bags/10", 101),
        ("shop", "bags/10", 102),
        ("shop", "bags/11", 103),
        ("customer", "dresses/30", 5),
        ("shop", "dresses/30", 106),
    ]
    assert found["test"] == [
        ("customer", "bags/20", 3),
        ("customer", "bags/20", 4),
        ("shop", "bags/20", 104),
        ("shop", "bags/21", 105),
        ("customer", "dresses/10", 1),
        ("customer", "dresses/31", 6),
        ("shop", "dresses/10", 107),
        ("shop", "dresses/31", 108),
    ]
    first, second, _, shop, *_ = records(dataset.split("train"))
    assert first.photo_id == "000000001.jpg"
    assert first.image == trees.photo_path(download, 1).read_bytes()
    assert (first.box, second.box) == ((2, 3, 22, 33), (4, 5, 14, 17))
    assert (first.category, first.height, first.width) == ("bags", 36, 24)
    assert shop.image == trees.photo_path(download, 101).read_bytes()
    assert shop.box == (0, 0, 24, 36)  # the whole photo
    assert (first.view, first.occluded, first.cropped, first.clothes_type) == (-1, -1, -1, -1)
    index = dataset.split("test").index
    assert index.categories.tolist() == ["bags", "dresses"]
    assert (index.category == [0, 0, 0, 0, 1, 1, 1, 1]).all()


def test_summary(download):
    summary = load(download).summary
    keys = ("items", "customer_photos", "shop_photos", "pairs", "queries_without_match")
    assert [summary["splits"]["train"][key] for key in keys] == [3, 4, 4, 6, 0]
    assert [summary["splits"]["test"][key] for key in keys] == [4, 4, 4, 4, 0]
    assert summary["skipped_rows"] == 0
    assert summary["problems"] == {}
    assert summary["tolerated"] == {WITHOUT: 9}
    assert summary["facts"] == {
        "dead_customer_photos": 0,
        "dead_shop_photos": 0,
        "listed_train_queries_bags": 3,
        "listed_test_queries_bags": 2,
        "listed_gallery_bags": 5,
        "listed_train_queries_dresses": 1,
        "listed_test_queries_dresses": 2,
        "listed_gallery_dresses": 3,
    }
    release = {
        line["what"]: (line["found"], line["release"], line["paper"]) for line in summary["release"]
    }
    assert release == {
        "bags: test queries": (2, 174, None),
        "bags: train queries": (3, 579, None),
        "dresses: test queries": (2, 3292, None),
        "dresses: train queries": (1, 12875, None),
        "test queries": (4, 8637, None),
        "train queries": (4, 30629, None),
        "queries": (8, 39266, 39479),
        "street photos": (6, 20357, None),
        "shop photos": (8, None, 404683),
    }


P = "meta/json/test_pairs_bags.json:1: element 2: "
GOOD = trees.element(4, 20, trees.BOX)
ID = "expected a whole number from 0 to 999999999, got "


def with_bbox(**bbox):
    return {**GOOD, "bbox": {**GOOD["bbox"], **bbox}}


@pytest.mark.parametrize(
    ("value", "messages"),
    [
        ([4, 20], ["expected an object with photo, product, bbox, got [4, 20]"]),
        (None, ["expected an object with photo, product, bbox, got nothing"]),
        ({"product": 20, "bbox": GOOD["bbox"]}, ["field 'photo': is missing"]),
        ({"bbox": GOOD["bbox"]}, ["field 'photo': is missing", "field 'product': is missing"]),
        ({**GOOD, "photo": "4"}, [f"field 'photo': {ID}'4'"]),
        ({**GOOD, "photo": True}, [f"field 'photo': {ID}True"]),
        ({**GOOD, "photo": 4.0}, [f"field 'photo': {ID}4.0"]),
        ({**GOOD, "photo": -4}, [f"field 'photo': {ID}-4"]),
        ({**GOOD, "photo": 10**9}, [f"field 'photo': {ID}1000000000"]),
        ({**GOOD, "photo": 10**30}, [f"field 'photo': {ID}1e+30"]),
        ({**GOOD, "product": None}, [f"field 'product': {ID}nothing"]),
        ({**GOOD, "product": float("nan")}, [f"field 'product': {ID}nan"]),
        (
            {**GOOD, "product": ["x" * 100]},
            [f"field 'product': {ID}['{'x' * 78}..."],
        ),
        (
            {"photo": 4, "product": 20},
            ["field 'bbox': expected left, top, width, height, got nothing"],
        ),
        (
            {**GOOD, "bbox": [1, 2, 3, 4]},
            ["field 'bbox': expected left, top, width, height, got [1, 2, 3, 4]"],
        ),
        (
            {**GOOD, "bbox": {"top": 1, "left": 2}},
            ["field 'bbox': has no width and no height"],
        ),
        (
            with_bbox(width=0.0, height=-1),
            [
                "field 'bbox': the box has no size: width=0.0 is not above 0",
                "field 'bbox': the box has no size: height=-1 is not above 0",
            ],
        ),
        (with_bbox(left="2"), ["field 'bbox': expected a number of pixels as left, got '2'"]),
        (with_bbox(left=False), ["field 'bbox': expected a number of pixels as left, got False"]),
        (
            with_bbox(top=float("nan")),
            ["field 'bbox': expected a number of pixels as top, got nan"],
        ),
        (
            with_bbox(width=float("inf")),
            ["field 'bbox': expected a number of pixels as width, got inf"],
        ),
        (
            with_bbox(width=10**400),
            ["field 'bbox': expected a number of pixels as width, got inf"],
        ),
        (
            with_bbox(left=6),
            ["field 'x_2': 26 is outside the picture, which is 24x36 pixels (upright)"],
        ),
        (
            with_bbox(top=-2),
            ["field 'y_1': -2 is outside the picture, which is 24x36 pixels (upright)"],
        ),
    ],
)
def test_bad_pair(root, value, messages):
    change(root, "test_pairs_bags", 2, value)
    assert problems_of(root) == [f"{P}{message}" for message in messages]


def test_a_box_over_the_edge_by_a_pixel(root):
    change(root, "test_pairs_bags", 2, with_bbox(left=5))
    dataset = load(root)
    assert dataset.summary["tolerated"]["box moved to the photo's edge"] == 1
    assert records(dataset.split("test"))[1].box == (5, 3, 24, 33)


def test_whole_numbers_may_be_written_as_floats(root):
    """Some of the release's boxes are."""
    change(root, "test_pairs_bags", 2, with_bbox(left=2.0, width=19.5))
    record = records(load(root).split("test"))[1]
    assert (record.photo_id, record.box) == ("000000004.jpg", (2, 3, 21.5, 33))


def test_a_key_that_is_there_twice(root):
    path = trees.list_path(root, "retrieval_bags")
    path.write_text('[{"photo": 101, "photo": 102, "product": 10, "product": 10}]')
    place = "meta/json/retrieval_bags.json:1: element 1"
    assert problems_of(root) == [
        f"{place}: field 'photo': {ID}'two values'",
        f"{place}: field 'product': {ID}'two values'",
    ]


def test_fields_that_are_not_used_are_counted(root):
    change(root, "retrieval_bags", 1, {**trees.element(101, 10, trees.BOX), "shop": "x"})
    dataset = load(root)
    assert dataset.summary["tolerated"]["field that is not used"] == 2
    assert records(dataset.split("train"))[3].box == (0, 0, 24, 36)


def test_lines_of_elements(root):
    elements = trees.read_list(root, "retrieval_bags")
    elements[1]["photo"] = elements[4]["product"] = "?"
    path = trees.write_list(root, "retrieval_bags", elements, one_line=False)
    places = [problem.partition(" field")[0] for problem in problems_of(root)]
    name = "meta/json/retrieval_bags.json"
    assert places == [f"{name}:3: element 2:", f"{name}:6: element 5:"]
    path.write_text(json.dumps(elements, indent=2).replace("\n", "\r\n"))
    text = path.read_text().split("\n")
    starts = [line for line, content in enumerate(text, 1) if content == "  {"]
    places = [problem.partition(" field")[0] for problem in problems_of(root)]
    assert places == [f"{name}:{starts[1]}: element 2:", f"{name}:{starts[4]}: element 5:"]


def test_elements_on_one_line_are_counted_one_by_one(root):
    for number in (1, 3):
        change(root, "retrieval_bags", number, "?")
    checked = check("street2shop", root).report
    assert checked.bad_rows() == 2
    assert checked.problem_counts() == {"fields": 2}


NOT_JSON = ":1: not a JSON list: column "


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", f"{NOT_JSON}1: expected a list, which begins with [; the file ends"),
        (b'{"photo": 1}', f"{NOT_JSON}1: expected a list, which begins with [; got '{{\"photo"),
        (b" [", f"{NOT_JSON}3: "),
        (b'[{"photo": 101, "product": 10}', f"{NOT_JSON}31: expected , or ] after element 1; the"),
        (b'[{"photo": 101, "product": 1', f"{NOT_JSON}29: "),
        (b'[{"photo": 101, "product": 10},]', f"{NOT_JSON}32: "),
        (b"[1 2]", f"{NOT_JSON}4: expected , or ] after element 1; got '2]'"),
        (b"[]\n\n[]", ":3: not a JSON list: column 1: more text after the list; got '[]'"),
        (b"[\n1,\n\n,2]", ":4: not a JSON list: column 1: "),
        (b"[1,\n'2']", ":2: not a JSON list: column 1: "),
        (b"[" * 100_000, f"{NOT_JSON}2: lists in lists, too many to read; got '[[["),
        (b"[1,\n\n2, \xff]", ":3: not UTF-8: byte 0xff"),
        (b"\xef\xbb\xbf\xff\n", ":1: not UTF-8: byte 0xff"),
    ],
)
def test_no_json_list(root, content, message):
    path = trees.list_path(root, "retrieval_bags")
    path.write_bytes(content)
    with pytest.raises(AnnotationError) as caught:
        load(root, on_error="skip")
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}{message}")


def test_empty_list(root):
    trees.list_path(root, "test_pairs_bags").write_bytes(b"\xef\xbb\xbf [ ]\n")
    summary = load(root).summary
    assert summary["tolerated"] == {WITHOUT: 9, "list without elements": 1}
    assert summary["facts"]["listed_test_queries_bags"] == 0
    assert summary["splits"]["test"]["customer_photos"] == 2


def test_a_huge_integer(tmp_path):
    """Python's own reader would refuse a number of so many digits with a ValueError."""
    path = tmp_path / "list.json"
    path.write_text(f'[{{"photo": {"9" * 5000}, "product": 1}}]')
    problems = []
    assert not list(read_photos(path, ("photo", "product"), problems, {}))
    assert [str(problem) for problem in problems] == [
        f"{path}:1: element 1: field 'photo': {ID}inf"
    ]


def test_repeated_elements(root, capsys):
    trees.write_list(root, "train_pairs_bags", [trees.element(*p) for p in DOUBLE])
    photos = trees.SHOP_PHOTOS["retrieval_bags"]
    trees.write_list(root, "retrieval_bags", [trees.element(*p) for p in (*photos, (101, 10))])
    places = [f"meta/json/{name}.json:1: element" for name in ("retrieval_bags", DOUBLED)]
    assert problems_of(root) == [
        f"{places[0]} 6: field 'photo': 101: this photo and product is at {places[0]} 1 already",
        f"{places[1]} 3: field 'photo': 1: this photo, product and box is at {places[1]} 1 already",
    ]
    dataset = load(root)  # the release may have some, so that they are left out
    assert dataset.summary["problems"] == {"duplicate row": 2}
    assert dataset.summary["splits"]["train"]["customer_photos"] == 4
    assert dataset.summary["facts"]["listed_train_queries_bags"] == 3
    assert dataset.summary["facts"]["listed_gallery_bags"] == 5
    assert capsys.readouterr().out.count("Skipped ") == 2


DOUBLED = "train_pairs_bags"
DOUBLE = [*trees.PAIRS[DOUBLED][:2], (1, 10, trees.BOX), trees.PAIRS[DOUBLED][2]]


def test_a_product_of_both_splits(root):
    change(root, "test_pairs_bags", 2, trees.element(4, 11, trees.BOX))
    expected = "field 'product': 11 has a training pair at meta/json/train_pairs_bags.json:1: "
    assert problems_of(root, on_error="") == [f"{P}{expected}element 3"]
    dataset = load(root, on_error="item in two splits")
    train, test = (dataset.split(split) for split in ("train", "test"))
    assert [r.photo_id for r in records(train) if r.item_id == "bags/11"] == [
        "000000002.jpg",
        "000000103.jpg",
    ]
    assert "bags/11" not in test.index.items.tolist()


def test_a_product_keeps_its_split_where_its_training_pairs_are_bad(root):
    """Else its shop photos would move when a photo comes or goes."""
    trees.photo_path(root, 5).unlink()
    change(root, "train_pairs_bags", 3, {**trees.element(2, 11, (0, 0, 0, 0))})
    found = records(load(root).split("train"))
    assert [r.item_id for r in found if r.domain == "shop"] == [
        *("bags/10", "bags/10", "bags/11", "dresses/30")
    ]
    assert {r.item_id for r in found if r.domain == "customer"} == {"bags/10"}


def test_a_customers_photo_among_a_shops(root):
    change(root, "retrieval_bags", 4, trees.element(3, 20))
    place = "meta/json/test_pairs_bags.json:1: element 1"
    assert problems_of(root, on_error="") == [
        "meta/json/retrieval_bags.json:1: element 4: field 'photo': 3 is the customer's photo of "
        f"product 20 at {place}"
    ]


def test_photos_that_are_not_there(root, capsys):
    for photo in (4, 104, 105):
        trees.photo_path(root, photo).unlink()
    content = trees.photo_path(root, 106).read_bytes()
    trees.photo_path(root, 106).write_bytes(content[: len(content) // 2])
    problems = problems_of(root)
    places = [f"meta/json/retrieval_{name}.json:1: element" for name in ("bags", "dresses")]
    assert problems[:2] == [
        f"{places[0]} 4: field 'photo': photos/ has no photo 000000104",
        f"{places[0]} 5: field 'photo': photos/ has no photo 000000105",
    ]
    assert problems[2].startswith(f"{places[1]} 1: field 'photo': 000000106.jpg: is damaged")
    assert problems[3] == f"{P}field 'photo': photos/ has no photo 000000004"
    summary = load(root).summary
    assert "(4 bad rows were left out)" in capsys.readouterr().out
    assert summary["problems"] == {"missing photo": 3, "unreadable photo": 1}
    facts = summary["facts"]
    assert (facts["dead_customer_photos"], facts["dead_shop_photos"]) == (1, 2)
    assert (facts["listed_test_queries_bags"], facts["listed_gallery_bags"]) == (2, 5)
    assert summary["splits"]["test"]["queries_without_match"] == 1
    (line,) = [line for line in summary["release"] if line["what"] == "bags: test queries"]
    assert line["found"] == 1


def test_a_photo_that_the_list_of_urls_lacks(root):
    trees.photo_path(root, 4).unlink()
    trees.write_photo_list(root, [photo for photo in trees.PHOTOS if photo not in (4, 104)])
    expected = "field 'photo': 4 is not in photos/photos.txt, and photos/ has no such photo"
    assert problems_of(root, on_error="") == [f"{P}{expected}"]
    summary = load(root, on_error="skip").summary
    assert summary["problems"] == {"unknown photo": 1}
    assert summary["facts"]["dead_customer_photos"] == 0
    assert summary["tolerated"]["photo that photos.txt does not list"] == 1
    (root / trees.PHOTO_LIST).unlink()  # what is not known to be wrong counts as dead
    summary = load(root).summary
    assert summary["problems"] == {"missing photo": 1}
    assert summary["tolerated"] == {WITHOUT: 9}


def test_rows_of_the_list_of_urls(root):
    path = root / trees.PHOTO_LIST
    rows = path.read_bytes().split(b"\n")
    rows[:3] = [b"\xef\xbb\xbf1,http://a,b", b"2,", b"3,http://caf\xe9/\x00"]
    rows[3:3] = [b"", b"000000003,http://again"]
    path.write_bytes(b"\r\n".join(rows))
    summary = load(root).summary
    assert summary["tolerated"] == {WITHOUT: 9, "photo listed twice in photos.txt": 1}
    strange = [b"http://a,b", b"5;http://a", b"1234567890,http://a", b"-1,x", b"\xb2,x", b",x"]
    path.write_bytes(b"\n".join([*rows[:4], *strange]) + b"\n")
    problems = problems_of(root, on_error="")
    assert problems == [
        f"photos/photos.txt:{line}: expected id,url with an id of one to nine digits, got {got!r}"
        for line, got in enumerate(
            ["http://a,b", "5;http://a", "1234567890,http://a", "-1,x", "\ufffd,x", ",x"], 5
        )
    ]


def test_other_names_of_photos(root):
    folder = root / "images"
    (root / "photos").rename(folder)
    trees.write_photo_list(root, trees.PHOTOS)
    (folder / "000000101.jpg").rename(folder / "101.JPEG")  # as one of the usual scripts does
    (folder / "000000102.jpg").rename(folder / "000000102.jpeg")
    (folder / "000000103.jpg").rename(folder / "000000103.png")  # as another does, of any photo
    trees.write_photo(folder / "000000104.png", 104, "PNG")
    trees.write_photo(folder / "105.jpg", 999)
    (folder / "000000001.part").write_bytes(b"")
    (folder / "1000000001.jpg").write_bytes(b"")
    dataset = load(root)
    assert dataset.summary["problems"] == {}
    assert dataset.summary["tolerated"] == {WITHOUT: 9, "second file of a photo": 2}
    by_name = {
        record.photo_id: record
        for split in dataset.splits
        for record in records(dataset.split(split))
    }
    for name in ("101.JPEG", "000000102.jpeg", "000000103.png", "000000104.jpg", "000000105.jpg"):
        assert by_name[name].image == (folder / name).read_bytes()
    assert by_name["000000103.png"].item_id == "bags/11"


def test_wrong_source(root, tmp_path):
    for source, message in (
        ("", r"dataset\.source is empty: give the folder of Exact Street2Shop"),
        (str(tmp_path / "nothing"), r"nothing: no such folder \(dataset\.source\)"),
        (str(tmp_path), r"has the lists of no category, as meta/json/train_pairs_bags\.json"),
    ):
        with pytest.raises(DatasetError, match=message):
            load_from("street2shop", source, tmp_path)
    trees.list_path(root, "test_pairs_bags").rename(tmp_path / "away.json")
    missing = r"\): meta/json/test_pairs_bags\.json missing, which the category bags needs"
    with pytest.raises(DatasetError, match=missing):
        load(root)
    (tmp_path / "away.json").rename(trees.list_path(root, "test_pairs_bags"))
    trees.write_photo(root / "images" / "000000001.jpg", 1)
    with pytest.raises(DatasetError, match="photos/ and images/ both hold photos"):
        load(root)
    for path in (root / "images").iterdir():
        path.unlink()
    (root / "photos").rename(root / "pictures")
    with pytest.raises(DatasetError, match="neither photos/ nor images/ holds a photo"):
        load(root)
    with pytest.raises(DatasetError, match=r"--on_error='drop'"):
        load(root, on_error="drop")


def test_one_category(root):
    for name in ("train_pairs_bags", "test_pairs_bags", "retrieval_bags"):
        trees.list_path(root, name).unlink()
    dataset = load(root)
    assert dataset.split("test").index.categories.tolist() == ["dresses"]
    (tolerated,) = dataset.summary["tolerated"].items()
    assert tolerated == (WITHOUT.replace("(", "(bags, "), 10)
    assert not any(line["what"].startswith("bags") for line in dataset.summary["release"])


def test_more_photos_are_prepared_anew(root):
    late = trees.photo_path(root, 104)
    content = late.read_bytes()
    late.unlink()
    first = load(root)
    assert load(root).directory == first.directory
    late.write_bytes(content)
    second = load(root)
    change(root, "test_pairs_bags", 2, with_bbox(left=1))
    third = load(root)
    trees.write_photo_list(root, trees.PHOTOS)
    fourth = load(root)
    datasets = (first, second, third, fourth)
    assert len({dataset.directory for dataset in datasets}) == 4
    galleries = [dataset.summary["splits"]["test"]["gallery"] for dataset in datasets]
    assert galleries == [3, 4, 4, 4]


def test_check_command(root, capsys):
    trees.photo_path(root, 4).unlink()
    change(root, "retrieval_bags", 1, {"photo": 101})
    command = ["--dataset=street2shop", f"--source={root}", "--check"]
    assert prepare.main(command) == 2
    lines = capsys.readouterr().out.splitlines()
    assert f"{root}/{P}field 'photo': photos/ has no photo 000000004" in lines
    place = f"{root}/meta/json/retrieval_bags.json:1: element 1"
    assert f"{place}: field 'product': is missing" in lines
    assert any(re.fullmatch(r" *bags: test queries +1 +174 +differs", line) for line in lines)
    assert lines[-1].startswith("2 bad rows, 1 problems that stop preparing;")
    assert prepare.main([*command, "--on_error=fields,missing photo"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 bad rows will be left out."
