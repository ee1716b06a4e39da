"""Detect-then-retrieve's tables: rows are losses and crops, and ensembles of other rows' runs."""

import pathlib

import jax
import pytest

from grnet_jax import sharding as meshes
from grnet_jax.reproduce import runner
from grnet_jax.reproduce.papers import find_paper
from grnet_jax.reproduce.printing import format_table
from grnet_jax.reproduce.runner import commands, make_experiment, read_config
from grnet_jax.training.objectives import make_objective
from grnet_jax.training.setup import build_run

_PAPER = find_paper("kucer")
_TABLE = _PAPER.table("table2")
_RUNS = pathlib.Path("runs")


def _experiment(number, dataset="synthetic", seed=0):
    return make_experiment(_PAPER, _TABLE, _TABLE.choose((number,))[0], dataset, seed)


def _config(experiment):
    return read_config(experiment.config, experiment.dataset, experiment.flags[1:])


@pytest.mark.parametrize("dataset", _TABLE.datasets)
def test_rows_are_losses_and_crops(dataset):
    crop = "box" if dataset == "synthetic" else "detected"
    wanted = [("triplet", "none"), ("triplet", crop), ("ap", "none"), ("ap", crop)]
    for number, (loss, shop_crop) in enumerate(wanted, start=1):
        config = _config(_experiment(number, dataset))
        assert (config.loss.name, config.data.shop_crop) == (loss, shop_crop)
        own = read_config("detect_then_retrieve", f"{dataset},{loss}")
        assert (config.data.square, config.train.batch_items) == (
            own.data.square,
            own.train.batch_items,
        )
        assert config.eval.same_category
        config.train.init_parts = "all"  # where it starts from is the command's
        run = build_run(config, meshes.make_mesh(jax.devices()[:1]))
        make_objective(run.matcher, config)


def test_rows_start_from_the_items_classes_on_the_embedded_set():
    start = _experiment(1).start
    config = _config(start)
    assert (config.loss.name, config.loss.label, config.model.classes) == (
        "classification", "item", 1600,
    )  # fmt: skip
    assert {_experiment(n).start.workdir for n in (1, 2, 3, 4)} == {start.workdir}
    assert _experiment(1, "street2shop").start is None


def test_ensembles_evaluate_the_runs_of_their_rows():
    for number, members in ((5, (1, 2)), (6, (3, 4)), (7, (1, 3)), (8, (2, 4)), (9, (1, 2, 3, 4))):
        experiment = _experiment(number, seed=1)
        workdirs = [_experiment(member, seed=1).workdir for member in members]
        ((script, *flags),) = commands(experiment, _RUNS)
        assert script == "eval.py"
        named = ",".join(str(_RUNS / workdir) for workdir in workdirs)
        assert f"--config.eval.ensemble={named}" in flags
        assert sum("eval.ensemble" in flag for flag in flags) == 1
        assert f"--output={_RUNS / experiment.output}" in flags
        # Seeds are of one row, and ensembles of several.
        assert experiment.key["fields"] == _experiment(number).key["fields"]
    assert len({_experiment(number).output for number in range(1, 10)}) == 9


def test_what_an_ensemble_needs_is_trained_first(monkeypatch, tmp_path):
    ran, trained = [], set()

    def run_command(*words):
        (place,) = [w for w in words if w.startswith(("--workdir=", "--output="))][-1:]
        ran.append((words[0], pathlib.Path(place.partition("=")[2]).parts))
        if words[0] == "train.py":
            trained.add(pathlib.Path(place.partition("=")[2]).name)
        else:
            raise InterruptedError  # nothing was measured

    monkeypatch.setattr(runner, "run_command", run_command)
    monkeypatch.setattr(runner, "is_trained", lambda experiment, _: experiment.workdir in trained)
    monkeypatch.setattr(runner, "_check_finished", lambda *_: None)
    experiment = _experiment(5)
    with pytest.raises(InterruptedError):
        runner.run_experiment(experiment, tmp_path)
    first, *others = (parts[-1] for script, parts in ran if script == "train.py")
    assert first == experiment.members[0].start.workdir
    assert others == [member.workdir for member in experiment.members]
    assert ran[-1][0] == "eval.py"


@pytest.mark.parametrize("table", _PAPER.tables, ids=lambda table: table.name)
def test_tables_print_their_rows(table):
    lines = [line for line in format_table(table, "synthetic", {}).splitlines() if line[:1] == "|"]
    assert len(lines) == 2 + (4 if table.name == "table1" else 9)
