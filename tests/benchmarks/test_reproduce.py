"""The command: rows are run once, resumed and shared; wrong options are named."""

import json
import pathlib

import pytest

from benchmarks.costs import MatcherCosts, matcher_costs, multiply_adds
from benchmarks.reproduce import plan, runner
from benchmarks.reproduce.__main__ import main
from benchmarks.reproduce.papers import NAMES, Paper, find_paper
from benchmarks.reproduce.runner import file_digest, find_results
from grnet_jax.config import parse_config
from tests.benchmarks.test_printing import make_result
from tests.scripts import run_script

_TINY = (
    "dataset.source=tiny",
    "image.size=48",
    "model.node_dim=16",
    "model.reasoning_dim=8",
    "train.batch_size=8",
    "train.steps=2",
    "train.checkpoint_every=1",
    "optimizer.warmup_steps=1",
)
_SMALLEST = (  # what every system has
    *(field for field in _TINY if not field.startswith(("model.", "train.checkpoint_every"))),
    "eval.batch_size=16",
)
_DINOV2 = "vit_small_patch14_dinov2"
_C2S = ("--dataset=deepfashion_c2s", "--source=here")


def _flag(command, name):
    """The value of a flag of a command, None where it is not given."""
    words = [word for word in command[1:] if "=" in word]
    return dict(word.removeprefix("--").split("=", 1) for word in words).get(name)


def _of(calls, script):
    return [command for command in calls if command[0] == script]


@pytest.fixture
def calls(monkeypatch):
    """What would have been run; eval.py's part writes a result, a detector's its boxes."""
    commands = []

    def run(*command):
        commands.append(command)
        folder = pathlib.Path(_flag(command, "output") or _flag(command, "workdir"))
        folder.mkdir(parents=True, exist_ok=True)
        if command[0] == "eval.py":
            result = make_result(("all", "category_mean"), 0.25) | {"step": 300}
            (folder / "results.json").write_text(json.dumps(result))
        if "grnet_jax.detect" in command:
            (folder / "detections").mkdir()
            (folder / "detections" / "boxes.csv").touch()

    monkeypatch.setattr(runner, "run_command", run)
    monkeypatch.setattr(runner, "_steps_left", lambda experiment, runs: 0)
    monkeypatch.setattr(runner, "_parameters", lambda experiment: 27_400_000)
    return commands


def _main(tmp_path, *words):
    return main([*words, f"--runs={tmp_path}/runs", f"--results={tmp_path}"])


def _rows(folder, name):
    return json.loads((folder / f"reproduce_{name}.json").read_text())["rows"]


def test_a_row_is_run_once_whichever_tables_it_stands_in(calls, tmp_path, capsys):
    assert _main(tmp_path, "grnet", "table5", "--rows=7,1") == 0
    full, baseline = _of(calls, "train.py")
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
    for words in (("table5", "--rows=1,7"), ("table3", "--rows=9,8"), ("layers", "--rows=3")):
        assert _main(tmp_path, "grnet", *words) == 0
    assert len(calls) == before
    assert "| 3 | T = 3 | 1 | 25.0" in capsys.readouterr().out
    # By category: the same run, evaluated anew.
    assert _main(tmp_path, "grnet", "table4", "--rows=5") == 0
    (by_category,) = calls[before:]
    assert _flag(by_category, "workdir") == _flag(full, "workdir")
    assert _flag(by_category, "config.eval.protocol.same_category") == "True"
    assert _flag(by_category, "output").startswith(_flag(full, "workdir"))


def test_what_an_ensemble_needs_is_trained_first(calls, tmp_path):
    assert _main(tmp_path, "kucer", "table1", "--rows=5,1", "--config.dataset.dir=elsewhere") == 0
    ensemble, single = _of(calls, "eval.py")
    # Shop images of the first member are whole, of the second the detector's crops.
    trained = _of(calls, "train.py")
    detector = trained.pop(1)
    members = [_flag(command, "workdir") for command in trained]
    assert _flag(ensemble, "workdir") == ",".join(members)
    assert _flag(ensemble, "config.eval.protocol.same_category") == "True"
    assert _flag(ensemble, "config.dataset.dir") == "elsewhere"
    (found,) = _of(calls, "-m")
    assert _flag(found, "dir") == "elsewhere"
    assert _flag(found, "workdir") == _flag(detector, "workdir")
    boxes = f"{_flag(detector, 'workdir')}/detections/boxes.csv"
    assert [_flag(one, "config.image.detections") for one in trained] == [None, boxes]
    assert calls.index(found) < calls.index(trained[1])
    assert _flag(single, "workdir") == members[0]
    configs = [_flag(command, "config") for command in trained]
    losses = [config.partition(",")[2] for config in configs]
    assert losses == ["triplet", "triplet"]
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


def test_rows_start_from_the_weights_of_their_backbone(calls, tmp_path, capsys):
    places = {name: tmp_path / f"{name}.safetensors" for name in ("googlenet", _DINOV2)}
    for name, path in places.items():
        path.write_bytes(name.encode())
    weights = [f"--weights={name}={path}" for name, path in places.items()]
    words = ("grnet", "table3", *_C2S, "--rows=2,7,11,12")
    assert _main(tmp_path, *words, *weights) == 0
    assert "from scratch" not in capsys.readouterr().err
    trained = _of(calls, "train.py")
    pretrained = [_flag(command, "config.model.backbone.pretrained") for command in trained]
    assert pretrained == [str(path) for path in places.values() for _ in range(2)]
    configs = [_flag(command, "config").partition(":")[0] for command in trained]
    names = ("embedding", "kpm", "grnet_dinov2", "grnet_dinov2")
    assert configs == [f"configs/{name}.py" for name in names]
    text = (tmp_path / "reproduce_grnet_deepfashion_c2s.json").read_text()
    assert f"--weights={_DINOV2}=FILE" in text
    assert str(tmp_path) not in text
    # Wherever the file lies it is the same row, found also without weights where a row needs them.
    before, moved = len(calls), tmp_path / "moved.safetensors"
    moved.write_bytes(places["googlenet"].read_bytes())
    assert _main(tmp_path, *words, f"--weights=googlenet={moved}", weights[1]) == 0
    assert len(calls) == before
    rows = _rows(tmp_path, "grnet_deepfashion_c2s")
    digests = [row["fields"]["model.backbone.pretrained"] for row in rows]
    assert digests[0] == digests[1] != digests[2] == digests[3]
    paper = find_paper("grnet")
    assert {11, 12} == set(find_results(paper, paper.table("table3"), "deepfashion_c2s", rows))
    # Another content is another row.
    moved.write_bytes(b"other weights")
    file_digest.cache_clear()
    assert _main(tmp_path, *words[:-1], "--rows=7", f"--weights=googlenet={moved}") == 0
    assert len(_rows(tmp_path, "grnet_deepfashion_c2s")) == len(rows) + 1


def test_a_start_from_nothing_is_warned_of_where_the_paper_has_weights(calls, tmp_path, capsys):
    assert _main(tmp_path, "grnet", "table3", *_C2S, "--rows=7,8") == 0
    assert "warning: #7, #8 train googlenet from scratch" in capsys.readouterr().err
    assert _main(tmp_path, "grnet", "table3", "--rows=7") == 0  # the synthetic set has its start
    assert "warning" not in capsys.readouterr().err


def test_a_matcher_costs_what_its_parts_do():
    config = parse_config(runner.read_config("embedding", "synthetic"))
    costs = matcher_costs(config)
    macs = multiply_adds("small", config.image.size, head=False)
    assert costs.photo_gflop == pytest.approx(2 * macs / 1e9, rel=0.12)  # without padding's
    assert costs.pair_gflop * 1e9 == pytest.approx(2 * config.model.embedding_dim, rel=0.1)
    assert costs.feature_bytes == 4 * config.model.embedding_dim


def test_a_plan_says_what_rows_cost_and_runs_nothing(calls, tmp_path, capsys, monkeypatch):
    costs = MatcherCosts(6_000_000, photo_gflop=2.5, pair_gflop=0.0, feature_bytes=2048)
    monkeypatch.setattr(plan, "matcher_costs", lambda config: costs)
    words = ("--dataset=deepfashion_c2s", "--plan", "--rows=2,6", "--tflops=50", "--members=3")
    assert _main(tmp_path, "grnet", "table3", *words) == 0
    text = capsys.readouterr().out
    shown = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    header, _, *rows = [cells for cells in shown if cells]
    triplet, dreml = (dict(zip(header, row, strict=True)) for row in rows)
    steps = 60 * -(-17000 // 32)  # epochs of items
    assert triplet["steps"] == f"{steps:,}"
    assert triplet["images, M"] == f"{64 * steps / 1e6:.3g}"
    assert dreml["steps"] == f"{3 * 60 * -(-119778 // 64):,}"
    assert triplet["dtype"] == "float32"
    hours = 3 * 64 * steps * 2.5e9 / (50e12 / 2) / 3600  # forward and backward
    assert float(triplet["training, h"]) == pytest.approx(hours, rel=0.01)
    assert triplet["disk, GB"] == f"{3 * 2 * 4 * 6_000_000 / 1e9:.3g}"  # with SGD's momentum
    assert triplet["features, GB"] == f"{(48541 + 11348) * 2048 / 1e9:.3g}"
    assert "counting 50 TFLOP/s for bfloat16 rows and 25 for float32 rows" in text
    assert "Assumed sizes: train is half" in text
    words = ("kucer", "table3", "--dataset=street2shop", "--plan", "--config.model.dtype=bfloat16")
    assert _main(tmp_path, *words) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    vam, start, best = (line.split("|") for line in lines[1:])
    assert start[2].strip() == "start of #4: detect_then_retrieve:classification"
    assert {one[4].strip() for one in (vam, start, best)} == {"bfloat16"}
    assert not calls
    assert list(tmp_path.iterdir()) == []


def test_without_weights_their_rows_are_left_out_and_figures_drawn(calls, tmp_path, capsys):
    assert _main(tmp_path, "grnet", "table7") == 0
    configs = [row["config"] for row in _rows(tmp_path, "grnet_synthetic")]
    assert configs == ["grnet", "dreml", "kpm", "grnet", "local_matching"]
    assert "DINOv2" not in capsys.readouterr().out
    assert _main(tmp_path, "fashionnet", "figure9") == 0
    assert "| 5 | FashionNet+Joints | needs keypoints |" in capsys.readouterr().out
    assert _main(tmp_path, "grnet", "figure2") == 0
    path = tmp_path / "runs" / "grnet_figure2_synthetic.png"
    assert f"Wrote {path}" in capsys.readouterr().out
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_list_names_rows_and_commands_and_runs_nothing(calls, tmp_path, capsys):
    assert _main(tmp_path, "grnet", "table3", "--dataset=deepfashion_c2s", "--list") == 0
    text = capsys.readouterr().out
    assert "#8 GRNet, seed 0: to run" in text
    needed = f"needs weights, --weights={_DINOV2}=FILE"
    assert f"#11 DINOv2, global similarity: {needed}" in text
    assert "python train.py --config=configs/kpm.py:deepfashion_c2s" in text
    assert _main(tmp_path, "fashionnet", "figure8", "--list") == 0
    text = capsys.readouterr().out
    assert "#5 FashionNet+Joints: needs keypoints, --keypoints=joints=FILE" in text
    assert list(tmp_path.iterdir()) == []
    path = tmp_path / "joints.csv"
    path.write_text("image,x_neck,y_neck\n")
    assert _main(tmp_path, "fashionnet", "figure8", "--list", f"--keypoints=joints={path}") == 0
    text = capsys.readouterr().out
    assert f"--config.image.keypoints={path} " in text
    assert "--config.model.num_keypoints=1 " in text
    assert not calls


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("x", "table1"), "PAPER: 'x' is none of ['grnet', 'fir', 'kucer', 'fashionnet']"),
        (("grnet", "table1"), "TABLE: grnet has no 'table1'"),
        (("grnet", "table5", "--rows=19"), "--rows: table5 has no row 19"),
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
        (
            ("grnet", "table3", *_C2S, "--rows=11"),
            "row 11 of table3 (DINOv2, global similarity) needs",
        ),
        (("grnet", "table3", "--pretrain=x"), "--pretrain: grnet trains on no other data set"),
        (("grnet", "table3", "--weights=x"), "'x': expected a name and its file, NAME=FILE"),
        (("grnet", "table5", "--weights=x=y"), "--weights: table5 needs none of 'x'"),
        (("grnet", "table3", "--rows=7", "--config.model.layers=1"), "fields of configs/kpm.py"),
        (("grnet", "table4", "--rows=4"), "row 4 of table4 (Trip.+Partial) is only quoted"),
        (("grnet", "table3", "--members=-1"), "--members: expected 0 or more, got -1"),
        (
            ("grnet", "table3", *_C2S, "--weights=googlenet=x"),
            "--weights=googlenet: x: no such file",
        ),
        (
            ("grnet", "table5", "--config.model.backbone.pretrained=x"),
            "pretrained: expected --weights=BACKBONE=FILE",
        ),
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


@pytest.fixture
def ran_here(monkeypatch, few_devices):
    """Commands run in this process, where what was compiled is kept; returns those that did."""
    scripts = []

    def run(script, *words):
        scripts.append(script)
        run_script(monkeypatch, script, words)

    monkeypatch.chdir(runner.ROOT)
    monkeypatch.setattr(runner, "run_command", run)
    return scripts


@pytest.mark.slow
def test_a_row_trains_evaluates_and_is_not_trained_twice(ran_here, data_dir, tmp_path, capsys):
    fields = [f"--config.{field}" for field in (*_TINY, f"dataset.dir={data_dir}")]
    words = ["grnet", "layers", "--rows=1", *fields]
    assert _main(tmp_path, *words) == 0
    shown = capsys.readouterr().out
    assert ran_here == ["train.py", "eval.py"]
    file = tmp_path / "reproduce_grnet_synthetic.json"
    (row,) = _rows(tmp_path, "grnet_synthetic")
    assert row["step"] == 2
    assert row["train_seconds"] > 0
    assert row["parameters_m"] == 0.9
    assert row["protocols"]["all"]["queries"] == 24
    assert f"| 1 | T = 1 | 1 | {100 * row['protocols']['all']['top1']:.1f} [" in shown
    before = file.read_text()
    assert _main(tmp_path, *words) == 0
    assert len(ran_here) == 2
    assert file.read_text() == before
    # Without the row, the finished run is evaluated again and gives the same figures.
    file.unlink()
    assert _main(tmp_path, *words) == 0
    assert ran_here[2:] == ["eval.py"]
    (again,) = _rows(tmp_path, "grnet_synthetic")
    assert again["protocols"] == row["protocols"]
    assert again["train_seconds"] is None


def _find_none(detector, runs):
    """Writes the boxes of a detector that finds next to nothing: most photos stay whole."""
    path = runner.ROOT / runs / runner.boxes_file(detector)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["image,x_1,y_1,x_2,y_2,score,category,class"]
    for split in ("train", "val", "test"):
        names = (f"{split}/{split}_0000000/{domain}_0" for domain in ("shop", "customer"))
        lines += [f"{name},10,20,60,90,0.9,," for name in names]
    path.write_text("\n".join(lines))
    return path


def _with_small_networks(fields_of):
    """Rows without the pretrained backbone, which takes long to compile; the test above has it."""
    others = ("model.backbone.", "optimizer.trainable", "train.cached_views")

    def small(self, *where):
        fields = fields_of(self, *where)
        return {name: value for name, value in fields.items() if not name.startswith(others)}

    return small


def _seeds(results):
    return json.loads(results.read_text())["provenance"].get("seed")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of runs and results of all tables."""
    return tmp_path_factory.mktemp("tables")


@pytest.mark.slow
@pytest.mark.usefixtures("ran_here")
@pytest.mark.parametrize(
    ("paper", "table"),
    [
        (name, table.name)
        for name in NAMES
        for table in find_paper(name).tables.values()
        if "synthetic" in table.datasets
    ],
)
def test_every_table_runs(paper, table, finished, data_dir, monkeypatch, capsys):
    monkeypatch.setattr(runner, "find_boxes", _find_none)  # a detector trains for minutes
    monkeypatch.setattr(Paper, "fields_of", _with_small_networks(Paper.fields_of))
    fields = [*_SMALLEST, f"dataset.dir={data_dir}"]
    fields += ["model.num_attributes=49"] * (paper == "fashionnet")
    words = [f"--config.{field}" for field in fields]
    of_table = find_paper(paper).table(table).on("synthetic")
    # Of rows that differ in fields alone, such as the ablations of Table 5, the one with the
    # fewest, which is often another table's too.
    rows = sorted((row for row in of_table.choose() if not row.file), key=lambda r: -len(r.fields))
    measured = list({(row.config, row.members and row.number): row for row in rows}.values())
    if measured:  # else all are quoted
        words.append(f"--rows={','.join(str(row.number) for row in measured)}")
    assert _main(finished, paper, table, "--members=2", *words) == 0
    shown = capsys.readouterr().out
    for row in measured:
        lines = [line for line in shown.splitlines() if f"| {row.number} | {row.label} |" in line]
        assert lines
        assert any(f"| {row.number} | {row.label} | 1 |" in line for line in lines)
    if any(row.members for row in measured):  # evaluated as one
        written = [*(finished / "runs").rglob("results.json")]
        of_two = [path for path in written if _seeds(path) == [0, 0]]
        assert of_two
        assert all((path.parent / "ranks.parquet").exists() for path in of_two)
    drawn = of_table.curves or of_table.protocols == ("breakdowns",)
    assert (".png" in shown) == drawn
