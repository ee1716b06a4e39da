"""What is recognised, counted by loops over a split's photos; its file and table."""

import dataclasses
import json
import math

import flax.linen as nn
import jax
import numpy as np
from etils import epath

from grnet_jax import mesh as meshes
from grnet_jax import metrics, models
from grnet_jax.retrieval.recognition import (
    Recognition,
    RecognitionEvaluator,
    category_figures,
    format_recognition,
    write_recognition,
)
from grnet_jax.training.setup import resolve_preprocessing
from input_pipeline import load_dataset, photo_batches


class _Brightness(nn.Module):
    """Logits of 13 categories that are linear in a photo's mean colours."""

    @nn.compact
    def predict(self, photos, train=False):
        colours = photos.mean(axis=(1, 2)) / 255.0 - 0.5
        logits = nn.Dense(13, kernel_init=nn.initializers.normal(5.0))(colours)
        return models.Features(colours), models.Predictions(category=logits)


def test_every_photo_counts_once_on_any_number_of_devices(tiny_config):
    config = resolve_preprocessing(tiny_config())
    split = load_dataset(config.data).split("test")
    matcher = _Brightness()
    assert models.has_predictions(matcher)
    (batch,) = photo_batches(
        split, np.arange(len(split.index)), config.data, batch=len(split.index)
    )
    variables = matcher.init(jax.random.key(0), batch["photo"], method="predict")
    logits = np.asarray(models.predict(matcher, variables, batch["photo"]).category)
    found = RecognitionEvaluator(matcher, config, meshes.make_mesh()).evaluate(variables, split)
    assert (found.split, found.photos) == ("test", len(split.index))
    label = split.index.category
    for k in (1, 3, 5):
        hits = [label[i] in np.argsort(-row)[:k] for i, row in enumerate(logits) if label[i] >= 0]
        np.testing.assert_allclose(found.values[f"category_top{k}"], np.mean(hits), atol=1e-9)
    commonest = max(np.mean(label == c) for c in set(label.tolist()))
    np.testing.assert_allclose(found.values["category_commonest"], commonest)


def test_unknown_categories_do_not_count_and_intervals_are_by_item():
    category, item = np.array([0, 0, 1, -1, 2, 2]), np.array([0, 0, 1, 1, 2, 3])
    hits = np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1], [1, 1, 1], [0, 1, 1], [1, 1, 1]], bool)
    values, intervals = category_figures(category, item, hits)
    assert values == {
        "category_top1": 0.4, "category_top3": 0.8, "category_top5": 1.0, "category_commonest": 0.4
    }  # fmt: skip
    kept = category >= 0
    wanted = metrics.clustered_interval(hits[kept, 0].astype(float), item[kept])
    np.testing.assert_allclose(intervals["category_top1"], wanted)
    values, intervals = category_figures(np.full(6, -1), item, hits)
    assert all(map(math.isnan, values.values()))
    assert all(math.isnan(bound) for bounds in intervals.values() for bound in bounds)


def test_file_and_table_have_the_figures_and_none_for_nothing(tmp_path):
    known = Recognition("test", 1200, {"category_top1": 0.25}, {"category_top1": (0.2, 0.3)})
    assert format_recognition(known).splitlines()[0] == "Recognition on 1,200 photos of test"
    assert format_recognition(known).endswith("25.0 [20.0, 30.0]")
    nothing = dataclasses.replace(
        known, values={"category_top1": math.nan}, intervals={"category_top1": (math.nan,) * 2}
    )
    assert format_recognition(nothing).endswith("-")
    for found, value, bounds in ((known, 0.25, [0.2, 0.3]), (nothing, None, [None, None])):
        path = write_recognition(epath.Path(tmp_path), found, "fir", 7)
        content = json.loads(epath.Path(path).read_text())
        assert (content["model"], content["step"], content["photos"]) == ("fir", 7, 1200)
        assert content["values"] == {"category_top1": value}
        assert content["intervals"] == {"category_top1": bounds}
