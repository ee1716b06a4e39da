"""Every config file can be run, and what is wrong in a config is named all at once."""

import importlib
import json
import math
import pathlib
import re
import subprocess
import sys

import jax
import pytest

from configs import color_histogram, darn, embedding, fashionnet, grnet, kpm, local_matching, wtbi
from grnet_jax import models
from grnet_jax.config import fields_affecting, main, parse_config, to_config_dict
from grnet_jax.errors import InputError
from grnet_jax.sharding import make_mesh
from grnet_jax.training.build import build_run
from grnet_jax.training.objectives import build_objective
from input_pipeline import Section, dataset_names

_ROOT = pathlib.Path(__file__).parents[1]
_SYSTEMS = sorted({path.stem for path in (_ROOT / "configs").glob("*.py")} - {"__init__", "common"})
_RECOGNIZES = ("darn", "fashionnet")


def _count(values):
    return sum(_count(value) if isinstance(value, dict) else 1 for value in values.values())


def _parse_with(config, **fields):
    """The config with these fields, whatever their types."""
    values = config.to_dict()
    for name, value in fields.items():
        *path, last = name.split("__")
        section = values
        for part in path:
            section = section[part]
        section[last] = value
    return parse_config(values)


@pytest.mark.parametrize("system", _SYSTEMS)
def test_every_config_file_builds_for_every_data_set(system):
    get_config = importlib.import_module(f"configs.{system}").get_config
    kinds = ["objects"] if system == "detector" else ["pairs"]
    datasets = dataset_names(*kinds, *(["images"] if system in _RECOGNIZES else []))
    losses = ["", ",ap", ",classification"] if system == "detect_then_retrieve" else [""]
    for argument in [dataset + loss for dataset in datasets for loss in losses]:
        config = get_config(argument)
        parsed = parse_config(config)
        assert parsed.dataset.name in argument
        detected = {"image__shop_crop": "detected", "image__detections": "boxes.csv"}
        assert _parse_with(config, **detected).image.shop_crop == "detected"
        run = build_run(parsed, make_mesh(jax.devices()[:1]))
        if parsed.loss is not None:
            build_objective(run.matcher, parsed, steps=run.steps)
        assert parse_config(json.loads(json.dumps(parsed.model_dump(exclude_none=True)))) == parsed
        assert _count(config.to_dict()) <= {"grnet": 87, "color_histogram": 20}.get(system, 100)


def test_all_wrong_fields_are_named_at_once():
    with pytest.raises(InputError) as caught:
        _parse_with(
            grnet.get_config(),
            seed=-1,
            image__size=math.nan,
            model__backbone__nme="small",
            model__backbone__name="resnet9000",
            model__scales=((2, 2),),
            loss__name="quartet",
            optimizer__learning_rate=math.inf,
            optimizer__lr_milestones=(2.0, 1.0),
            train__batch_sise=3,
            train__eval_every=-1,
            train__init_params="backbone",
            eval__search__shortlist_recall=0.5,
            eval__search__store_dtype="int8",
        )
    lines = dict(line.split(": ", 1) for line in str(caught.value).splitlines())
    assert lines.pop("config.loss.name='quartet'").startswith("expected one of ['ap', 'class")
    assert lines.pop("config.model.backbone.name='resnet9000'").startswith("expected one of ['goo")
    assert lines.pop("config.model.scales=((2, 2),)").startswith("expected (1, 1) as the first")
    assert lines == {
        "config.seed=-1": "expected greater than or equal to 0",
        "config.image.size=nan": "expected a finite number",
        "config.model.backbone.nme": "unknown field; did you mean name?",
        "config.optimizer.learning_rate=inf": "expected a finite number",
        "config.optimizer.lr_milestones=(2.0, 1.0)": "expected rising epochs above 0",
        "config.train.batch_sise": "unknown field; did you mean batch_size?",
        "config.train.eval_every=-1": "expected greater than or equal to 0",
        "config.eval.search.store_dtype='int8'": "expected 'float32', 'float16' or 'bfloat16'",
    }


def _numeric_fields(section, prefix=()):
    """The path and value of every number and list of numbers in a section."""
    for name in type(section).model_fields:
        value, path = getattr(section, name), (*prefix, name)
        if isinstance(value, Section):
            yield from _numeric_fields(value, path)
        elif isinstance(value, int | float | tuple) and not isinstance(value, bool):
            yield path, value


def _problem(parsed, path, value):
    """What a config is refused with where a field has this value; "" where it is not."""
    try:
        _parse_with(to_config_dict(parsed), **{"__".join(path): value})
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("system", [grnet, fashionnet, embedding, kpm, local_matching, wtbi])
def test_numbers_out_of_range_are_named(system):
    parsed = parse_config(system.get_config())
    fields = [*_numeric_fields(parsed)]
    assert len(fields) > 30
    taken = set()
    for path, value in fields:
        name = ".".join(path)
        for wrong in (math.nan, math.inf, -math.inf, 2**70, -(2**70), 1e300, -1):
            given = (wrong,) if isinstance(value, tuple) else wrong
            if f"config.{name}" not in _problem(parsed, path, given):
                taken.add((name, wrong))
    starts = {"model.score_bias_init"}  # which may be below 0
    assert taken <= {(name, -1) for name in starts}


@pytest.mark.parametrize(
    "field",
    [
        *("dataset.source", "dataset.dir", "train.init_from", "eval.search.store"),
        *("image.detections", "image.keypoints", "model.backbone.pretrained"),
    ],
)
def test_paths_that_nothing_reads_are_named(field):
    for path, message in (
        ("https://host/a", "expected a path of this machine, gs:// or s3://"),
        ("a\0b", "a path cannot hold a NUL"),
    ):
        with pytest.raises(InputError) as caught:
            _parse_with(fashionnet.get_config(), **{field.replace(".", "__"): path})
        assert f"config.{field}={path!r}: {message}" in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    for path in ("runs/[a]", "~/a", "gs://bucket/a", "../é ü/ñ.csv"):
        if field not in ("image.keypoints", "model.backbone.pretrained"):  # FashionNet has none
            _parse_with(fashionnet.get_config(), **{field.replace(".", "__"): path})


@pytest.mark.parametrize(
    ("system", "fields", "message"),
    [
        (grnet, {"train__steps": 0, "train__epochs": 0}, "train.steps, epochs: expected one of"),
        (grnet, {"train__init_params": "backbone"}, "train.init_params: changes nothing without"),
        (grnet, {"eval__search__whitening_dim": 3}, "whitening_dim=3: changes nothing without"),
        (grnet, {"model": None}, "model.name='': expected one of"),
        (grnet, {"loss__pair_weight": 0.0}, "nothing learns with both 0"),
        (grnet, {"sampler__name": "images"}, "sampler.name='images': loss.name=pairs trains on"),
        (kpm, {"model__scales": ((1, 1), (1, 1))}, "expected each scale once"),
        (fashionnet, {"model__landmark_bins": 5}, "model.landmark_bins: expected 1 to landmark_w"),
        (fashionnet, {"model": {"name": "grnet"}}, "model.name=grnet recognizes nothing"),
        (fashionnet, {"model__num_keypoints": 2}, "model.num_keypoints=2 with pooling=landmarks"),
        (fashionnet, {"model__backbone__name": "small"}, "FashionNet is made of a VGG's stages"),
        (fashionnet, {"image__keypoints": "a.csv"}, "image.keypoints='a.csv': expected a file, or"),
        (fashionnet, {"sampler__name": "pairs"}, "loss.name=fashionnet trains on items or images"),
        (fashionnet, {"sampler__name": "images"}, "sampler.name=images has no triplets"),
        (
            fashionnet,
            {"loss__pose__fraction": 0.5},
            "loss.pose.fraction + recognition.fraction = ",
        ),
        (
            fashionnet,
            {"loss__most_frequent_attributes": 53},
            "expected 0 to model.num_attributes=52",
        ),
        (darn, {"loss__recognition__visibility": 0.5}, "model.name=darn finds no landmarks"),
        (embedding, {"model__proxies": True}, "model.proxies: needs embedding_dim above 0"),
        (embedding, {"model__relaxation": {"channels": 5, "path": "classes"}}, "there is no head"),
        (embedding, {"sampler__name": "pairs"}, "loss.name=triplet trains on items"),
        (embedding, {"model": {"name": "kpm"}}, "trains model.name=embedding or vam"),
        (embedding, {"loss__class_weight": 1.0}, "model.num_classes is 0, there is no head"),
        (embedding, {"loss__weight": 0.0}, "nothing else to train on"),
        (embedding, {"loss__name": "proxy_nca"}, "expected proxy_nca with proxies"),
        (embedding, {"train__batch_size": 1}, "of one item alone there is no negative"),
    ],
)
def test_fields_that_do_not_fit_each_other_are_named(system, fields, message):
    with pytest.raises(InputError, match=r"^config\.[^\n]*" + re.escape(message)):
        _parse_with(system.get_config(), **fields)


@pytest.mark.parametrize(
    ("backbone", "named", "expected"),
    [
        ("small", "", ("imagenet", "bilinear", 0.875)),
        ("googlenet", "", ("googlenet", "bilinear", 0.875)),
        ("seresnet50", "", ("imagenet_bicubic", "bicubic", 0.875)),
        ("seresnet50", "imagenet_v2", ("imagenet_v2", "bilinear", 224 / 232)),
    ],
)
def test_preprocessing_follows_the_backbone(backbone, named, expected):
    config = grnet.get_config()
    config.model.backbone.update(name=backbone, preprocessing=named)
    parsed = parse_config(config)
    image = parsed.image
    assert parsed.model.backbone.preprocessing == expected[0]
    assert (image.interpolation, image.center_fraction) == pytest.approx(expected[1:])
    assert config.image.interpolation == ""  # what was passed in is left as it was


def test_fields_say_what_they_affect():
    config = parse_config(grnet.get_config())
    features, scores = (fields_affecting(config, what) for what in ("features", "scores"))
    assert {"image.size", "model.scales", "model.name"} <= features.keys()
    assert "model.node_dim" not in features
    assert scores["model.node_dim"] == 64
    assert fields_affecting(config, "records").keys() == {"dataset.name"}
    everything = fields_affecting(config, "records", "parameters", "features", "scores")
    for name in ("name", "dataset.dir", "train.log_every", "eval.search.store", "eval.batch_size"):
        assert name not in everything
    assert "optimizer.learning_rate" in fields_affecting(config, "parameters")
    histogram = parse_config(color_histogram.get_config())
    assert fields_affecting(histogram.model, "features") == {
        "name": "color_histogram",
        "bins": 8,
        "middle": 0.6,
    }


def test_the_command_lists_every_field(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["grnet_jax.config"])
    assert main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert "train.batch_size = 32 int, >= 1" in {" ".join(line.split()) for line in lines}
    names = {line.split(" =")[0] for line in lines}
    assert {"image.size", "model.bins", "loss.recognition.fraction"} <= names


def test_the_command_ends_quietly_where_nobody_reads_on():
    command = f"{sys.executable} -m grnet_jax.config | head -1"
    ended = subprocess.run(command, shell=True, cwd=_ROOT, capture_output=True, text=True)
    assert ended.stderr == ""
    assert ended.stdout.startswith("Fields of the config")


def test_a_matcher_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "mean_color.py").write_text(
        "from typing import Literal\n"
        "from grnet_jax.models.config import ModelConfig\n"
        "from grnet_jax.models.color_histogram import ColorHistogram\n"
        "class Config(ModelConfig):\n"
        "    name: Literal['mean_color'] = 'mean_color'\n"
        "    levels: int = 2\n"
        "def build(config):\n"
        "    return ColorHistogram(bins=config.levels)\n"
    )
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    run = build_run(parse_config({"model": {"name": "mean_color", "levels": 3}}), make_mesh())
    assert run.matcher.bins == 3
    with pytest.raises(InputError, match=r"config\.model\.levls: unknown field; did you mean lev"):
        parse_config({"model": {"name": "mean_color", "levls": 3}})
    with pytest.raises(InputError, match=r"model\.name='mean': expected one of .*'mean_color'"):
        parse_config({"model": {"name": "mean"}})
