"""Exported matchers give the live model's numbers, and need nothing but JAX."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from etils import epath

from grnet_jax import models
from grnet_jax.config import parse_config
from grnet_jax.errors import InputError
from grnet_jax.export import reading
from grnet_jax.export.reading import ExportError, load_exported
from grnet_jax.export.writing import export_matcher
from grnet_jax.training.state import init_variables
from input_pipeline import ImageTransform, build_transform
from tests import FAST_COMPILING
from tests.small import random_images, small_config

_ROOT = pathlib.Path(__file__).parents[1]
_VARIANTS = {
    "grnet": ("grnet", {"gallery_chunk": 2}),
    "recomputed": ("grnet", {"recompute_edges": True, "inter_scale": False}),
    "aligned": ("grnet_aligned", {}),
    "fashionnet": ("fashionnet", {}),
    "color_histogram": ("color_histogram", {}),
    "embedding": ("embedding", {"num_classes": 3}),
    "kpm": ("kpm", {"gallery_chunk": 2}),
}


def _export(variant, folder, platforms=("cpu",)):
    name, fields = _VARIANTS[variant]
    config = parse_config(small_config(name, **{f"model.{k}": v for k, v in fields.items()}))
    matcher = models.build_matcher(config.model)
    variables = init_variables(matcher, 32, seed=0)
    export_matcher(config, variables, 7, epath.Path(folder), platforms)
    return config, matcher, variables


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    return folder, *_export("grnet", folder, ("cpu", "cuda", "tpu"))


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(name, marks=[] if name in ("grnet", "kpm") else pytest.mark.slow)
        for name in _VARIANTS
    ],
)
def test_exported_halves_give_the_live_models_numbers(variant, tmp_path):
    _, matcher, variables = _export(variant, tmp_path)
    loaded = load_exported(tmp_path)
    embed = jax.jit(lambda photos: models.embed(matcher, variables, photos))
    score = jax.jit(lambda *features: models.score(matcher, variables, *features))
    for n, g in ((1, 5), (3, 2)):
        photos = random_images(n), random_images(g, seed=1)
        found = [loaded.embed(p) for p in photos]
        live = [embed(p) for p in photos]
        for name, leaf in found[0].items():
            _check_close(leaf, getattr(live[0], name))
        scores = loaded.score(*found)
        assert scores.shape == (n, g)
        _check_close(scores, score(*live))
        assert np.ptp(scores) > 2e-5 * np.abs(scores).max()  # other pairs would be seen


def _check_close(found, wanted):
    assert found.dtype == wanted.dtype
    found, wanted = np.asarray(found, np.float32), np.asarray(wanted, np.float32)
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_the_description_tells_what_is_needed(exported):
    folder, config, _, _ = exported
    described = load_exported(folder).description
    assert described["photos"] == {"shape": ["n", 32, 32, 3], "dtype": "uint8"}
    assert described["features"] == {
        "embedding": {"shape": ["n", 128], "dtype": "float32"},
        "regions": {"shape": ["n", 24, 128], "dtype": "float32"},
    }
    assert (described["step"], described["platforms"]) == (7, ["cpu", "cuda", "tpu"])
    assert ImageTransform(**described["transform"]) == build_transform(config.image)
    assert ImageTransform(**described["shop_transform"]) == build_transform(config.image, shop=True)


def test_the_config_hash_is_the_configs(exported, tmp_path):
    described = load_exported(exported[0]).description
    _export("grnet", tmp_path)
    assert load_exported(tmp_path).description["config_sha256"] == described["config_sha256"]
    _export("recomputed", tmp_path)
    assert load_exported(tmp_path).description["config_sha256"] != described["config_sha256"]


@pytest.mark.parametrize(
    ("photos", "got"),
    [
        (random_images(2, size=64), r"uint8 \[2, 64, 64, 3\]"),
        (random_images(2).astype(np.float32), r"float32 \[2, 32, 32, 3\]"),
        (random_images(2)[0], r"uint8 \[32, 32, 3\]"),
        (random_images(0), r"uint8 \[0, 32, 32, 3\]"),
    ],
)
def test_photos_of_another_form_are_named(exported, photos, got):
    message = rf"embed: photos: expected uint8 \[n, 32, 32, 3\] with n > 0, got {got}"
    with pytest.raises(InputError, match=message):
        load_exported(exported[0]).embed(photos)


def test_features_of_another_matcher_are_named(exported):
    loaded = load_exported(exported[0])
    features = loaded.embed(random_images(2))
    with pytest.raises(InputError, match=r"query: expected features \['embedding', 'regions'\]"):
        loaded.score({"embedding": features["embedding"]}, features)
    with pytest.raises(InputError, match=r"gallery regions: expected float32 \[n, 24, 128\]"):
        loaded.score(features, features | {"regions": features["regions"][:, :5]})


def test_files_that_cannot_be_used_are_named(exported, tmp_path, monkeypatch):
    with pytest.raises(ExportError, match="holds no exported matcher"):
        load_exported(tmp_path)
    for file in exported[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(reading.jax, "default_backend", lambda: "METAL")
        with pytest.raises(ExportError, match="exported for cpu, cuda, tpu, and JAX runs on METAL"):
            load_exported(tmp_path)
    data = (tmp_path / "score.jax_export").read_bytes()
    (tmp_path / "score.jax_export").write_bytes(data[:-1])
    with pytest.raises(ExportError, match=r"score\.jax_export: is damaged"):
        load_exported(tmp_path)
    description = json.loads((tmp_path / "matcher.json").read_text())
    (tmp_path / "matcher.json").write_text(json.dumps(description | {"format": 99}))
    with pytest.raises(ExportError, match="format 99"):
        load_exported(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "{", "cannot be read"),
        (lambda text: "[" * 9999, "cannot be read"),
        (lambda text: "[]", "is damaged"),
        (lambda text: text.replace('"sha256"', '"sha"'), "is damaged: KeyError"),
        (lambda text: text.replace('"embed"', '"embeds"'), "is damaged: KeyError"),
        (lambda text: text.replace(" 24,", " 25,"), "are not those of"),
        (lambda text: text.replace('"uint8"', "null"), "are not those of"),
    ],
)
def test_a_damaged_description_is_named(exported, tmp_path, damage, message):
    for file in exported[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "matcher.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(ExportError, match=rf"matcher\.json: .*{message}"):
        load_exported(tmp_path)


def test_unknown_platforms_are_named(tmp_path):
    with pytest.raises(InputError, match="--platforms: 'cpu,abacus'"):
        _export("color_histogram", tmp_path, ("cpu", "abacus"))


def test_reading_needs_jax_alone(exported, tmp_path):
    folder, _, matcher, variables = exported
    np.save(tmp_path / "photos.npy", random_images(3))
    code = f"""
import sys

for name in ("flax", "etils", "ml_collections", "tensorflow", "orbax", "PIL", "grnet_jax.models"):
    sys.modules[name] = None  # as if not installed
import numpy as np
import grnet_jax
matcher = grnet_jax.load_exported({str(folder)!r})
features = matcher.embed(np.load("photos.npy"))
np.save("scores.npy", matcher.score(features, features))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(_ROOT), "XLA_FLAGS": FAST_COMPILING},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    features = models.embed(matcher, variables, random_images(3))
    wanted = models.score(matcher, variables, features, features)
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), wanted, rtol=1e-4, atol=1e-5)
