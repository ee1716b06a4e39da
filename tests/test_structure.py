"""Who may import whom, and that all but the input pipeline runs without TensorFlow."""

import ast
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]

# For each room of grnet_jax the rooms whose modules it may import besides its own.
_MAY_IMPORT = {
    "errors": set(),
    "sharding": {"errors"},
    "runtime": {"errors"},
    "photos": {"errors"},
    "losses": set(),
    "metrics": {"errors"},
    "graph": {"errors"},
    "backbones": {"errors"},
    "models": {"errors", "graph", "backbones"},
    "retrieval": {"errors", "sharding", "metrics", "models", "photos"},
    "figures": {"errors", "graph", "models", "photos", "retrieval"},
    "training": {"backbones", "errors", "losses", "sharding", "models", "photos", "retrieval"},
    "inference": {"errors", "sharding", "models", "photos", "retrieval", "training"},
    "export": {"errors", "models", "photos"},
    "recognize": {"figures", "inference", "losses", "models", "photos", "retrieval", "training"},
    "commands": {"errors", "figures", "models", "retrieval", "runtime", "sharding", "training"},
    # `python -m grnet_jax.ROOM`: a command, which nothing imports, besides what its room may.
    "__main__": {"runtime", "errors", "sharding", "models", "photos", "retrieval", "training"},
    "__init__": {"export", "inference"},
}


def _imports(path):
    """(module, whether at module level) of every import in a file."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        top = id(node) not in inside
        if isinstance(node, ast.Import):
            yield from ((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((name, top) for name in names)


def _room(path):
    return path.relative_to(_ROOT / "grnet_jax").parts[0].removesuffix(".py")


def _modules(package="grnet_jax"):
    return sorted((_ROOT / package).rglob("*.py"))


def _imported_modules(path):
    """The modules that a file names in its imports, without the names that it takes of them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_every_room_has_its_rule():
    assert {_room(path) for path in _modules()} == set(_MAY_IMPORT) - {"__main__"}


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(_ROOT)))
def test_imports_point_downward(path):
    room = _room(path)
    allowed = _MAY_IMPORT[room] | {room}
    if path.name == "__main__.py":
        allowed |= _MAY_IMPORT["__main__"]
    for module, _ in _imports(path):
        parts = module.split(".")
        if parts[0] == "grnet_jax" and len(parts) > 1 and parts[1] != "__version__":
            assert parts[1] in allowed, f"{path}: imports {module}"
            assert "__main__" not in parts, f"{path}: imports {module}"


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(_ROOT)))
def test_tensorflow_is_imported_only_where_needed(path):
    for module, top in _imports(path):
        assert module.split(".")[0] not in ("tensorflow", "tensorflow_datasets"), module
        if module.startswith("clu.metric_writers"):
            assert not top, f"{path}: {module} belongs inside the function that needs it"


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(_ROOT)))
def test_the_input_pipeline_is_used_by_its_front_door(path):
    for module in _imported_modules(path):
        assert not module.startswith("input_pipeline."), f"{path}: imports {module}"


# Beside these, no module of the input pipeline imports TensorFlow.
_OF_TENSORFLOW = {"batches", "decoding", "object_batches", "tf_augmentation"}


def test_the_input_pipeline_stands_alone_and_imports_tensorflow_where_it_needs_it():
    tensorflow = set()
    for path in _modules("input_pipeline"):
        roots = {module.split(".")[0] for module in _imported_modules(path)}
        assert "grnet_jax" not in roots, path
        if "tensorflow" in roots:
            tensorflow.add(path.stem)
    assert tensorflow == _OF_TENSORFLOW


def test_the_ground_of_the_input_pipeline_imports_no_tensorflow():
    names = [f"input_pipeline.{name}" for name in ("config", "errors", "images", "vocabulary")]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", f"import {', '.join(names)}"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "tensorflow" not in done.stderr


def test_everything_of_grnet_jax_imports_without_tensorflow():
    names = [
        ".".join(path.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in _modules()
    ]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import importlib, sys\n"
            "sys.modules['tensorflow'] = None  # as if it were not installed\n"
            f"for name in {names!r}: importlib.import_module(name)\n",
        ],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_package_imports_no_tensorflow():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import grnet_jax"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "tensorflow" not in done.stderr
    assert "jax.numpy" not in done.stderr  # and nothing heavy at all
