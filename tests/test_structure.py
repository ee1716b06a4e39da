"""Who may import whom, and that all but the input pipeline runs without TensorFlow."""

import ast
import pathlib
import subprocess
import sys

_ROOT = pathlib.Path(__file__).parents[1]

# For each room of grnet_jax the rooms whose modules it may import besides its own.
_MAY_IMPORT = {
    "errors": set(),
    "sharding": {"errors"},
    "runtime": {"errors"},
    "losses": set(),
    "metrics": {"errors"},
    "graph": {"errors"},
    "backbones": {"errors"},
    "config": {"errors", "backbones"},
    "detection": {"errors", "backbones"},
    "models": {"errors", "graph", "backbones", "detection"},
    "search": {"errors", "config", "metrics", "models", "sharding"},
    "evaluation": {"errors", "config", "detection", "metrics", "models", "search"},
    "visualization": {"errors", "metrics", "graph", "models", "evaluation", "detection"},
    "training": {
        *("errors", "config", "backbones", "losses", "models", "sharding", "search", "evaluation"),
    },
    "inference": {"errors", "metrics", "models", "search", "sharding", "evaluation", "training"},
    "catalog": {"errors", "metrics", "models", "search", "evaluation", "inference"},
    "serving": {"errors", "models", "inference", "catalog", "visualization"},
    "export": {"errors", "config", "models"},
    "predict": {"errors", "models", "training"},
    "detect": {
        *("errors", "backbones", "config", "detection", "models", "predict", "runtime", "search"),
        *("sharding", "training", "visualization"),
    },
    "compare": {"errors", "evaluation", "metrics", "runtime"},
    "commands": {
        *("errors", "config", "runtime", "sharding", "models", "evaluation", "visualization"),
        "training",
    },
    # `python -m grnet_jax.ROOM`: a command, which nothing imports, besides what its room may.
    "__main__": {
        *("errors", "runtime", "sharding", "evaluation", "visualization", "training", "inference"),
        *("catalog", "serving", "detect"),
    },
    "__init__": set(),
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


def test_imports_point_downward():
    wrong = []
    for path in _modules():
        room = _room(path)
        allowed = _MAY_IMPORT[room] | {room}
        if path.name == "__main__.py":
            allowed |= _MAY_IMPORT["__main__"]
        for module, _ in _imports(path):
            parts = module.split(".")
            if parts[0] != "grnet_jax" or len(parts) < 2 or parts[1] == "__version__":
                continue
            if parts[1] not in allowed or "__main__" in parts:
                wrong.append(f"{path.relative_to(_ROOT)}: {module}")
    assert not wrong


def test_tensorflow_is_imported_only_where_needed():
    for path in _modules():
        for module, top in _imports(path):
            assert module.split(".")[0] not in ("tensorflow", "tensorflow_datasets"), path
            assert not (module.startswith("clu.metric_writers") and top), path


def test_the_input_pipeline_is_used_by_its_front_door():
    wrong = [
        f"{path.relative_to(_ROOT)}: {module}"
        for path in _modules()
        for module in _imported_modules(path)
        if module.startswith("input_pipeline.")
    ]
    assert not wrong


# Beside these, no module of the input pipeline imports TensorFlow.
_OF_TENSORFLOW = {"batches.py", "objects/batches.py", "tf_transforms.py"}


def test_the_input_pipeline_stands_alone_and_imports_tensorflow_where_it_needs_it():
    tensorflow = set()
    for path in _modules("input_pipeline"):
        roots = {module.split(".")[0] for module in _imported_modules(path)}
        assert "grnet_jax" not in roots, path
        if "tensorflow" in roots:
            tensorflow.add(path.relative_to(_ROOT / "input_pipeline").as_posix())
    assert tensorflow == _OF_TENSORFLOW


# Converters make tables of files: they know nothing of records, batches and configs.
_OF_CONVERTERS = {
    *("datasets", "entries", "errors", "files", "masks"),
    *("objects", "parallel", "table", "vocabulary"),
}


def test_what_converters_import():
    folder = _ROOT / "input_pipeline"
    paths = {*(folder / "datasets").glob("*.py")} - {folder / "datasets/synthetic.py"}
    of_objects = [folder / f"objects/{n}.py" for n in ("coco", "deepfashion2_objects", "modanet")]
    for path in [*paths, *of_objects]:
        names = [module.split(".") for module, _ in _imports(path)]
        assert {name[1] for name in names if name[0] == "input_pipeline"} <= _OF_CONVERTERS, path


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


# What the extra `train` brings.
_OF_TRAINING = (
    *("array_record", "clu", "importlib_resources", "matplotlib", "pandera", "sklearn"),
    *("tensorboard", "tensorflow", "tensorflow_datasets"),
)


def test_everything_of_grnet_jax_imports_without_the_extra_of_training():
    names = [
        ".".join(path.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in _modules()
    ]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import importlib, sys\n"
            "class Hiding:  # as if they were not installed\n"
            "    def __init__(self, finder): self.finder = finder\n"
            "    def find_spec(self, name, *rest):\n"
            f"        if name.split('.')[0] not in {_OF_TRAINING}:\n"
            "            return self.finder.find_spec(name, *rest)\n"
            "sys.meta_path[:] = map(Hiding, sys.meta_path)\n"
            f"for name in {names!r}: importlib.import_module(name)\n"
            "importlib.import_module('configs.zero_shot').get_config()\n"
            "from input_pipeline import DatasetConfig, load_dataset\n"
            "try: load_dataset(DatasetConfig())\n"
            "except ValueError as error: print(error)\n",
        ],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "pip install 'grnet_jax[train]'" in done.stdout


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
