"""Every system through the whole loop: steps, a checkpoint, going on from it, the evaluation."""

import json
import shutil

import jax
import numpy as np
import pytest
from etils import epath

import grnet_jax
from grnet_jax import models, sharding
from grnet_jax.config import parse_config
from grnet_jax.errors import InputError
from grnet_jax.evaluation import build_evaluators
from grnet_jax.models import ImagesWithDomain
from grnet_jax.predict.__main__ import main as predict
from grnet_jax.sharding import make_mesh
from grnet_jax.training import loop
from grnet_jax.training.build import build_run
from grnet_jax.training.checkpoints import Checkpoints, write_config
from grnet_jax.training.init_from import start_state
from grnet_jax.training.label_names import write_label_names
from grnet_jax.visualization.explanations import Explainer, crop_image
from input_pipeline import build_transform, load_dataset

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_devices")]

_SHORT = {"train.steps": 4, "train.checkpoint_every": 2, "train.eval_every": 4}
# Of the systems, and of ways to train, those that the tests of the papers' tables do not run.
_CASES = {
    "global_baseline": {"optimizer.ema_decay": 0.5, "train.model_parallel": 2},
    "wtbi": {"model.hidden": (16, 8)},
    "grnet_cascade": {},
    "embedding ap": {"loss.name": "ap", "train.microbatch_size": 8},
    "vam": {"model.nonshared": True},
    "contrastive": {},
    "grnet_aligned": {},
    "fashionnet keypoints": {"model.pooling": "keypoints", "model.num_keypoints": 1},
}
_STARTED = ("wtbi", "grnet_cascade")  # from another run, of which the backbone stays


@pytest.fixture(scope="module")
def start(tiny_config, tmp_path_factory):
    """A run of GRNet, from which others start."""
    workdir = tmp_path_factory.mktemp("start")
    fields = {"train.steps": 3, "train.eval_every": 0}
    loop.train(parse_config(tiny_config("grnet", **fields)), workdir)
    return workdir


def _write_keypoints(path, dataset):
    """A point in the middle of every image."""
    names = {
        str(name)
        for split in ("train", "val", "test")
        for name in dataset.split(split).index.photo_id
    }
    rows = ["image,x_neck,y_neck", *(f"{name},60,50" for name in sorted(names))]
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def _values(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


@pytest.mark.parametrize("case", _CASES)
def test_it_trains_goes_on_to_the_bit_and_is_evaluated(case, tiny_config, request, tmp_path):
    config = tiny_config(case.split()[0], **_SHORT, **_CASES[case])
    if case in _STARTED:
        config.train.init_from = str(request.getfixturevalue("start"))
    if case == "fashionnet keypoints":
        dataset = load_dataset(parse_config(tiny_config()).dataset)
        config.image.keypoints = _write_keypoints(tmp_path / "joints.csv", dataset)
    config, workdir = parse_config(config), tmp_path / "run"
    whole = loop.train(config, workdir)
    assert whole.finished
    assert all(np.isfinite(leaf).all() for leaf in _values(whole.state.params))
    shutil.rmtree(workdir / "checkpoints" / "4")
    run = build_run(config, sharding.make_mesh(model_parallel=config.train.model_parallel))
    with Checkpoints(epath.Path(workdir)) as saved:
        before = saved.restore_last(run.abstract_state())
    moved = {
        part
        for part, params in whole.state.params.items()
        if any(
            not np.array_equal(x, y)
            for x, y in zip(_values(params), _values(before.params[part]), strict=True)
        )
    }
    trainable = config.optimizer.trainable
    assert moved == ({trainable} if trainable else set(whole.state.params))

    resumed = loop.train(config, workdir)
    for x, y in zip(_values(resumed.state), _values(whole.state), strict=True):
        np.testing.assert_array_equal(x, y)
    dataset, variables = load_dataset(config.dataset), jax.device_get(resumed.state.variables)
    for evaluator in build_evaluators(config, run.matcher, run.mesh, dataset, "test").values():
        values = evaluator.run(variables).values
        assert all(np.isfinite(value) for value in values.values())


def test_a_run_whose_parts_stay_is_not_scored_otherwise(tiny_config, start):
    fields = {"train.init_from": str(start), "model.intra_scale": False}
    config = parse_config(tiny_config("grnet_cascade", **fields))
    with pytest.raises(InputError, match=r"intra_scale: True there, False here"):
        start_state(build_run(config, make_mesh()))


@pytest.mark.parametrize("system", ["kpm", "local_matching", "wtbi"])
def test_pairs_of_any_region_matcher_are_explained(system, tiny_config):
    config = parse_config(tiny_config(system))
    run = build_run(config, make_mesh(jax.devices()[:1]))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 30, 3), dtype=np.uint8)
    images = [crop_image("one", image, None, build_transform(config.image)) for image in pixels]
    explanation = Explainer(run.matcher, run.create_state().variables).explain(*images)
    assert np.isfinite(explanation.score)
    assert np.isfinite(explanation.query_heat).all()
    assert (explanation.before, explanation.after) == ([], [])


def test_the_predict_command_sees_files_as_evaluation_does(tiny_config, tmp_path):
    run = build_run(parse_config(tiny_config("fashionnet")), make_mesh())
    state, split = run.create_state(), load_dataset(run.config.dataset).split("test")
    write_config(epath.Path(tmp_path), run.config, "")
    write_label_names(epath.Path(tmp_path), split.index)
    with Checkpoints(epath.Path(tmp_path)) as saved:
        saved.save(state, None)
    folder, output = tmp_path / "photos", tmp_path / "out"
    (folder / "deeper").mkdir(parents=True)
    for name, row in (("a.jpg", 0), ("deeper/b.jpg", 5)):
        (folder / name).write_bytes(split.record(row).image)
    (folder / "notes.txt").write_text("no photo")
    box = ",".join(map(str, split.record(0).box))
    flags = [f"--workdir={tmp_path}", f"--output={output}"]
    assert predict([str(folder / "a.jpg"), *flags, f"--box={box}"]) == 0
    (prediction,) = json.loads((output / "predictions.json").read_text())["photos"]
    images = split.model_input(0, run.config.image)[None]
    logits = np.asarray(models.predict(run.matcher, state.variables, images).category)[0]
    name, share = prediction["categories"][0]
    assert name == str(split.index.categories[logits.argmax()])
    np.testing.assert_allclose(share, (np.exp(logits) / np.exp(logits).sum()).max(), atol=0.05)
    assert predict([str(folder), *flags]) == 0  # others are passed over and counted
    content = json.loads((output / "predictions.json").read_text())
    assert [one["photo"][-5:] for one in content["photos"]] == ["a.jpg", "b.jpg"]
    assert all((output / one["picture"]).exists() for one in content["photos"])
    (skipped,) = content["skipped"]
    assert "notes.txt: is not a photo that can be read" in skipped["reason"]
    with pytest.raises(SystemExit):
        predict([str(folder / "notes.txt"), *flags])


def test_a_loaded_darn_takes_the_stream_of_what_is_embedded(tiny_config):
    run = build_run(parse_config(tiny_config("darn")), make_mesh(jax.devices()[:1]))
    state = run.create_state()
    loaded = grnet_jax.inference.LoadedMatcher(run, state)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    customer, shop = (loaded.embed([image], shop=kind).embedding for kind in (False, True))
    assert not np.allclose(customer, shop)
    both = ImagesWithDomain(np.stack([image, image]), np.array([0, 1], np.int32))
    embeddings = models.embed(run.matcher, state.variables, both).embedding
    np.testing.assert_allclose(np.concatenate([customer, shop]), embeddings, atol=1e-4)
