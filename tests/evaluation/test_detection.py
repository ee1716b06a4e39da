"""Average precision of detections whose answer is known."""

import dataclasses

import jax
import numpy as np
import pytest

from grnet_jax.config import parse_config
from grnet_jax.errors import InputError
from grnet_jax.evaluation.detection import DetectionEvaluator, as_seen
from grnet_jax.models.detector import Detections
from grnet_jax.sharding import make_mesh
from input_pipeline import ObjectShape, object_batches
from tests.input_pipeline.test_object_batches import prepare
from tests.small import small_config


class Dataset:
    def __init__(self, split):
        self.object_split = lambda name: split


class Known:
    """In the place of a detector: gives the objects of the photos, in order of their rows."""

    def __init__(self, found):
        self.found = found

    def apply(self, variables, images, size):
        row = jax.numpy.argmax(
            jax.numpy.all(images[:, None] == self.found["image"][None], axis=(2, 3, 4)), axis=1
        )
        parts = ("box", "score", "category", "objectness", "valid", "mask")
        return Detections(**{name: jax.numpy.asarray(self.found[name])[row] for name in parts})


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="module")
def config():
    fields = {"model.canvas": (48, 48), "eval.batch_size": 2}
    return parse_config(small_config("detector", **fields))


@pytest.fixture(scope="module")
def perfect(split):
    (batch,) = object_batches(split, range(6), ObjectShape(48, 48, mask_size=28), batch=6)
    score = np.where(batch["valid"], 0.9, 0).astype(np.float32)
    # Filled masks stand in for those that photos lack.
    mask = np.where(batch["has_mask"][..., None, None], batch["mask"] / 255, 1)
    parts = {"score": score, "objectness": score, "mask": mask.astype(np.float32)}
    return {**batch, **parts}


def run(config, split, found, learned=None):
    evaluator = DetectionEvaluator(
        config, Known(found), make_mesh(jax.devices()[:1]), Dataset(split), "train", learned
    )
    return evaluator.run({})


def test_what_is_there_is_found(config, split, perfect):
    result = run(config, split, perfect)
    for name in ("box_ap", "box_ap50", "box_ap75", "box_ap50_any_class", "mask_ap50"):
        assert result.values[name] == pytest.approx(1.0), name
    # Crowds are not to be found.
    assert {name: values["objects"] for name, values in result.classes.items()} == {
        "class 5": 4.0,
        "class 7": 1.0,
    }
    assert "box_ap50" in result.format()


def test_what_is_wrong_is_not(config, split, perfect):
    other = {**perfect, "category": (perfect["category"] + 1) % 3}
    result = run(config, split, other)
    assert result.values["box_ap50"] < 0.6
    assert result.values["box_ap50_any_class"] == pytest.approx(1.0)
    none = run(config, split, {**perfect, "valid": np.zeros_like(perfect["valid"])})
    assert none.values["box_ap50"] == none.values["mask_ap"] == 0
    moved = run(config, split, {**perfect, "box": perfect["box"] + np.float32([60, 0, 60, 0])})
    assert moved.values["box_ap50_any_class"] == 0


def test_categories_are_compared_by_name(config, split, perfect):
    @dataclasses.dataclass
    class Learned:
        categories: tuple[str, ...] = ("class 7", "class 5")

    valid = perfect["valid"] & (perfect["category"] != 1)
    found = {**perfect, "valid": valid, "category": np.where(perfect["category"] == 2, 0, 1)}
    result = run(config, split, found, Learned())
    assert result.values["box_ap50"] == pytest.approx(1.0)
    assert result.unknown == {"class 6": 2}
    assert "class 6 (2 objects)" in result.format()


def test_photos_with_objects_are_for_detectors(split):
    dataset = Dataset(split)
    dataset.name, dataset.splits, dataset.split = "street", ("train",), lambda name: split
    with pytest.raises(InputError, match=r"street has photos .* model.name=grnet; expected detect"):
        as_seen(parse_config(small_config()), dataset)
