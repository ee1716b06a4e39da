"""What the pages say of data sets, problems, fields and commands is what the code has."""

import functools
import importlib
import re
import shlex
import subprocess
import sys

import pytest

from benchmarks.reproduce.__main__ import main as reproduce
from benchmarks.reproduce.papers import find_paper
from input_pipeline import prepare
from input_pipeline.config import PrepareOptions
from input_pipeline.datasets import dataset_names, find_dataset
from input_pipeline.table import KINDS
from tests.pages import ROOT, shell_commands

_INDEX = ROOT / "docs/datasets.md"
_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FLAG = re.compile(r"--config\.([\w.]+)=([^\s\"']*)")
_SECTIONS = "dataset|image|augment|sampler|model|loss|optimizer|train|eval"
_NAMES = dataset_names()


def _name(path):
    return str(path.relative_to(ROOT))


def _commands(what):
    """The commands that hold this; other tests run docs/datasets/ and docs/adding_*."""
    return [
        pytest.param(line, id=f"{_name(path)}: {line[:90]}")
        for path in _PAGES
        for line in shell_commands(path)
        if what in line and path.parent.name != "datasets" and "adding" not in path.name
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


def _sets():
    """The rows of the table of data sets, by name."""
    rows = _table(_INDEX, "data set", "what", "kind", "left out by default")
    return {re.search(r"`(\w+)`", row[0])[1]: row for row in rows}


def _page_of(name):
    (target,) = _LINK.findall(_sets()[name][0])
    return _INDEX.parent / target


def test_every_data_set_is_in_the_table_and_every_page():
    assert sorted(_sets()) == list(_NAMES)
    pages = {*map(_page_of, _NAMES), ROOT / "docs/datasets/adding.md"}
    assert pages == {*(ROOT / "docs/datasets").glob("*.md")}


@pytest.mark.parametrize("name", _NAMES)
def test_what_is_said_of_a_data_set(name):
    title = _page_of(name).read_text().splitlines()[0]
    assert re.fullmatch(rf"# .+: `{name}`", title)
    known = ", ".join(f"`{kind}`" for kind in find_dataset(name).known_faults)
    assert _sets()[name][2:] == [find_dataset(name).kind, known or "-"]


def test_the_kinds_of_problems():
    rows = _table(_INDEX, "kind", "what it is")
    assert rows == [[f"`{kind}`", text] for kind, text in KINDS.items()]


def _release(name):
    """The counts that a data set has of its release and paper, as cells by name."""
    release = getattr(find_dataset(name).module, "RELEASE", {})
    return {
        what: ["" if count is None else f"{count:,}" for count in counts]
        for what, counts in release.items()
    }


@pytest.mark.parametrize("name", [name for name in _NAMES if _release(name)])
def test_the_counts_expected(name):
    rows = [[what, *counts] for what, counts in _release(name).items() if ":" not in what]
    assert rows == _table(_page_of(name), "count", "release", "paper")


def test_the_queries_of_street2shop():
    counts = _release("street2shop")
    names = [what.partition(":")[0] for what in counts if what.endswith(": test queries")]
    assert _table(_page_of("street2shop"), "category", "test queries", "train queries") == [
        [name, *(counts[f"{name}: {split} queries"][0] for split in ("test", "train"))]
        for name in names
    ]


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
    rows = _table(ROOT / "docs/reproduce.md", "table", "what", "its own data set")
    tables = {name: table.datasets[0] for name, table in find_paper("grnet").tables.items()}
    found = {row[0].strip("`"): re.search(r"`(\w+)`", row[2])[1] for row in rows}
    assert found == tables


@pytest.mark.parametrize("path", _PAGES, ids=_name)
def test_fields_that_a_page_names(path):
    for field in re.findall(rf"`((?:{_SECTIONS})\.(?!py`)[a-z_.]+)`", path.read_text()):
        assert any(_has(config, field) for config in _configs()), f"no config has a field {field}"


@functools.cache
def _configs():
    """Configs that have every field."""
    names = ("detector", "embedding", "fashionnet", "grnet_aligned", "kpm", "local_matching")
    names += ("vam", "wtbi")
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


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: make install")
    words = ("-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site")
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "site/api/index.html").read_text()
    assert "LoadedMatcher" in api
    assert "open_catalog" in api
