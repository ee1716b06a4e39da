"""Every command on a data set's page runs: it is checked, prepared, trained on and measured."""

import contextlib
import csv
import json
import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from absl import flags
from etils import epath
from ml_collections import config_flags

from configs import grnet
from grnet_jax import commands
from grnet_jax.config import to_config_dict
from grnet_jax.training.checkpoints import read_config
from input_pipeline import dataset_names, datasets, prepare
from input_pipeline.datasets.synthetic import SIZES, SplitSize
from tests.input_pipeline import (
    coco_trees,
    deepfashion2_trees,
    deepfashion_trees,
    lookbench_trees,
)
from tests.input_pipeline.conftest import photo_bytes
from tests.input_pipeline.street2shop_trees import write_street2shop
from tests.pages import ROOT, code_blocks, shell_commands

_PAGES = ROOT / "docs/datasets"


def _rows() -> list[dict[str, Any]]:
    """Ten items of train and ten of test, a customer and a shop photo each."""
    return [
        {
            "image": f"{number}_{domain}.jpg",
            "item_id": f"item{number}",
            "domain": domain,
            "split": "train" if number < 10 else "test",
            "view": ("front", "side", "back")[number % 3],
            "occluded": number % 2,
            "cropped": number // 5 % 2,
        }
        for number in range(20)
        for domain in ("customer", "shop")
    ]


def _write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(photo_bytes(seed))


def write_csv(root: Path) -> None:
    for number, row in enumerate(_rows()):
        _write(root / row["image"], number)
    with (root / "photos.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, _rows()[0])
        table.writeheader()
        table.writerows(_rows())


def write_folders(root: Path) -> None:
    """Items in one folder, categories in another beside it."""
    for number, row in enumerate(_rows()):
        item = f"{row['split']}/dresses/{row['item_id']}"
        _write(root / item / row["domain"] / row["image"], number)
        category = f"{row['split']}/{('hat', 'dress', 'skirt')[number % 3]}"
        _write(root.parent / "clothes" / category / row["image"], number)


def write_benchmark(root: Path) -> None:
    """The form that the page of adding one describes."""
    rows = ["name\tproduct\tseen\tpart\tbox"]
    for number, row in enumerate(_rows()):
        _write(root / "images" / row["image"], number)
        seen = "street" if row["domain"] == "customer" else "catalog"
        part = "1" if row["split"] == "train" else "3"
        rows.append(f"{row['image']}\t{row['item_id']}\t{seen}\t{part}\t2 3 20 22")
    (root / "list.txt").write_text("\n".join(rows) + "\n")


def write_attributes(root: Path) -> None:
    """The release's 50 categories, of most of which there is no image, and 1,000 attributes."""
    deepfashion_trees.write_attributes(root)
    _name_all(root / "Anno", [root / "Anno/list_attr_img.txt"], attributes=1_000)


def write_fine(root: Path) -> None:
    """The same, with 26 attributes."""
    deepfashion_trees.write_fine(root)
    folder = root / "Anno_fine"
    values = [folder / f"{split}_attr.txt" for split in ("train", "val", "test")]
    _name_all(folder, values, attributes=26)


def _name_all(folder: Path, values: Sequence[Path], attributes: int) -> None:
    """Adds names to the lists of categories and attributes, and zeros to the latter's values."""
    added = {}
    for name, count in {"category": 50, "attr": attributes}.items():
        path = folder / f"list_{name}_cloth.txt"
        _, header, *rows = path.read_text(encoding="utf-8-sig").splitlines()
        added[name] = count - len(rows)
        rows += [f"another {name} {number} 1" for number in range(added[name])]
        path.write_text("\n".join([str(count), header, *rows]) + "\n")
    for path in values:
        lines = path.read_text().splitlines()
        first = 2 if lines[0].isdecimal() else 0  # the count and the columns' names
        lines[first:] = [line + " 0" * added["attr"] for line in lines[first:]]
        path.write_text("\n".join(lines) + "\n")


def write_modanet(root: Path) -> None:
    content = coco_trees.street()
    coco_trees.write_photos(root / "images", content)
    path = root / "annotations/modanet2018_instances_train.json"
    coco_trees.write_json(path, content)


class Case(NamedTuple):
    """What a page's commands read and, of each protocol, what they measure.

    Attributes:
      folder: that the page calls its source.
      write: writes a download of its form there.
      expected: the queries that are measured, those without a match, and the gallery; or of
        `recognition.json` the photos.
    """

    folder: str
    write: Callable[[Path], object]
    expected: Any = None


_ALL = {"all": (10, 0, 10)}
_FLAGS = {
    "easy": (1, 0, 10),
    "hard_view": (7, 0, 10),
    "hard_occlusion": (5, 0, 10),
    "hard_cropping": (5, 0, 10),
}
CASES = {
    "adding": Case("lookbook", write_benchmark, _ALL),
    "coco": Case("street", coco_trees.write_coco),
    "deepfashion2": Case(
        "deepfashion2",
        deepfashion2_trees.write_deepfashion2,
        {"all": (1, 0, 1), "hard_view": (1, 0, 1), "hard_occlusion": (1, 0, 1)},
    ),
    "deepfashion2_objects": Case("deepfashion2", deepfashion2_trees.write_deepfashion2),
    "deepfashion_attributes": Case("attributes", write_attributes, 2),
    "deepfashion_c2s": Case("c2s", deepfashion_trees.write_c2s, {"all": (4, 0, 4)}),
    "deepfashion_fine": Case("attributes", write_fine, 2),
    "deepfashion_inshop": Case(
        "inshop",
        deepfashion_trees.write_inshop,
        {"all": (6, 0, 6), "hard_view": (3, 0, 6)},
    ),
    "findfashion": Case("findfashion", write_csv, _ALL | _FLAGS),
    "folder": Case("photos", write_folders, _ALL),
    "lookbench": Case(
        "look-bench/v20251201/real_streetlook", lookbench_trees.write_release, {"all": (3, 0, 6)}
    ),
    "modanet": Case("modanet", write_modanet),
    "own_photos": Case("photos", write_csv, _ALL | _FLAGS),
    "street2shop": Case(
        "street2shop",
        write_street2shop,
        {  # every query among its category's shop photos of both splits
            "all": (4, 0, None),
            "category:bags": (2, 0, 5),
            "category:dresses": (2, 0, 3),
            "category_mean": (4, 0, None),
        },
    ),
    "synthetic": Case(
        "",
        lambda _: None,
        {"all": (8, 0, 4), **dict.fromkeys(("easy", "hard_view", "hard_occlusion"), (3, 0, 4))},
    ),
    "synthetic_objects": Case("", lambda _: None),
}
_FAST = ("coco", "modanet")
_UNTRAINED = ("lookbench",)  # nothing to train on


# ml_collections reads config files so.
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.usefixtures("few_devices")
@pytest.mark.parametrize(
    "name",
    [name if name in _FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def test_the_commands_of_a_page(name, tmp_path, monkeypatch):
    case, page = CASES[name], _PAGES / f"{name}.md"
    case.write(tmp_path / case.folder)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    # Messages are the process's; an error is raised.
    monkeypatch.setattr(commands, "session", lambda argv: contextlib.nullcontext())
    monkeypatch.setitem(SIZES, "small", dict.fromkeys(("train", "val", "test"), SplitSize(4, 2)))
    if name == "adding":
        _add_module(page, tmp_path / "modules", monkeypatch)
    shown = [words for line in shell_commands(page) if (words := shlex.split(line, comments=True))]
    for words in shown:
        _run(words)
    trained = [words for words in shown if "train.py" in words]
    measured = [_workdir(words) for words in shown if "eval.py" in words]
    assert bool(measured) == (case.expected is not None)
    assert bool(trained) == (bool(measured) and name not in _UNTRAINED)
    if isinstance(case.expected, int):
        found = json.loads((tmp_path / measured[0] / "recognition.json").read_text())
        assert found["photos"] == case.expected
    elif case.expected:
        found = json.loads((tmp_path / measured[0] / "results.json").read_text())["protocols"]
        counts = ("queries", "queries_without_match", "gallery")
        assert {
            subset: tuple(metrics[count] for count in counts) for subset, metrics in found.items()
        } == case.expected


def _add_module(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds the module that a page shows to the data sets."""
    (code,) = code_blocks(page, "python")
    folder.mkdir()
    (folder / "lookbook.py").write_text(code)
    monkeypatch.setattr(datasets, "__path__", [*datasets.__path__, os.fspath(folder)])


def _workdir(words: Sequence[str]) -> str:
    """Where eval.py writes: the run, or what the config is called where nothing is trained."""
    given = words[-1].partition("=")[2] if "workdir" in words[-1] else ""
    config = re.search(r"configs/(\w+)\.py:(\w+)", " ".join(words))
    return given or "runs/{}_{}".format(*config.groups())


def _run(words: Sequence[str]) -> None:
    """Runs a command in this process; trains one step of a small model."""
    assert words[0] == "python"
    if words[1:3] == ["-m", "input_pipeline.prepare"]:
        assert prepare.main(words[3:]) == 0
        return
    if words[1:3] == ["-m", "grnet_jax.backbones.convert"]:  # of a file to be downloaded
        return
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    if words[1] == "train.py" or words[2].startswith("--config="):
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=list(words))
        values(words[1:])
        if words[1] == "eval.py":  # nothing is trained
            commands.evaluate([words[1]], values.config, "", "")
            return
        _shrink(values.config)
        commands.train([], values.config, values.workdir)
    else:
        values(words[1:])
        config = to_config_dict(read_config(epath.Path(values.workdir)))
        commands.evaluate([words[1]], config, values.workdir, "")


def _shrink(config: Any) -> None:
    config.image.size = 32
    fashionnet = config.model.name == "fashionnet"
    config.model.backbone.name = "vgg_small" if fashionnet else "small"
    if config.model.backbone.pretrained == "imagenet":
        config.model.backbone = {"name": "small"}
        config.optimizer.trainable, config.train.cached_views = "", 0
    config.model.backbone.pretrained = ""  # a file to be downloaded
    sizes = {"node_dim": 16, "reasoning_dim": 8, "embedding_dim": 16, "hidden": 16}
    config.model.update({name: size for name, size in sizes.items() if name in config.model})
    config.optimizer.warmup_steps = 0
    config.train.update(batch_size=8, steps=1, eval_every=1, checkpoint_every=1, log_every=1)
    config.eval.batch_size = 8


def test_benchmarks_have_the_papers_recipe():
    for name in {*dataset_names("pairs")} - {"synthetic", "manifest", "folder"}:
        config = grnet.get_config(name)
        assert (config.image.size, config.optimizer.name) == (224, "sgd")


def test_every_data_set_is_tried():
    pages = {"own_photos": "manifest", "adding": ""}
    assert {pages.get(name, name) for name in CASES} - {""} == set(dataset_names())
    assert set(CASES) == {path.stem for path in _PAGES.glob("*.md")}
