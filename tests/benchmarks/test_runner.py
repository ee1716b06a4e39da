"""The command: rows are run once, resumed and shared; wrong options are named."""

import json
import pathlib

import pytest

from grnet_jax.errors import InputError
from benchmarks.reproduce import runner
from benchmarks.reproduce.__main__ import main
from benchmarks.reproduce.papers import find_paper
from benchmarks.reproduce.runner import find_results
from tests.benchmarks.test_printing import make_result

_TINY = (
    "data.size=tiny",
    "data.image_size=32",
    "model.node_dim=16",
    "model.reasoning_dim=8",
    "train.batch_items=8",
    "train.steps=2",
    "train.checkpoint_every=1",
    "optimizer.warmup_steps=1",
)


def _flag(command, name):
    """The value of a flag of a command, None where it is not given."""
    return dict(word.removeprefix("--").split("=", 1) for word in command[1:]).get(name)


def _evaluated(called):
    return [command for command in called if command[0] == "eval.py"]


@pytest.fixture
def called(monkeypatch):
    """What would have been run; eval.py's part writes a result."""
    commands = []

    def run(*command):
        commands.append(command)
        if command[0] == "eval.py":
            folder = pathlib.Path(_flag(command, "output") or _flag(command, "workdir"))
            folder.mkdir(parents=True, exist_ok=True)
            result = make_result(("all", "category_mean"), 0.25) | {"step": 300}
            (folder / "results.json").write_text(json.dumps(result))

    monkeypatch.setattr(runner, "run_command", run)
    monkeypatch.setattr(runner, "_check_finished", lambda experiment, runs: None)
    return commands


def _main(tmp_path, *words):
    return main([*words, f"--runs={tmp_path}/runs", f"--results={tmp_path}"])


def test_a_row_is_run_once_whichever_tables_it_stands_in(called, tmp_path, capsys):
    assert _main(tmp_path, "grnet", "table5", "--rows=7,1") == 0
    full, baseline = _evaluated(called)
    for evaluated in (full, baseline):  # trained with the same fields, in the same folder
        assert ("train.py", *evaluated[1:]) in called
    assert _flag(full, "config.model.layers") is None
    assert _flag(baseline, "config.model.layers") == "0"
    assert _flag(baseline, "config.model.scales") == "((1, 1),)"
    assert "25.0 [23.0, 27.0]" in capsys.readouterr().out
    # The same again, and the same rows of other tables: nothing is run.
    before = len(called)
    assert _main(tmp_path, "grnet", "table5", "--rows=1,7") == 0
    assert _main(tmp_path, "grnet", "table3", "--rows=7,8") == 0
    assert _main(tmp_path, "grnet", "layers", "--rows=3") == 0
    assert len(called) == before
    assert "| 3 | T = 3 | 1 | 25.0" in capsys.readouterr().out
    # By category: evaluated anew, in the same workdir.
    assert _main(tmp_path, "grnet", "table4", "--rows=2") == 0
    by_category = _evaluated(called)[-1]
    assert _flag(by_category, "workdir") == _flag(full, "workdir")
    assert _flag(by_category, "output").startswith(_flag(full, "workdir"))


def test_every_seed_is_a_row_that_says_what_made_it(called, tmp_path):
    words = ("grnet", "layers", "--rows=2", "--seeds=2", "--config.data.dir=elsewhere")
    assert _main(tmp_path, *words) == 0
    content = json.loads((tmp_path / "reproduce_grnet_synthetic.json").read_text())
    command = "python -m benchmarks.reproduce grnet layers --rows=2 --seeds=2"
    assert [(row["seed"], row["command"]) for row in content["rows"]] == [
        (0, command),
        (1, command),
    ]
    assert content["rows"][0]["fields"]["model.layers"] == 2
    assert "data.dir" not in content["rows"][0]["fields"]
    assert all("--config.data.dir=elsewhere" in command for command in called)
    assert set(content["rows"][0]) >= {"machine", "commit", "train_seconds", "eval_seconds"}


def test_fields_given_are_every_rows_and_tell_rows_apart(called, tmp_path):
    assert _main(tmp_path, "grnet", "table5", "--rows=1", "--config.train.batch_items=7") == 0
    assert _main(tmp_path, "grnet", "table5", "--rows=1") == 0
    given, plain = _evaluated(called)
    assert _flag(given, "config.train.batch_items") == "7"
    assert _flag(plain, "config.train.batch_items") is None
    assert _flag(given, "workdir") != _flag(plain, "workdir")


def test_rows_with_weights_of_their_own_start_from_these(called, tmp_path, capsys):
    name = "vit_small_patch14_dinov2"
    words = ("grnet", "table3", f"--weights={name}=there.safetensors")
    words += ("--config.model.backbone.pretrained=others.safetensors",)
    words += ("--dataset=deepfashion_c2s", "--source=here")
    assert _main(tmp_path, *words) == 0
    evaluated = _evaluated(called)
    pretrained = [_flag(command, "config.model.backbone.pretrained") for command in evaluated]
    others = 6 * ["others.safetensors"]
    assert pretrained == [*others, "there.safetensors", "there.safetensors"]
    configs = [_flag(command, "config").partition(":")[0] for command in evaluated]
    names = ("embedding", "kpm", "dreml", "grnet", "grnet", "local_matching")
    names += ("grnet_dinov2", "grnet_dinov2")
    assert configs == [f"configs/{name}.py" for name in names]
    rows = _rows(tmp_path, "deepfashion_c2s")
    (kept,) = {row["command"] for row in rows}
    assert f"--weights={name}=FILE" in kept
    assert "| 10 | DINOv2, global similarity | 1 | 25.0" in capsys.readouterr().out
    # The file may move: the row is the same, also for who has no weights.
    assert rows[-1]["fields"]["model.backbone.pretrained"] == name
    before = len(called)
    moved = (words[2].replace("there", "elsewhere"), *words[3:])
    assert _main(tmp_path, "grnet", "table3", *moved) == 0
    assert len(called) == before
    table = find_paper("grnet").table("table3")
    found = find_results(find_paper("grnet"), table, "deepfashion_c2s", rows, (words[3],))
    assert {10, 11} <= set(found)


def test_without_weights_their_rows_are_left_out(called, tmp_path, capsys):
    assert _main(tmp_path, "grnet", "table7") == 0
    assert [row["config"] for row in _rows(tmp_path, "synthetic")] == [
        "grnet",
        "grnet",
        "kpm",
        "local_matching",
    ]
    starts = {_flag(command, "config.train.init_from") for command in called if len(command) > 3}
    assert len(starts - {None}) == 1  # all from the same backbone
    assert "| 5 | DINOv2, global similarity | needs weights |" in capsys.readouterr().out


def _rows(folder, dataset):
    return json.loads((folder / f"reproduce_grnet_{dataset}.json").read_text())["rows"]


def test_figure_2_is_drawn(called, tmp_path, capsys):
    assert _main(tmp_path, "grnet", "figure2") == 0
    path = tmp_path / "runs" / "grnet_figure2_synthetic.png"
    assert f"Wrote {path}" in capsys.readouterr().out
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_list_names_rows_and_commands_and_runs_nothing(called, tmp_path, capsys):
    assert _main(tmp_path, "grnet", "table3", "--dataset=deepfashion_c2s", "--list") == 0
    text = capsys.readouterr().out
    assert not called
    assert "#8 GRNet, seed 0: to run" in text
    assert "#5 KPM, seed 0: to run" in text
    needed = "needs weights, --weights=vit_small_patch14_dinov2=FILE"
    assert f"#10 DINOv2, global similarity: {needed}" in text
    assert f"#11 DINOv2 and GRNet's graph: {needed}" in text
    assert "python train.py --config=configs/kpm.py:deepfashion_c2s" in text
    assert "python train.py --config=configs/grnet.py:deepfashion_c2s" in text
    assert list(tmp_path.iterdir()) == []


def test_rows_of_points_are_listed_with_the_file_that_they_need(called, tmp_path, capsys):
    assert _main(tmp_path, "fashionnet", "inshop", "--list") == 0
    assert "#3 FashionNet+Joints: needs points, --points=joints=FILE" in capsys.readouterr().out
    path = tmp_path / "joints.csv"
    path.write_text("image,x_neck,y_neck\n")
    assert _main(tmp_path, "fashionnet", "inshop", "--list", f"--points=joints={path}") == 0
    text = capsys.readouterr().out
    assert f"--config.data.points={path} " in text
    assert "--config.model.given_points=1 " in text
    assert not called


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("x", "table1"), "PAPER: 'x' is none of ['grnet', 'fir', 'kucer', 'fashionnet']"),
        (("grnet", "table1"), "TABLE: grnet has no 'table1'"),
        (("grnet", "table5", "--rows=9"), "--rows: table5 has no row 9"),
        (("grnet", "table5", "--rows=one"), "'one': expected row numbers joined by commas"),
        (("grnet", "table5", "--seeds=0"), "--seeds: expected 1 or more, got 0"),
        (("grnet", "table4", "--dataset=findfashion"), "table4 is not run on 'findfashion'"),
        (("grnet", "table3", "--dataset=deepfashion_c2s"), "--source: expected where"),
        (("grnet", "table5", "--source=x"), "--source: the synthetic set is drawn by a program"),
        (("grnet", "table5", "--config.train.step=1"), "--config.train.step=1: expected fields"),
        (("grnet", "table5", "--config.train.steps=x"), "invalid literal for int()"),
        (("grnet", "table5", "--row=1"), "unexpected argument '--row=1'"),
        (("grnet", "table3", "--rows=10"), "row 10 of table3 (DINOv2, global similarity) needs"),
        (("grnet", "table3", "--weights=x"), "'x': expected a name and its file, NAME=FILE"),
        (("grnet", "table5", "--weights=x=y"), "--weights: table5 needs none of 'x'"),
        (("fashionnet", "inshop", "--points=x"), "'x': expected a name and its file, NAME=FILE"),
        (("fashionnet", "inshop", "--points=x=y"), "--points: inshop needs none of 'x'"),
        (("fashionnet", "inshop", "--rows=3"), "row 3 of inshop (FashionNet+Joints) needs points"),
        (("grnet", "table3", "--rows=5", "--config.model.layers=1"), "fields of configs/kpm.py"),
    ],
)
def test_wrong_options_are_named(words, message, called, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        _main(tmp_path, *words)
    assert error.value.code == 2
    text = capsys.readouterr().err
    assert message in text
    assert "Traceback" not in text
    assert not called


def test_values_that_are_like_the_configs_own_change_no_key():
    given = ["--config.model.layers=3", "--config.data.dir=x"]
    config = runner.read_config("grnet", "synthetic", given)
    assert config.model.layers == 3
    with pytest.raises(InputError, match="expected fields"):
        runner.read_config("grnet", "synthetic", ["--config.nothing=3"])


@pytest.mark.slow
def test_a_row_trains_evaluates_and_is_not_trained_twice(data_dir, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("XLA_FLAGS", "")
    words = ["grnet", "layers", "--rows=1", f"--config.data.dir={data_dir}"]
    words += [f"--config.{field}" for field in _TINY]
    assert _main(tmp_path, *words) == 0
    shown = capfd.readouterr()
    assert "Starting anew" in shown.err
    file = tmp_path / "reproduce_grnet_synthetic.json"
    (row,) = json.loads(file.read_text())["rows"]
    assert row["step"] == 2
    assert row["train_seconds"] > 0
    assert row["protocols"]["all"]["queries"] == 24
    assert f"| 1 | T = 1 | 1 | {100 * row['protocols']['all']['top1']:.1f} [" in shown.out
    before = file.read_text()
    assert _main(tmp_path, *words) == 0
    assert "train" not in capfd.readouterr().err
    assert file.read_text() == before
    # Without the row, the run's checkpoint is gone on from and gives the same figures.
    file.unlink()
    assert _main(tmp_path, *words) == 0
    assert "All 2 steps are done" in capfd.readouterr().err
    (again,) = json.loads(file.read_text())["rows"]
    assert again["protocols"] == row["protocols"]
    assert again["train_seconds"] is None
