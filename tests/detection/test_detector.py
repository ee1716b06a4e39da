"""What holds of a whole detector, whatever its parameters, and the way from data to boxes.csv."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import grnet_jax
from benchmarks.detected_crops import CURVE, measure_crops
from benchmarks.results_file import read_curve
from configs import detector as detector_config
from grnet_jax import commands
from grnet_jax.config import parse_config
from grnet_jax.detect import __main__ as detect
from grnet_jax.detection.roi_align import roi_align
from grnet_jax.errors import InputError
from grnet_jax.export import __main__ as export
from grnet_jax.models import build_matcher
from grnet_jax.predict import __main__ as predict
from grnet_jax.sharding import make_mesh, replicated, sharded
from grnet_jax.training import loop
from grnet_jax.training.objectives import build_objective
from grnet_jax.visualization import __main__ as visualization
from input_pipeline import DatasetConfig, encode_png, load_dataset
from input_pipeline.synthetic import CATEGORIES
from tests.small import random_variables, small_config

FIELDS = {
    "model.canvas": (64, 64),
    "model.pyramid_channels": 16,
    "model.mask_channels": 8,
    "model.mask_layers": 1,
    "model.before_nms": (40, 40),
    "model.after_nms": (30, 30),
    "model.sampled_boxes": 16,
    "model.detections": 6,
    "model.min_score": 0.0,
    "model.backbone.name": "small_deep",
    "model.backbone.frozen_batch_norm": True,
}


@functools.cache
def detector():
    config = parse_config(small_config("detector", **FIELDS))
    made = build_matcher(config.model)
    return config, made, random_variables(made, 64)


def batch_of(photos=8, objects=3, seed=0):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 30, (photos, objects, 2))
    box = np.concatenate([low, low + rng.uniform(8, 34, low.shape)], axis=-1).astype(np.float32)
    valid = np.arange(objects) < rng.integers(0, objects + 1, (photos, 1))
    return {
        "image": rng.integers(0, 256, (photos, 64, 64, 3), np.uint8),
        "size": np.full((photos, 2), 64, np.int32),
        "box": box * valid[..., None],
        "valid": valid,
        "ignore": valid & (rng.random(valid.shape) < 0.2),
        "category": np.where(valid, rng.integers(0, 13, valid.shape), -1).astype(np.int32),
        "has_mask": valid,
        "mask": rng.integers(0, 256, (photos, objects, 112, 112), np.uint8),
        "step": np.int32(3),
    }


@functools.cache
def gradient():
    config, made, variables = detector()
    objective = build_objective(made, config)

    def losses(params, batch):
        stats = variables["batch_stats"]
        (_, (_, metrics)), grads = jax.value_and_grad(objective, has_aux=True)(
            params, stats, batch, lambda tree: tree
        )
        return metrics, grads

    return losses, variables["params"]


pytestmark = pytest.mark.slow


def test_padded_objects_change_nothing():
    losses, params = gradient()
    batch = batch_of()
    more = {
        name: np.pad(values, [(0, 0), (0, 4), *[(0, 0)] * (values.ndim - 2)])
        if name in ("box", "valid", "ignore", "category", "has_mask", "mask")
        else values
        for name, values in batch.items()
    }
    # Drawing depends on the number of boxes to draw from: those of anchors alone are the same.
    ours, theirs = (jax.jit(losses)(params, one)[0] for one in (batch, more))
    for name in ("loss_objectness", "loss_rpn_box"):
        assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-5)


def test_photos_without_objects_have_finite_gradients():
    losses, params = gradient()
    batch = batch_of()
    batch = {**batch, **{name: np.zeros_like(batch[name]) for name in ("valid", "ignore", "box")}}
    metrics, grads = jax.jit(losses)(params, batch)
    assert metrics["loss_box"] == metrics["loss_mask"] == metrics["loss_rpn_box"] == 0
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert metrics["loss_class"] > 0


def test_eight_devices_give_what_one_gives_and_gather_no_maps():
    losses, params = gradient()
    batch, mesh = batch_of(), make_mesh()
    wanted, slopes = jax.jit(losses)(params, batch)
    shardings = {name: sharded(mesh) for name in batch} | {"step": replicated(mesh)}
    step = jax.jit(losses, in_shardings=(replicated(mesh), shardings)).lower(params, batch)
    compiled = step.compile()
    # Choosing the best gathers scores, [photos, boxes]; nothing gathers maps.
    assert not re.search(r"= \w+\[\d+,\d+,[\d,]+\]\S* all-gather", compiled.as_text())
    placed = {name: jax.device_put(batch[name], shardings[name]) for name in batch}
    whole = NamedSharding(mesh, PartitionSpec())
    found, others = compiled(jax.device_put(params, whole), placed)
    for name in wanted:
        assert float(found[name]) == pytest.approx(float(wanted[name]), rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), slopes, others
    )


def test_permuted_photos_and_what_lies_outside_of_them():
    _, made, variables = detector()
    images = batch_of(4)["image"]
    images[:, 48:], images[:, :, 56:] = 0, 0
    size = np.array([[48, 56]] * 4, np.int32)
    detect = jax.jit(made.apply)
    found = detect(variables, images, size)
    assert found.valid.all()
    assert (found.box[..., 2] <= 56).all()
    assert (found.box[..., 3] <= 48).all()
    order = np.array([2, 0, 3, 1])
    other = detect(variables, images[order], size)
    for name in ("box", "score", "mask"):
        values = np.asarray(getattr(found, name))
        np.testing.assert_allclose(getattr(other, name), values[order], atol=1e-3)
    noise = images.copy()
    noise[:, 48:], noise[:, :, 56:] = 200, 100  # what lies outside the photo is not looked at
    np.testing.assert_array_equal(detect(variables, noise, size).box, found.box)


def abstract_batch(photos, height, width, objects=16):
    shapes = {
        "image": ((height, width, 3), np.uint8),
        "size": ((2,), np.int32),
        "box": ((objects, 4), np.float32),
        "category": ((objects,), np.int32),
        **dict.fromkeys(("valid", "ignore", "has_mask"), ((objects,), np.bool_)),
        "mask": ((objects, 112, 112), np.uint8),
    }
    made = {n: jax.ShapeDtypeStruct((photos, *s), kind) for n, (s, kind) in shapes.items()}
    return made | {"step": jax.ShapeDtypeStruct((), np.int32)}


@pytest.mark.parametrize(("what", "most"), [("inference", 0.45), ("gradient", 3.3)])
def test_memory_of_one_photo(what, most):
    """GiB of temporaries of ResNet-50 on 800x1088 pixels, as XLA plans them."""
    config = detector_config.get_config("coco")
    config.model.canvas = (800, 1088)
    config = parse_config(config)
    made, batch = build_matcher(config.model), abstract_batch(1, 800, 1088)
    variables = jax.eval_shape(made.init, jax.random.key(0), batch["image"])
    if what == "inference":
        lowered = jax.jit(made.apply).lower(variables, batch["image"], batch["size"])
    else:
        objective = build_objective(made, config)

        def gradient(params, stats, batch):
            return jax.grad(objective, has_aux=True)(params, stats, batch, lambda tree: tree)

        lowered = jax.jit(gradient).lower(variables["params"], variables["batch_stats"], batch)
    assert lowered.compile().memory_analysis().temp_size_in_bytes < most * 2**30


@pytest.mark.parametrize(("bins", "boxes", "most"), [(7, 512, 80), (14, 128, 100)])
def test_memory_of_roi_align(bins, boxes, most):
    """MiB of temporaries, 71 of them the maps side by side: boxes are read a few at a time.

    The gradient holds that of the maps besides.
    """
    strides = (4, 8, 16, 32)
    maps = {s: jax.ShapeDtypeStruct((800 // s, 1088 // s, 256), np.float32) for s in strides}
    of = jax.ShapeDtypeStruct((boxes, 4), np.float32)
    gradient = jax.grad(lambda maps, of: jnp.sum(roi_align(maps, of, bins) ** 2))
    for run, more in ((lambda maps, of: roi_align(maps, of, bins), 0), (gradient, 71)):
        plan = jax.jit(run).lower(maps, of).compile().memory_analysis()
        assert plan.temp_size_in_bytes < (most + more) * 2**20


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory, few_devices):
    """A run of two steps on the tiny synthetic set, and its config."""
    fields = {"dataset.source": "tiny", "dataset.dir": str(data_dir), "eval.batch_size": 8}
    config = small_config("detector", **{**FIELDS, **fields})
    config.train.update(steps=2, log_every=1, eval_every=2, checkpoint_every=2)
    workdir = tmp_path_factory.mktemp("detector") / "run"
    assert loop.train(parse_config(config), workdir).finished
    return workdir, config


def test_from_photos_to_boxes_that_retrieval_reads(trained, tmp_path, capsys, monkeypatch):
    workdir, config = trained
    split = load_dataset(parse_config(config).dataset).object_split("val")
    for row in range(3):
        path = tmp_path / "photos" / str(split.index.photo_id[row])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(split.picture(row)))
    (tmp_path / "photos" / "thin.png").write_bytes(encode_png(np.zeros((1, 300, 3), np.uint8)))
    (tmp_path / "photos" / "none.jpg").write_bytes(b"no photo")
    command = [str(tmp_path / "photos"), f"--workdir={workdir}"]
    monkeypatch.setattr(detect, "_OBJECTNESS", 0.0)  # two steps make sure of nothing
    assert detect.main(command) == 0
    said = capsys.readouterr()
    assert "4 photos" in said.out
    assert "1 files skipped" in said.out
    assert "none.jpg" in said.err
    written = workdir / "detections"
    results = json.loads((written / "detections.json").read_text())
    names = {*split.index.photo_id[:3].tolist(), "thin.png"}
    assert {one["image_id"] for one in results["annotations"]} <= names
    assert results["skipped"] == ["none.jpg"]
    assert len(list(written.glob("*.jpg"))) == 4
    detector = grnet_jax.load_detector(workdir)
    (found,) = detector.detect([split.picture(0)])
    assert found.size == split.picture(0).shape[:2]
    assert found.box.shape == (len(found), 4)
    assert len(found)
    for single in (split.picture(0), "a.jpg", iter(())):
        with pytest.raises(InputError, match="detect: expected a list of photos"):
            detector.detect(single)
    # The same photos as pairs, of which retrieval takes the crops.
    pairs = load_dataset(DatasetConfig(name="synthetic", source="tiny", dir=config.dataset.dir))
    read = pairs.split("val").detected(str(written / "boxes.csv"))
    np.testing.assert_allclose(read[0], found.box[0], atol=0.01)
    np.testing.assert_array_equal(read[3], [0, 0, *split.index.size[3, ::-1]])  # was not given


def test_photos_of_the_same_name_are_refused(tmp_path):
    for name in ("a/1.png", "b/1.png", "b/2.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode_png(np.zeros((4, 4, 3), np.uint8)))
    files = detect._name_files([str(tmp_path / "b"), str(tmp_path / "a/1.png")])
    assert sorted(files) == sorted(["1.png", "2.png", str(tmp_path / "a/1.png")])
    with pytest.raises(InputError, match=r"b/1\.png: .*a/1\.png has the same, 1\.png: detect"):
        detect._name_files([str(tmp_path / "a"), str(tmp_path / "b")])


def test_photos_of_a_data_set_are_cropped_by_their_category(
    trained, data_dir, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(detect, "_OBJECTNESS", 0.0)
    every = grnet_jax.load_detector(trained[0]).categories  # two steps do not tell them apart
    monkeypatch.setitem(detect._CLASS_MAPS, "synthetic", dict.fromkeys(CATEGORIES[::2], every))
    where = ["--dataset=synthetic", "--source=tiny", f"--dir={data_dir}", f"--output={tmp_path}"]
    given = [*where, f"--workdir={trained[0]}", "--class_map=synthetic", "--no_pictures"]
    assert detect.main(given) == 0
    assert "132 photos" in capsys.readouterr().out
    boxes = str(tmp_path / "boxes.csv")
    lines = pd.read_csv(boxes)
    assert set(lines["category"]) == set(CATEGORIES[::2])
    config = DatasetConfig(name="synthetic", source="tiny", dir=str(data_dir))
    split = load_dataset(config).split("val")
    best = lines.sort_values("score").groupby(["image", "category"]).last()
    for row, crop in enumerate(split.detected(boxes)):
        key = split.index.photo_id[row], split.index.categories[split.index.category[row]]
        whole = [0, 0, *split.index.size[row, ::-1]]
        own = best.loc[key, ["x_1", "y_1", "x_2", "y_2"]].to_list() if key in best.index else whole
        np.testing.assert_allclose(crop, own, atol=1e-3)
    measured = measure_crops(split, boxes)
    assert {name: of["photos"] for name, of in measured.items()} == {"customer": 16, "shop": 8}


def test_evaluation_of_a_run_is_printed_and_written(trained, capsys):
    workdir, config = trained
    commands.evaluate(["eval.py"], config, str(workdir), "")
    said = capsys.readouterr().out
    assert "Detection on 24 photos of val" in said
    assert f"Wrote {workdir}/detection.json" in said
    written = json.loads((workdir / "detection.json").read_text())
    assert (written["step"], written["photos"]) == (2, 24)
    names = {f"{kind}_{name}" for kind in ("box", "mask") for name in ("ap", "ap50", "ap75")}
    assert names <= written["values"].keys()
    assert written["classes"]["top"].keys() == {"objects", "box_ap50", "mask_ap50"}
    (point,) = read_curve(workdir, CURVE)  # of the validation in training, on the same split
    assert point["step"] == 2
    for name in CURVE:
        assert point[name] == pytest.approx(written["values"][name], abs=1e-4)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ((detect,), "PHOTO: expected photo files, folders or @FILE; or else --dataset"),
        ((detect, "PHOTO", "--dataset=synthetic"), "PHOTO: expected photo files, folders or @FILE"),
        ((detect, "PHOTO", "--classes=hat"), "--classes: hat not known; the detector has bag,"),
        ((detect, "PHOTO", "--class_map=MAP"), "names none of the detector's classes"),
        ((predict, "PHOTO"), "a detector, which embeds nothing; python -m grnet_jax.detect"),
        ((export, "--output=OUTPUT"), "a detector, which embeds nothing"),
        ((visualization, "--output=OUTPUT"), "a detector, which embeds nothing"),
    ],
)
def test_what_a_detector_does_not_do_is_said(trained, tmp_path, capsys, command, said):
    files = {"PHOTO": tmp_path / "a.png", "MAP": tmp_path / "map.json", "OUTPUT": tmp_path}
    files["PHOTO"].write_bytes(encode_png(np.zeros((9, 9, 3), np.uint8)))
    files["MAP"].write_text('{"hats": ["hat"]}')
    module, *given = command
    for name, path in files.items():
        given = [text.replace(name, str(path)) for text in given]
    with pytest.raises(SystemExit):
        module.main([*given, f"--workdir={trained[0]}"])
    assert said in capsys.readouterr().err


def test_a_detector_is_no_matcher(trained):
    with pytest.raises(InputError, match="a detector, which embeds nothing"):
        grnet_jax.load(trained[0])
