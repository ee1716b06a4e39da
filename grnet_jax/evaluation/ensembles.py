"""Several matchers as one: their embeddings side by side (Kucer and Murray, 2019).

Every member sees the same queries and gallery through its own pipeline, for members may crop and
scale images differently.
"""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from jax.sharding import Mesh

from grnet_jax.errors import InputError
from grnet_jax.evaluation.protocols import build_protocol, see_as_trained
from grnet_jax.evaluation.retrieval import RetrievalEvaluator
from grnet_jax.models import InnerProduct, scores_by_descriptor
from grnet_jax.search.features import Concatenated, FeatureSource, InMemoryFeatures, read_all

# Fields of config.data that say which images a run was trained on.
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


class EnsembleEvaluator(RetrievalEvaluator):
    """Evaluates several matchers as one; its variables are `ensemble_variables` of the members.

    Args:
      config: of the evaluation; its `eval` is that of every member, its `data` says which images.
      members: one or more, of inner products, trained on the same data.
      mesh: the devices.

    Raises:
      InputError: a member whose score is no inner product, or of other training data.
    """

    def __init__(self, config: Any, members: Sequence[Member], mesh: Mesh):
        from input_pipeline import load_dataset  # the pipeline is loaded only where it is used

        check_members(members)
        self._names = [member.name for member in members]
        views = [member_data(config.data, member.config.data) for member in members]
        self._datasets = [load_dataset(data) for data in views]
        fields = ("split", "gallery", "queries", "query_seed", "same_category", "whitening")
        protocol = build_protocol(
            self._datasets[0],
            data=views[0],
            also_cropped=list(zip(self._datasets[1:], views[1:], strict=True)),
            **{name: config.eval[name] for name in fields},
        )
        config = copy.deepcopy(config)
        config.data = views[0]
        super().__init__(config, InnerProduct(), mesh, protocol, config.eval.store)
        self._members = []
        for number, (member, data) in enumerate(zip(members, views, strict=True)):
            own = copy.deepcopy(config)
            own.model, own.data = member.config.model, data
            store = self._store and f"{self._store}/{_key(number)}"
            self._members.append(RetrievalEvaluator(own, member.matcher, mesh, protocol, store))

    def features(
        self, variables: Any, images: Any, rows: np.ndarray, what: str, step: int = 0
    ) -> FeatureSource:
        """Embeds images by every member; see `RetrievalEvaluator.features`."""
        parts = []
        for number, member in enumerate(self._members):
            own = _same_images(self._names[number], self._datasets[number], images)
            parts.append(member.features(variables[_key(number)], own, rows, what, step))
        joined = Concatenated(tuple(parts))
        return joined if self._store else InMemoryFeatures(read_all(joined))

    def _processing(self) -> dict[str, Any]:
        return {"ensemble": ",".join(self._names), **super()._processing()}


def ensemble_variables(members: Sequence[Member]) -> dict[str, Any]:
    """Returns the variables of all members, by their number."""
    return {_key(number): member.variables for number, member in enumerate(members)}


def _key(number: int) -> str:
    return f"member_{number}"


def member_data(data: Any, trained: Any) -> Any:
    """Returns the evaluation's config.data, by which a member sees its images as in training.

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
                f"--workdir: {member.name} is of model.name={member.config.model.name}, whose "
                "score is no inner product of embeddings; expected one such as embedding"
            )
        for field in _SAME:
            first, other = members[0].config.data[field], member.config.data[field]
            if first != other:
                raise InputError(
                    f"--workdir: {members[0].name} was trained with data.{field}={first!r}, "
                    f"{member.name} with {other!r}; expected members of the same data"
                )


def _same_images(name: str, dataset: Any, images: Any) -> Any:
    """The same splits of a member's data set; InputError where they hold other images."""
    found = dataset.joined(images.name.split("+"))
    for field in ("photo_id", "item"):
        if not np.array_equal(getattr(found.index, field), getattr(images.index, field)):
            raise InputError(
                f"--workdir: {name} has other images in {images.name!r} than the first member: "
                f"{len(found)} there, {len(images)} here; expected the same in the same order"
            )
    return found
