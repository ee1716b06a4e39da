"""Several matchers as one: their descriptors side by side (Kucer and Murray, 2019).

Every member sees the same queries and gallery through its own pipeline, for members may cut and
scale photos differently.
"""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from grnet_jax.errors import InputError
from grnet_jax.models import Features, InnerProduct, scores_by_descriptor, unit_vectors
from grnet_jax.retrieval.evaluation import Evaluator
from grnet_jax.retrieval.sources import FeatureSource, HeldFeatures
from grnet_jax.retrieval.tasks import Task, see_as_trained

# Fields of config.data that say which photos a run was trained on.
_SAME = ("name", "size", "train_items", "seed", "manifest", "source")


class Member(NamedTuple):
    """A trained matcher.

    Attributes:
      name: what errors call it.
      matcher: the Linen module.
      config: of its training.
      variables: its parameters and statistics.
    """

    name: str
    matcher: nn.Module
    config: Any
    variables: Any


@dataclasses.dataclass(frozen=True)
class Joined:
    """Photos whose descriptors are those of several sources side by side, scaled to length 1."""

    sources: tuple[FeatureSource, ...]

    def __len__(self) -> int:
        return len(self.sources[0])

    def take(self, rows: np.ndarray) -> Features:
        """These rows: descriptor [n, sum of the sources' dimensions]."""
        parts = [source.take(rows).descriptor for source in self.sources]
        return jax.device_get(Features(unit_vectors(jnp.concatenate(parts, axis=1))))

    def descriptors(self) -> "Joined":
        """Themselves: there is nothing else."""
        return self


class EnsembleEvaluator(Evaluator):
    """Evaluates several matchers as one; its variables are `ensemble_variables` of the members.

    Args:
      members: one or more, of inner products, trained on the same data.
      config: of the evaluation; its `eval` is that of every member.
      datasets: the data set of every member's photos (`member_data`), an `input_pipeline.Dataset`.
      mesh: the devices.

    Raises:
      InputError: a member whose score is no inner product, or of other training data.
    """

    def __init__(self, members: Sequence[Member], config: Any, datasets: Sequence[Any], mesh: Mesh):
        check_members(members)
        super().__init__(InnerProduct(), config, mesh)
        self._names = [member.name for member in members]
        self._datasets = datasets
        self._members = []
        for member in members:
            own = copy.deepcopy(config)
            own.model, own.data = member.config.model, member_data(config.data, member.config.data)
            self._members.append(Evaluator(member.matcher, own, mesh))

    def features(
        self, variables: Any, task: Task, rows: np.ndarray, what: str, store: str, step: int
    ) -> FeatureSource:
        """The members' descriptors of these photos side by side; see `Evaluator.features`."""
        parts = []
        for number, (name, member, dataset) in enumerate(
            zip(self._names, self._members, self._datasets, strict=True)
        ):
            photos = _same_photos(name, dataset, task.photos)
            own = dataclasses.replace(task, photos=photos)
            key = _key(number)
            folder = f"{store}/{key}" if store else ""
            parts.append(member.features(variables[key], own, rows, what, folder, step))
        joined = Joined(tuple(parts))
        return joined if store else HeldFeatures(joined.take(np.arange(len(rows))))


def ensemble_variables(members: Sequence[Member]) -> dict[str, Any]:
    """The variables of all members, by their number."""
    return {_key(number): member.variables for number, member in enumerate(members)}


def _key(number: int) -> str:
    return f"member_{number}"


def member_data(data: Any, trained: Any) -> Any:
    """A copy of the evaluation's config.data, by which a member sees its photos as in training.

    A detector's boxes are the evaluation's, where it has any.
    """
    data = copy.deepcopy(data)
    see_as_trained(data, trained)
    data.long_side = trained.long_side
    data.detections = data.detections or trained.detections
    return data


def check_members(members: Sequence[Member]) -> None:
    """Raises InputError, naming the member and the field, where members are not one ensemble."""
    for member in members:
        if not scores_by_descriptor(member.matcher):
            raise InputError(
                f"eval.ensemble: {member.name} is of model.name={member.config.model.name}, whose "
                "score is no inner product of descriptors; expected one such as embedding"
            )
        for field in _SAME:
            first, other = members[0].config.data[field], member.config.data[field]
            if first != other:
                raise InputError(
                    f"eval.ensemble: {members[0].name} was trained with data.{field}={first!r}, "
                    f"{member.name} with {other!r}; expected members of the same data"
                )


def _same_photos(name: str, dataset: Any, photos: Any) -> Any:
    """The same splits of a member's data set; InputError where they hold other photos."""
    found = dataset.joined(photos.name.split("+"))
    for field in ("photo_id", "item"):
        if not np.array_equal(getattr(found.index, field), getattr(photos.index, field)):
            raise InputError(
                f"eval.ensemble: {name} has other photos in {photos.name!r} than the first member: "
                f"{len(found)} there, {len(photos)} here; expected the same in the same order"
            )
    return found
