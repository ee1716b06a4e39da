"""The README's figures are those of the committed result files."""

import json
import pathlib
import re

import pytest

from benchmarks.grnet_vs_baseline import format_rows

_ROOT = pathlib.Path(__file__).parents[1]
_README = (_ROOT / "README.md").read_text()


def test_the_table_is_the_result_files():
    rows = json.loads((_ROOT / "benchmarks/results/grnet_vs_baseline.json").read_text())["rows"]
    assert format_rows(rows) in _README


def test_the_demos_time_is_the_result_files():
    (row,) = json.loads((_ROOT / "benchmarks/results/demo.json").read_text())["rows"]
    assert f"{round(row['seconds'] / 60)} minutes" in _README
    assert f"{100 * row['protocols']['all']['top1']:.1f}%" in _README


@pytest.mark.parametrize(
    "path", re.findall(r"`((?:configs|grnet_jax|benchmarks)/[\w/.]+)`", _README)
)
def test_files_that_it_names_are_there(path):
    assert (_ROOT / path).exists()
