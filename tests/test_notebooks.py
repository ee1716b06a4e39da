"""Every notebook runs from top to bottom, at tiny size."""

import pathlib
import re

import nbformat
import pytest
from nbclient import NotebookClient

from tests import FAST_COMPILING

_ROOT = pathlib.Path(__file__).parents[1]
_NOTEBOOKS = sorted((_ROOT / "notebooks").glob("*.ipynb"))
# What the cell tagged "parameters" is set to.
_TINY = {
    "grnet": {
        "SIZE": '"tiny"',
        "STEPS": "2",
        "ROWS": '"7"',
        "TRAIN_FLAGS": '"--config.optimizer.warmup_steps=1"',
        "ROW_FLAGS": '"--config.dataset.source=tiny --config.train.steps=2 '
        '--config.optimizer.warmup_steps=1 --config.image.size=64"',
    }
}


def _name(path: pathlib.Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", _NOTEBOOKS, ids=_name)
def test_notebooks_hold_no_output(path):
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("path", _NOTEBOOKS, ids=_name)
def test_notebooks_run(path, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", FAST_COMPILING)  # one device compiles faster than eight
    notebook = nbformat.read(path, as_version=4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
    for name, value in _TINY[path.stem].items():
        found = re.findall(rf"(?m)^{name} = .*$", cell.source)
        assert len(found) == 1
        cell.source = cell.source.replace(found[0], f"{name} = {value}")
    # As in a checkout, but with runs and data of its own.
    for entry in _ROOT.iterdir():
        if entry.name not in ("data", "runs") and not entry.name.startswith("."):
            (tmp_path / entry.name).symlink_to(entry)
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    outputs = {cell.id: cell.get("outputs", []) for cell in notebook.cells}
    for cell_id in ("zero-shot", "python"):
        pictures = ["image/" in str(output.get("data", {}).keys()) for output in outputs[cell_id]]
        assert sum(pictures) == 4
    for cell_id in ("page", "why"):
        assert any("text/html" in output.get("data", {}) for output in outputs[cell_id])
    printed = "".join(output.get("text", "") for output in outputs["ablation"])
    assert "synthetic" in printed
    assert (tmp_path / "runs" / "notebook" / "results.json").exists()
