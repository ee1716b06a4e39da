"""Catalogs: what is indexed is found, by what the evaluator ranks by, however it came to be."""

import contextlib
import errno
import io
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import filelock
import jax
import lance
import numpy as np
import pytest
from etils import epath
from PIL import Image

from grnet_jax.catalog import searching
from grnet_jax.catalog.generations import StoreError, open_generation
from grnet_jax.catalog.searching import Catalog, open_catalog
from grnet_jax.errors import InputError
from grnet_jax.inference import LoadedMatcher
from grnet_jax.models import Features
from grnet_jax.search import __main__ as search
from grnet_jax.search import indexed
from grnet_jax.search.features import FeatureSubset, InMemoryFeatures, read_all
from grnet_jax.search.indexed import IndexedEmbeddings
from grnet_jax.search.ranking import find
from grnet_jax.search.reranking import CascadeSearch, make_cascade_scores
from grnet_jax.search.resident import ResidentEmbeddings, _make_nearest
from grnet_jax.sharding import make_mesh
from input_pipeline import DatasetConfig, list_photos, load_dataset
from tests.catalog.shops import draw, index, make_shop, save, small_loaded, write_csv
from tests.pages import Page


@pytest.fixture
def shop(tmp_path):
    return make_shop(tmp_path / "photos")


@pytest.fixture
def folder(tmp_path):
    return epath.Path(tmp_path / "shop")


def _items(matches):
    return [match.item for match in matches]


def test_a_photo_of_the_catalog_is_found_first(folder, shop):
    index(folder, shop)
    catalog = Catalog(folder, small_loaded())
    photos = [shop.parent / f"{number}.png" for number in range(12)]
    for number, matches in enumerate(catalog.search(photos, top_k=6)):
        assert len(matches) == len(set(_items(matches))) == 6
        assert [match.score for match in matches] == sorted(
            (match.score for match in matches), reverse=True
        )
        assert (matches[0].item, matches[0].image) == (f"item {number // 2}", f"{number}.png")
        assert matches[0].images == [f"{number ^ 1}.png"]
        assert matches[0].fields == {"category": "ab"[number % 2], "price": str(10 * number)}


def test_the_shop_photos_of_a_prepared_set_are_found_first(folder, data_dir):
    dataset = load_dataset(DatasetConfig(source="tiny", dir=str(data_dir)))
    split = dataset.split("test")
    index(folder, dataset.directory, splits=("test",))
    catalog = Catalog(folder, small_loaded())
    rows = split.gallery_rows()
    assert len(catalog) == len(rows)
    boxes = [tuple(split.index.box[row].tolist()) for row in rows]
    given = boxes if catalog.matcher.takes_boxes() else None
    found = catalog.search([split.picture(row) for row in rows], given, top_k=1)
    items = split.index.items[split.index.item[rows]].tolist()
    copies = [[item for item, _ in matches[0].copies] for matches in found]
    assert all(
        item in [matches[0].item, *more]
        for item, matches, more in zip(items, found, copies, strict=True)
    )


@pytest.mark.parametrize(
    ("system", "shortlist", "memory_gb"),
    [
        ("grnet", 200, 1),
        ("grnet", 5, 1),
        ("color_histogram", 200, 0),
        pytest.param("darn", 200, 1, marks=pytest.mark.slow),
    ],
)
def test_results_are_the_evaluators_ranking(folder, shop, system, shortlist, memory_gb):
    matcher = small_loaded(system)
    index(folder, shop, matcher, memory_gb=memory_gb)
    catalog = Catalog(folder, matcher)
    query = matcher.embed([np.asarray(draw(100 + number)) for number in range(3)])
    gallery = read_all(catalog.generation.features)
    if shortlist < 12:
        scores = make_cascade_scores(matcher._matcher, matcher.mesh)(matcher._variables)
        cascade = CascadeSearch(scores, InMemoryFeatures(gallery), matcher.mesh, shortlist, 12)
        ranked = find(cascade, InMemoryFeatures(query))
    else:
        ranked = matcher.search(query, gallery, 12)
    found = catalog.search_features(query, top_k=2, shortlist=shortlist)
    items = catalog.generation.listing["item_id"]
    for matches, rows, scores in zip(found, ranked.indices, ranked.scores, strict=True):
        best = {}
        for row, score in zip(rows, scores, strict=True):
            best.setdefault(items[row], (row, score))
        wanted = list(best.items())[:2]
        assert _items(matches) == [item for item, _ in wanted]
        assert [match.row for match in matches] == [row for _, (row, _) in wanted]
        np.testing.assert_allclose(
            [match.score for match in matches], [score for _, (_, score) in wanted], rtol=1e-5
        )


def test_features_are_those_of_load(folder, shop):
    matcher = small_loaded("grnet")
    index(folder, shop, matcher)
    stored = read_all(open_generation(folder, matcher.feature_shapes()).features)
    photos = [shop.parent / f"{number}.png" for number in range(12)]
    own = matcher.embed(photos, shop=True)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), stored, own)


@pytest.mark.parametrize("count", [5, 300])
def test_nearest_is_numpys(count):
    rng = np.random.default_rng(count)
    embeddings = rng.integers(-2, 3, (count, 4)).astype(np.float32)  # ties
    query = rng.integers(-2, 3, (19, 4)).astype(np.float32)
    resident = ResidentEmbeddings(InMemoryFeatures(Features(embeddings)), make_mesh())
    for passing in (None, rng.random(count) < 0.3, np.zeros(count, bool)):
        found = resident.nearest(query, 9, passing)
        rows = np.flatnonzero(np.ones(count, bool) if passing is None else passing)
        for one, indices, scores in zip(query, found.indices, found.scores, strict=True):
            products = embeddings[rows].astype(np.float64) @ one
            order = rows[np.argsort(-products, kind="stable")][:9]
            assert indices[indices >= 0].tolist() == order.tolist()
            assert scores[indices >= 0].tolist() == (embeddings[order] @ one).tolist()


def test_beyond_the_memory_an_index_finds_the_same(folder, shop, monkeypatch):
    shutil.copy(shop.parent / "0.png", shop.parent / "twice.png")
    shop.write_text(shop.read_text() + "twice.png,item 9,a,3\n")
    index(folder, shop)
    photos = [shop.parent / f"{number}.png" for number in range(12)]
    tries = [{}, {"filters": {"category": "a"}}, {"filters": {"price": {"min": 40}}, "top_k": 2}]
    wanted = [Catalog(folder, small_loaded()).search(photos, **one) for one in tries]
    assert index(folder, shop, memory_gb=0).recall >= 0.98
    catalog = Catalog(folder, small_loaded())
    assert isinstance(catalog._embeddings, IndexedEmbeddings)
    for few in (1000, 0):  # photos that pass a filter and are compared one by one
        monkeypatch.setattr(indexed, "_FEW_ROWS", few)
        for one, known in zip(tries, wanted, strict=True):
            catalog._embeddings.probes = 1 if one else 20  # a filter's are looked for in all
            for found, right in zip(catalog.search(photos, **one), known, strict=True):
                scores = [match.score for match in right]
                np.testing.assert_allclose([match.score for match in found], scores, atol=1e-5)
                assert _items(found)[0] == _items(right)[0]


def test_an_index_that_finds_too_little_is_refused(folder, shop, monkeypatch):
    index(folder, shop)
    monkeypatch.setattr(IndexedEmbeddings, "_fetch", lambda self, *_: (np.arange(1), np.ones(1), 1))
    _raises("the index finds 0.* of the nearest photos, less than 0.98", folder, shop, memory_gb=0)
    assert len(Catalog(folder, small_loaded())) == 12


def test_indexing_again_compiles_nothing(folder, shop):
    matcher = small_loaded("grnet")
    index(folder, shop, matcher)
    query = matcher.embed([np.asarray(draw(100))])
    Catalog(folder, matcher).search_features(query, {"category": "a"})
    nearest, pairs = _make_nearest(matcher.mesh, 32), matcher.pair_scores
    assert pairs is not None
    make_shop(shop.parent, 20)
    index(folder, shop, matcher)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )
    catalog = Catalog(folder, matcher)
    assert len(catalog) == 20
    catalog.search_features(query, {"category": "b"})
    assert not compiled
    assert nearest is _make_nearest(matcher.mesh, 32)


class _Counting(LoadedMatcher):
    """A matcher that counts what it embeds."""

    def __init__(self, other):
        self.__dict__ |= other.__dict__
        self.embedded = 0

    def embed_crops(self, crops, **how):
        self.embedded += len(crops)
        return super().embed_crops(crops, **how)


def test_only_what_changed_is_embedded(folder, shop):
    matcher = _Counting(small_loaded())
    assert index(folder, shop, matcher).counts["added"] == 12
    (shop.parent / "3.png").write_bytes(b"no photo")
    (shop.parent / "4.png").unlink()
    save(shop.parent / "5.png", 50)
    save(shop.parent / "new.png", 60)
    shutil.copy(shop.parent / "6.png", shop.parent / "same.png")
    rows = [*shop.read_text().splitlines()[:-1], "new.png,new,a,5", "same.png,other,a,7"]
    shop.write_text("\n".join(rows))
    made = index(folder, shop, matcher, max_bad=0.5)
    counts = {"added": 2, "changed": 1, "removed": 3, "same": 8, "unreadable": 2, "customers": 0}
    assert made.counts == counts
    assert matcher.embedded == 12 + 2  # the copy's bytes are there already
    problems = (folder / "problems.csv").read_text().splitlines()
    assert f"{shop}:5: {shop.parent}/3.png: is not a photo" in problems[1]
    assert f"{shop}:6: {shop.parent}/4.png: no such file" in problems[2]
    matches = Catalog(folder, matcher).search([shop.parent / "6.png"], top_k=2)[0]
    assert matches[0].copies == [("other", "same.png")]
    # A price alone changes no features; the same size and time are believed unless asked.
    stat = os.stat(shop.parent / "7.png")
    shop.write_text(shop.read_text().replace("a,60", "a,61"))
    data = bytearray((shop.parent / "7.png").read_bytes())
    Image.fromarray(np.zeros((60, 48, 3), np.uint8)).save(buffer := io.BytesIO(), "PNG")
    (shop.parent / "7.png").write_bytes(buffer.getvalue().ljust(len(data), b"\0"))
    os.utime(shop.parent / "7.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert index(folder, shop, matcher, max_bad=0.5).counts["changed"] == 0
    assert index(folder, shop, matcher, max_bad=0.5, reread=True).counts["changed"] == 1
    assert matcher.embedded == 12 + 2 + 1
    assert Catalog(folder, matcher).count({"price": {"min": 61, "max": 61}}) == 1
    assert len(list(folder.glob("listing-*"))) == 2


def test_copies_are_folded_and_recolorings_are_not(folder, tmp_path):
    save(tmp_path / "photos/a/1.png", 1)
    draw(1).save(tmp_path / "photos" / "b.jpg", quality=90)
    red, green, blue = draw(1).split()
    Image.merge("RGB", (green, blue, red)).save(tmp_path / "photos/c.png")
    index(folder, tmp_path / "photos")
    matches = Catalog(folder, small_loaded()).search([tmp_path / "photos/a/1.png"])[0]
    assert _items(matches) == ["a", "c"]
    assert matches[0].copies == [("b", "b.jpg")]


@pytest.mark.parametrize("sizes", [False, True])  # items of their own, with the same picture
def test_more_items_are_looked_for_where_the_first_have_many_photos(folder, tmp_path, sizes):
    rows = [(f"{number}.png", f"many{number * sizes}", "", "") for number in range(9)]
    rows += [("9.png", "one", "", "")]
    for number in range(9):
        save(tmp_path / f"{number}.png", 1)
    save(tmp_path / "9.png", 2)
    index(folder, write_csv(tmp_path / "photos.csv", rows), max_bad=0.9)
    catalog = Catalog(folder, small_loaded())
    assert _items(catalog.search([tmp_path / "0.png"], top_k=2, shortlist=2)[0]) == ["many0", "one"]


def test_boxes_of_the_csv_are_what_is_embedded(folder, tmp_path):
    matcher = small_loaded("grnet")
    save(tmp_path / "1.png", 1)
    columns = ("image", "item_id", "x_1", "y_1", "x_2", "y_2")
    rows = [("1.png", "a", 0, 0, 24, 30), ("1.png", "b", 24, 0, 48, 30), ("1.png", "c", *[""] * 4)]
    rows += [("1.png", "out", 40, 0, 60, 30), ("1.png", "flat", 9, 0, 9, 30)]
    source = write_csv(tmp_path / "photos.csv", rows, columns)
    assert index(folder, source, matcher, max_bad=0.5).counts["unreadable"] == 2
    stored = read_all(open_generation(folder, matcher.feature_shapes()).features)
    own = matcher.embed([tmp_path / "1.png"] * 3, [(0, 0, 24, 30), (24, 0, 48, 30), None])
    np.testing.assert_allclose(stored.embedding, own.embedding, atol=1e-5)
    problems = (folder / "problems.csv").read_text()
    assert f"{source}:5: box is (40.0, 0.0, 60.0, 30.0)" in problems
    assert f"{source}:6: the box 9, 0, 9, 30 has no size" in problems


def _raises(text, *arguments, **options):
    with pytest.raises(InputError, match=text):
        index(*arguments, **options)


def _no_space(*_, **__):
    raise OSError("No space left on device")


def test_what_cannot_be_indexed_leaves_the_catalog_as_it_was(folder, shop, tmp_path, monkeypatch):
    index(folder, shop)
    before = (folder / "catalog.json").read_text()
    with filelock.FileLock(folder / "lock"):
        _raises("is indexing it", folder, shop)
    _raises("was indexed by", folder, shop, small_loaded("grnet"))
    shutil.move(shop.parent / "1.png", tmp_path / "away.png")
    _raises(r"1 of 12 photos cannot be used.*\n.*photos.csv:3: .*1.png: no such file", folder, shop)
    _raises("no such file or folder", folder, tmp_path / "nothing")
    write_csv(empty := tmp_path / "empty.csv", [])
    _raises("has a header and no rows", folder, empty)
    _raises("column 'image' is missing", folder, write_csv(empty, [("a",)], ["photo"]))
    _raises("cannot be written", epath.Path(shop), shop)
    customers = write_csv(empty, [("1.png", "customer")], ["image", "domain"])
    _raises("customer photos alone", folder, customers)
    save(shop.parent / "1.png", 77)
    with monkeypatch.context() as patched:
        patched.setattr(lance, "write_dataset", _no_space)
        _raises("photos-.*No space left on device", folder, shop)
    (shop.parent / "1.png").unlink()
    assert (folder / "catalog.json").read_text() == before
    assert len(Catalog(folder, small_loaded())) == 12
    with pytest.raises(StoreError, match="index with --rebuild"):
        Catalog(folder, small_loaded("grnet"))
    made = index(folder, shop, small_loaded("grnet"), rebuild=True, max_bad=0.5)
    assert made.generation == 2
    assert len(Catalog(folder, small_loaded("grnet"))) == 11


def test_a_file_system_without_locks_is_told_of(folder, shop, monkeypatch, capsys):
    def acquire(self, **_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    assert index(folder, shop).rows == 12
    assert "No lock at" in capsys.readouterr().out


@contextlib.contextmanager
def _largest_file(size):
    """Lets no file grow larger, as where a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 100, 1_000, 4_000, 8_000])
def test_a_full_disk_leaves_the_catalog_as_it_was(folder, shop, size):
    index(folder, shop)
    before = (folder / "catalog.json").read_text()
    make_shop(shop.parent, 20)
    with _largest_file(size):
        _raises("cannot be .*written", folder, shop)
    assert (folder / "catalog.json").read_text() == before
    assert len(Catalog(folder, small_loaded()).search([draw(3)])[0]) == 6
    assert index(folder, shop).counts["added"] == 8
    assert len(Catalog(folder, small_loaded())) == 20


@contextlib.contextmanager
def _read_only(folder):
    """Takes the right to write into a folder, of which root is none while this lasts."""
    paths = [folder, *folder.rglob("*")]
    modes = [path.stat().st_mode for path in paths]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    user = os.geteuid()
    if not user:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(user)
        for path, mode in zip(paths, modes, strict=True):
            path.chmod(mode)


def test_a_folder_that_can_only_be_read_is_searched_and_not_indexed():
    with tempfile.TemporaryDirectory() as place:  # which others than root may enter
        pathlib.Path(place).chmod(0o755)
        folder = epath.Path(place) / "shop"
        shop = make_shop(pathlib.Path(place) / "photos")
        index(folder, shop)
        with _read_only(pathlib.Path(place)):
            assert _items(Catalog(folder, small_loaded()).search([shop.parent / "4.png"])[0])
            _raises(f"{folder}/.*: cannot be written: Permission denied", folder, shop)
        assert index(folder, shop).counts["same"] == 12


def test_a_catalog_that_is_none_or_damaged(folder, shop):
    with pytest.raises(StoreError, match=r"no catalog: python -m grnet_jax\.search index"):
        open_catalog(folder)
    index(folder, shop)
    content = json.loads((folder / "catalog.json").read_text())
    (folder / "catalog.json").write_text("{}")
    with pytest.raises(StoreError, match="'generation': Field required; delete"):
        open_catalog(folder)
    (folder / "catalog.json").write_text(json.dumps(content))
    (folder / "listing-1.parquet").write_bytes(b"no table")
    with pytest.raises(StoreError, match="index with --rebuild"):
        Catalog(folder, small_loaded())
    rebuilt = index(folder, shop, rebuild=True)
    assert len(Catalog(folder, small_loaded())) == 12
    after = index(folder, shop)
    assert (after.table, after.counts["same"]) == (rebuilt.table, 12)
    assert rebuilt.table != content["table"]


def test_the_commands(folder, shop, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(search, "load", lambda run: small_loaded())
    monkeypatch.setattr(searching, "load", lambda run: small_loaded())
    place, photo, page = str(folder), str(shop.parent / "4.png"), tmp_path / "found.html"
    assert search.main(["index", place, f"--from={shop}", "--model=imagenet:x"]) == 0
    assert "12 photos of 6 items: 12 added" in capsys.readouterr().out
    for source in ([f"--from={shop}"], []):  # that of before, too
        with pytest.raises(SystemExit, match="2"):
            search.main(["index", place, *source, "--split=test"])
        assert "has no splits" in capsys.readouterr().err
    assert search.main(["index", place]) == 0
    assert "0 added, 0 changed, 0 removed, 12 same" in capsys.readouterr().out
    line = ["query", place, photo, "--filter=category=a", "--filter=price<=60", "--top=2"]
    assert search.main([*line, f"--html={page}"]) == 0
    printed = capsys.readouterr().out
    assert "item 2  4.png" in printed
    assert len(Page(page.read_text()).values("img", "alt")) == 3
    assert "4 of 12 photos pass the filters" in page.read_text()
    assert search.main([*line, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["matches"][0]["item"] == "item 2"
    assert search.main(["query", place, photo, "--filter=category=c"]) == 0
    assert "category: a 6, b 6" in capsys.readouterr().out
    assert search.main(["info", place]) == 0
    assert "good" in capsys.readouterr().out
    for wrong in (["--filter=size=3"], ["--filter=price"], ["--filter=category<=3"], ["--top=0"]):
        with pytest.raises(SystemExit, match="2"):
            search.main([*line, *wrong])
    assert "error: " in capsys.readouterr().err


def test_a_folder_has_an_item_a_sub_folder(tmp_path):
    for name in ("a/1.png", "a/2.png", "b.png", "customer/a/3.png"):
        save(tmp_path / name, 1)
    listed = list_photos(tmp_path)
    assert listed.table["item_id"].tolist() == ["a", "a", "b"]
    assert listed.customers == 1


_KILLED = """
import sys, time
from etils import epath
from grnet_jax.search import columns
from tests.catalog.shops import index, small_loaded
columns._COMMIT_ROWS = 1
matcher = small_loaded("color_histogram")
matcher.config.eval.__dict__["batch_size"] = 8
embed = matcher.embed_crops
def slowly(*arguments, **how):
    time.sleep(0.1)
    return embed(*arguments, **how)
matcher.embed_crops = slowly
print("go", flush=True)
index(epath.Path(sys.argv[1]), sys.argv[2], matcher)
"""


def _start(folder, shop):
    command = [sys.executable, "-c", _KILLED, str(folder), str(shop)]
    # One that is killed while it writes to the compilation cache would spoil it for others.
    env = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=env)


@pytest.mark.slow
def test_a_kill_anywhere_costs_nothing(folder, tmp_path):
    shop, matcher = make_shop(tmp_path / "photos", 60), small_loaded()
    photo, catalog = shop.parent / "59.png", None
    for seed in range(5):
        if catalog:
            save(shop.parent / f"{seed}.png", 100 + seed)
        with _start(folder, shop) as process:
            assert process.stdout.readline() == b"go\n"
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(np.random.default_rng(seed).uniform(0.1, 2.0))
            process.kill()
        if catalog:  # who reads the generation before goes on
            assert _items(catalog.search([photo])[0])[0] == "item 29"
        if catalog or (folder / "catalog.json").exists():
            catalog = Catalog(folder, matcher)
            assert _items(catalog.search([photo])[0])[0] == "item 29"
            assert len(catalog) == 60
    index(folder, shop)
    index(tmp_path / "undisturbed", shop)
    one, two = (
        open_generation(epath.Path(place), matcher.feature_shapes())
        for place in (folder, tmp_path / "undisturbed")
    )
    left, right = (part.listing.drop(columns="number") for part in (one, two))
    assert left.equals(right)
    features = read_all(one.features), read_all(two.features)
    jax.tree.map(np.testing.assert_array_equal, *features)


@pytest.mark.slow
def test_of_two_processes_the_second_is_refused(folder, tmp_path):
    shop, lock = make_shop(tmp_path / "photos", 60), folder / "lock"
    with _start(folder, shop) as process:
        while not (lock.exists() and lock.read_text()):
            assert process.poll() is None
            time.sleep(0.01)
        _raises(f"process {process.pid} on .* is indexing it; wait", folder, shop)
    assert process.returncode == 0
    assert index(folder, shop).counts["same"] == 60


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_random_edits_are_a_dictionarys(folder, tmp_path, seed):
    rng = np.random.default_rng(seed)
    photos, listed = {}, {}  # drawn seeds by file; items by file
    (tmp_path / "photos").mkdir()
    for turn in range(12):
        for _ in range(rng.integers(1, 8)):
            name = f"{rng.integers(12)}.png"
            what = rng.integers(4)
            if what == 0:
                listed.pop(name, None)
            else:
                if what < 3 or name not in photos:
                    photos[name] = int(rng.integers(9))
                    save(tmp_path / "photos" / name, photos[name])
                listed[name] = f"item {rng.integers(5)}"
        listed = listed or {next(iter(photos)): "item"} if photos else listed
        if not listed:
            continue
        rows = [(name, item, "a", 1) for name, item in listed.items()]
        index(folder, write_csv(tmp_path / "photos" / "photos.csv", rows), rebuild=turn == 6)
        catalog = Catalog(folder, small_loaded())
        assert dict(catalog.generation.listing[["image", "item_id"]].to_numpy().tolist()) == listed
        wanted = small_loaded().embed(
            [np.asarray(draw(photos[name])) for name in listed], shop=True
        )
        stored = read_all(FeatureSubset(catalog.generation.features, np.arange(len(listed))))
        np.testing.assert_allclose(stored.embedding, wanted.embedding, atol=1e-6)
