"""The papers' files: a mistake in one is named, and their rows are the papers' systems."""

import json
import pathlib

import pytest

from benchmarks.reproduce import papers, runner
from benchmarks.reproduce.papers import NAMES, find_paper, load_paper
from benchmarks.reproduce.printing import column_heading, format_table
from benchmarks.reproduce.runner import make_experiment, read_config
from configs import common
from grnet_jax.config import parse_config
from grnet_jax.errors import InputError
from grnet_jax.graph import PAPER_SCALES, node_count
from grnet_jax.models import build_matcher

_DINOV2 = "vit_small_patch14_dinov2"
_WEIGHTS = {"vgg16": "vgg16.safetensors", _DINOV2: "dinov2.safetensors"}
_BACKBONES = ["resnet50", "densenet121", "seresnet50", "seresnext50_32x4d"]
_OC_OS_IS = [("classification", "item"), ("triplet", "category"), ("triplet", "item")]
_PUBLISHED = "deepfashion_c2s"
# Of GRNet's Table 5, by row: scales, nodes, and whether there are edges within and between scales.
_TABLE_5 = {
    1: ({(1, 1)}, 1, True, True),
    2: ({(1, 1), (1, 2), (2, 1), (2, 2)}, 1 + 4 + 4 + 16, True, True),
    3: ({(1, 1), (3, 1), (1, 3), (3, 3)}, 1 + 9 + 9 + 81, True, True),
    4: (set(PAPER_SCALES), 124, False, False),
    5: (set(PAPER_SCALES), 124, False, True),
    6: (set(PAPER_SCALES), 124, True, False),
    7: (set(PAPER_SCALES), 124, True, True),
}
_PROTOCOLS = {
    **{name.replace("_", " "): name for name in ("hard_view", "hard_occlusion", "hard_cropping")},
    **{"easy": "easy", "category mean": "category_mean"},
}
_FILE = """
title: A paper
config: grnet
tables:
  table1:
    title: A table
    datasets: [synthetic]
    protocols: [all]
    metrics: [top1]
    rows:
      1: {label: two}
      2: {label: one, quotes: "#1", built: false}
      3: {label: two, ours: true}
"""
_FIGURES = {"paper": {"table1": {"two": {"all": {"top1": 5.0}}, "#1": {"all": {"top1": 1.0}}}}}
# Figures of the papers' tables: so many stand in the text, cell by cell.
_CELLS = {
    "grnet": {"table3": 24, "table4": 19, "table5": 21, "table6": 18, "table7": 48, "layers": 3},
    "kucer": {"table1": 288, "table2": 48, "table3": 15, "detector": 2},
    "fir": {"table1": 16, "table2": 30},
    "fashionnet": {"table2": 87, "figure8": 3, "figure9": 1},
}


def _experiment(paper, table, number, dataset="synthetic", given=(), files=None, seed=0):
    source = find_paper(paper)
    (row,) = source.table(table).on(dataset).choose((number,))
    files = {**_WEIGHTS, **(files or {})}
    return make_experiment(source, source.table(table), row, dataset, seed, given, files)


def _config(*where, **options):
    return parse_config(_experiment(*where, **options).read_config())


def _write_joints(folder):
    path = folder / "joints.csv"
    path.write_text("image,x_neck,y_neck,x_left_hip,y_left_hip,x_right_hip,y_right_hip\n")
    return str(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: A table", "titel: A table", "tables.table1.titel: Extra inputs are not permitted"),
        (
            "metrics: [top1]",
            "metrics: top1",
            "tables.table1.metrics: Input should be a valid tuple",
        ),
        ("1: {label: two}", "1: {label: [two]}", "tables.table1.rows.1.label: Input should be a"),
        ("1: {label: two}", "4: {label: two}", "rows: expected numbers from 1 on, got [4, 2, 3]"),
        ("1: {label: two}", "2: {label: two}", "2 twice"),
        ("metrics: [top1]", "metrics: [top5]", "rows.1: its figures have other columns"),
        ("1: {label: two}", "1: {label: three}", "rows: expected ['two', '#1'], got ['#1']"),
        ('quotes: "#1"', "ours: true", "rows: expected ['two', '#1'], got ['two']"),
        ("1: {label: two}", "1: {label: x, ours: true}", "rows: expected the paper's before ours"),
        ("{label: two, ours", "{label: x, members: [7], ours", "rows.3.members: there is no row 7"),
        ("title: A paper", "title: [", "expected"),
    ],
)
def test_a_mistake_in_a_file_is_named(old, new, message, tmp_path):
    path = tmp_path / "paper.yaml"
    path.write_text(_FILE)
    (tmp_path / "papers.json").write_text(json.dumps(_FIGURES))
    rows = load_paper(path).table("table1").rows
    assert [row.quoted for row in rows.values()] == [*_FIGURES["paper"]["table1"].values(), {}]
    path.write_text(_FILE.replace(old, new))
    with pytest.raises(InputError) as error:
        load_paper(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_of_the_paper_is_printed_in_its_cell(name):
    """Cell by cell of papers.json, by the row and the column of the printed table."""
    content, counted = _read_figures(), {}
    for table in find_paper(name).tables.values():
        printed = _read_printed(format_table(table, table.datasets[0], {}))
        figures = content[name].get(table.figures or table.name, {})
        labels = {row.quotes or row.label: row.label for row in table.rows.values() if not row.ours}
        cells = {
            (protocol if len(table.protocols) > 1 or "categories" in table.protocols else "")
            + f" {labels[row]} {column_heading(metric)}, paper": figure
            for row, protocols in figures.items()
            for protocol, metrics in protocols.items()
            for metric, figure in metrics.items()
        }
        assert {where: float(printed[where]) for where in cells} == cells
        # Nothing else is printed as the paper's.
        others = {where for where, text in printed.items() if text not in ("", "–")} - set(cells)
        assert not [where for where in others if where.endswith(", paper")]
        counted |= {table.name: len(cells)} if cells and not table.figures else {}
    assert counted == _CELLS[name]


def test_the_papers_figures_agree_with_each_other():
    """What several of their tables print, and means of what they print."""
    grnet, fir, kucer, fashionnet = (_read_figures()[name] for name in NAMES)
    full = grnet["table5"]["#7"]["all"]
    assert grnet["table6"]["D = 512, C' = 128"]["all"] == full
    for name, figure in grnet["table3"]["GRNet"]["all"].items():
        assert figure == pytest.approx(full[name], abs=0.051)
    for row in kucer["table1"].values():
        for metric, mean in row["category_mean"].items():
            of = [figures[metric] for name, figures in row.items() if name != "category_mean"]
            assert len(of) == 11
            assert mean == pytest.approx(sum(of) / 11, abs=0.01)
    for best, row in (("Our best model", "Tri DB C"), ("Our best ensemble", "Crops")):
        for category, figures in kucer["table2"][best].items():
            exact = kucer["table1"][row][category]["top20"]
            assert figures["top20"] == pytest.approx(exact, abs=0.051)
    for row, protocols in fir["table2"].items():
        own = fashionnet["table2"].get(row.replace("Deepfashion", "FashionNet"))
        for name in ("category_top3", "category_top5") if own else ():
            assert protocols["recognition"][name] == own["recognition"][name]


def _read_figures():
    return json.loads(pathlib.Path(papers.__file__).with_name("papers.json").read_text())


def _read_printed(text):
    """The cells of a printed table by protocol, row and column."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    cells, protocol = {}, ""
    for row in rows:
        of_row = dict(zip(header, row, strict=True))
        title = of_row.get("protocol", "")
        protocol = _PROTOCOLS.get(title, f"category:{title}") if title else protocol
        cells |= {f"{protocol} {of_row['row']} {column}": text for column, text in of_row.items()}
    return cells


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_a_whole_config_of_a_matcher(name, tmp_path):
    paper, keys = find_paper(name), []
    for table in paper.tables.values():
        for dataset in table.datasets:
            for row in table.on(dataset, members=2).choose():
                files = {**_WEIGHTS, row.keypoints: _write_joints(tmp_path)}
                experiment = make_experiment(paper, table, row, dataset, 0, (), files)
                for one in (experiment, experiment.start, *experiment.members):
                    if one and one.key not in keys:
                        keys.append(one.key)
                        build_matcher(parse_config(one.read_config()).model)


def test_what_is_not_there_is_named():
    with pytest.raises(
        InputError, match=r"PAPER: 'x' is none of \['grnet', 'fir', 'kucer', 'fashionnet'\]"
    ):
        find_paper("x")
    with pytest.raises(InputError, match=r"TABLE: grnet has no 'table9'; expected one of"):
        find_paper("grnet").table("table9")
    with pytest.raises(InputError, match=r"--rows: table5 has no row 18; expected some of"):
        find_paper("grnet").table("table5").choose((1, 18))
    with pytest.raises(
        InputError, match=r"row 1 of table2 \(WTBI\) is only quoted .* expected some of \[13"
    ):
        find_paper("fir").table("table2").on("synthetic").choose((1,))


@pytest.mark.parametrize("dataset", ["synthetic", _PUBLISHED])
@pytest.mark.parametrize("number", _TABLE_5)
def test_table_5_has_the_papers_scales_and_edges(number, dataset):
    graph = build_matcher(_config("grnet", "table5", number, dataset).model).graph
    scales, nodes, intra, inter = _TABLE_5[number]
    assert (set(graph.scales), graph.scales[0]) == (scales, (1, 1))
    assert node_count(graph.scales) == nodes
    assert (graph.intra_scale, graph.inter_scale) == (intra, inter)
    assert graph.layers == (0 if number == 1 else 3)


def test_sizes_and_layers_are_the_papers_and_fractions_on_the_synthetic_set():
    for number, row in find_paper("grnet").table("table6").rows.items():
        for dataset, (nodes, reasoning) in ((_PUBLISHED, (1, 1)), ("synthetic", (8, 4))):
            model = _config("grnet", "table6", number, dataset).model
            sizes = nodes * model.node_dim, reasoning * model.reasoning_dim
            assert row.label == "D = {}, C' = {}".format(*sizes)
    assert [_config("grnet", "layers", n).model.layers for n in (1, 2, 3, 4)] == [1, 2, 3, 4]
    baseline = parse_config(read_config("global_baseline", _PUBLISHED))
    assert _config("grnet", "table5", 1, _PUBLISHED).model == baseline.model


@pytest.mark.parametrize("dataset", ["synthetic", _PUBLISHED])
def test_a_system_is_one_run_in_every_table(dataset):
    places = [
        ("table5", 7),
        ("table6", 1),
        ("layers", 3),
        ("table3", 8),
        ("figure2", 8),
        ("table7", 4),
    ]
    keys = [_experiment("grnet", *place, dataset).key for place in places]
    assert all(key == keys[0] for key in keys)
    baseline = _experiment("grnet", "table5", 1, dataset).key
    assert baseline == _experiment("grnet", "table3", 9, dataset).key != keys[0]


def test_another_evaluation_is_another_row_of_the_same_run():
    by_category, over_all = _experiment("grnet", "table4", 5), _experiment("grnet", "table5", 7)
    assert by_category.key != over_all.key
    assert by_category.workdir == over_all.workdir
    assert by_category.output != over_all.output == over_all.workdir


@pytest.mark.parametrize("dataset", ["synthetic", _PUBLISHED])
def test_rows_have_one_budget(dataset):
    """One backbone, optimizer, number of steps and of images; pairwise systems all of training."""
    first = _config("grnet", "table5", 7, dataset)
    name = "efficientnet_lite0" if dataset == "synthetic" else "googlenet"
    assert first.model.backbone.name == name
    if dataset == _PUBLISHED:
        assert first.train == parse_config(read_config("grnet", dataset)).train
    for table in find_paper("grnet").tables.values():
        for row in table.on(dataset).choose() if dataset in table.datasets else ():
            if row.weights or row.members:
                continue
            config = _config("grnet", table.name, row.number, dataset)
            assert config.model.backbone == first.model.backbone
            assert config.optimizer == first.optimizer
            assert _budget(config) == _budget(first)
            if config.loss.name == "pairs":
                assert (config.loss, config.train) == (first.loss, first.train)


def _budget(config):
    images = {"pairs": 2, "items": config.sampler.images_per_item, "images": 1}
    batch = images[config.sampler.name] * config.train.batch_size
    return config.train.steps, config.train.epochs, batch


@pytest.mark.parametrize(("number", "layers"), [(11, 0), (12, 3)])
def test_rows_of_dinov2_differ_in_backbone_and_optimizer_alone(number, layers):
    experiment = _experiment("grnet", "table3", number, _PUBLISHED)
    config, grnets = (_config("grnet", "table3", n, _PUBLISHED) for n in (number, 8))
    backbone, model = config.model.backbone, config.model
    assert (backbone.name, backbone.pretrained) == (_DINOV2, _WEIGHTS[_DINOV2])
    assert model.layers == layers
    assert (model.node_dim, model.reasoning_dim) == (512, 128)
    assert experiment.start is None
    assert (config.loss, _budget(config)) == (grnets.loss, _budget(grnets))


@pytest.mark.parametrize(("number", "name"), [(7, "kpm"), (10, "local_matching")])
@pytest.mark.parametrize("dataset", ["synthetic", _PUBLISHED])
def test_rows_of_other_matchers_change_the_matcher_alone(number, name, dataset):
    experiment, grnets = (_experiment("grnet", "table3", n, dataset) for n in (number, 8))
    config, of_grnet = (parse_config(one.read_config()) for one in (experiment, grnets))
    assert experiment.config == name
    own = parse_config(read_config(name, dataset)).model
    assert config.model == own.model_copy(update={"backbone": of_grnet.model.backbone})
    assert (config.image, config.sampler) == (of_grnet.image, of_grnet.sampler)
    assert experiment.start == grnets.start


@pytest.mark.parametrize(
    ("table", "number", "name", "dataset"),
    [("table3", 1, "fashionnet", _PUBLISHED), ("table4", 1, "wtbi", "street2shop")],
)
def test_systems_on_vgg16_are_on_the_papers_data_alone(table, number, name, dataset):
    config = _config("grnet", table, number, dataset)
    assert config.name.startswith(name)
    assert config.model.backbone.name == "vgg16"
    assert config.model.backbone.pretrained == _WEIGHTS["vgg16"]
    assert not find_paper("grnet").table(table).on("synthetic").rows[number].built


def test_an_ensemble_has_any_number_of_members():
    paper, table = find_paper("grnet"), find_paper("grnet").table("table3")
    for dataset, given, count in ((_PUBLISHED, 0, 48), ("synthetic", 0, 4), (_PUBLISHED, 7, 7)):
        on = table.on(dataset, given)
        experiment = make_experiment(paper, on, on.rows[6], dataset)
        seeds = [one.fields.get("loss.group_seed", 0) for one in experiment.members]
        assert seeds == list(range(count))
        assert len({one.workdir for one in experiment.members}) == count
        assert experiment.fields["ensemble"] == [one.name for one in experiment.members]


def test_rows_of_fir_are_backbones_with_losses():
    inshop = [_config("fir", "table1", number, "deepfashion_inshop") for number in range(3, 9)]
    small = [_config("fir", "table1", number) for number in (9, 10, 11)]
    shown = [(one.model.backbone.name, one.loss.name, one.loss.similarity) for one in inshop]
    assert shown == [(name, *loss) for name in ("resnet50", "densenet121") for loss in _OC_OS_IS]
    assert [(one.loss.name, one.loss.similarity) for one in small] == _OC_OS_IS
    categories = [
        _config("fir", "table2", number, "deepfashion_attributes") for number in range(9, 13)
    ]
    assert [one.model.backbone.name for one in categories] == _BACKBONES
    assert {one.sampler.name for one in categories} == {"images"}
    assert {one.loss.name for one in categories} == {"classification"}
    figure = [_config("fir", "figure4", number, _PUBLISHED) for number in range(1, 5)]
    assert [one.model.backbone.name for one in figure] == _BACKBONES
    for configs in (inshop, small, figure):
        for config in configs:
            assert (config.train, config.optimizer) == (configs[0].train, configs[0].optimizer)
    places = ("table1", 11), ("table2", 15), ("figure3", 7), ("figure4", 7)
    keys = [_experiment("fir", *place).key for place in places]
    assert all(key == keys[0] for key in keys)


@pytest.mark.parametrize("dataset", ["synthetic", "street2shop"])
def test_rows_of_kucer_are_losses_and_crops(dataset):
    given = ["--config.image.detections=boxes.csv"] if dataset == "street2shop" else []
    crops = ("none", "detected")
    systems = [(loss, crop) for loss in ("triplet", "ap") for crop in crops]
    for number, (loss, shop_crop) in enumerate(systems, start=1):
        config = _config("kucer", "table1", number, dataset, given=given)
        assert (config.loss.name, config.image.shop_crop) == (loss, shop_crop)
        own = parse_config(read_config(f"detect_then_retrieve:{loss}", dataset))
        assert config.image.square == own.image.square
        assert config.train.batch_size == own.train.batch_size
        assert config.eval.protocol.same_category
        assert _experiment("kucer", "table1", number).start is None  # features stay
    places = ("table1", 2), ("table2", 2), ("table3", 4), ("table1", 8), ("table2", 3)
    keys = [_experiment("kucer", *place, dataset, given).key for place in places]
    assert keys[0] == keys[1] == keys[2]  # the best model
    assert keys[3] == keys[4]  # the best ensemble


def test_rows_begin_with_what_their_paper_trains_first():
    """Kucer's rows with a classifier of items, FashionNet's with other images, if given."""
    weights = {"resnet50": "resnet50.safetensors"}
    row = _experiment("kucer", "table1", 3, "street2shop", files=weights)
    first = parse_config(row.start.read_config())
    assert (first.loss.name, first.model.num_classes) == ("classification", 30629)
    assert first.model.backbone.pretrained == weights["resnet50"]
    config = parse_config(row.read_config())
    assert (config.train.init_from, config.train.init_params) == (row.start.workdir, "backbone")
    assert not config.model.backbone.pretrained
    assert _experiment("kucer", "table3", 1, "street2shop", files=weights).start is None  # VAM's

    where = ("fashionnet", "figure8", 3, "deepfashion_inshop")
    given = ["--config.model.num_classes=23", "--config.dataset.source=inshop"]
    assert _experiment(*where, given).start is None
    row = _experiment(*where, given, {"deepfashion_attributes": "attributes"})
    first = parse_config(row.start.read_config())
    assert (first.dataset.name, first.dataset.source) == ("deepfashion_attributes", "attributes")
    assert first.loss.most_frequent_attributes == 100
    assert (first.model.num_classes, first.model.num_attributes) == (50, 1000)
    assert row.fields["train.init_params"] == "matching_shapes"
    train = runner.all_commands(row, pathlib.Path("runs"))[:2]
    assert f"--workdir=runs/{row.start.workdir}" in train[0]
    assert f"--config.train.init_from=runs/{row.start.workdir}" in train[1]


def test_another_recipe_of_the_configs_makes_other_rows(monkeypatch):
    """Results of before are told apart."""
    before = {n: _experiment("grnet", "table3", n).name for n in (2, 7, 8)}
    recipe = common.recipe("synthetic")
    recipe["image"]["size"] = 96
    monkeypatch.setattr(common, "recipe", lambda dataset: {k: {**v} for k, v in recipe.items()})
    runner._recipe.cache_clear()
    for number, old in before.items():
        new = _experiment("grnet", "table3", number)
        assert new.recipe.startswith("96px_small_")
        assert old != new.name
    rows = [{**new.key, "recipe": "64px_small_0"}, new.key]
    assert runner.other_recipes(rows) == ["64px_small_0"]
    runner._recipe.cache_clear()


def test_rows_of_fashionnet_are_its_ablations():
    configs = [_config("fashionnet", "figure9", number) for number in (3, 4, 8, 7)]
    ablated = [(one.loss.most_frequent_attributes, one.model.pooling) for one in configs]
    assert ablated == [(10, "landmarks"), (25, "landmarks"), (0, "none"), (0, "landmarks")]
    published = _config("fashionnet", "figure9", 3, _PUBLISHED)
    assert published.loss.most_frequent_attributes == 100


def test_fields_given_are_those_of_the_rows_that_have_them():
    """In-shop images have other labels than the config's, and WTBI and GRNet have none at all."""
    given = ["--config.model.num_classes=23", "--config.train.batch_size=8"]
    given += ["--config.train.init_from=run"]
    wtbi = _experiment("fashionnet", "figure8", 1, "deepfashion_inshop", given)
    assert wtbi.fields == {
        "train.batch_size": 8,
        "model.backbone.pretrained": _WEIGHTS["vgg16"],
    }
    assert wtbi.local["model.backbone.pretrained"] == _WEIGHTS["vgg16"]
    for number in (2, 7):
        config = _config("fashionnet", "figure8", number, "deepfashion_inshop", given=given)
        assert config.model.num_classes == 23
    for number in (2, 8):  # triplets could have classes, and are not asked for any
        fields = _experiment("grnet", "table3", number, _PUBLISHED, given).fields
        assert "model.num_classes" not in fields
        assert fields["train.batch_size"] == 8
    assert _config("fir", "table1", 5, "deepfashion_inshop", given=given).model.num_classes == 23


def test_rows_of_keypoints_take_a_file_wherever_it_lies(tmp_path):
    file = _write_joints(tmp_path)
    where = ("fashionnet", "figure9", 5)
    config = _config(*where, files={"joints": file})
    assert (config.image.keypoints, config.model.num_keypoints) == (file, 3)
    assert config.model.pooling == "keypoints"
    experiment = _experiment(*where, files={"joints": file})
    assert experiment.fields["image.keypoints"] == "joints"
    assert experiment.key == _experiment(*where, files={"joints": ""}).key
    with pytest.raises(InputError, match=r"row 5 .* keypoints: expected --keypoints=joints=FILE"):
        _experiment(*where)
    with pytest.raises(InputError, match=r"nowhere\.csv: no such file"):
        _experiment(*where, files={"joints": "nowhere.csv"})
