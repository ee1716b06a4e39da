"""GRNet's tables: their rows' configs are the models that the paper describes."""

import pytest

from configs import global_baseline
from grnet_jax.errors import InputError
from grnet_jax.graph import PAPER_SCALES, node_count
from grnet_jax.models import build_matcher
from benchmarks.reproduce.papers import PAPERS, find_paper
from benchmarks.reproduce.runner import make_experiment, read_config
from grnet_jax.training.embedding_objectives import photos_together

_PAPER = find_paper("grnet")
_CASES = [
    pytest.param(table, row, dataset, id=f"{table.name} {row.number} {dataset}")
    for table in _PAPER.tables
    for row in table.choose(())
    for dataset in (table.datasets[0], "synthetic")
    if not row.weights
]
_WEIGHTS = {"vit_small_patch14_dinov2": "converted.safetensors"}
# Of Table 5, by row: scales, nodes, and whether there are edges within and between scales.
_TABLE_5 = {
    1: ({(1, 1)}, 1, True, True),
    2: ({(1, 1), (1, 2), (2, 1), (2, 2)}, 1 + 4 + 4 + 16, True, True),
    3: ({(1, 1), (3, 1), (1, 3), (3, 3)}, 1 + 9 + 9 + 81, True, True),
    4: (set(PAPER_SCALES), 124, False, False),
    5: (set(PAPER_SCALES), 124, False, True),
    6: (set(PAPER_SCALES), 124, True, False),
    7: (set(PAPER_SCALES), 124, True, True),
}


def _config(table, row, dataset):
    experiment = make_experiment(_PAPER, table, row, dataset, files=_WEIGHTS)
    return read_config(experiment.config, dataset, experiment.flags[1:])


def _graph(table, number, dataset):
    (row,) = table.choose((number,))
    return build_matcher(_config(table, row, dataset).model).graph


def _experiment(name, number, dataset="synthetic", **options):
    table = _PAPER.table(name)
    (row,) = table.choose((number,))
    return make_experiment(_PAPER, table, row, dataset, **options)


@pytest.mark.parametrize("dataset", ["synthetic", "deepfashion_c2s"])
@pytest.mark.parametrize("number", _TABLE_5)
def test_table_5_has_the_papers_scales_and_edges(number, dataset):
    graph = _graph(_PAPER.table("table5"), number, dataset)
    scales, nodes, intra, inter = _TABLE_5[number]
    assert set(graph.scales) == scales
    assert graph.scales[0] == (1, 1)
    assert node_count(graph.scales) == nodes
    assert (graph.intra_scale, graph.inter_scale) == (intra, inter)
    assert graph.layers == (0 if number == 1 else 3)


def test_table_6_has_the_papers_sizes_and_an_eighth_on_the_synthetic_set():
    table = _PAPER.table("table6")
    sizes = [(128, 128), (256, 128), (512, 128), (1024, 128), (512, 64), (512, 256), (512, 512)]
    for row, (node, reasoning) in zip(table.rows, sizes, strict=True):
        assert row.label == f"D = {node}, C' = {reasoning}"
        graph = _graph(table, row.number, "deepfashion_c2s")
        assert (graph.node_dim, graph.reasoning_dim) == (node, reasoning)
        graph = _graph(table, row.number, "synthetic")
        assert (graph.node_dim, graph.reasoning_dim) == (node // 8, reasoning // 8)


def test_the_layers():
    table = _PAPER.table("layers")
    assert [_graph(table, n, "synthetic").layers for n in (1, 2, 3, 4)] == [1, 2, 3, 4]


def test_row_1_is_the_global_baseline():
    experiment = _experiment("table5", 1, "deepfashion_c2s")
    ours = read_config(experiment.config, experiment.dataset, experiment.flags[1:])
    assert ours.model.to_dict() == global_baseline.get_config("deepfashion_c2s").model.to_dict()


@pytest.mark.parametrize("dataset", ["synthetic", "deepfashion_c2s"])
def test_the_full_model_is_one_run_in_every_table(dataset):
    keys = [_experiment(*at, dataset).key for at in [("table5", 7), ("table6", 3), ("layers", 3)]]
    keys += [_experiment(*at, dataset).key for at in [("table3", 8), ("figure2", 2)]]
    assert all(key == keys[0] for key in keys)
    assert _experiment("table5", 1, dataset).key == _experiment("table3", 7, dataset).key
    assert _experiment("table5", 6, dataset).key != keys[0]


def test_another_evaluation_is_another_row_of_the_same_run():
    by_category, over_all = _experiment("table4", 2), _experiment("table5", 7)
    assert by_category.key != over_all.key
    assert by_category.workdir == over_all.workdir
    assert by_category.output != over_all.output == over_all.workdir


@pytest.mark.parametrize(("table", "row", "dataset"), _CASES)
def test_every_row_is_a_config_of_the_same_budget(table, row, dataset):
    grnet = _PAPER.table("table5")
    config, first = (_config(*at, dataset) for at in ((table, row), (grnet, grnet.choose((7,))[0])))
    build_matcher(config.model)
    assert config.model.backbone == first.model.backbone
    assert config.model.backbone.name == ("small" if dataset == "synthetic" else "googlenet")
    assert config.optimizer == first.optimizer
    if table.name == "systems" or row.config in ("embedding", "dreml"):
        photos = photos_together(config.data) * config.train.batch_items
        assert photos == photos_together(first.data) * first.train.batch_items
        assert (config.train.steps, config.train.epochs) == (first.train.steps, first.train.epochs)
        return
    for part in ("train", "loss"):
        assert config[part] == first[part]
    if dataset != "synthetic":
        assert config.train == read_config("grnet", dataset).train


@pytest.mark.parametrize("dataset", ["deepfashion_c2s", "synthetic"])
@pytest.mark.parametrize(("number", "layers"), [(10, 0), (11, 3)])
def test_rows_of_dinov2_differ_in_backbone_and_optimiser_alone(number, layers, dataset):
    table = _PAPER.table("table3")
    (row,) = table.choose((number,))
    config, grnets = (_config(table, one, dataset) for one in (row, table.choose((8,))[0]))
    matcher = build_matcher(config.model)
    assert config.model.backbone.name == row.weights
    assert config.model.backbone.pretrained == _WEIGHTS[row.weights]
    assert matcher.graph.layers == layers
    assert (matcher.graph.node_dim, matcher.graph.reasoning_dim) == (
        grnets.model.node_dim,
        grnets.model.reasoning_dim,
    )
    assert make_experiment(_PAPER, table, row, dataset, files=_WEIGHTS).start is None
    assert config.loss == grnets.loss
    assert (config.train.steps, config.train.epochs) == (grnets.train.steps, grnets.train.epochs)


@pytest.mark.parametrize(("number", "name"), [(5, "kpm"), (9, "local_matching")])
def test_rows_of_other_matchers_change_the_matcher_alone(number, name):
    for dataset in ("deepfashion_c2s", "synthetic"):
        experiment = _experiment("table3", number, dataset)
        assert experiment.config == name
        own = read_config(name, dataset).model
        ours = read_config(name, dataset, experiment.flags[1:])
        assert ours.model == own
        of_grnet = _experiment("table3", 8, dataset)
        assert ours.data == read_config("grnet", dataset, of_grnet.flags[1:]).data
        assert experiment.start == of_grnet.start


@pytest.mark.parametrize(("number", "name"), [(1, "wtbi"), (2, "darn"), (3, "fashionnet")])
def test_systems_on_vgg16_are_on_the_papers_data_alone(number, name):
    table = _PAPER.table("table3")
    weights = {"vgg16": "vgg16.safetensors"}
    experiment = _experiment("table3", number, "deepfashion_c2s", files=weights)
    config = read_config(name, "deepfashion_c2s", experiment.flags[1:])
    assert (experiment.config, config.model.backbone.name) == (name, "vgg16")
    assert config.model.backbone.pretrained == weights["vgg16"]
    assert number not in [row.number for row in table.on("synthetic").rows]
    assert table.rows[number - 1].quoted["all"]["top20"] > 0


@pytest.mark.parametrize("paper", PAPERS.values(), ids=lambda paper: paper.name)
def test_numbers_and_names_are_in_order(paper):
    assert len({table.name for table in paper.tables}) == len(paper.tables)
    for table in paper.tables:
        assert [row.number for row in table.rows] == list(range(1, len(table.rows) + 1))
        for row in table.rows:
            for figures in row.quoted.values():
                assert set(figures) <= set(table.figures)
                assert all(0 < value < 100 for value in figures.values())


def test_unknown_papers_tables_and_rows_are_named():
    with pytest.raises(
        InputError, match=r"PAPER: 'x' is none of \['grnet', 'fir', 'kucer', 'fashionnet'\]"
    ):
        find_paper("x")
    with pytest.raises(InputError, match=r"TABLE: grnet has no 'table9'; expected one of"):
        _PAPER.table("table9")
    with pytest.raises(InputError, match=r"--rows: table5 has no row 8; expected some of"):
        _PAPER.table("table5").choose((1, 8))
    with pytest.raises(InputError, match=r"row 2 of table3 \(DARN\) needs weights: expected --w"):
        _experiment("table3", 2, "deepfashion_c2s")
