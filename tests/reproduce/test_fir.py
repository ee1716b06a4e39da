"""The study of Park et al.: rows are backbones with losses, and those of each data set."""

import jax
import pytest

from grnet_jax import sharding as meshes
from grnet_jax.errors import InputError
from grnet_jax.reproduce.papers import find_paper
from grnet_jax.reproduce.printing import format_table
from grnet_jax.reproduce.runner import make_experiment, read_config
from grnet_jax.training.objectives import make_objective
from grnet_jax.training.setup import build_run

_PAPER = find_paper("fir")
_TABLE = _PAPER.table("table2")
_LOSSES = [("classification", "item"), ("triplet", "category"), ("triplet", "item")]
_BACKBONES = ["densenet121", "resnet50", "seresnet50", "seresnext50_32x4d"]


def _config(row, dataset):
    experiment = make_experiment(_PAPER, _TABLE, row, dataset)
    return read_config(experiment.config, dataset, experiment.flags[1:])


@pytest.mark.parametrize("dataset", _TABLE.datasets)
def test_rows_are_backbones_with_losses(dataset):
    configs = [_config(row, dataset) for row in _TABLE.on(dataset).choose(())]
    found = [
        (config.model.backbone.name, config.loss.name, config.loss.similarity) for config in configs
    ]
    backbones = ["small"] if dataset == "synthetic" else _BACKBONES
    assert found == [(backbone, *loss) for backbone in backbones for loss in _LOSSES]
    for config in configs:
        assert config.train == configs[0].train
        assert config.optimizer == configs[0].optimizer
        run = build_run(config, meshes.make_mesh(jax.devices()[:1]))
        make_objective(run.matcher, config)


@pytest.mark.parametrize("table", _PAPER.tables, ids=lambda table: table.name)
def test_tables_print_the_rows_of_their_data_set(table):
    for dataset in table.datasets:
        shown = table.on(dataset)
        text = format_table(shown, dataset, {})
        lines = [line for line in text.splitlines() if line.startswith("|")]
        assert len(lines) == 2 + (3 if dataset == "synthetic" else 12)
        assert ("small, OC+IS" in text) == (dataset == "synthetic")


def test_tables_share_runs_and_refuse_rows_of_other_sets():
    (row,) = _TABLE.on("synthetic").choose((15,))
    keys = [make_experiment(_PAPER, table, row, "synthetic").key for table in _PAPER.tables]
    assert all(key == keys[0] for key in keys)
    with pytest.raises(InputError, match=r"table2 has no row 1; expected some of \[13, 14, 15\]"):
        _TABLE.on("synthetic").choose((1,))
