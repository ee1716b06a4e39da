"""Preparing with Apache Beam, in several processes at once, and killed at any moment."""

import functools
import importlib.util
import os
import pathlib
import pickle
import random
import re
import shutil
import subprocess
import sys
import time
import weakref

import psutil
import pytest
from etils import epath

from input_pipeline import DatasetError, beam, builder
from input_pipeline.datasets import synthetic
from input_pipeline.records import to_example
from tests.input_pipeline.conftest import load, photo_bytes, write_manifest
from tests.input_pipeline.deepfashion_trees import write_c2s

_ROOT = pathlib.Path(__file__).parents[2]
_SETS = ("manifest", "deepfashion_c2s", "synthetic")
_LARGE = ("manifest", "synthetic")  # of which one is listed and one is rendered
_BEAM = (
    "--beam_runner=DirectRunner",
    "--beam_options=--direct_num_workers=2,--direct_running_mode=multi_processing",
)


def _content(folder):
    """Every file but locks, byte for byte."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def _small(name, folder):
    """The source of a small set, and the files that list it."""
    if name == "manifest":
        rows = [
            f"{n:02}.jpg,item{n // 4},{'shop' if n % 4 else 'customer'},train" for n in range(34)
        ]
        path = write_manifest(folder / "photos", rows)
        return path, [path]
    if name == "deepfashion_c2s":
        root = write_c2s(folder / "c2s")
        lists = [path for part in ("Anno", "Eval") for path in (root / part).iterdir()]
        return root, lists
    return "tiny", []


@pytest.fixture
def small_shards(monkeypatch, three_garments):
    """A few photos to a file: more than ten files of the manifest."""
    monkeypatch.setattr(builder, "SHARD_BYTES", 2_000)
    monkeypatch.setattr(synthetic, "_PHOTOS_PER_SHARD", 4)


@pytest.mark.parametrize("name", _SETS)
def test_shards_are_written_from_what_is_sent_alone(name, tmp_path, monkeypatch, small_shards):
    source, lists = _small(name, tmp_path)
    load(name, source, tmp_path / "plain")
    sent = []

    def send(files, folder, runner, flags):
        assert (runner, flags) == ("some", "parsed")
        sent.extend(pickle.dumps(file) for file in files.items())
        contents = [path.read_bytes() for path in lists]
        for path in lists:
            path.unlink()
        for job in reversed(sent):  # in no order that could be relied on
            path, write = pickle.loads(job)
            write(path)
        for path, content in zip(lists, contents, strict=True):
            path.write_bytes(content)

    monkeypatch.setattr(builder, "beam_flags", lambda *_: "parsed")
    monkeypatch.setattr(builder, "write_with_beam", send)
    dataset = load(name, source, tmp_path / "sent", beam_runner="some")
    assert _content(tmp_path / "sent") == _content(tmp_path / "plain")
    photos = [photo for split in dataset.splits for photo in dataset.split(split).index.photo_id]
    if name == "synthetic":  # whose photos are not sent at all
        return
    assert len(sent) > 9
    for photo in photos:  # each travels with its own shard, and with no other
        assert sum(photo.encode() in job for job in sent) == 1, photo


def test_records_are_not_kept_until_their_file_is_written(tmp_path, monkeypatch):
    seen = []
    most_alive = []

    def example(record):
        made = to_example(record)
        seen.append((weakref.ref(record), weakref.ref(made["box"])))
        for parts in zip(*seen, strict=True):
            most_alive.append(sum(part() is not None for part in parts))
        return made

    monkeypatch.setattr(builder, "to_example", example)
    path = write_manifest(tmp_path, [f"{n}.jpg,item,shop,train" for n in range(200)])
    load("manifest", path, tmp_path / "data")
    assert len(seen) == 200
    assert max(most_alive) <= 2


def test_beam_that_is_not_installed(tmp_path, monkeypatch, three_garments):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(DatasetError, match=r"needs apache-beam: pip install 'grnet_jax\[beam\]'"):
        load("synthetic", "tiny", tmp_path, beam_runner="DirectRunner")
    assert not list(tmp_path.iterdir())
    load("synthetic", "tiny", tmp_path)
    dataset = load("synthetic", "tiny", tmp_path, beam_runner="DirectRunner")
    assert dataset.splits == ("train", "test")  # prepared: nothing to write


def test_options_need_a_runner():
    with pytest.raises(DatasetError, match=r"beam_options='a=1': needs a runner"):
        beam.beam_flags("", "a=1")
    assert beam.beam_flags("", "") is None


def test_a_worker_tells_what_is_wrong_with_its_input(tmp_path):
    job = tmp_path / "0.pickle"
    job.write_bytes(pickle.dumps((epath.Path(tmp_path / "shard"), _refuse)))
    beam._run_job(str(job))
    assert (tmp_path / "0.pickle.error").read_text() == "photo 7: broken"


def _refuse(path):
    raise DatasetError("photo 7: broken")


# In processes of their own.


@pytest.fixture
def start(tmp_path):
    """Starts the command; its output goes to DIR.NUMBER.log."""
    started = []

    def run(flags, folder):
        log = tmp_path / f"{folder.name}.{len(started)}.log"
        with open(log, "w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "input_pipeline.prepare", f"--dir={folder}", *flags],
                cwd=_ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        started.append(process)
        process.log = log
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def _finish(process):
    assert process.wait(timeout=300) == 0, process.log.read_text()[-3000:]


def _large(name, folder):
    """Flags for a set that takes seconds."""
    if name == "synthetic":
        return ["--dataset=synthetic", "--source=tiny", "--items=120"]
    originals = [folder / f"original{seed}.jpg" for seed in range(20)]
    for seed, path in enumerate(originals):
        path.write_bytes(photo_bytes(seed, size=(480, 360)))
    (folder / "photos").mkdir()
    rows = []
    for item in range(300):
        for number in range(4):
            image = f"{item}_{number}.jpg"
            os.link(originals[(item + number) % len(originals)], folder / "photos" / image)
            domain = "shop" if number % 2 else "customer"
            rows.append(f"{image},item{item},{domain},{'train' if item % 4 else 'test'}")
    path = folder / "photos" / "photos.csv"
    path.write_text("\n".join(["image,item_id,domain,split", *rows]) + "\n")
    return ["--dataset=manifest", f"--source={path}", "--max_side=200"]


def _unfinished(folder, pattern):
    return list(folder.glob(f"*/*/1.3.0.unfinished/{pattern}"))


def _has_begun(folder, process):
    log = process.log.read_text()
    return "Checking images" in log or "Rendering train" in log


def _is_writing(folder, process):
    return any(path.stat().st_size for path in _unfinished(folder, "*array_record-*"))


def _is_indexing(folder, process):
    """The last split's records are all made."""
    return re.search(r"ing test[^\r]*: 100%", process.log.read_text())


def _has_indexed(folder, process):
    return _unfinished(folder, "index.train.npz")


_MOMENTS = (_has_begun, _is_writing, _is_indexing, _has_indexed)


def _kill_at(moment, process, folder):
    """Kills the process at this moment, and all it started ends; False: it was too late."""
    deadline = time.monotonic() + 120
    while process.poll() is None and not moment(folder, process):
        assert time.monotonic() < deadline, process.log.read_text()[-3000:]
        time.sleep(0.001)
    if process.poll() is not None:
        _finish(process)
        return False
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert not psutil.wait_procs(children, timeout=30)[1]
    return not list(folder.glob("*/*/1.3.0"))


def _is_past(seconds, folder, process):
    return time.monotonic() > seconds


@pytest.mark.slow
@pytest.mark.parametrize("name", _LARGE)
def test_killed_at_any_moment(name, tmp_path, start):
    flags = _large(name, tmp_path)
    begin = time.monotonic()
    _finish(start(flags, tmp_path / "whole"))
    seconds = time.monotonic() - begin
    folder = tmp_path / "killed"
    draw = random.Random(0)
    killed = []
    for moment in (*_MOMENTS, None):
        for _ in range(5):  # too late: once more
            process = start(flags, folder)
            at = moment or functools.partial(
                _is_past, time.monotonic() + draw.uniform(0.1, 0.9) * seconds
            )
            if _kill_at(at, process, folder):
                killed.append(moment)
                break
            shutil.rmtree(next(folder.glob("*/*/1.3.0")))
    assert len(killed) == len(_MOMENTS) + 1
    assert list(folder.glob("*/*/1.3.0.unfinished"))
    last = start(flags, folder)
    _finish(last)
    assert "Going on with what a killed run left" in last.log.read_text()
    assert _content(folder) == _content(tmp_path / "whole")


_UNGUARDED = """
from input_pipeline import DatasetConfig, load_dataset
from input_pipeline.config import PrepareOptions

load_dataset(DatasetConfig(source="tiny", dir={folder!r}), PrepareOptions(items=120))
"""


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(_UNGUARDED.format(folder=str(tmp_path / "data")))
    ended = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode != 0
    assert '`if __name__ == "__main__":`' in ended.stderr


@pytest.mark.slow
def test_three_at_once_of_which_the_first_is_killed(tmp_path, start):
    flags = _large("manifest", tmp_path)
    _finish(start(flags, tmp_path / "one"))
    folder = tmp_path / "three"
    first = start(flags, folder)
    others = []

    def all_wait(folder, process):
        if not others and "Preparing" in process.log.read_text():
            others.extend(start(flags, folder) for _ in range(2))
        wait = f"Waiting for process {first.pid} on "
        return others and all(wait in other.log.read_text() for other in others)

    assert _kill_at(all_wait, first, folder)
    assert list(folder.glob("*/*/1.3.0.unfinished"))
    for process in others:
        _finish(process)
    logs = [process.log.read_text() for process in others]
    assert sorted(log.count("Preparing") for log in logs) == [0, 1]
    assert all("Wrote" in log for log in logs)
    assert sum("Going on with what a killed run left" in log for log in logs) == 1
    assert _content(folder) == _content(tmp_path / "one")


needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None,
    reason="apache-beam is not installed: pip install 'grnet_jax[beam]', in an environment of "
    "its own, for it takes older versions of protobuf, pyarrow and Pillow",
)


@needs_beam
@pytest.mark.slow
@pytest.mark.parametrize("name", _LARGE)
def test_beam_writes_the_same(name, tmp_path, start):
    flags = _large(name, tmp_path)
    _finish(start(flags, tmp_path / "plain"))
    with_beam = start([*flags, *_BEAM], tmp_path / "beam")
    _finish(with_beam)
    assert "files of records with Beam (DirectRunner)" in with_beam.log.read_text()
    assert _content(tmp_path / "beam") == _content(tmp_path / "plain")


@needs_beam
@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--beam_runner=Other"], "--beam_runner='Other': Unexpected pipeline runner"),
        ([_BEAM[0], "--beam_options=direct_workers=2"], "Beam knows no flag --direct_workers"),
        ([_BEAM[0], "--beam_options=direct_num_workers=x"], "Beam refuses it"),
    ],
)
def test_what_beam_does_not_know(flags, message, tmp_path, start):
    process = start(["--source=tiny", *flags], tmp_path / "data")
    assert process.wait(timeout=300) == 2
    assert message in process.log.read_text()
    assert not (tmp_path / "data").exists()
