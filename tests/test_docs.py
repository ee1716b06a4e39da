"""What the pages say of data sets, problems, fields and commands is what the code has."""

import functools
import importlib
import pathlib
import re
import shlex
import typing

import pytest
from input_pipeline.datasets.listed import ListedConfig
from input_pipeline.datasets.on_error import KINDS
from input_pipeline.datasets.registry import REGISTRY

from benchmarks.reproduce.__main__ import main as reproduce
from benchmarks.reproduce.papers import find_paper
from input_pipeline import DatasetConfig, prepare
from input_pipeline.config import PrepareOptions
from input_pipeline.dataset import check_source
from input_pipeline.datasets.street2shop import QUERIES
from tests.input_pipeline.conftest import write_manifest
from tests.input_pipeline.deepfashion2_trees import write_deepfashion2
from tests.input_pipeline.deepfashion_trees import (
    write_attributes,
    write_c2s,
    write_fine,
    write_inshop,
)
from tests.input_pipeline.street2shop_trees import write_street2shop

_ROOT = pathlib.Path(__file__).parents[1]
_INDEX = _ROOT / "docs/datasets.md"
_SETS = sorted((_ROOT / "docs/datasets").glob("*.md"))
_PAGES = [_ROOT / "README.md", *sorted((_ROOT / "docs").rglob("*.md"))]
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FLAG = re.compile(r"--config\.([\w.]+)=([^\s\"']*)")
_SECTIONS = "dataset|image|augment|sampler|model|loss|optimizer|train|eval"
_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_TREES = {
    "deepfashion_c2s": write_c2s,
    "deepfashion_inshop": write_inshop,
    "deepfashion_attributes": write_attributes,
    "deepfashion_fine": write_fine,
    "deepfashion2": write_deepfashion2,
    "street2shop": write_street2shop,
}


def _name(path):
    return str(path.relative_to(_ROOT))


def _commands(what):
    """The lines of the pages' shell blocks that hold this, continued lines joined."""
    lines = [
        (path, line.strip())
        for path in _PAGES
        for language, block in _BLOCK.findall(path.read_text())
        if language == "sh"
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [
        pytest.param(line, id=f"{_name(path)}: {line[:90]}") for path, line in lines if what in line
    ]


def _table(path, *header):
    """The cells of the rows of the table with these columns."""
    lines = iter(path.read_text().splitlines())
    for line in lines:
        if _cells(line) == list(header):
            next(lines)
            rows = []
            for row in lines:
                if not row.startswith("|"):
                    return rows
                rows.append(_cells(row))
            return rows
    raise AssertionError(f"{path}: no table with the columns {header}")


def _cells(line):
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def _page_of(name):
    """The page that the table of data sets links."""
    (row,) = [row for row in _sets() if f"`{name}`" in row[0]]
    (target,) = _LINK.findall(row[0])
    return _INDEX.parent / target


def _sets():
    return _table(_INDEX, "data set", "what", "kind", "left out by default")


def test_every_data_set_is_in_the_table_and_every_page():
    assert [re.search(r"`(\w+)`", row[0])[1] for row in _sets()] == list(REGISTRY)
    assert sorted(map(_page_of, REGISTRY)) == _SETS


@pytest.mark.parametrize("name", REGISTRY)
def test_a_pages_title_names_its_data_set(name):
    title = _page_of(name).read_text().splitlines()[0]
    assert re.fullmatch(rf"# .+: `{name}`", title)


@pytest.mark.parametrize("name", REGISTRY)
def test_what_a_data_set_is_and_leaves_out(name):
    (row,) = [row for row in _sets() if f"`{name}`" in row[0]]
    entry = REGISTRY[name]
    module = importlib.import_module(f"input_pipeline.datasets.{entry.module}")
    builder = typing.get_type_hints(module.describe)["return"].__args__[1]
    skips = builder.skips if issubclass(builder, ListedConfig) else ()
    assert row[2] == entry.kind
    assert row[3] == (", ".join(f"`{kind}`" for kind in sorted(skips)) or "-")


def test_the_kinds_of_problems():
    rows = _table(_INDEX, "kind", "what it is", "in")
    assert {kind.strip("`"): text for kind, text, _ in rows} == dict(KINDS)
    assert [row[0] for row in rows] == [f"`{kind}`" for kind in sorted(KINDS)]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[2])}
    assert named <= set(REGISTRY)


# Of deepfashion_fine no count is known.
@pytest.mark.parametrize("name", [name for name in _TREES if name != "deepfashion_fine"])
def test_the_counts_expected(name, tmp_path):
    _TREES[name](tmp_path)
    counts = [line for line in _counts(name, tmp_path) if ":" not in line[0]]  # not by category
    assert counts == _table(_page_of(name), "count", "release", "paper")


def test_the_counts_expected_of_findfashion(tmp_path):
    header = "image,item_id,domain,split,view,occluded,cropped"
    rows = ["c.jpg,a,customer,test,front,0,0", "s.jpg,a,shop,test,front,0,0"]
    path = write_manifest(tmp_path, rows, header)
    table = _table(_page_of("findfashion"), "count", "release", "paper")
    assert _counts("findfashion", path) == table


def _counts(name, source):
    """What is counted in a set, and the counts of the release and of the paper."""
    report = check_source(DatasetConfig(name=name, source=str(source)), PrepareOptions())
    return [
        [line["what"], *("" if count is None else f"{count:,}" for count in counts)]
        for line in report.summary["release"]
        for counts in [(line["release"], line["paper"])]
    ]


def test_the_queries_of_street2shop():
    rows = _table(_page_of("street2shop"), "category", "test queries", "train queries")
    counts = {
        name: (int(test.replace(",", "")), int(train.replace(",", "")))
        for name, test, train in rows
    }
    assert counts == QUERIES


@pytest.mark.parametrize("command", _commands("--config="))
def test_configs_and_their_fields(command):
    ((module, dataset),) = re.findall(r"--config=(configs/\w+)\.py(?::(\w+))?", command)
    get_config = importlib.import_module(module.replace("/", ".")).get_config
    config = get_config(dataset) if dataset else get_config()
    for field, text in _FLAG.findall(command):
        assert _has(config, field), f"the config has no field {field}"
        value = functools.reduce(lambda section, name: section[name], field.split("."), config)
        if isinstance(value, bool):
            assert text in ("True", "False")
        else:
            type(value)(text)  # raises where a number is expected and none is given


@pytest.mark.parametrize("command", _commands("eval.py --workdir="))
def test_fields_that_evaluation_sets(command):
    for field, _ in _FLAG.findall(command):
        assert any(_has(config, field) for config in _configs()), f"no config has a field {field}"


@pytest.mark.parametrize("command", _commands("-m input_pipeline.prepare"))
def test_commands_that_prepare(command):
    words = shlex.split(command, comments=True)
    options = vars(prepare._parser().parse_args(words[words.index("input_pipeline.prepare") + 1 :]))
    given = {name: options[name] for name in PrepareOptions.model_fields if options[name]}
    PrepareOptions(**given)
    assert options["source"]


@pytest.mark.parametrize("command", _commands("-m benchmarks.reproduce"))
def test_commands_that_reproduce(command, capsys):
    words = shlex.split(command, comments=True)
    given = words[words.index("benchmarks.reproduce") + 1 :]
    assert reproduce(["--list", *given]) == 0
    config = find_paper(given[0]).config.partition(":")[0]
    assert f"python train.py --config=configs/{config}.py" in capsys.readouterr().out


def test_every_table_of_a_paper_is_on_its_page():
    rows = _table(_ROOT / "docs/reproduce.md", "table", "what", "its own data set")
    tables = {name: table.datasets[0] for name, table in find_paper("grnet").tables.items()}
    assert {row[0].strip("`"): row[2].strip("`") for row in rows} == tables


@pytest.mark.parametrize("path", _PAGES, ids=_name)
def test_fields_that_a_page_names(path):
    for field in re.findall(rf"`((?:{_SECTIONS})\.(?!py`)[a-z_.]+)`", path.read_text()):
        assert any(_has(config, field) for config in _configs()), f"no config has a field {field}"


@functools.cache
def _configs():
    """Configs that have every field."""
    names = ("grnet", "embedding", "fashionnet", "kpm", "local_matching", "wtbi")
    return [importlib.import_module(f"configs.{name}").get_config() for name in names]


def _has(config, name):
    for part in name.split("."):
        if part not in config:
            return False
        config = config[part]
    return True


@pytest.mark.parametrize("path", _PAGES, ids=_name)
def test_links_lead_somewhere(path):
    for target in _LINK.findall(path.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        page = path.parent / file if file else path
        assert page.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}
            assert anchor in anchors, target
