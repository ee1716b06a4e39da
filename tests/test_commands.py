"""The commands as a user runs them, in processes of their own, and the Python API after them."""

import dataclasses
import importlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import grnet_jax
import input_pipeline
from grnet_jax import commands
from grnet_jax.config import parse_config
from grnet_jax.errors import InputError
from grnet_jax.evaluation.recognition import recognizes_categories
from grnet_jax.inference import _RECOGNIZING, LoadedMatcher
from grnet_jax.models import build_matcher
from grnet_jax.sharding import make_mesh
from grnet_jax.training.build import restore_run
from grnet_jax.training.checkpoints import CheckpointError
from grnet_jax.visualization import __main__ as visualization
from input_pipeline import DatasetConfig, ImageError
from tests import FAST_COMPILING
from tests.pages import Page
from tests.scripts import run_script

_ROOT = pathlib.Path(__file__).parents[1]
_FIELDS = (
    "image.size=32",
    "model.node_dim=16",
    "model.reasoning_dim=8",
    "train.batch_size=8",
    "train.steps=6",
    "train.eval_every=3",
    "train.checkpoint_every=3",
    "optimizer.warmup_steps=2",
)


def run(command, *arguments, env=None):
    """Runs train.py or eval.py from the repository's root."""
    return subprocess.run(
        [sys.executable, command, *arguments],
        cwd=_ROOT,
        env=os.environ | {"XLA_FLAGS": FAST_COMPILING} | (env or {}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def run_here(monkeypatch, capsys, caplog, few_devices):
    """Runs train.py or eval.py, or the visualization, in this process."""
    monkeypatch.chdir(_ROOT)

    def run(command, *arguments):
        status = 0
        try:
            if command == "visualization":
                visualization.main(arguments)
            else:
                run_script(monkeypatch, command, arguments)
        except SystemExit as ended:
            status = ended.code
        out, err = capsys.readouterr()
        err += caplog.text
        caplog.clear()
        return subprocess.CompletedProcess(arguments, status, out, err)

    return run


def _flags(config, *fields):
    return [f"--config={config}", *(f"--config.{field}" for field in fields)]


def _tiny(data_dir):
    return "dataset.source=tiny", f"dataset.dir={data_dir}"


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """A workdir trained and evaluated on the tiny synthetic set, and what was printed."""
    workdir = tmp_path_factory.mktemp("run")
    flags = _flags("configs/grnet.py", *_tiny(data_dir), *_FIELDS)
    place = f"--workdir={os.path.relpath(workdir, _ROOT)}"
    train, evaluate = run("train.py", *flags, place), run("eval.py", place)
    assert train.returncode == 0, train.stderr
    assert evaluate.returncode == 0, evaluate.stderr
    return workdir, train, evaluate


def test_train_says_what_it_wrote_and_what_is_next(trained):
    workdir, train, _ = trained
    assert f"Wrote {os.path.relpath(workdir, _ROOT)}/" in train.stdout
    assert f"Next: python eval.py --workdir={os.path.relpath(workdir, _ROOT)}" in train.stdout
    assert "6 steps of 8 items x 2 images (64 pairs) on 1 device(s)" in train.stderr
    assert "graph/projection" in train.stderr  # the parameter overview
    assert "train/loss" in train.stderr
    assert "val/top1" in train.stderr


def test_libraries_print_nothing(trained):
    """Beside our messages, with the time, stand preparing's bars and the table of parameters."""
    _, train, evaluate = trained
    assert evaluate.stderr == ""
    for line in train.stderr.splitlines():
        assert re.match(r"\d\d:\d\d:\d\d |Rendering |[|+]|Total: |$", line), line


def test_predicting_by_a_run_that_cannot_names_those_that_can(trained):
    configs = {path.stem: f"configs.{path.stem}" for path in (_ROOT / "configs").glob("*.py")}
    found = {name: importlib.import_module(module) for name, module in configs.items()}
    parsed = {n: parse_config(m.get_config()) for n, m in found.items() if hasattr(m, "get_config")}
    able = [n for n, c in parsed.items() if recognizes_categories(build_matcher(c.model), c)]
    assert set(able) == {pathlib.Path(file).stem for file in _RECOGNIZING}
    photo = np.zeros((20, 20, 3), np.uint8)
    with pytest.raises(InputError, match=r"recognizes no categories\. Those of configs/fashionnet"):
        grnet_jax.load(str(trained[0])).predict([photo])


def test_eval_writes_results_and_page(trained):
    workdir, _, evaluate = trained
    results = json.loads((workdir / "results.json").read_text())
    assert results["dataset"] == "synthetic"
    assert results["step"] in (3, 6)
    assert results["protocols"]["all"]["queries"] == 24
    assert results["protocols"]["all"]["gallery"] == 12
    assert results["provenance"]["seed"] == 0
    assert not any(str(path) in json.dumps(results) for path in (workdir, _ROOT))  # no paths
    ranks = pd.read_parquet(workdir / "ranks.parquet")
    top1 = results["protocols"]["all"]["top1"]
    assert (ranks["rank"] == 1).mean() == pytest.approx(top1, abs=1e-6)  # six digits
    assert re.search(r"All queries \(synthetic\) +24 +12 ", evaluate.stdout)
    page = (workdir / "results.html").read_text()
    assert len(Page(page).values("img", "alt")) > 50
    for title in ("All queries (synthetic): best", "Hard-View (synthetic): worst"):
        assert title in page


@pytest.mark.slow
def test_visualization_explains_right_and_wrong_answers(trained, tmp_path, run_here):
    workdir, _, _ = trained
    command = f"python -m grnet_jax.visualization --workdir={os.path.relpath(workdir, _ROOT)}"
    assert f"<code>{command}</code>" in (workdir / "results.html").read_text()
    done = run_here(
        *("visualization", f"--workdir={workdir}", f"--output={tmp_path}"),
        *("--queries=2", "--seed=1", "--config.dataset.source=tiny"),
    )
    assert done.returncode == 0, done.stderr
    assert f"Next: open {tmp_path}/explanations.html" in done.stdout
    page = (tmp_path / "explanations.html").read_text()
    assert page.count("<h2>") == 2
    assert page.count("answered") == 2
    assert len(Page(page).values("img", "alt")) == (4 + 2 * 2 * 5) * page.count("<h3>")
    done = run_here("eval.py", f"--workdir={workdir}", f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    links = Page((tmp_path / "results.html").read_text()).values("a", "href")
    assert links == ["explanations.html"]
    flags = [f"--workdir={workdir}", f"--matches={tmp_path}/matches.png", "--queries=2"]
    done = run_here("visualization", *flags)
    assert f"Wrote {tmp_path}/matches.png" in done.stdout, done.stderr


@pytest.mark.slow
def test_visualization_explains_photo_files_without_tensorflow(trained, tmp_path):
    """The score on the page is that of `load`; boxes count."""
    workdir, _, _ = trained
    rng = np.random.default_rng(0)
    paths = [str(tmp_path / name) for name in ("street.png", "shop.png")]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (60, 50, 3), dtype=np.uint8)).save(path)
    code = """
import sys

sys.modules["tensorflow"] = None  # as if not installed
from grnet_jax.visualization.__main__ import main
sys.exit(main())
"""
    flags = [f"--workdir={workdir}", f"--output={tmp_path}", "--photos", *paths]
    done = run("-c", code, *flags, "--boxes", "5,6,40,50", "whole")
    assert done.returncode == 0, done.stderr
    assert "orbax" not in done.stderr
    matcher = grnet_jax.load(str(workdir))
    features = [
        matcher.embed([path], [box])
        for path, box in zip(paths, [(5, 6, 40, 50), None], strict=True)
    ]
    page = tmp_path / "explanations.html"
    (shown,) = re.findall(r"score (-?\d+\.\d+)</h3>", page.read_text())
    assert float(shown) == pytest.approx(float(matcher.score(*features)[0, 0]), abs=0.011)
    assert len(Page(page.read_text()).values("img", "alt")) == 4 + 2 * 2 * 5
    done = run("-m", "grnet_jax.visualization", *flags, "--boxes", "5,6,70,50", "whole")
    assert done.returncode == 2
    assert "street.png is (5.0, 6.0, 70.0, 50.0): expected" in done.stderr


@pytest.mark.slow
def test_visualization_names_a_photo_that_is_not_there(trained, run_here):
    workdir, _, _ = trained
    flags = [f"--workdir={workdir}", "--query=nobody", "--gallery=nothing"]
    done = run_here("visualization", *flags)
    assert done.returncode == 2
    assert "--query=nobody: the split has no customer photo of this name" in done.stderr
    done = run_here("visualization", *flags[:2])
    assert "--query and --gallery: one was given, both are needed" in done.stderr


@pytest.mark.slow
def test_export_gives_the_scores_of_load(trained, tmp_path):
    workdir, _, _ = trained
    done = run("-m", "grnet_jax.export", f"--workdir={workdir}", f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert f'Next: grnet_jax.load_exported("{tmp_path}") in Python' in done.stdout
    exported, live = grnet_jax.load_exported(tmp_path), grnet_jax.load(str(workdir))
    photos = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    features, wanted = exported.embed(photos), live.embed(list(photos))
    np.testing.assert_allclose(features["regions"], wanted.regions, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        exported.score(features, features), live.score(wanted, wanted), rtol=1e-3, atol=1e-4
    )


def test_load_scores_as_evaluation_does(trained, data_dir):
    """The same photos through `load` give evaluation's own metrics; `search` lists the best."""
    workdir, _, _ = trained
    matcher = grnet_jax.load(str(workdir))
    dataset = input_pipeline.load_dataset(DatasetConfig(source="tiny", dir=str(data_dir)))
    split = dataset.split("test")
    queries, gallery = split.query_rows(), split.gallery_rows()

    def embed(rows):
        boxes = [tuple(float(v) for v in split.index.box[row]) for row in rows]
        return matcher.embed([split.record(row).image for row in rows], boxes)

    features = embed(queries), embed(gallery)
    scores = matcher.score(*features)
    assert scores.shape == (24, 12)
    best = matcher.search(*features, top_k=3)
    np.testing.assert_array_equal(best.indices, np.argsort(-scores, kind="stable")[:, :3])
    np.testing.assert_array_equal(best.scores, -np.sort(-scores)[:, :3])
    items, shop_items = split.index.item[queries], split.index.item[gallery]
    own = scores[np.arange(24), [int(np.flatnonzero(shop_items == i)[0]) for i in items]]
    found = [
        np.mean([(row[shop_items != item] >= s).sum() < k for row, item, s in
                 zip(scores, items, own, strict=True)])
        for k in (1, 5, 10)
    ]  # fmt: skip
    results = json.loads((workdir / "results.json").read_text())["protocols"]["all"]
    # One gray level of difference in a resized image may swap two near-equal scores.
    np.testing.assert_allclose(found, [results[f"top{k}"] for k in (1, 5, 10)], atol=1.5 / 24)


@pytest.mark.parametrize(
    ("changed", "gallery", "told"),
    [({}, 12, True), ({}, 10, True), ({}, 9, False), ({"step": 1}, 12, False),
     ({"calibration": {}}, 12, False), ({"few": 149}, 12, False)],
)  # fmt: skip
def test_load_has_the_probabilities_of_evaluation(trained, tmp_path, changed, gallery, told):
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    results = json.loads((run / "results.json").read_text())
    found = results["calibration"]
    found["best_match"] |= {"ece": 0.09, "results": changed.get("few", 150)}
    (run / "results.json").write_text(json.dumps(results | changed))
    matcher = grnet_jax.load(str(run))
    photos = np.random.default_rng(0).integers(0, 256, (gallery, 32, 32, 3), dtype=np.uint8)
    features = matcher.embed([*photos])
    best = matcher.search(features, features, top_k=3)
    if not told:
        assert best.probabilities is None
        return
    odds = np.exp(found["scale"] * matcher.score(features, features).astype(np.float64))
    p = odds / (odds.sum(axis=1, keepdims=True) + np.exp(found["none"]))
    expected = np.take_along_axis(p, best.indices, axis=1)
    np.testing.assert_allclose(best.probabilities, expected, rtol=1e-5)


def test_shop_photos_are_cropped_as_in_their_gallery(trained):
    workdir, _, _ = trained
    run, state = restore_run(str(workdir), make_mesh())
    image = run.config.image.model_copy(update={"shop_crop": "none"})
    config = run.config.model_copy(update={"image": image})
    matcher = LoadedMatcher(dataclasses.replace(run, config=config), state)
    photo = np.random.default_rng(1).integers(0, 256, (60, 40, 3), dtype=np.uint8)
    whole = matcher.embed([photo], shop=True)
    np.testing.assert_array_equal(whole.regions, matcher.embed([photo]).regions)
    box = matcher.embed([photo], [(0, 0, 20, 30)])
    assert np.abs(box.regions - whole.regions).max() > 0
    with pytest.raises(InputError, match=r"trained without \(image\.shop_crop\)"):
        matcher.embed([photo], [(0, 0, 20, 30)], shop=True)


def test_load_takes_files_and_arrays(trained, tmp_path):
    workdir, _, _ = trained
    matcher = grnet_jax.load(str(workdir))
    array = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(array).save(path)
    one, two = matcher.embed([path, str(path)]), matcher.embed([array, array])
    np.testing.assert_allclose(one.regions, two.regions, rtol=1e-6)
    np.testing.assert_allclose(matcher.score(one, two), matcher.score(two, one), rtol=1e-6)
    with pytest.raises(InputError, match="no photos"):
        matcher.embed([])
    with pytest.raises(InputError, match="1 photos, but 2 boxes"):
        matcher.embed([array], [None, None])
    with pytest.raises(ImageError, match=r"missing\.jpg"):
        matcher.embed([tmp_path / "missing.jpg"])
    for single in (str(path), array, Image.fromarray(array), 3):
        with pytest.raises(InputError, match="expected a list of photos"):
            matcher.embed(single)
    for box in [(30, 10, 20, 40), (0, 0, 41, 50), (float("nan"), 0, 5, 5)]:
        with pytest.raises(InputError, match="embed: box 0 is"):
            matcher.embed([array], [box])


def test_load_embed_and_score_need_no_tensorflow(trained, tmp_path):
    workdir, _, _ = trained
    Image.new("RGB", (30, 40), (200, 30, 30)).save(tmp_path / "photo.jpg")
    code = f"""
import sys

sys.modules["tensorflow"] = None  # as if not installed
import grnet_jax
matcher = grnet_jax.load({str(workdir)!r})
features = matcher.embed([{str(tmp_path / "photo.jpg")!r}])
assert matcher.score(features, features).shape == (1, 1)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_evaluation_sees_photos_as_training_did(trained, data_dir, tmp_path, run_here):
    """Also where a config file says otherwise of the image's size."""
    workdir, _, _ = trained
    sizes = "model.node_dim=16", "model.reasoning_dim=8"
    flags = _flags("configs/grnet.py", *_tiny(data_dir), *sizes)
    done = run_here("eval.py", *flags, f"--workdir={workdir}", f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    again, first = (json.loads((to / "results.json").read_text()) for to in (tmp_path, workdir))
    for name in ("date", "devices"):  # of which this process has eight
        del again["provenance"][name], first["provenance"][name]
    assert again == first


def test_load_without_a_run_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="holds no run"):
        grnet_jax.load(str(tmp_path))


def test_detecting_by_a_run_that_retrieves_is_refused(trained):
    with pytest.raises(InputError, match=r": a run of model\.name=grnet, which detects nothing"):
        grnet_jax.load_detector(trained[0])


def test_evaluating_another_model_is_refused(trained, data_dir):
    workdir, _, _ = trained
    flags = _flags("configs/global_baseline.py", *_tiny(data_dir))
    done = run("eval.py", *flags, f"--workdir={workdir}")
    assert done.returncode == 2
    assert "config.model.layers=0: the run was trained with 3" in done.stderr
    assert "Traceback" not in done.stderr


def test_color_histogram_needs_no_training_and_is_compared(trained, data_dir, tmp_path):
    workdir, _, _ = trained
    flags = _flags("configs/color_histogram.py", *_tiny(data_dir))
    done = run("eval.py", *flags, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["step"] == 0
    done = run("-m", "grnet_jax.compare", str(workdir), str(tmp_path), str(workdir))
    assert done.returncode == 0, done.stderr
    assert "all: 24 queries of 12 items that all runs have." in done.stdout
    assert f"{100 * results['protocols']['all']['map']:.1f} [" in done.stdout
    itself = f"{workdir} (2) against {workdir}: no difference shown in top-1, top-5, top-20, mAP."
    assert itself in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.model.node_dims=3"], "node_dims"),
        pytest.param(["--config.model.node_dim=many"], "node_dim", marks=pytest.mark.slow),
        (["--config=configs/grnet.py:street3shop"], "dataset.name='street3shop': expected one of"),
        (["--config=configs/grnet.py:manifest"], "dataset.source is empty: give what manifest"),
        pytest.param(
            ["--workdir=runs/run[1]"],
            "--workdir='runs/run[1]': choose a path without [ ]",
            marks=pytest.mark.slow,
        ),
        (["--workdir=https://host/run"], "--workdir='https://host/run': expected a path of this"),
        pytest.param(
            ["--confg=configs/grnet.py"],
            "Unknown command line flag 'confg'",
            marks=pytest.mark.slow,
        ),
        (["extra"], "unexpected argument 'extra'"),
        (
            ["--config.train.steps=-1", "--config.optimizer.momentum=2.0"],
            "config.train.steps=-1",
        ),
    ],
)
def test_bad_flags_are_named(flags, message, tmp_path):
    done = run("train.py", "--config=configs/grnet.py", f"--workdir={tmp_path}", *flags)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


_MEANT = "; did you mean --config=configs/grnet.py:manifest?"


@pytest.mark.parametrize(
    ("parse", "words", "error"),
    [
        (commands.parse_train_flags, ["--help"], ""),
        (commands.parse_train_flags, ["--config=configs/grnet.py", "-h"], ""),
        (commands.parse_train_flags, [], "--config is missing"),
        (commands.parse_train_flags, ["--config="], "--config is missing"),
        (commands.parse_train_flags, ["configs/grnet.py:manifest"], "--config is missing" + _MEANT),
        (
            commands.parse_train_flags,
            ["--config=grnett:manifest"],
            "--config=grnett: no such file; did you mean configs/grnet.py?",
        ),
        (commands.parse_train_flags, ["--config", "a/b.py"], "--config=a/b.py: no such file"),
        (commands.parse_eval_flags, ["--help"], ""),
        (commands.parse_eval_flags, [], "--workdir is missing"),
        (
            commands.parse_eval_flags,
            ["--config=configs/kpmm.py"],
            "--config=configs/kpmm.py: no such file; did you mean configs/kpm.py?",
        ),
    ],
)
def test_help_and_a_missing_config_end_in_one_screen(parse, words, error, capsys, monkeypatch):
    monkeypatch.chdir(_ROOT)
    with pytest.raises(SystemExit) as ended:
        parse(["train.py", *words])
    out, err = capsys.readouterr()
    assert (ended.value.code, bool(out)) == ((2, False) if error else (0, True))
    lines = (out or err).splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 100
    assert not error or lines[0] == f"error: {error}"
    assert "python -m grnet_jax.config" in lines[-1]
    if parse is commands.parse_train_flags or "no such file" in error:
        shown = [line.split()[0] for line in lines if re.match("  [a-z]\\w+  ", line)]
        found = {path.stem for path in (_ROOT / "configs").glob("*.py")}
        assert found - {"__init__", "common"} == set(shown)


def test_evaluating_without_a_run_is_named(tmp_path):
    done = run("eval.py", f"--workdir={tmp_path}/nothing")
    assert done.returncode == 2
    assert "holds no run" in done.stderr


def _write_manifest(folder):
    """Eight items; the test split has a customer photo of an item that no shop has."""
    rng = np.random.default_rng(0)
    rows = ["image,item_id,domain,split"]
    for item in range(8):
        split = "train" if item < 5 else "test"
        color = rng.integers(0, 256, 3)
        for domain in ("shop", "customer"):
            noise = rng.integers(-30, 30, (48, 40, 3))
            name = f"{item}_{domain}.{'png' if item % 2 else 'jpg'}"
            Image.fromarray(np.uint8(np.clip(color + noise, 0, 255))).save(folder / name)
            if (item, domain) != (7, "shop"):
                rows.append(f"{name},item{item},{domain},{split}")
    path = folder / "photos.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.slow
def test_a_manifest_trains_from_another_run_and_evaluates(trained, data_dir, tmp_path, run_here):
    workdir, _, _ = trained
    manifest = _write_manifest(tmp_path)
    fields = "dataset.name=manifest", f"dataset.source={manifest}", f"dataset.dir={data_dir}"
    flags = _flags("configs/grnet.py", *fields, *_FIELDS, f"train.init_from={workdir}")
    done = run_here("train.py", *flags, f"--workdir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    assert "no val split" in done.stderr
    done = run_here("eval.py", f"--workdir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    assert "1 more queries show an item without a gallery photo" in done.stdout
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["protocols"].keys() == {"all"}
    assert results["protocols"]["all"]["queries"] == 2
    assert results["protocols"]["all"]["queries_without_match"] == 1

    # And the first run's model, never trained on these photos.
    flags = [f"--config.{field}" for field in fields]
    done = run_here("eval.py", *flags, f"--workdir={workdir}", f"--output={tmp_path}/zero")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "zero" / "results.html").exists()


@pytest.mark.slow
def test_a_list_that_moves_or_gains_a_category(data_dir, tmp_path, run_here):
    """The run's categories keep their names; what it did not learn is told."""
    manifest = _write_manifest(tmp_path)
    head, *rows = manifest.read_text().split()
    lines = [f"{row},{'coat' if n // 2 % 2 else 'dress'}" for n, row in enumerate(rows)]
    manifest.write_text("\n".join([f"{head},category", *lines]) + "\n")
    source, *fields = f"dataset.source={manifest}", *_FIELDS[:1], *_FIELDS[3:]
    fields += ["model.num_classes=2", "loss.class_weight=1.0", "model.backbone.name=small"]
    flags = _flags("configs/embedding.py:manifest", f"dataset.dir={data_dir}", *fields)
    place = f"--workdir={tmp_path}/run"
    assert run_here("train.py", *flags, f"--config.{source}", place).returncode == 0

    def measure(source):
        done = run_here("eval.py", place, f"--config.dataset.source={source}")
        assert done.returncode == 0, done.stderr
        found = json.loads((tmp_path / "run/recognition.json").read_text())
        del found["provenance"]["date"]
        return found, done.stdout

    before, _ = measure(manifest)
    moved = manifest.rename(tmp_path / "list.csv")
    assert measure(f"{tmp_path}/./list.csv")[0] == before
    done = run_here("train.py", *flags, f"--config.dataset.source={moved}", place)
    assert done.returncode == 0, done.stderr
    assert "All 6 steps are done" in done.stderr

    # A train photo gains a category that comes first; then a test photo does.
    lines[0] = lines[0].replace("dress", "apron")
    moved.write_text("\n".join([f"{head},category", *lines]) + "\n")
    assert measure(moved)[0] == before
    lines[-1] = lines[-1].rpartition(",")[0] + ",apron"
    moved.write_text("\n".join([f"{head},category", *lines]) + "\n")
    found, said = measure(moved)
    assert found["unknown"] == {"categories": {"apron": 1}}
    assert "Not measured: categories that were not learned: apron (1 photos)" in said
    done = run_here("train.py", *flags, f"--config.dataset.source={moved}", place)
    assert "content of the prepared data: '" in done.stderr


@pytest.mark.slow
def test_starting_from_a_run_of_another_model_is_named(trained, data_dir, tmp_path, run_here):
    workdir, _, _ = trained
    fields = *_tiny(data_dir), *_FIELDS, "model.layers=2", f"train.init_from={workdir}"
    flags = _flags("configs/grnet.py", *fields)
    done = run_here("train.py", *flags, f"--workdir={tmp_path}")
    assert done.returncode == 2
    assert "do not fit this model, such as params/graph/layer3: (8, 8) there, absent" in done.stderr
