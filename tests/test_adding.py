"""The pages that add a matcher, an edge type, a loss and a backbone, followed to the letter."""

import importlib.util
import itertools
import os
import shlex
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from grnet_jax import backbones, models
from grnet_jax.backbones import convert
from grnet_jax.backbones.pretrained import conversion
from grnet_jax.backbones.pretrained.weights import read_weights
from grnet_jax.config import parse_config
from grnet_jax.graph import SimilarityGraph
from grnet_jax.graph.scoring import FusedScorer
from grnet_jax.training import objectives
from tests import FAST_COMPILING
from tests.pages import ROOT, code_blocks, shell_commands, shown_files
from tests.small import random_variables, small_config
from tests.training.steps import first_step, image_batch

_PAGES = {
    "stripes": ROOT / "docs/adding_a_matcher.md",
    "scale_bonus": ROOT / "docs/adding_an_edge_type.md",
}
_TINY = (
    *("image.size=32", "dataset.source=tiny", "train.batch_size=8", "train.steps=3"),
    *("train.eval_every=3", "train.checkpoint_every=3"),
)


def _write(name, folder):
    """Writes a page's files below a folder: one of the package and one config."""
    files = shown_files(_PAGES[name])
    assert sorted(files) == [f"configs/{name}.py", f"grnet_jax/models/{name}.py"]
    for path, code in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(code)


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Builds a page's matcher from its files and its config at a small size."""

    def build(name):
        _write(name, tmp_path)
        folder = str(tmp_path / "grnet_jax/models")
        monkeypatch.setattr(models, "__path__", [*models.__path__, folder])
        spec = importlib.util.spec_from_file_location(name, tmp_path / f"configs/{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config()
        sizes = {"node_dim": 16, "reasoning_dim": 8}
        config.model.update({key: size for key, size in sizes.items() if key in config.model})
        return models.build_matcher(parse_config(config).model)

    yield build
    for name in _PAGES:
        sys.modules.pop(f"grnet_jax.models.{name}", None)


@pytest.mark.parametrize("name", _PAGES)
def test_a_pages_matcher_scores_all_pairs(name, build):
    images = jax.ShapeDtypeStruct((3, 32, 32, 3), jnp.uint8)
    scores, _ = jax.eval_shape(build(name).init_with_output, jax.random.key(0), images)
    assert (scores.shape, scores.dtype) == ((3, 3), jnp.float32)


def test_evaluation_scores_with_the_pages_parameter(build, monkeypatch):
    """In the plain way, with a warning; and by the fast path once that knows the parameter."""
    warnings = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: warnings.append(text % values))
    matcher = build("scale_bonus")
    variables = random_variables(matcher)
    variables["params"]["graph"]["scale_bonus"] = np.float32(4)
    rng = np.random.default_rng(0)
    one, two = (
        models.Features(rng.normal(size=(n, 4)), rng.gamma(1.0, size=(n, 24, 128)).astype("f"))
        for n in (2, 3)
    )
    expected = models.score(matcher, variables, one, two)
    variables["params"]["graph"]["scale_bonus"] = np.float32(0)
    assert np.abs(expected - models.score(matcher, variables, one, two)).max() > 1e-3
    variables["params"]["graph"]["scale_bonus"] = np.float32(4)

    fused = models.fuse(matcher, variables)
    assert warnings == ["Scored in the plain way, for the fast one lacks ['scale_bonus']."]
    assert warnings[0].removesuffix(".") in _PAGES["scale_bonus"].read_text()
    found = models.score_fused(matcher, fused, one, two)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    taught = {"SimilarityGraph": SimilarityGraph}
    exec(textwrap.dedent(code_blocks(_PAGES["scale_bonus"], "python")[-1]), taught)
    graph = type(matcher.graph)
    monkeypatch.setattr(graph, "fused_parameters", taught["fused_parameters"])
    fused = models.fuse(matcher, variables)
    assert isinstance(fused, FusedScorer)
    found = models.score_fused(matcher, fused, one, two)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_pages_loss_is_its_formula(tmp_path, monkeypatch):
    ((path, code),) = shown_files(ROOT / "docs/adding_a_loss.md").items()
    assert path == "grnet_jax/training/objectives/sigmoid.py"
    (tmp_path / "sigmoid.py").write_text(code)
    monkeypatch.setattr(objectives, "__path__", [*objectives.__path__, str(tmp_path)])
    config = small_config("embedding")
    config.loss = {"name": "sigmoid", "temperature": 0.2}
    try:
        first = first_step(config)
    finally:
        sys.modules.pop("grnet_jax.training.objectives.sigmoid", None)
    batch = image_batch()
    embeddings = np.float64(first.apply(batch["image"], "embed").embedding)
    each = []
    for i, j in itertools.permutations(range(len(embeddings)), 2):
        logit = embeddings[i] @ embeddings[j] / 0.2
        same = batch["item"][i] == batch["item"][j]
        each.append(np.log1p(np.exp(-logit if same else logit)))
    np.testing.assert_allclose(first.loss, np.mean(each), rtol=1e-5)


@pytest.mark.slow
def test_the_pages_backbone_is_torchvisions(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    from benchmarks.torch_peers import torchvision_models

    ((path, code),) = shown_files(ROOT / "docs/adding_a_backbone.md").items()
    assert path == "grnet_jax/backbones/resnet18.py"
    page: dict = {"__name__": "resnet18"}
    exec(code, page)
    monkeypatch.setitem(backbones.BACKBONES, "resnet18", page["ResNet18"])
    monkeypatch.setitem(conversion._NAMES, "resnet18", conversion._RESNET_NAMES)
    torch.manual_seed(0)
    peer = torchvision_models().resnet18(weights=None).eval()
    torch.save(peer.state_dict(), tmp_path / "resnet18.pth")
    (command,) = shell_commands(ROOT / "docs/adding_a_backbone.md")
    flags = shlex.split(command)[4:]
    output = str(tmp_path / "weights.safetensors")
    assert convert.main([str(tmp_path / "resnet18.pth"), *flags, f"--output={output}"]) == 0
    photos = np.random.default_rng(0).standard_normal((2, 97, 131, 3)).astype(np.float32)
    with torch.no_grad():
        expected = peer(torch.from_numpy(photos).permute(0, 3, 1, 2)).numpy()
    network = backbones.build_classifier("resnet18")
    found = jax.jit(network.apply)(read_weights(output).variables, photos)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_a_pages_commands(tmp_path, data_dir):
    name = "scale_bonus"  # whose page says what its commands print
    for part in ("grnet_jax", "input_pipeline", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, tmp_path / part, ignore=ignored)
    for part in ("train.py", "eval.py"):
        shutil.copy(ROOT / part, tmp_path)
    _write(name, tmp_path)
    train, evaluate = map(shlex.split, shell_commands(_PAGES[name]))
    train += [f"--config.{field}" for field in (*_TINY, f"dataset.dir={data_dir}")]
    done = [
        subprocess.run(
            [sys.executable, *command[1:]],
            cwd=tmp_path,
            env=os.environ | {"XLA_FLAGS": FAST_COMPILING, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        for command in (train, evaluate)
    ]
    assert (tmp_path / f"runs/{name}_synthetic/results.json").exists()
    assert "| graph/scale_bonus " in done[0].stderr
    assert "Scored in the plain way" in done[1].stderr
