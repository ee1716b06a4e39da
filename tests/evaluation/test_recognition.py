"""What is recognized, counted by loops over a split's photos; its file and table."""

import dataclasses
import json
import math
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from sklearn.metrics import recall_score

from grnet_jax import metrics, models
from grnet_jax import sharding as meshes
from grnet_jax.config import parse_config
from grnet_jax.evaluation import build_evaluators
from grnet_jax.evaluation.recognition import (
    THRESHOLDS,
    RecognitionEvaluator,
    RecognitionResult,
    attribute_figures,
    category_figures,
    label_types,
)
from grnet_jax.models import build_matcher
from input_pipeline import image_batches, load_dataset
from input_pipeline.transforms import transform_landmarks


class _Brightness(nn.Module):
    """Logits of 13 categories that are linear in a photo's mean colours."""

    @nn.compact
    def predict(self, photos, train=False):
        colours = photos.mean(axis=(1, 2)) / 255.0 - 0.5
        logits = nn.Dense(13, kernel_init=nn.initializers.normal(5.0))(colours)
        return models.Features(colours), models.Predictions(category=logits)


def test_every_photo_counts_once_on_any_number_of_devices(tiny_config):
    config = parse_config(tiny_config())
    dataset = load_dataset(config.dataset)
    split = dataset.split("test")
    matcher = _Brightness()
    assert models.has_predictions(matcher)
    (batch,) = image_batches(
        split, np.arange(len(split.index)), config.image, batch=len(split.index)
    )
    variables = matcher.init(jax.random.key(0), batch["image"], method="predict")
    logits = np.asarray(models.predict(matcher, variables, batch["image"]).category)
    evaluator = RecognitionEvaluator(config, matcher, meshes.make_mesh(), dataset, "test")
    found = evaluator.run(variables)
    assert (found.split, found.photos) == ("test", len(split.index))
    label = split.index.category
    for k in (1, 3, 5):
        hits = [label[i] in np.argsort(-row)[:k] for i, row in enumerate(logits) if label[i] >= 0]
        np.testing.assert_allclose(found.values[f"category_top{k}"], np.mean(hits), atol=1e-9)
    commonest = max(np.mean(label == c) for c in set(label.tolist()))
    np.testing.assert_allclose(found.values["category_commonest"], commonest)


class _Colours(nn.Module):
    """Category, attributes and landmarks that are linear in a photo's mean colours."""

    attributes: int

    @nn.compact
    def predict(self, photos, train=False):
        colours = photos.mean(axis=(1, 2)) / 255.0 - 0.5
        outputs = 13 + self.attributes + 8 * 2 + 8 * 4
        found = nn.Dense(outputs, kernel_init=nn.initializers.normal(5.0))(colours)
        category, attributes, points, seen = jnp.split(
            found, np.cumsum([13, self.attributes, 16]), axis=1
        )
        return models.Features(colours), models.Predictions(
            category=category,
            attributes=attributes,
            landmarks=0.5 + 0.1 * points.reshape(-1, 8, 2),
            visibility=seen.reshape(-1, 8, 4),
        )


def test_attributes_and_landmarks_are_counted_over_all_photos(tiny_config):
    values = tiny_config()
    values.eval.batch_size = 40  # all images at once: shapes are compiled once
    config = parse_config(values)
    dataset = load_dataset(config.dataset)
    split = dataset.split("test")
    rows = np.arange(len(split))
    (batch,) = image_batches(split, rows, config.image, batch=len(split))
    matcher = _Colours(len(split.index.attributes))
    variables = matcher.init(jax.random.key(0), batch["image"], method="predict")
    predicted = jax.tree.map(np.asarray, models.predict(matcher, variables, batch["image"]))
    evaluator = RecognitionEvaluator(config, matcher, meshes.make_mesh(), dataset, "test")
    found = evaluator.run(variables)
    has = split.index.attribute_values(rows) > 0
    for k in (3, 5):
        best = np.argsort(-predicted.attributes, axis=1)[:, :k]
        chosen = np.zeros(has.shape, bool)
        np.put_along_axis(chosen, best, True, axis=1)
        recall = recall_score(has, chosen, average="micro")
        np.testing.assert_allclose(found.values[f"attribute_recall{k}"], recall)
        each = recall_score(has, chosen, average=None, zero_division=np.nan)
        np.testing.assert_allclose(found.values[f"attribute_recall{k}_mean"], np.nanmean(each))
        # At equal counts what a photo has not comes before what it has.
        order = [np.lexsort((row, -has.sum(axis=0)))[:k] for row in has]
        commonest = sum(row[first].sum() for row, first in zip(has, order, strict=True))
        np.testing.assert_allclose(
            found.values[f"attribute_recall{k}_commonest"], commonest / has.sum()
        )
    assert set(found.attributes) == set(split.index.attributes[has.any(axis=0)])
    boxes = split.crop_boxes(config.image)
    points, visibility = transform_landmarks(
        split.index.landmarks, boxes, np.zeros(len(rows), bool)
    )
    apart = np.hypot(*np.moveaxis(predicted.landmarks - points, -1, 0))
    seen = visibility == 0
    assert found.values["landmarks_visible"] == seen.sum()
    np.testing.assert_allclose(found.values["landmark_error"], apart[seen].mean(), rtol=1e-5)
    np.testing.assert_allclose(found.pdj, [(apart[seen] <= t).mean() for t in THRESHOLDS])
    assert found.values["landmark_pdj_0.1"] == found.pdj[9]
    assert list(found.pdj_parts) == ["collar", "sleeve", "waistline", "hem"]
    of_hems = apart[:, 6:][seen[:, 6:]]
    np.testing.assert_allclose(found.pdj_parts["hem"], [(of_hems <= t).mean() for t in THRESHOLDS])
    assert found.values["landmark_pdj_0.1_hem"] == found.pdj_parts["hem"][9]
    told = predicted.visibility.argmax(axis=-1)
    right = told == np.where(visibility < 0, 3, visibility)
    annotated = (visibility >= 0).any(axis=1)
    np.testing.assert_allclose(found.values["visibility_accuracy"], right[annotated].mean())
    slot = found.slots["left_sleeve"]
    assert slot["visible"] == seen[:, 2].sum()
    np.testing.assert_allclose(slot["error"], apart[:, 2][seen[:, 2]].mean(), rtol=1e-5)
    assert list(found.kinds)[:2] == ["customer", "shop"]
    back = seen & (split.index.view == 2)[:, None]
    assert found.kinds["back"]["visible"] == back.sum() > 0
    np.testing.assert_allclose(found.kinds["back"]["pdj_0.1"], (apart[back] <= 0.1).mean())


def test_labels_are_compared_by_name(tiny_config):
    """Of a run that learned the labels in another order, and one category and attribute not."""
    config = parse_config(tiny_config("fashionnet", **{"eval.batch_size": 40}))
    dataset = load_dataset(config.dataset)
    split = dataset.split("test")
    index, rows = split.index, np.arange(len(split))
    has = index.attribute_values(rows) > 0
    lost = np.bincount(index.category).argmax(), has.sum(axis=0).argmax()
    categories, attributes = (
        [*np.delete(names, number)[::-1].tolist(), "of another set"]
        for names, number in zip((index.categories, index.attributes), lost, strict=True)
    )
    learned = SimpleNamespace(categories=categories, attributes=attributes)
    (batch,) = image_batches(split, rows, config.image, batch=len(rows))
    matcher = _Colours(len(attributes))
    variables = matcher.init(jax.random.key(1), batch["image"], method="predict")
    scores = models.predict(matcher, variables, batch["image"])
    arguments = config, matcher, meshes.make_mesh(), dataset, "test", learned
    found = RecognitionEvaluator(*arguments).run(variables)

    names = index.categories[index.category]
    known = index.category != lost[0]
    best = np.array(categories)[np.argmax(scores.category, axis=1)]
    assert found.values["category_top1"] == np.mean((best == names)[known])
    assert found.unknown["categories"] == {index.categories[lost[0]]: (~known).sum()}
    common = np.asarray(scores.attributes)[:, -2::-1]  # the data set has no label of the last
    best = np.argsort(-common, axis=1)[:, :5]
    hits = np.take_along_axis(np.delete(has, lost[1], axis=1), best, axis=1).sum()
    photos = has.sum(axis=0)
    wanted = hits / np.delete(photos, lost[1]).sum()
    np.testing.assert_allclose(found.values["attribute_recall5"], wanted)
    assert found.unknown["attributes"] == {index.attributes[lost[1]]: photos[lost[1]]}
    assert "Not measured: categories that were not learned: " in found.format()


def test_labels_that_are_all_unknown_are_not_measured(tiny_config, caplog):
    config = parse_config(tiny_config("fashionnet"))
    dataset, matcher = load_dataset(config.dataset), build_matcher(config.model)
    for names, kinds in (
        (["sari"], {"retrieval"}),
        (["sari", dataset.split("test").index.categories[3]], {"retrieval", "recognition"}),
    ):
        learned = SimpleNamespace(categories=names, attributes=())
        arguments = config, matcher, meshes.make_mesh(), dataset, "test"
        assert build_evaluators(*arguments, learned=learned).keys() == kinds
    assert caplog.text.count("Categories are not measured: synthetic has none that") == 1


def test_types_of_attributes_have_recalls_of_their_own():
    """Five attributes: two of texture, one of style, one of an unknown type, one of none."""
    hits = np.array([
        [[3, 0, 1, 0, 2], [4, 1, 1, 0, 2]],  # ranked together
        [[4, 2, 2, 0, 0], [4, 2, 2, 0, 0]],  # each type by itself
        [[4, 0, 0, 0, 0], [4, 2, 0, 0, 0]],  # by how common they are
    ])  # fmt: skip
    index = SimpleNamespace(
        attributes=np.array(["dots", "stripes", "sporty", "odd", "free"]),
        attribute_counts=lambda: (np.array([4, 2, 2, 0, 2]), np.array([6, 8, 8, 10, 8])),
    )
    types = {"dots": "texture", "stripes": "texture", "sporty": "style", "odd": 9}
    values, each = attribute_figures(hits, label_types(index, types, index.attributes))
    assert values["attribute_recall3"] == 0.6
    assert values["attribute_recall5_commonest"] == 0.6
    np.testing.assert_allclose(values["attribute_recall3_texture"], 3 / 6)
    assert values["attribute_recall3_texture_within"] == 1
    assert values["attribute_recall5_style"] == 0.5
    assert not any("fabric" in name for name in values)
    assert each["dots"] == {"photos": 4, "recall3": 0.75, "recall5": 1}
    assert "odd" not in each


def test_unknown_categories_do_not_count_and_intervals_are_by_item():
    category, item = np.array([0, 0, 1, -1, 2, 2]), np.array([0, 0, 1, 1, 2, 3])
    hits = np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1], [1, 1, 1], [0, 1, 1], [1, 1, 1]], bool)
    values, intervals = category_figures(category, item, hits)
    assert values == {
        "category_top1": 0.4, "category_top3": 0.8, "category_top5": 1.0, "category_commonest": 0.4
    }  # fmt: skip
    kept = category >= 0
    wanted = metrics.clustered_intervals(hits[kept, :1], item[kept], np.ones((1, 5), bool))[0, 0]
    np.testing.assert_allclose(intervals["category_top1"], wanted)
    values, intervals = category_figures(np.full(6, -1), item, hits)
    assert all(map(math.isnan, values.values()))
    assert all(math.isnan(bound) for bounds in intervals.values() for bound in bounds)


def test_file_and_table_have_the_figures_and_none_for_nothing(tmp_path):
    known = RecognitionResult("test", 1200, {"category_top1": 0.25}, {"category_top1": (0.2, 0.3)})
    assert known.format().splitlines()[0] == "Recognition on 1,200 photos of test"
    assert known.format().endswith("25.0 [20.0, 30.0]")
    nothing = dataclasses.replace(
        known, values={"category_top1": math.nan}, intervals={"category_top1": (math.nan,) * 2}
    )
    assert nothing.format().endswith("-")
    for found, value, bounds in ((known, 0.25, [0.2, 0.3]), (nothing, None, [None, None])):
        (path,) = found.write(epath.Path(tmp_path), "fir", 7, {"seed": 3})
        content = json.loads(epath.Path(path).read_text())
        assert (content["model"], content["step"], content["photos"]) == ("fir", 7, 1200)
        assert content["provenance"] == {"seed": 3}
        assert content["values"] == {"category_top1": value}
        assert content["intervals"] == {"category_top1": bounds}
