"""Names of what a run learned to recognize, kept beside its checkpoints."""

import dataclasses
import itertools
import json
from typing import Any

import pydantic
from absl import logging
from etils import epath

from grnet_jax.config import Config
from grnet_jax.errors import InputError
from grnet_jax.training.checkpoints import CheckpointError, open_workdir, read_config
from input_pipeline import read_object, write_file

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
    attributes = getattr(index, "attributes", ())  # of objects there are none
    known = hasattr(index, "landmarks") and bool((index.landmarks[..., 0] >= 0).any())
    names = tuple(map(str, index.categories)), tuple(map(str, attributes))
    write_labels(workdir, LabelNames(*names, known))


def write_labels(workdir: epath.Path, names: LabelNames) -> None:
    """Writes what a run learned to recognize."""
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
        content = read_object(path, "the labels of a run")
        return pydantic.TypeAdapter(LabelNames).validate_python(content)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        raise CheckpointError(f"{path}: {problem['loc'][0]}: {problem['msg']}") from error
    except InputError as error:
        raise CheckpointError(str(error)) from error


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


def warn_of_other_labels(config: Config, index: Any) -> None:
    """Says where a head that training starts from (`train.init_from`) has other labels.

    Args:
      config: the whole config.
      index: of the split that is trained on.
    """
    start, label = config.train.init_from, getattr(config.loss, "label", "category")
    if not start or config.train.init_params == "backbone" or label != "category":
        return
    workdir = open_workdir(start, "train.init_from")
    before = read_config(workdir).model
    for field, kind in (("num_classes", "categories"), ("num_attributes", "attributes")):
        if not getattr(config.model, field, 0) == getattr(before, field, 0) > 0:
            continue  # there is no such head, or it starts afresh
        learned = getattr(read_label_names(workdir), kind)
        if learned != (names := tuple(getattr(index, kind).tolist())):
            pairs = itertools.zip_longest(learned, names)
            number, pair = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
            logging.warning(
                "train.init_from=%s: its head learned other %s: number %d was %r and is %r now.",
                *(start, kind, number, *pair),
            )
