"""The command: rows are run once, resumed and shared; wrong options are named."""

import json
import pathlib

import pytest

from benchmarks.reproduce import runner
from benchmarks.reproduce.__main__ import main
from benchmarks.reproduce.papers import find_paper
from benchmarks.reproduce.runner import find_results
from tests.benchmarks.test_printing import make_result

_TINY = (
    "dataset.source=tiny",
    "image.size=32",
    "model.node_dim=16",
    "model.reasoning_dim=8",
    "train.batch_size=8",
    "train.steps=2",
    "train.checkpoint_every=1",
    "optimizer.warmup_steps=1",
)
_DINOV2 = "vit_small_patch14_dinov2"
_C2S = ("--dataset=deepfashion_c2s", "--source=here")


def _flag(command, name):
    """The value of a flag of a command, None where it is not given."""
    return dict(word.removeprefix("--").split("=", 1) for word in command[1:]).get(name)


def _of(calls, script):
    return [command for command in calls if command[0] == script]


@pytest.fixture
def calls(monkeypatch):
    """What would have been run; eval.py's part writes a result."""
    commands = []

    def run(*command):
        commands.append(command)
        folder = pathlib.Path(_flag(command, "output") or _flag(command, "workdir"))
        folder.mkdir(parents=True, exist_ok=True)
        if command[0] == "eval.py":
            result = make_result(("all", "category_mean"), 0.25) | {"step": 300}
            (folder / "results.json").write_text(json.dumps(result))

    monkeypatch.setattr(runner, "run_command", run)
    monkeypatch.setattr(runner, "_steps_left", lambda experiment, runs: 0)
    return commands


def _main(tmp_path, *words):
    return main([*words, f"--runs={tmp_path}/runs", f"--results={tmp_path}"])


def _rows(folder, name):
    return json.loads((folder / f"reproduce_{name}.json").read_text())["rows"]


def test_a_row_is_run_once_whichever_tables_it_stands_in(calls, tmp_path, capsys):
    assert _main(tmp_path, "grnet", "table5", "--rows=7,1") == 0
    start, full, baseline = _of(calls, "train.py")
    for trained in (full, baseline):
        assert _flag(trained, "config.train.init_from") == _flag(start, "workdir")
    assert _flag(full, "config.model.layers") is None
    assert _flag(baseline, "config.model.layers") == "0"
    assert _flag(baseline, "config.model.scales") == "((1, 1),)"
    assert [_flag(evaluated, "workdir") for evaluated in _of(calls, "eval.py")] == [
        _flag(full, "workdir"),
        _flag(baseline, "workdir"),
    ]
    assert "25.0 [23.0, 27.0]" in capsys.readouterr().out
    # The same again, and the same rows of other tables: nothing is run.
    before = len(calls)
    for words in (("table5", "--rows=1,7"), ("table3", "--rows=7,8"), ("layers", "--rows=3")):
        assert _main(tmp_path, "grnet", *words) == 0
    assert len(calls) == before
    assert "| 3 | T = 3 | 1 | 25.0" in capsys.readouterr().out
    # By category: the same run, evaluated anew.
    assert _main(tmp_path, "grnet", "table4", "--rows=2") == 0
    (by_category,) = calls[before:]
    assert _flag(by_category, "workdir") == _flag(full, "workdir")
    assert _flag(by_category, "config.eval.protocol.same_category") == "True"
    assert _flag(by_category, "output").startswith(_flag(full, "workdir"))


def test_what_an_ensemble_needs_is_trained_first(calls, tmp_path):
    assert _main(tmp_path, "kucer", "table2", "--rows=5,1", "--config.dataset.dir=elsewhere") == 0
    ensemble, single = _of(calls, "eval.py")
    start, *members = (_flag(command, "workdir") for command in _of(calls, "train.py"))
    assert _flag(ensemble, "workdir") == ",".join(members)
    assert _flag(ensemble, "config.eval.protocol.same_category") == "True"
    assert _flag(ensemble, "config.dataset.dir") == "elsewhere"
    assert {_flag(one, "config.train.init_from") for one in _of(calls, "train.py")[1:]} == {start}
    assert _flag(single, "workdir") == members[0]
    configs = [_flag(command, "config") for command in _of(calls, "train.py")]
    losses = [config.partition(",")[2] for config in configs]
    assert losses == ["classification", "triplet", "triplet"]
    rows = _rows(tmp_path, "kucer_synthetic")
    assert len(rows[0]["fields"]["ensemble"]) == 2
    assert rows[0]["train_seconds"] is None
    assert len({_flag(command, "output") for command in (ensemble, single)}) == 2


def test_every_seed_is_a_row_that_tells_what_made_it(calls, tmp_path):
    words = ("grnet", "layers", "--rows=2", "--seeds=2", "--config.dataset.dir=elsewhere")
    assert _main(tmp_path, *words) == 0
    rows = _rows(tmp_path, "grnet_synthetic")
    command = "python -m benchmarks.reproduce grnet layers --rows=2 --seeds=2"
    assert [(row["seed"], row["command"]) for row in rows] == [(0, command), (1, command)]
    assert rows[0]["fields"]["model.layers"] == 2
    assert "dataset.dir" not in rows[0]["fields"]
    assert all("--config.dataset.dir=elsewhere" in command for command in calls)
    assert set(rows[0]) >= {"machine", "commit", "train_seconds", "eval_seconds"}


def test_fields_given_are_every_rows_and_tell_rows_apart(calls, tmp_path):
    for words in (("--config.train.batch_size=7",), (), ("--config.model.layers=0",)):
        assert _main(tmp_path, "grnet", "table5", "--rows=1", *words) == 0
    given, plain = _of(calls, "eval.py")  # what the row has anyway makes no other
    assert _flag(given, "workdir") != _flag(plain, "workdir")
    trained = {_flag(one, "workdir"): one for one in _of(calls, "train.py")}
    assert _flag(trained[_flag(given, "workdir")], "config.train.batch_size") == "7"
    assert _flag(trained[_flag(plain, "workdir")], "config.train.batch_size") is None


def test_rows_with_weights_of_their_own_start_from_these(calls, tmp_path, capsys):
    others = "--config.model.backbone.pretrained=others.safetensors"
    words = (f"--weights={_DINOV2}=there.safetensors", others, *_C2S, "--rows=4,5,10,11")
    assert _main(tmp_path, "grnet", "table3", *words) == 0
    trained = _of(calls, "train.py")
    pretrained = [_flag(command, "config.model.backbone.pretrained") for command in trained]
    assert pretrained == 2 * ["others.safetensors"] + 2 * ["there.safetensors"]
    configs = [_flag(command, "config").partition(":")[0] for command in trained]
    names = ("embedding", "kpm", "grnet_dinov2", "grnet_dinov2")
    assert configs == [f"configs/{name}.py" for name in names]
    rows = _rows(tmp_path, "grnet_deepfashion_c2s")
    assert f"--weights={_DINOV2}=FILE" in rows[0]["command"]
    assert "| 10 | DINOv2, global similarity | 1 | 25.0" in capsys.readouterr().out
    # The file may move: the row is the same, also for who has no weights.
    assert rows[-1]["fields"]["model.backbone.pretrained"] == _DINOV2
    before = len(calls)
    moved = (words[0].replace("there", "elsewhere"), *words[1:])
    assert _main(tmp_path, "grnet", "table3", *moved) == 0
    assert len(calls) == before
    paper = find_paper("grnet")
    results = find_results(paper, paper.table("table3"), "deepfashion_c2s", rows, (others,))
    assert {10, 11} <= set(results)


def test_without_weights_their_rows_are_left_out_and_figures_drawn(calls, tmp_path, capsys):
    assert _main(tmp_path, "grnet", "table7") == 0
    configs = [row["config"] for row in _rows(tmp_path, "grnet_synthetic")]
    assert configs == ["grnet", "grnet", "kpm", "local_matching"]
    assert "| 5 | DINOv2, global similarity | needs weights |" in capsys.readouterr().out
    assert _main(tmp_path, "grnet", "figure2") == 0
    path = tmp_path / "runs" / "grnet_figure2_synthetic.png"
    assert f"Wrote {path}" in capsys.readouterr().out
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_list_names_rows_and_commands_and_runs_nothing(calls, tmp_path, capsys):
    assert _main(tmp_path, "grnet", "table3", "--dataset=deepfashion_c2s", "--list") == 0
    text = capsys.readouterr().out
    assert "#8 GRNet, seed 0: to run" in text
    needed = f"needs weights, --weights={_DINOV2}=FILE"
    assert f"#10 DINOv2, global similarity: {needed}" in text
    assert "python train.py --config=configs/kpm.py:deepfashion_c2s" in text
    assert _main(tmp_path, "fashionnet", "inshop", "--list") == 0
    text = capsys.readouterr().out
    assert "#3 FashionNet+Joints: needs keypoints, --keypoints=joints=FILE" in text
    assert list(tmp_path.iterdir()) == []
    path = tmp_path / "joints.csv"
    path.write_text("image,x_neck,y_neck\n")
    assert _main(tmp_path, "fashionnet", "inshop", "--list", f"--keypoints=joints={path}") == 0
    text = capsys.readouterr().out
    assert f"--config.image.keypoints={path} " in text
    assert "--config.model.num_keypoints=1 " in text
    assert not calls


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("x", "table1"), "PAPER: 'x' is none of ['grnet', 'fir', 'kucer', 'fashionnet']"),
        (("grnet", "table1"), "TABLE: grnet has no 'table1'"),
        (("grnet", "table5", "--rows=9"), "--rows: table5 has no row 9"),
        (("grnet", "table5", "--rows=one"), "'one': expected row numbers joined by commas"),
        (("grnet", "table5", "--seeds=0"), "--seeds: expected 1 to 1000, got 0"),
        (("grnet", "table5", f"--seeds={10**20}", "--list"), "--seeds: expected 1 to 1000, got 1"),
        (("grnet", "table4", "--dataset=findfashion"), "table4 is not run on 'findfashion'"),
        (("grnet", "table3", _C2S[0]), "--source: expected where"),
        (("grnet", "table5", "--source=x"), "--source: the synthetic set is drawn by a program"),
        (("grnet", "table5", "--config.train.step=1"), "--config.train.step=1: expected fields"),
        (("grnet", "table5", "--config.train.steps=x"), "invalid literal for int()"),
        (("grnet", "table5", "--config.seed=1"), "--config.seed: every row has its own"),
        (("grnet", "table5", "--row=1"), "unexpected argument '--row=1'"),
        (("grnet", "table3", "--rows=10"), "row 10 of table3 (DINOv2, global similarity) needs"),
        (("grnet", "table3", "--weights=x"), "'x': expected a name and its file, NAME=FILE"),
        (("grnet", "table5", "--weights=x=y"), "--weights: table5 needs none of 'x'"),
        (("grnet", "table3", "--rows=5", "--config.model.layers=1"), "fields of configs/kpm.py"),
    ],
)
def test_wrong_options_are_named(words, message, calls, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        _main(tmp_path, *words)
    assert error.value.code == 2
    text = capsys.readouterr().err
    assert message in text
    assert "Traceback" not in text
    assert not calls


@pytest.mark.slow
def test_a_row_trains_evaluates_and_is_not_trained_twice(data_dir, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("XLA_FLAGS", "")
    fields = [f"--config.{field}" for field in (*_TINY, f"dataset.dir={data_dir}")]
    words = ["grnet", "layers", "--rows=1", *fields]
    assert _main(tmp_path, *words) == 0
    shown = capfd.readouterr()
    assert "Starting anew" in shown.err
    file = tmp_path / "reproduce_grnet_synthetic.json"
    (row,) = _rows(tmp_path, "grnet_synthetic")
    assert row["step"] == 2
    assert row["train_seconds"] > 0
    assert row["protocols"]["all"]["queries"] == 24
    assert f"| 1 | T = 1 | 1 | {100 * row['protocols']['all']['top1']:.1f} [" in shown.out
    before = file.read_text()
    assert _main(tmp_path, *words) == 0
    assert "train" not in capfd.readouterr().err
    assert file.read_text() == before
    # Without the row, the finished run is evaluated again and gives the same figures.
    file.unlink()
    assert _main(tmp_path, *words) == 0
    assert "Starting anew" not in capfd.readouterr().err
    (again,) = _rows(tmp_path, "grnet_synthetic")
    assert again["protocols"] == row["protocols"]
    assert again["train_seconds"] is None
