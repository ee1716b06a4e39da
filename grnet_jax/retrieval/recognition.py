"""Evaluation of what a matcher recognises: the category of every photo."""

import dataclasses
import json
import math
from typing import Any

import flax.linen as nn
import numpy as np
from etils import epath
from jax.sharding import Mesh

from grnet_jax import metrics
from grnet_jax.retrieval.embedding import embed_batches, make_predict

_CATEGORY_K = (1, 3, 5)


@dataclasses.dataclass(frozen=True)
class Recognition:
    """What was measured on the photos of a split; NaN where nothing could be.

    Attributes:
      split: its name.
      photos: how many it has.
      values: by name, as docs/metrics.md has them.
      intervals: 95%, clustered by item, of the category figures.
    """

    split: str
    photos: int
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]


class RecognitionEvaluator:
    """Measures predictions on splits of a data set; compiles once, for any number of calls.

    Args:
      matcher: one with predictions.
      config: the whole config; `eval.batch` and `data` are read.
      mesh: the devices.
    """

    def __init__(self, matcher: nn.Module, config: Any, mesh: Mesh):
        self._config = config
        self._mesh = mesh
        self._predict = make_predict(matcher, mesh)

    def evaluate(self, variables: Any, split: Any) -> Recognition:
        """Predicts for every photo of a split and measures.

        Args:
          variables: the matcher's.
          split: an `input_pipeline.Split`, whose categories are those that the matcher learned.
        """
        from input_pipeline import photo_batches  # the pipeline is loaded only where it is used

        config, index = self._config, split.index
        hits = []
        for start, found in embed_batches(
            self._predict,
            variables,
            lambda mine, batch: photo_batches(split, mine, config.data, batch=batch),
            np.arange(len(index)),
            batch=config.eval.batch,
            mesh=self._mesh,
        ):
            label = index.category[start : start + len(found.category)]
            each = [metrics.category_hits(found.category, label, k) for k in _CATEGORY_K]
            hits.append(np.stack(each, axis=1))
        values, intervals = category_figures(index.category, index.item, np.concatenate(hits))
        return Recognition(split.name, len(index), values, intervals)


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


def format_recognition(found: Recognition) -> str:
    """The figures in percent, a line each."""
    lines = [f"Recognition on {found.photos:,} photos of {found.split}"]
    for name, value in found.values.items():
        text = "-" if math.isnan(value) else f"{100 * value:.1f}"
        if name in found.intervals and text != "-":
            low, high = found.intervals[name]
            text += f" [{100 * low:.1f}, {100 * high:.1f}]"
        lines.append(f"{name:<34}{text}")
    return "\n".join(lines)


def write_recognition(directory: epath.Path, found: Recognition, model: str, step: int) -> str:
    """Writes `recognition.json`, shares in 0..1 and null where there is none; returns its path."""
    path = directory / "recognition.json"
    directory.mkdir(parents=True, exist_ok=True)
    content = {"model": model, "step": step, **dataclasses.asdict(found)}
    content["values"] = {name: _number(value) for name, value in found.values.items()}
    content["intervals"] = {
        name: [_number(bound) for bound in bounds] for name, bounds in found.intervals.items()
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
    return str(path)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
