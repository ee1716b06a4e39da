"""Preparing, opening and reading data sets."""

import multiprocessing
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from etils import epath

import input_pipeline
from input_pipeline import DatasetConfig, DatasetError, builder, synthetic
from input_pipeline.builder import write_shard
from input_pipeline.dataset import open_dataset
from input_pipeline.locks import preparation_lock
from input_pipeline.vocabulary import VIEWS
from tests.input_pipeline.conftest import IMAGE, load

REPOSITORY = Path(__file__).parents[2]


def test_counts(dataset):
    assert dataset.name == "synthetic"
    assert dataset.splits == ("train", "val", "test")
    assert dataset.has_split("val")
    assert not dataset.has_split("query")
    train = dataset.summary["splits"]["train"]
    assert (train["items"], train["customer_photos"], train["shop_photos"]) == (24, 48, 24)
    assert train["pairs"] == len(dataset.split("train").index.pairs) == 48
    assert len(dataset.split("test").query_rows()) == 24
    assert len(dataset.split("test").gallery_rows()) == 12
    with pytest.raises(DatasetError, match="no split 'query'; it has train, val, test"):
        dataset.split("query")


def test_records_are_those_of_the_renderer(dataset):
    item, photos = synthetic.photos_of_item(0, "test", 5, customers=2, picture_size=160)
    split = dataset.split("test")
    for number, photo in enumerate(photos):
        record = split.record(15 + number)
        assert record.image == photo.jpeg
        assert record.item_id == item.item_id
        assert record.category == item.category
        assert record.attributes == tuple(item.attributes)
        assert record.clothes_type == item.clothes_type
        assert record.domain == photo.domain
        assert record.box == pytest.approx(photo.box)
        assert (record.height, record.width) == photo.image.shape[:2]
        assert VIEWS[record.view] == photo.view
        assert (record.occluded, record.cropped) == (photo.occluded, photo.cropped)
        np.testing.assert_array_equal(record.landmarks, photo.landmarks)
        assert split.picture(15 + number).shape == photo.image.shape


def assert_index_agrees(split):
    index = split.index
    images = {}
    for row in range(len(split)):
        record = split.record(row)
        assert index.photo_id[row] == record.photo_id
        assert index.items[index.item[row]] == record.item_id
        assert index.domain[row] == ("customer", "shop").index(record.domain)
        assert index.category[row] == -1 or (
            index.categories[index.category[row]] == record.category
        )
        assert (index.view[row], index.occluded[row]) == (record.view, record.occluded)
        np.testing.assert_array_equal(index.box[row], np.float32(record.box))
        assert index.size[row].tolist() == [record.height, record.width]
        assert images.setdefault(record.image, index.content[row]) == index.content[row]
    assert len(set(images.values())) == len(images)


def test_joined_splits_hold_the_images_of_both(dataset):
    parts, joined = [dataset.split("test"), dataset.split("val")], dataset.joined(("test", "val"))
    assert (joined.name, dataset.joined(("val",))) == ("test+val", parts[1])
    assert_index_agrees(joined)
    values = [part.index.attribute_values(np.arange(len(part))) for part in (joined, *parts)]
    np.testing.assert_array_equal(values[0], np.concatenate(values[1:]))
    pairs = {tuple(part.index.photo_id[pair]) for part in parts for pair in part.index.pairs}
    assert {tuple(joined.index.photo_id[pair]) for pair in joined.index.pairs} == pairs


def test_index_agrees_with_the_records(dataset):
    for name in dataset.splits:
        assert_index_agrees(dataset.split(name))
    lists = [dataset.split(name).index.categories.tolist() for name in dataset.splits]
    assert lists[0] == lists[1] == lists[2]


def test_several_shards_keep_the_order(tmp_path, monkeypatch, dataset):
    monkeypatch.setattr("input_pipeline.datasets.synthetic._PHOTOS_PER_SHARD", 8)
    sharded = load("synthetic", "tiny", tmp_path)
    assert len(list(sharded.directory.glob("*test.array_record*"))) == 6
    split = sharded.split("test")
    assert_index_agrees(split)
    rows = [35, 0, 7, 7, 8, 12]
    assert split.read(rows) == dataset.split("test").read(rows)


def test_a_pool_renders_the_same(monkeypatch, tmp_path, three_garments):
    alone = load("synthetic", "tiny", tmp_path / "alone")
    monkeypatch.setattr("input_pipeline.synthetic.rendering._ITEMS_FOR_A_POOL", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    pooled = load("synthetic", "tiny", tmp_path / "pooled")
    for name in ("train", "test"):
        rows = range(len(alone.split(name)))
        assert alone.split(name).read(rows) == pooled.split(name).read(rows)


def test_options_of_a_prepared_set(tmp_path, three_garments):
    dataset = load("synthetic", "tiny", tmp_path, items=5, seed=7)
    assert dataset.summary["splits"]["train"]["items"] == 5
    assert (dataset.summary["options"]["items"], dataset.summary["options"]["seed"]) == (5, 7)
    # The folder is named by the source alone; training opens it however it was prepared.
    assert dataset.directory == tmp_path / "synthetic/tiny/1.3.0"
    config = DatasetConfig(source="tiny", dir=str(tmp_path))
    assert len(input_pipeline.load_dataset(config).split("train")) == len(dataset.split("train"))
    assert load("synthetic", "tiny", tmp_path, items=5).directory == dataset.directory
    with pytest.raises(
        DatasetError,
        match=r"tiny/1\.3\.0 was prepared with --items=5, not 6, --seed=7, not 0: delete it, or "
        "choose another --dir",
    ):
        load("synthetic", "tiny", tmp_path, items=6, seed=0)


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("synthetic", "huge", "dataset.source='huge': expected one of small, tiny"),
        ("manifest", "", "dataset.source is empty: give what manifest is prepared from"),
    ],
)
def test_wrong_source(tmp_path, name, source, message):
    with pytest.raises(DatasetError, match=message):
        load(name, source, tmp_path)


@pytest.fixture
def copy(dataset, tmp_path) -> Path:
    """A copy of the prepared folder, to be damaged."""
    return Path(shutil.copytree(dataset.directory, tmp_path / "copy"))


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def _take_out(path: Path, text: str) -> None:
    path.write_text(path.read_text().replace(text, ""))


def _shard(folder: Path, split: str) -> Path:
    return next(folder.glob(f"*{split}.array_record*"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: _shard(folder, "val").unlink(),
            r"val\.array_record-00000-of-00001: missing, expected 24 records",
        ),
        (
            lambda folder: _cut(_shard(folder, "train"), -70_000),
            r"train\.array_record.* truncated or damaged, expected 72",
        ),
        (
            lambda folder: _cut(_shard(folder, "train"), 0),
            r"train\.array_record.* truncated or damaged, expected 72",
        ),
        (
            lambda folder: shutil.copy(_shard(folder, "test"), _shard(folder, "val")),
            r"val\.array_record.*: holds 36 records, expected 24",
        ),
        (
            lambda folder: _take_out(folder / "dataset_info.json", '"name": "synthetic",'),
            r"dataset_info\.json: cannot be read",
        ),
        (
            lambda folder: _take_out(folder / "dataset_info.json", '"72"'),
            r"index\.train\.npz: has 72 rows for 0 records",
        ),
        (lambda folder: (folder / "index.test.npz").unlink(), r"index\.test\.npz: missing"),
        (lambda folder: _cut(folder / "index.test.npz", 500), r"index\.test\.npz: damaged"),
        (
            lambda folder: shutil.copy(folder / "index.test.npz", folder / "index.val.npz"),
            r"index\.val\.npz: has 36 rows for 24 records",
        ),
        (lambda folder: _cut(folder / "summary.json", 1), r"summary\.json:1: not JSON"),
        (
            lambda folder: (folder / "summary.json").write_text('{"splits": {}}'),
            r"summary\.json: options missing",
        ),
        (
            lambda folder: _cut(folder / "dataset_info.json", 1),
            r"dataset_info\.json: cannot be read",
        ),
    ],
)
def test_damaged_folder(copy, damage, message):
    damage(copy)
    with pytest.raises(DatasetError, match=message) as caught:
        open_dataset("synthetic", epath.Path(copy))
    assert f"delete {copy} and run again" in str(caught.value)


def test_damage_inside_a_shard_is_met_on_reading(copy):
    shard = next(copy.glob("*train.array_record*"))
    content = bytearray(shard.read_bytes())
    content[20_000] ^= 255
    shard.write_bytes(content)
    split = open_dataset("synthetic", epath.Path(copy)).split("train")
    with pytest.raises(DatasetError, match=r"train\.array_record.*damaged.*run again"):
        split.read(range(len(split)))


def test_leftovers_of_another_plan_are_removed(tmp_path, three_garments, capsys):
    leftover = tmp_path / "synthetic" / "tiny" / "1.3.0.unfinished"
    leftover.mkdir(parents=True)
    (leftover / "synthetic-train.array_record-00000-of-00001").write_bytes(b"half")
    load("synthetic", "tiny", tmp_path)
    assert not leftover.exists()
    assert "Removing what a killed run left" in capsys.readouterr().out


def test_a_failed_preparation_goes_on_where_it_failed(
    tmp_path, three_garments, monkeypatch, capsys
):
    whole = load("synthetic", "tiny", tmp_path / "whole")
    written = []

    def write(record, source, path):
        written.append(path.name.split("-")[1].partition(".")[0])
        if written == ["train", "test"]:
            raise RuntimeError("the renderer failed")
        write_shard(record, source, path)

    monkeypatch.setattr(builder, "write_shard", write)
    with pytest.raises(RuntimeError, match="the renderer failed"):
        load("synthetic", "tiny", tmp_path)
    dataset = load("synthetic", "tiny", tmp_path)
    assert written == ["train", "test", "test"]
    assert "Going on with what a killed run left" in capsys.readouterr().out
    for name in ("train", "test"):
        rows = range(len(whole.split(name)))
        assert dataset.split(name).read(rows) == whole.split(name).read(rows)


def _hold_lock(path: str, held, seconds: float) -> None:
    with preparation_lock(epath.Path(path)):
        held.set()
        time.sleep(seconds)


def test_lock_waits_and_says_for_whom(tmp_path, capsys):
    path = tmp_path / "some.lock"
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    other = context.Process(target=_hold_lock, args=(str(path), held, 1.0))
    other.start()
    assert held.wait(60)
    with preparation_lock(epath.Path(path)):
        assert not other.is_alive() or other.join(5) is None
    assert f"Waiting for process {other.pid} on " in capsys.readouterr().out
    other.join()


def test_lock_of_a_dead_process_is_free(tmp_path):
    path = tmp_path / "some.lock"
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    other = context.Process(target=_hold_lock, args=(str(path), held, 600.0))
    other.start()
    assert held.wait(60)
    other.kill()
    other.join()
    with preparation_lock(epath.Path(path)):
        pass


WITHOUT_TENSORFLOW = """
import sys
class Hiding:  # as if it were not installed: found by nobody
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *place):
        if name.split(".")[0] not in ("tensorflow", "keras", "tensorboard"):
            return self.finder.find_spec(name, *place)
sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
from input_pipeline import DatasetConfig, ImageConfig, SamplerConfig, load_dataset, steps_per_epoch
config = DatasetConfig(**dict(zip(("name", "source", "dir"), sys.argv[1:])))
split = load_dataset(config).split("test")
pixels = split.model_input(4, ImageConfig(size=16))
print(pixels.astype(int).sum(), split.picture(4).shape, len(split.index.pairs))
print(steps_per_epoch(split, SamplerConfig(), 4))
assert "tensorflow" not in sys.modules
"""


def run_python(code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_reading_and_preparing_need_no_tensorflow(dataset, tmp_path):
    lines = run_python(WITHOUT_TENSORFLOW, "synthetic", "tiny", tmp_path).splitlines()
    split = dataset.split("test")
    pixels = split.model_input(4, IMAGE).astype(int).sum()
    assert lines[-2:] == [f"{pixels} {split.picture(4).shape} 24", "6"]


def test_rendering_imports_no_tensorflow():
    code = "import sys, input_pipeline.synthetic.rendering as r; print(*sorted(sys.modules))"
    loaded = run_python(code).split()
    assert "input_pipeline.synthetic" in loaded
    assert not {"tensorflow", "tensorflow_datasets", "jax"} & set(loaded)


def test_every_name_of_the_front_door_is_there():
    assert all(getattr(input_pipeline, name) is not None for name in input_pipeline.__all__)
