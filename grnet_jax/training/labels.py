"""Names of what a run learned to recognise, kept beside its checkpoints."""

import dataclasses
import json
from typing import Any

from etils import epath

from grnet_jax.training.checkpoints import CheckpointError

_FILE = "labels.json"


@dataclasses.dataclass(frozen=True)
class Labels:
    """Names by number.

    Attributes:
      categories: in the order of a category head's logits.
      attributes: in the order of the attributes' logits.
      landmarks: whether any photo has landmarks, so that they were learned.
    """

    categories: tuple[str, ...]
    attributes: tuple[str, ...]
    landmarks: bool


def write_labels(workdir: epath.Path, index: Any) -> None:
    """Writes the labels of the data set that a run is trained on, by a split's index."""
    known = bool((index.landmarks[..., 0] >= 0).any())
    names = Labels(tuple(map(str, index.categories)), tuple(map(str, index.attributes)), known)
    workdir.mkdir(parents=True, exist_ok=True)
    half = workdir / f"{_FILE}.tmp"
    half.write_text(json.dumps(dataclasses.asdict(names), indent=2) + "\n")
    half.replace(workdir / _FILE)  # a kill leaves the old file or the new one


def read_labels(workdir: epath.Path) -> Labels:
    """The labels of the run in `workdir`.

    Raises:
      CheckpointError: there are none, as of runs of an older version, or they cannot be read.
    """
    path = workdir / _FILE
    if not path.exists():
        raise CheckpointError(
            f"{path} is missing: it names what was learned. Runs of older versions get it from the "
            f"command that trained them, `python train.py --config=... --workdir={workdir}`, which "
            "trains no step that is done"
        )
    try:
        found = json.loads(path.read_text())
        return Labels(
            tuple(found["categories"]), tuple(found["attributes"]), bool(found["landmarks"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not the labels of a run: {error}") from error
