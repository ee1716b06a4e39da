"""FashionNet's tables: rows of each data set, and what is recognised beside what is ranked."""

import jax
import numpy as np
import pytest

from grnet_jax import sharding as meshes
from grnet_jax.errors import InputError
from grnet_jax.reproduce.papers import find_paper
from grnet_jax.reproduce.printing import format_table, landmark_curves
from grnet_jax.reproduce.runner import by_group, make_experiment, read_config
from grnet_jax.retrieval.measures import TOP_K
from grnet_jax.training.objectives import make_objective
from grnet_jax.training.setup import build_run

_PAPER = find_paper("fashionnet")


def _experiment(table, number, dataset, given=(), files=None):
    (row,) = table.choose((number,))
    return make_experiment(_PAPER, table, row, dataset, 0, given, files or {})


def _write_joints(folder):
    path = folder / "joints.csv"
    path.write_text("image,x_neck,y_neck,x_left_hip,y_left_hip,x_right_hip,y_right_hip\n")
    return str(path)


@pytest.mark.parametrize("table", _PAPER.tables, ids=lambda table: table.name)
def test_rows_can_be_trained(table, tmp_path):
    for dataset in table.datasets:
        for row in table.on(dataset).choose(()):
            if row.weights:
                continue
            files = {row.points: _write_joints(tmp_path)} if row.points else {}
            experiment = _experiment(table, row.number, dataset, files=files)
            config = read_config(experiment.config, dataset, experiment.flags[1:])
            run = build_run(config, meshes.make_mesh(jax.devices()[:1]))
            make_objective(run.matcher, config)


def test_rows_are_the_papers_ablations():
    table = _PAPER.table("consumer_to_shop")
    configs = [
        read_config("fashionnet", "synthetic", _experiment(table, number, "synthetic").flags[1:])
        for number in (3, 4, 7, 8)
    ]
    found = [(one.loss.most_frequent_attributes, one.model.pooling) for one in configs]
    assert found == [(10, "landmarks"), (25, "landmarks"), (0, "none"), (0, "landmarks")]
    flags = _experiment(table, 3, "deepfashion_c2s").flags
    assert "--config.loss.most_frequent_attributes=100" in flags


def test_a_models_fields_are_those_of_the_rows_that_have_them():
    """In-shop photos have other labels than the config's, and WTBI has none at all."""
    table = _PAPER.table("inshop")
    given = ["--config.model.categories=23", "--config.train.batch_items=8"]
    weights = {"vgg16": "vgg16.safetensors"}
    wtbi = _experiment(table, 1, "deepfashion_inshop", given, weights)
    assert wtbi.config == "wtbi"
    assert "model.categories" not in wtbi.fields
    assert wtbi.fields["train.batch_items"] == 8
    assert wtbi.places["model.backbone.pretrained"] == "vgg16.safetensors"
    ours = _experiment(table, 6, "deepfashion_inshop", given, weights)
    assert ours.fields["model.categories"] == 23
    grnets = find_paper("grnet")
    (row,) = grnets.table("table3").choose((8,))
    full = make_experiment(
        grnets, grnets.table("table3"), row, "deepfashion_c2s", 0, given, weights
    )
    assert full.fields == {**full.fields, "train.batch_items": 8}
    assert "model.categories" not in full.fields


def test_rows_of_points_take_a_file_wherever_it_lies(tmp_path):
    table = _PAPER.table("consumer_to_shop")
    file = _write_joints(tmp_path)
    found = _experiment(table, 5, "synthetic", files={"joints": file})
    assert found.fields["data.points"] == "joints"
    config = read_config("fashionnet", "synthetic", found.flags[1:])
    assert (config.data.points, config.model.given_points) == (file, 3)
    assert config.model.pooling == "given"
    assert found.key == _experiment(table, 5, "synthetic", files={"joints": ""}).key
    with pytest.raises(InputError, match=r"row 5 .* needs points: expected --points=joints=FILE"):
        _experiment(table, 5, "synthetic")
    with pytest.raises(InputError, match=r"nowhere\.csv: cannot be read"):
        _experiment(table, 5, "synthetic", files={"joints": "nowhere.csv"})


def _groups(**shares):
    names = [f"top{k}" for k in TOP_K]
    return {
        group: {"queries": 40, **dict.fromkeys(names, share)}
        | {"intervals_95": {name: [share - 0.05, share + 0.05] for name in names}}
        for group, share in shares.items()
    }


def test_groups_of_queries_stand_in_their_table():
    found = by_group({"breakdowns": {"view": _groups(front=0.2, back=0.1), "scale": {}}})
    assert set(found["breakdowns"]["view: front"]) == {
        *("title", "queries", "top1", "top20", "top50", "intervals_95")
    }
    assert by_group({"breakdowns": {}}) == by_group({}) == {}
    table = _PAPER.table("figure11")
    text = format_table(table, "synthetic", {3: [{"protocols": {}, **found}]})
    assert [line for line in text.splitlines() if "FashionNet |" in line] == [
        "|  | 3 | FashionNet | 1 |" + " 20.0 [15.0, 25.0] |" * 3,
        "|  | 3 | FashionNet | 1 |" + " 10.0 [5.0, 15.0] |" * 3,
    ]
    assert "| view: front, 40 queries | 1 | WTBI | needs weights |" in text
    assert "| view: back, 40 queries | 1 | WTBI |" in text


def _result(pdj, **values):
    seen = {"split": "test", "photos": 36, "values": values, "intervals": {}, "pdj": pdj}
    return {"protocols": {}, "recognition": seen}


def test_what_is_recognised_stands_in_its_tables():
    table = _PAPER.table("recognition")
    found = {5: [_result([], category_top3=0.5, attribute_recall3=0.25)]}
    found[5][0]["recognition"]["intervals"] = {"category_top3": [0.4, 0.6]}
    text = format_table(table, "synthetic", found)
    (row,) = [line for line in text.splitlines() if line.startswith("| 5 |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[3] == "50.0 [40.0, 60.0]"
    assert "25.0" in cells
    assert "| 1 | DARN |" in text


def test_curves_of_landmarks_are_means_over_the_seeds():
    table = _PAPER.table("landmarks")
    thresholds = [0.01, 0.02, 0.03, 0.04]
    one, two = ([[t, scale * t] for t in thresholds] for scale in (10, 20))
    curves = landmark_curves(table, {2: [_result(one), _result(two)], 1: [_result([])]})
    (curve,) = curves
    assert curve.label == "FashionNet"
    assert curve.ks.tolist() == [2, 4]
    np.testing.assert_allclose(curve.values, [0.3, 0.6])
