"""Names of what a run learned to recognize, kept beside its checkpoints."""

import dataclasses
import json
from typing import Any

from etils import epath

from grnet_jax.config import Config
from grnet_jax.errors import InputError
from grnet_jax.training.checkpoints import CheckpointError
from input_pipeline import read_json, write_file

_FILE = "labels.json"


@dataclasses.dataclass(frozen=True)
class LabelNames:
    """Names by number.

    Attributes:
      categories: in the order of a category head's logits.
      attributes: in the order of the attributes' logits.
      landmarks: whether any image has landmarks, so that they were learned.
    """

    categories: tuple[str, ...]
    attributes: tuple[str, ...]
    landmarks: bool


def write_label_names(workdir: epath.Path, index: Any) -> None:
    """Writes the labels of the data set that a run is trained on, by a split's index."""
    known = bool((index.landmarks[..., 0] >= 0).any())
    names = LabelNames(tuple(map(str, index.categories)), tuple(map(str, index.attributes)), known)
    write_file(workdir / _FILE, json.dumps(dataclasses.asdict(names), indent=2) + "\n")


def read_label_names(workdir: epath.Path) -> LabelNames:
    """Returns the labels of the run in `workdir`.

    Raises:
      CheckpointError: there are none, or they cannot be read.
    """
    path = workdir / _FILE
    if not path.exists():
        raise CheckpointError(f"{path} is missing: it names what the run learned to recognize")
    try:
        names = read_json(path)
        return LabelNames(
            tuple(names["categories"]), tuple(names["attributes"]), bool(names["landmarks"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not the labels of a run: {error}") from error


def check_labels(config: Config, dataset: str, index: Any) -> None:
    """Raises InputError, naming the field, where a model's outputs are not the data set's labels.

    Args:
      config: the whole config.
      dataset: its name.
      index: of the split that is trained on.
    """
    model, label = config.model, getattr(config.loss, "label", "category")
    if label == "meta_class":  # classes are made, as many as there are logits
        return
    exact = hasattr(model, "num_attributes")  # a head that recognizes has no class too many
    names = index.items if label == "item" else index.categories
    what = "items to train on" if label == "item" else "categories"
    counts = [("num_classes", what, len(names))]
    counts += [("num_attributes", "attributes", len(index.attributes))] if exact else []
    for field, kind, count in counts:
        outputs = getattr(model, field, 0)
        if (exact and outputs != count) or 0 < outputs < count:
            raise InputError(
                f"model.{field}: {outputs}, but {dataset} has {count:,} {kind}: set "
                f"--config.model.{field}={count}"
            )
