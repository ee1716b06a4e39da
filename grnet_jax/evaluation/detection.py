"""Evaluation of a detector: COCO's average precision of boxes and masks, by pycocotools."""

import contextlib
import dataclasses
import io
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from grnet_jax.config import Config
from grnet_jax.detection.photos import PhotoDetections, coco_results, photo_detections
from grnet_jax.errors import InputError
from grnet_jax.evaluation.recognition import json_number
from grnet_jax.search.embed import embed_batches, make_detect
from input_pipeline import ObjectSplit, load_image, write_file

# Side of the masks that are trained on, within their boxes, in pixels.
_MASK_SIZE = 112
_IOUS: Mapping[str, Any] = {
    "ap": slice(None),
    "ap50": 0,
    "ap75": 5,
}  # places among COCO's .50, .55, ..., .95


@dataclasses.dataclass(frozen=True)
class DetectionResult:
    """What was measured on the photos of a split; NaN where nothing could be.

    Attributes:
      split: its name.
      photos: how many it has.
      values: box_ap, box_ap50, box_ap75, and box_ap50_any_class, whatever the class; the same of
        masks.
      classes: of each category that occurs, its objects and box_ap50 and mask_ap50.
      unknown: objects of each category that the detector did not learn; they are not measured.
      intervals: of box_ap50, (low, high), the middle 95% of bootstraps over photos; {} where none
        was asked for.
    """

    split: str
    photos: int
    values: dict[str, float]
    classes: dict[str, dict[str, float]]
    unknown: dict[str, int]
    intervals: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    def format(self) -> str:
        """Returns the metrics for the terminal, a line each."""
        lines = [f"Detection on {self.photos:,} photos of {self.split}"]
        for name, value in self.values.items():
            bounds = "-".join(map(_percent, self.intervals.get(name, ())))
            lines.append(f"{name:<34}{_percent(value)}{f' ({bounds})' if bounds else ''}")
        for name, values in self.classes.items():
            parts = [f"{key} {_percent(values[key])}" for key in values if key != "objects"]
            lines.append(f"{name:<20}{values['objects']:>7,.0f} objects  {'  '.join(parts)}")
        if self.unknown:
            names = ", ".join(f"{name} ({count:,} objects)" for name, count in self.unknown.items())
            lines.append(f"Not measured: categories that were not learned: {names}")
        return "\n".join(lines)

    def write(
        self, directory: epath.Path, model: str, step: int, provenance: Mapping[str, Any]
    ) -> list[str]:
        """Writes `detection.json`, shares in 0..1, and returns its path."""
        path = directory / "detection.json"
        about = {"model": model, "step": step, "provenance": dict(provenance)}
        content = jax.tree.map(json_number, about | dataclasses.asdict(self))
        write_file(path, json.dumps(content, indent=2) + "\n")
        return [str(path)]


class DetectionEvaluator:
    """Measures a detector on a split of a data set of objects, for any variables.

    Categories are compared by their names.

    Args:
      config: the whole config; `eval.batch_size`, `image` and `model` are read.
      detector: the Linen module.
      mesh: the devices.
      dataset: an `input_pipeline.Dataset`.
      split: the name of one of its splits.
      learned: the `categories` of the detector, in their order; None: those of the data set.
      resamples: of the photos, for the interval; 0: none.
    """

    def __init__(
        self,
        config: Config,
        detector: nn.Module,
        mesh: Mesh,
        dataset: Any,
        split: str,
        learned: Any = None,
        resamples: int = 0,
    ):
        self._config = config
        self._resamples = resamples
        self._mesh = mesh
        self._split = dataset.object_split(split)
        self._detect = make_detect(detector, mesh)
        names = list(map(str, self._split.index.categories))
        known = names if learned is None else list(map(str, learned.categories))
        self._known = known
        self._ids = {name: number for number, name in enumerate(names, start=1)}
        self._masks = bool(config.model.mask_channels)
        self._truth, self._unknown = _ground_truth(self._split, set(known))

    def run(self, variables: Any, step: int = 0) -> DetectionResult:
        """Detects in every photo of the split and measures.

        Args:
          variables: the detector's.
          step: the checkpoint's, which nothing here depends on.
        """
        del step
        found: list[dict[str, Any]] = []
        kinds = ["bbox", "segm"] if self._masks and self._truth.has_masks else ["bbox"]
        for row, detections in self._detections(variables):
            found += coco_results(detections, row + 1, self._ids, masks="segm" in kinds)
        values, classes = {}, {k: {"objects": float(n)} for k, n in self._truth.objects.items()}
        for kind in kinds:
            name = {"bbox": "box", "segm": "mask"}[kind]
            for key, value in self._truth.measure(found, kind, classes, name).items():
                values[f"{name}_{key}"] = value
        count, intervals = len(self._split.index), {}
        if self._resamples and len(self._truth.objects):
            intervals["box_ap50"] = self._truth.bootstrap(found, self._resamples)
        return DetectionResult(self._split.name, count, values, classes, self._unknown, intervals)

    def _detections(self, variables: Any) -> Iterator[tuple[int, PhotoDetections]]:
        """Yields each row and what was found in its photo."""
        from input_pipeline import object_batches  # which needs TensorFlow

        shape = object_shape(self._config, masks=False)
        size = self._split.index.size

        def batches(rows: np.ndarray, batch: int) -> Iterator[dict[str, Any]]:
            for read in object_batches(self._split, rows, shape, batch=batch):
                yield {"image": {"images": read["image"], "size": read["size"]}}

        for start, found in embed_batches(
            self._detect,
            variables,
            batches,
            np.arange(len(size)),
            batch=self._config.eval.batch_size,
            mesh=self._mesh,
        ):
            for place in range(len(found.valid)):
                photo = tuple(size[start + place].tolist())
                canvas = self._config.model.canvas
                yield start + place, photo_detections(found, place, photo, canvas, self._known)


def as_seen(config: Config, dataset: Any) -> Any:
    """Returns a data set as a network sees it: to a detector each garment is an object.

    Raises:
      InputError: it has photos with objects, and the network is no detector.
    """
    if config.model.name == "detector":
        return dataset.as_objects()
    if isinstance(dataset.split(dataset.splits[0]), ObjectSplit):
        raise InputError(
            f"dataset.name={dataset.name} has photos with objects, but model.name="
            f"{config.model.name}; expected detector"
        )
    return dataset


def object_shape(config: Config, *, masks: bool) -> Any:
    """Returns the shape of a detector's batches, with masks to train on or without."""
    from input_pipeline import ObjectShape  # which needs TensorFlow

    side = _MASK_SIZE if masks and config.model.mask_channels else 0
    height, width = config.model.canvas
    return ObjectShape(height, width, mask_size=side, interpolation=config.image.interpolation)


class _Truth:
    """A split's objects as pycocotools takes them."""

    def __init__(self, images: list[Any], annotations: list[Any], categories: list[str]):
        self._images = images
        self._annotations = annotations
        self._categories = categories
        self.has_masks = any(one["segmentation"] for one in annotations)
        counts = np.bincount(
            [one["category_id"] - 1 for one in annotations if not one["iscrowd"]],
            minlength=len(categories),
        )
        self.objects = {name: int(n) for name, n in zip(categories, counts, strict=True) if n}

    def measure(
        self, found: list[Any], kind: str, classes: dict[str, dict[str, float]], name: str
    ) -> dict[str, float]:
        """Returns AP, AP50, AP75 and AP50 whatever the class; fills in that of each class."""
        precision = self._precision(found, kind)  # [iou, recall, class]
        values = {key: _mean(precision[place]) for key, place in _IOUS.items()}
        for number, category in enumerate(self._categories):
            if category in classes:
                classes[category][f"{name}_ap50"] = _mean(precision[0, :, number])
        return values | {"ap50_any_class": _mean(self._precision(found, kind, False)[0])}

    def bootstrap(self, found: list[Any], resamples: int) -> tuple[float, float]:
        """Returns the middle 95% of the boxes' AP50 on photos drawn with replacement."""
        limits = {"iouThrs": np.array([0.5]), "areaRng": [[0, 1e10]], "areaRngLbl": ["all"]}
        measured = self._match(found, "bbox", maxDets=[100], **limits)
        photos = np.array(measured.evalImgs, object).reshape(len(self._categories), -1)
        rng, values = np.random.default_rng(0), []
        for _ in range(resamples):
            rows = rng.integers(photos.shape[1], size=photos.shape[1])
            measured.evalImgs = photos[:, rows].ravel().tolist()
            values.append(_mean(_accumulate(measured)))
        low, high = np.nanpercentile(values, [2.5, 97.5])
        return float(low), float(high)

    def _precision(self, found: list[Any], kind: str, by_class: bool = True) -> np.ndarray:
        measured = self._match(found, kind, useCats=int(by_class))
        return _accumulate(measured)[:, :, :, 0, -1]

    def _match(self, found: list[Any], kind: str, **params: Any) -> Any:
        """Returns pycocotools' evaluation, before precision is accumulated."""
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        truth = COCO()
        annotations = self._annotations
        if kind == "segm":  # an object without mask is neither to be found nor wrong
            annotations = [
                one if one["segmentation"] else {**one, "iscrowd": 1, "segmentation": _filled(one)}
                for one in annotations
            ]
        truth.dataset = {
            "info": {},
            "images": self._images,
            "annotations": annotations,
            "categories": [{"id": n} for n in range(1, len(self._categories) + 1)],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            truth.createIndex()
            results = truth.loadRes([dict(one) for one in found]) if found else COCO()
            measured = COCOeval(truth, results, kind)
            for name, value in params.items():
                setattr(measured.params, name, value)
            measured.evaluate()
        return measured


def _ground_truth(split: Any, known: set[str]) -> tuple[_Truth, dict[str, int]]:
    """Reads the objects of a split, and counts those of categories that are not known."""
    from pycocotools import mask as coco_mask

    names = list(map(str, split.index.categories))
    images: list[Any] = []
    annotations: list[Any] = []
    unknown = dict.fromkeys(names, 0)
    for row in range(len(split.index)):
        record = split.record(row)
        images.append({"id": row + 1, "height": record.height, "width": record.width})
        for place, (box, number) in enumerate(zip(record.boxes, record.categories, strict=True)):
            if names[number] not in known:
                unknown[names[number]] += 1
                continue
            x_1, y_1, x_2, y_2 = box.tolist()
            runs = None
            if place < len(record.masks) and record.masks[place]:
                pixels = load_image(record.masks[place])[..., 0] > 127
                runs = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": row + 1,
                    "category_id": int(number) + 1,
                    "bbox": [x_1, y_1, x_2 - x_1, y_2 - y_1],
                    "area": (x_2 - x_1) * (y_2 - y_1),
                    "iscrowd": int(record.crowd[place]),
                    "segmentation": runs,
                    "size": (record.height, record.width),
                }
            )
    truth = _Truth(images, annotations, names)
    return truth, {name: count for name, count in unknown.items() if count}


def _accumulate(measured: Any) -> np.ndarray:
    """Returns the precision [iou, recall, class, area, most detections] of matched detections."""
    with contextlib.redirect_stdout(io.StringIO()):
        measured.accumulate()
    return measured.eval["precision"]


def _filled(annotation: Mapping[str, Any]) -> Any:
    """Returns the whole box as a mask."""
    from pycocotools import mask as coco_mask

    box = np.array([annotation["bbox"]], np.float64)
    (runs,) = coco_mask.frPyObjects(box, *annotation["size"])
    return runs


def _mean(precision: np.ndarray) -> float:
    """Returns the mean where there is one: -1 stands for classes that do not occur."""
    there = precision[precision > -1]
    return float(there.mean()) if there.size else math.nan


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
