"""Evaluation with a feature store: the figures of one in memory, also after a kill."""

import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from etils import epath

import input_pipeline
from configs import colour_histogram
from grnet_jax.models import Features
from grnet_jax.retrieval.evaluation import Evaluator
from grnet_jax.retrieval.journal import Journal
from grnet_jax.retrieval.ranking import make_score, rank_all
from grnet_jax.retrieval.sources import HeldFeatures
from grnet_jax.retrieval.store import FeatureStore, Origin, StoreError
from grnet_jax.retrieval.tasks import make_task, positive_rows
from grnet_jax.sharding import make_mesh
from grnet_jax.training.setup import build_run
from tests.retrieval.test_ranking import InnerProduct

_ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def case(tiny_config):
    """An evaluator, the matcher's untrained variables, the data set and how it is read."""
    config = tiny_config()
    config.eval.count_identical = config.eval.calibration = True
    run = build_run(config, make_mesh())
    dataset = input_pipeline.load_dataset(run.config.data)
    evaluator = Evaluator(run.matcher, run.config, run.mesh)
    return evaluator, run.create_state().variables, dataset, run.config.data


def _as_dict(value):
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value


def _assert_same(one, two):
    for field in ("ranks", "other_ranks", "top_rows", "top_scores"):
        np.testing.assert_array_equal(getattr(one.ranking, field), getattr(two.ranking, field))
    for found in ((one.figures, two.figures), (one.calibration, two.calibration)):
        plain = [jax.tree.map(_as_dict, part, is_leaf=dataclasses.is_dataclass) for part in found]
        jax.tree.map(np.testing.assert_array_equal, *plain)


@pytest.mark.parametrize("same_category", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_store_changes_no_figure(case, tmp_path, monkeypatch, same_category):
    evaluator, variables, dataset, data = case
    task = make_task(dataset, "test", data, same_category=same_category)
    held = evaluator.evaluate(variables, task)
    store = str(tmp_path / "store")
    _assert_same(held, evaluator.evaluate(variables, task, store=store, step=3))
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [
        "gallery.lance",
        "queries.lance",
    ]

    def forbidden(*args, **options):
        raise AssertionError("photos were read again")

    monkeypatch.setattr(input_pipeline, "image_batches", forbidden)
    _assert_same(held, evaluator.evaluate(variables, task, store=store, step=3))


def test_an_interrupted_embedding_goes_on(case, tmp_path, monkeypatch):
    evaluator, variables, dataset, data = case
    task = make_task(dataset, "test", data, gallery="all")
    read, image_batches = [], input_pipeline.image_batches

    def some(split, rows, data, *, batch):
        for number, found in enumerate(image_batches(split, rows, data, batch=batch)):
            if len(read) == 1 and number == 2:
                raise ConnectionError("gone")
            yield found
        read.append(len(rows))

    store = str(tmp_path / "store")
    monkeypatch.setattr("grnet_jax.retrieval.store._GROUP_ROWS", 16)
    monkeypatch.setattr(input_pipeline, "image_batches", some)
    with pytest.raises(ConnectionError):
        evaluator.evaluate(variables, task, store=store)
    read.append(0)
    found = evaluator.evaluate(variables, task, store=store)
    full = -(-len(task.gallery_rows) // 16) * 16
    assert read[-1] == full - 32  # the two batches before were kept
    _assert_same(evaluator.evaluate(variables, task), found)


def test_a_store_of_another_model_is_refused(case, tmp_path):
    evaluator, variables, dataset, data = case
    task = make_task(dataset, "test", data)
    store = str(tmp_path / "store")
    evaluator.evaluate(variables, task, store=store, step=3)
    other = jax.tree.map(lambda leaf: leaf + 1, variables)
    with pytest.raises(StoreError, match=r"model: [0-9a-f]{16} there, [0-9a-f]{16} now"):
        evaluator.evaluate(other, task, store=store, step=3)
    with pytest.raises(StoreError, match="step: 3 there, 6 now"):
        evaluator.evaluate(variables, task, store=store, step=6)
    with pytest.raises(StoreError, match=r"photos: .* there, .* now"):
        evaluator.evaluate(variables, make_task(dataset, "val", data), store=store, step=3)


@pytest.mark.slow
def test_half_precision_stores_rank_nearly_alike(tiny_config, tmp_path):
    config = tiny_config()
    dataset = input_pipeline.load_dataset(config.data)
    task = make_task(dataset, "test", build_run(config, make_mesh()).config.data)
    scores = []
    for dtype in ("float32", "float16"):
        config.eval.store_dtype = dtype
        run = build_run(config, make_mesh())
        found = Evaluator(run.matcher, run.config, run.mesh).evaluate(
            run.create_state().variables, task, store=str(tmp_path / dtype)
        )
        scores.append(found.ranking.top_scores)
    assert np.any(scores[0] != scores[1])
    np.testing.assert_allclose(scores[0], scores[1], rtol=0.02, atol=1e-3)


def _features(count, seed):
    rng = np.random.default_rng(seed)
    return Features(rng.integers(-3, 4, (count, 4)).astype(np.float32))


def _rank_stored(path, pause=0.0, seconds=0.0):
    """Ranks 21 queries among 150 stored photos; also what `_start_ranking` runs."""
    ids = np.array([str(number) for number in range(150)])
    store = FeatureStore(f"{path}/gallery.lance", Origin("m", 1, "p"), ids, _features(1, 0))
    missing = store.missing()
    if len(missing):
        with store.writer() as writer:
            writer.add(missing, HeldFeatures(_features(150, 1)).take(missing))
    mesh = make_mesh(jax.devices()[:1])
    score = make_score(InnerProduct(), mesh)

    def slow(*args):
        time.sleep(pause)
        return score(*args)

    before = []
    found = rank_all(
        slow,
        {},
        HeldFeatures(_features(21, 2)),
        store.reader(),
        positive_rows(np.arange(21), np.arange(150) % 21),
        query_block=8,
        gallery_block=8,
        top=7,
        mesh=mesh,
        held_queries=16,
        journal=Journal(epath.Path(path) / "ranking.npz", "key", seconds),
        progress=lambda pairs, earlier: before.append(pairs * earlier),
    )
    return found, sum(before)


@pytest.mark.slow
def test_a_ranking_killed_at_any_moment_ends_as_if_it_never_was(tmp_path):
    whole, _ = _rank_stored(tmp_path / "whole")
    killed = tmp_path / "killed"
    draw = np.random.default_rng(0)
    journal, reached = killed / "ranking.npz", []
    for _ in range(6):
        written = journal.stat().st_mtime_ns if journal.exists() else 0
        code = f"from {__name__} import _rank_stored; _rank_stored({str(killed)!r}, 0.05)"
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=_ROOT, env=os.environ | {"XLA_FLAGS": ""}
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if journal.exists() and journal.stat().st_mtime_ns > written:
                break
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.2))
        assert process.poll() is None, "it ended before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        reached.append(sum(int(v) for k, v in np.load(journal).items() if "position" in k))
    assert sorted(set(reached)) == reached  # each went on from where the last was killed
    found, before = _rank_stored(killed)
    assert 0 < before < 21 * 150
    for field in ("ranks", "top_rows", "top_scores"):
        np.testing.assert_array_equal(getattr(whole, field), getattr(found, field))


@pytest.mark.slow
def test_two_processes_rank_from_one_store_as_one_does(data_dir, tmp_path):
    config = colour_histogram.get_config()
    config.data.size, config.data.dir = "tiny", str(data_dir)
    input_pipeline.load_dataset(config.data)  # prepared by one process
    one = _start_eval(data_dir, tmp_path / "one", 4)
    assert one.wait(timeout=300) == 0
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    for again in range(2):  # the second time everything is stored
        two = [
            _start_eval(
                data_dir,
                tmp_path / "two",
                2,
                JAX_COORDINATOR_ADDRESS=f"localhost:{port + again}",
                JAX_NUM_PROCESSES="2",
                JAX_PROCESS_ID=str(number),
            )
            for number in range(2)
        ]
        assert [process.wait(timeout=300) for process in two] == [0, 0]
        results = [json.loads((tmp_path / n / "results.json").read_text()) for n in ("one", "two")]
        assert results[0] == results[1]


def _start_eval(data_dir, to, devices, **env):
    to.mkdir(exist_ok=True)
    return subprocess.Popen(
        [
            sys.executable,
            "eval.py",
            "--config=configs/colour_histogram.py",
            "--config.data.size=tiny",
            f"--config.data.dir={data_dir}",
            "--config.eval.batch=8",
            "--config.eval.query_block=8",
            "--config.eval.gallery_block=5",
            f"--config.eval.store={to / 'store'}",
            f"--output={to}",
        ],
        cwd=_ROOT,
        env=os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"} | env,
    )
