"""The figures in README and docs are those of the committed result files."""

import json
import pathlib
import re

import pytest

from benchmarks import tables
from benchmarks.costs import count_parameters, multiply_adds
from grnet_jax.backbones import BACKBONES
from grnet_jax.backbones.preprocessing import default_preprocessing

_ROOT = pathlib.Path(__file__).parents[1]
_README = (_ROOT / "README.md").read_text()


def _rows(name):
    return json.loads((_ROOT / f"benchmarks/results/{name}.json").read_text())["rows"]


@pytest.mark.parametrize("page", tables.PAGES)
def test_the_tables_are_the_result_files(page):
    if page == "docs/performance.md":  # its tables' modules measure PyTorch
        pytest.importorskip("torch", reason="PyTorch is not installed: make parity")
    text = (_ROOT / page).read_text()
    assert "<!-- results: " in text
    assert tables.fill(text) == text


@pytest.mark.parametrize("name", BACKBONES)
def test_the_backbones_table_is_what_they_cost(name):
    networks = (_ROOT / "docs/backbones.md").read_text().split("## ")[0]
    (line,) = re.findall(rf"^\| `{name}` .*$", networks, re.M)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:4] == [f"{count_parameters(name):,}", f"{multiply_adds(name) / 1e9:.2f}"]
    assert f"`{default_preprocessing(name)}`" in cells[5]


def test_the_demos_time_is_the_result_files():
    (row,) = (row for row in _rows("demo") if row["what"] == "make demo")
    assert f"{round(row['seconds'] / 60)} minutes" in _README
    assert f"{100 * row['protocols']['all']['top1']:.1f}%" in _README


@pytest.mark.parametrize(
    "path", re.findall(r"`((?:configs|grnet_jax|benchmarks)/[\w/.]+)`", _README)
)
def test_files_that_it_names_are_there(path):
    assert (_ROOT / path).exists()
