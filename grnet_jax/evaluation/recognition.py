"""Evaluation of what a matcher recognizes: category, attributes and landmarks of every image."""

import dataclasses
import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from grnet_jax import metrics
from grnet_jax.config import Config
from grnet_jax.models import has_predictions
from grnet_jax.search.embed import embed_batches, make_predict, read_images
from input_pipeline import (
    DOMAINS,
    LANDMARKS,
    VIEWS,
    CropBoxes,
    write_file,
)

# Of the PDJ curve, in sides of the square that the network sees.
THRESHOLDS = tuple(round(0.01 * number, 2) for number in range(1, 51))
_CATEGORY_K = (1, 3, 5)
_ATTRIBUTE_K = (3, 5)
_NO_SHARES = {"landmark_error": "{:.4f}", "landmarks_visible": "{:,.0f}"}


@dataclasses.dataclass(frozen=True)
class RecognitionResult:
    """What was measured on the photos of a split; NaN where nothing could be.

    Attributes:
      split: its name.
      photos: how many it has.
      values: by name, as docs/metrics.md has them.
      intervals: 95%, clustered by item, of the category figures.
      attributes: of each attribute that any photo has, its photos and its recall at each k.
      slots: of each landmark slot, the visible ones, their detection rate at 0.1 and their error.
      kinds: the same of the landmarks of customer and shop photos, and of each view that is known.
      pdj: the detection rate at each of THRESHOLDS; empty of matchers without landmarks.
      pdj_parts: the same of collars, sleeves, waistlines and hems, left and right together.
      unknown: photos of each of the "categories" and "attributes" that the matcher did not learn;
        they are not measured.
    """

    split: str
    photos: int
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    attributes: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    slots: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    kinds: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    pdj: list[float] = dataclasses.field(default_factory=list)
    pdj_parts: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    unknown: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)

    def format(self) -> str:
        """Returns the metrics for the terminal, a line each."""
        return format_recognition(self)

    def write(
        self, directory: epath.Path, model: str, step: int, provenance: Mapping[str, Any]
    ) -> list[str]:
        """Writes `recognition.json` and returns its path."""
        return [write_recognition(directory, self, model, step, provenance)]


class AttributeLabels(NamedTuple):
    """A split's attributes [a]: names, places in type_names (-1: none), photos with each."""

    names: np.ndarray
    types: np.ndarray
    photos: np.ndarray
    type_names: tuple[str, ...] = ()


class _Landmarks(NamedTuple):
    """Of some photos: distances and which are visible, [n, p]; whether the visibility is right
    [n, p], of the photos that are annotated [n].
    """  # fmt: skip

    distances: np.ndarray
    visible: np.ndarray
    right: np.ndarray
    annotated: np.ndarray


def recognizes_categories(matcher: nn.Module, config: Config) -> bool:
    """Whether a matcher that was trained by this config has predictions, and of categories."""
    return has_predictions(matcher) and getattr(config.loss, "label", "category") == "category"


def labels_in_common(config: Config, index: Any, learned: Any) -> bool:
    """Whether a data set has a category or attribute that a matcher of this config learned.

    Args:
      config: the whole config.
      index: of one of the data set's splits.
      learned: see `RecognitionEvaluator`.
    """
    kinds = _kinds(config)
    return any(set(getattr(index, kind)) & set(getattr(learned, kind)) for kind in kinds)


def _kinds(config: Config) -> tuple[str, ...]:
    """Returns the kinds of labels whose outputs a matcher has."""
    attributes = getattr(config.model, "num_attributes", 0) > 0
    return ("categories", "attributes") if attributes else ("categories",)


class RecognitionEvaluator:
    """Measures predictions on a split of a data set, for any variables.

    Labels are compared by their names; those that the matcher did not learn are not measured.

    Args:
      config: the whole config; `eval.batch_size` and `image` are read.
      matcher: one with predictions.
      mesh: the devices.
      dataset: an `input_pipeline.Dataset`.
      split: the name of one of its splits.
      learned: the `categories` and `attributes` of the matcher's outputs, in their order; None:
        those of the data set.
    """

    def __init__(
        self,
        config: Config,
        matcher: nn.Module,
        mesh: Mesh,
        dataset: Any,
        split: str,
        learned: Any = None,
    ):
        self._image = config.image
        self._batch = config.eval.batch_size
        self._matcher = matcher
        self._mesh = mesh
        self._split = split
        self._images = dataset.split(split)
        index, types = self._images.index, dataset.summary.get("attribute_types", {})
        learned = index if learned is None else learned
        self._labels = label_types(index, types, learned.attributes)
        # By the data set's number of a category the matcher's, by the matcher's of an attribute the
        # data set's.
        self._categories = _numbers(index.categories, learned.categories)
        self._attributes = _numbers(learned.attributes, index.attributes)[:-1]
        self._unknown = _count_unknown(index, learned, _kinds(config))
        self._predict = make_predict(matcher, mesh)

    def run(self, variables: Any, step: int = 0) -> RecognitionResult:
        """Predicts for every image of the split and measures.

        Args:
          variables: the matcher's.
          step: the checkpoint's, which nothing here depends on.
        """
        from input_pipeline import eval_batch_spec, image_labels  # which load TensorFlow

        del step
        images, index = self._images, self._images.index
        crops = CropBoxes(images, self._image)
        hits, counts, landmarks = [], [], []
        for start, found in embed_batches(
            self._predict,
            variables,
            lambda mine, batch: read_images(self._matcher, images, mine, self._image, batch),
            np.arange(len(index)),
            batch=self._batch,
            mesh=self._mesh,
        ):
            rows = np.arange(start, start + len(found.category))
            label = image_labels(images, eval_batch_spec(rows, crops))
            hits.append(_category_hits(found.category, self._categories[label["category"]]))
            if found.attributes is not None:
                unknown = np.full((len(rows), 1), -1, label["attributes"].dtype)
                has = np.hstack([label["attributes"], unknown])[:, self._attributes]
                counts.append(self._count_attributes(found.attributes, has))
            if found.landmarks is not None:
                places = np.asarray(found.landmarks), np.asarray(found.visibility)
                landmarks.append(_measure_landmarks(*places, label))
        category = self._categories[index.category]
        values, intervals = category_figures(category, index.item, np.concatenate(hits))
        parts: dict[str, Any] = {"unknown": self._unknown}
        if counts:
            total = np.sum(counts, axis=0)
            recalls, parts["attributes"] = attribute_figures(total, self._labels)
            values |= recalls
        if landmarks:
            joined = _Landmarks(*map(np.concatenate, zip(*landmarks, strict=True)))
            measured, parts["slots"], curves = landmark_figures(joined)
            values |= measured
            parts["pdj"], parts["pdj_parts"] = curves.pop("all"), curves
            parts["kinds"] = {
                name: _of_landmarks(joined.distances, joined.visible & chosen[:, None])
                for name, chosen in photo_kinds(index).items()
            }
        return RecognitionResult(self._split, len(index), values, intervals, **parts)

    def _count_attributes(self, scores: jax.Array, label: np.ndarray) -> np.ndarray:
        labels = self._labels
        types = tuple(labels.types.tolist())
        return np.asarray(_count_attributes(scores, label, labels.photos, types))


def _category_hits(scores: jax.Array, category: np.ndarray) -> np.ndarray:
    """Whether each image's category is among the first k, [n, 3]."""
    hits = [metrics.category_hits(scores, category, k) for k in _CATEGORY_K]
    return np.stack(hits, axis=1)


def photo_kinds(index: Any) -> dict[str, np.ndarray]:
    """By name, customer and shop photos and those of each view, bool [n]; kinds without are out."""
    found = {name: index.domain == number for number, name in enumerate(DOMAINS)}
    found |= {name: index.view == number for number, name in enumerate(VIEWS)}
    return {name: chosen for name, chosen in found.items() if chosen.any()}


def _numbers(names: Iterable[str], among: Iterable[str]) -> np.ndarray:
    """Returns each name's number among others, int32 [n + 1]: -1 for none, and at the end."""
    places = {str(name): place for place, name in enumerate(among)}
    return np.array([*(places.get(str(name), -1) for name in names), -1], np.int32)


def _count_unknown(index: Any, learned: Any, kinds: Iterable[str]) -> dict[str, dict[str, int]]:
    """Returns by kind and name the photos of a split with labels that were not learned."""
    category = index.category[index.category >= 0]
    counts = {
        "categories": np.bincount(category, minlength=len(index.categories)),
        "attributes": index.attribute_counts()[0],
    }
    unknown = {}
    for kind in kinds:
        counted = dict(zip(getattr(index, kind).tolist(), counts[kind].tolist(), strict=True))
        others = counted.keys() - set(getattr(learned, kind))
        if names := {name: n for name, n in counted.items() if n and name in others}:
            unknown[kind] = names
    return unknown


def label_types(
    index: Any, types: Mapping[str, str | int], learned: Sequence[str]
) -> AttributeLabels:
    """Of the learned attributes in a split, with their types: names, or numbers of unnamed ones."""
    named = {attribute: kind for attribute, kind in types.items() if isinstance(kind, str)}
    names = tuple(dict.fromkeys(named.values()))
    places = [names.index(named[name]) if name in named else -1 for name in map(str, learned)]
    photos = np.append(index.attribute_counts()[0], 0)[_numbers(learned, index.attributes)[:-1]]
    return AttributeLabels(np.array(learned, np.str_), np.array(places, np.int32), photos, names)


@functools.partial(jax.jit, static_argnames="types")
def _count_attributes(
    scores: jax.Array, label: jax.Array, photos: jax.Array, types: tuple[int, ...]
) -> jax.Array:
    """Photos in which each attribute is a hit, int [3, k, a].

    The lists that are ranked: all attributes together, those of each type by themselves, and all
    by how many photos of the split have them, whatever the photo.
    """
    commonest = jnp.broadcast_to(photos.astype(scores.dtype), scores.shape)
    lists = ((scores, None), (scores, np.array(types, np.int32)), (commonest, None))
    return jnp.array(
        [
            [metrics.attribute_hits(ranked, label, k, of).sum(axis=0) for k in _ATTRIBUTE_K]
            for ranked, of in lists
        ]
    )


def _measure_landmarks(
    points: np.ndarray, logits: np.ndarray, label: Mapping[str, np.ndarray]
) -> _Landmarks:
    """Of estimated points [n, p, 2] and logits of their visibility [n, p, v]."""
    visibility = label["visibility"]
    return _Landmarks(
        distances=np.asarray(metrics.normalized_distances(points, label["landmarks"])),
        visible=visibility == 0,
        # -1, absent, is the last class.
        right=np.argmax(logits, axis=-1) == visibility % logits.shape[-1],
        annotated=np.any(visibility >= 0, axis=1),
    )


def category_figures(
    category: np.ndarray, item: np.ndarray, hits: np.ndarray
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Top-k accuracies with their intervals, and the share of the commonest category.

    Args:
      category: int [n], -1 where it is unknown: such photos do not count.
      item: int [n], by which intervals are clustered.
      hits: bool [n, 3] at k = 1, 3, 5.
    """
    names, known = [f"category_top{k}" for k in _CATEGORY_K], category >= 0
    if not known.any():
        values = dict.fromkeys([*names, "category_commonest"], math.nan)
        return values, dict.fromkeys(names, (math.nan, math.nan))
    right = hits[known].astype(np.float64)
    everyone = np.ones((1, len(right)), bool)
    (bounds,) = metrics.clustered_intervals(right, item[known], everyone)
    values = dict(zip(names, right.mean(axis=0).tolist(), strict=True))
    values["category_commonest"] = float(np.bincount(category[known]).max() / len(right))
    intervals = {
        name: (float(low), float(high)) for name, (low, high) in zip(names, bounds, strict=True)
    }
    return values, intervals


def attribute_figures(
    hits: np.ndarray, attributes: AttributeLabels
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Recalls over all and by type, and of each attribute that any photo has.

    Args:
      hits: int [3, k, a] of `_count_attributes`, over all photos.
      attributes: of the split.
    """
    values: dict[str, float] = {}
    some = np.flatnonzero(attributes.photos)
    names = attributes.names.tolist()
    each: dict[str, dict[str, float]] = {
        names[a]: {"photos": float(attributes.photos[a])} for a in some
    }
    for number, k in enumerate(_ATTRIBUTE_K):
        together, within, commonest = (
            metrics.attribute_recall(
                ranked[number], attributes.photos, attributes.types, len(attributes.type_names)
            )
            for ranked in hits
        )
        values[f"attribute_recall{k}"] = together.overall
        values[f"attribute_recall{k}_mean"] = together.mean
        values[f"attribute_recall{k}_commonest"] = commonest.overall
        for place, name in enumerate(attributes.type_names):
            if (attributes.types == place).any():
                values[f"attribute_recall{k}_{name}"] = float(together.type[place])
                values[f"attribute_recall{k}_{name}_within"] = float(within.type[place])
        for a in some:
            each[names[a]][f"recall{k}"] = float(together.attribute[a])
    return values, each


def landmark_figures(
    found: _Landmarks,
) -> tuple[dict[str, float], dict[str, dict[str, float]], dict[str, list[float]]]:
    """The figures over all visible landmarks, those of each slot, and PDJ curves: all and parts."""
    distances, visible = found.distances, found.visible
    part_of = np.array([name.split("_")[-1] for name in LANDMARKS])
    curves = {}
    for part in ("all", *dict.fromkeys(part_of.tolist())):
        chosen = (part_of == part) | (part == "all")
        rates = metrics.detection_rate(
            distances[:, chosen], visible[:, chosen], np.array(THRESHOLDS)
        )
        curves[part] = np.asarray(rates).tolist()
    at = THRESHOLDS.index(0.1)
    right = found.right[found.annotated]
    values = {
        "landmark_pdj_0.1": curves["all"][at],
        **{f"landmark_pdj_0.1_{part}": of[at] for part, of in curves.items() if part != "all"},
        "landmark_error": float(metrics.normalized_error(distances, visible)),
        "landmarks_visible": float(visible.sum()),
        "visibility_accuracy": float(right.mean()) if right.size else math.nan,
    }
    slots = {
        name: _of_landmarks(distances[:, slot : slot + 1], visible[:, slot : slot + 1])
        for slot, name in enumerate(LANDMARKS)
    }
    return values, slots, curves


def _of_landmarks(distances: np.ndarray, visible: np.ndarray) -> dict[str, float]:
    return {
        "visible": float(visible.sum()),
        "pdj_0.1": float(metrics.detection_rate(distances, visible, np.array([0.1]))[0]),
        "error": float(metrics.normalized_error(distances, visible)),
    }


def format_recognition(found: RecognitionResult) -> str:
    """The figures in percent, a line each; the landmarks' error in sides of the square."""
    lines = [f"Recognition on {found.photos:,} photos of {found.split}"]
    for name, value in found.values.items():
        text = _NO_SHARES[name].format(value) if name in _NO_SHARES else f"{100 * value:.1f}"
        if math.isnan(value):
            text = "-"
        elif name in found.intervals:
            low, high = found.intervals[name]
            text += f" [{100 * low:.1f}, {100 * high:.1f}]"
        lines.append(f"{name:<34}{text}")
    for kind, names in found.unknown.items():
        shown = ", ".join(f"{name} ({count:,} photos)" for name, count in [*names.items()][:5])
        more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
        lines.append(f"Not measured: {kind} that were not learned: {shown}{more}")
    return "\n".join(lines)


def write_recognition(
    directory: epath.Path,
    found: RecognitionResult,
    model: str,
    step: int,
    provenance: Mapping[str, Any],
) -> str:
    """Writes `recognition.json`, shares in 0..1 and null where there is none; returns its path."""
    path = directory / "recognition.json"
    about = {"model": model, "step": step, "provenance": dict(provenance)}
    content = about | dataclasses.asdict(found)
    content["pdj"] = _points(found.pdj)
    content["pdj_parts"] = {part: _points(rates) for part, rates in found.pdj_parts.items()}
    write_file(path, json.dumps(jax.tree.map(json_number, content), indent=2) + "\n")
    return str(path)


def _points(rates: list[float]) -> list[list[float]]:
    return [list(point) for point in zip(THRESHOLDS, rates, strict=False)]


def json_number(leaf: Any) -> Any:
    """Returns a number to six digits, and None in the place of NaN."""
    if not isinstance(leaf, float):
        return leaf
    return None if math.isnan(leaf) else round(leaf, 6)
