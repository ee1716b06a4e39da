"""Several matchers as one: their embeddings side by side (Kucer and Murray, 2019).

Every member sees the same queries and gallery through its own pipeline, for members may crop and
scale images differently.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from jax.sharding import Mesh

from grnet_jax.config import Config
from grnet_jax.errors import InputError
from grnet_jax.evaluation.protocols import build_protocol
from grnet_jax.evaluation.retrieval import RetrievalEvaluator
from grnet_jax.models import EmbeddingModel, is_embedding_model
from grnet_jax.search.features import Concatenated, FeatureSource, InMemoryFeatures, read_all


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
    config: Config
    variables: Any


class EnsembleEvaluator(RetrievalEvaluator):
    """Evaluates several matchers as one; its variables are `ensemble_variables` of the members.

    Args:
      config: of the evaluation, the first member's with what is asked for; its `eval` is that of
        every member, as are `image.detections` and `image.keypoints`, where they are not the
        first's.
      members: one or more, whose scores are inner products, trained on the same data.
      mesh: the devices.
      dataset: an `input_pipeline.Dataset`.
      scratch: of `RetrievalEvaluator`.

    Raises:
      InputError: a member whose score is no inner product, or of other training data.
    """

    def __init__(
        self,
        config: Config,
        members: Sequence[Member],
        mesh: Mesh,
        dataset: Any,
        scratch: str = "",
    ):
        _check_members(members)
        asked = _changed_files(config, members[0].config)
        configs = [_member_config(config, member.config, asked) for member in members]
        protocol = build_protocol(
            dataset,
            configs[0].image,
            config.eval.protocol,
            whitening=config.eval.search.whitening,
            also_cropped=[own.image for own in configs[1:]],
        )
        store = config.eval.search.store
        super().__init__(configs[0], EmbeddingModel(), mesh, protocol, store, scratch)
        self._names = [member.name for member in members]
        self._members = []
        for number, (member, own) in enumerate(zip(members, configs, strict=True)):
            folders = [f"{folder}/{_key(number)}" if folder else "" for folder in (store, scratch)]
            one = RetrievalEvaluator(own, member.matcher, mesh, protocol, folders[0], folders[1])
            one.memory_share /= 2 * len(members)  # its own, and that of all of them joined
            self._members.append(one)

    def features(
        self, variables: Any, images: Any, rows: np.ndarray, what: str, step: int = 0
    ) -> FeatureSource:
        """Embeds images by every member; see `RetrievalEvaluator.features`."""
        parts = [
            member.features(variables[_key(number)], images, rows, what, step)
            for number, member in enumerate(self._members)
        ]
        joined = Concatenated(tuple(parts))
        alone = all(isinstance(part, InMemoryFeatures) for part in parts)
        return InMemoryFeatures(read_all(joined)) if alone else joined

    def _processing(self) -> dict[str, Any]:
        return {"ensemble": ",".join(self._names), **super()._processing()}


def ensemble_variables(members: Sequence[Member]) -> dict[str, Any]:
    """Returns the variables of all members, by their number."""
    return {_key(number): member.variables for number, member in enumerate(members)}


def _key(number: int) -> str:
    return f"member_{number}"


def _changed_files(config: Config, first: Config) -> dict[str, str]:
    """The files of boxes and keypoints that are not those of the first member's training."""
    files = {name: getattr(config.image, name) for name in ("detections", "keypoints")}
    return {name: file for name, file in files.items() if file != getattr(first.image, name)}


def _member_config(config: Config, trained: Config, files: dict[str, str]) -> Config:
    """A member's own config, with the evaluation's data set, search and changed files."""
    image = trained.image.model_copy(update=files)
    return trained.model_copy(
        update={"dataset": config.dataset, "image": image, "eval": config.eval}
    )


def _check_members(members: Sequence[Member]) -> None:
    """Raises InputError, naming the member and the field, where members are not one ensemble."""
    first = members[0]
    for member in members:
        if not is_embedding_model(member.matcher):
            raise InputError(
                f"--workdir: {member.name} is of model.name={member.config.model.name}, whose "
                "score is no inner product of embeddings; expected one such as embedding"
            )
        for field in ("name", "source"):
            one, other = (getattr(run.config.dataset, field) for run in (first, member))
            if one != other:
                raise InputError(
                    f"--workdir: {first.name} was trained with dataset.{field}={one!r}, "
                    f"{member.name} with {other!r}; expected members of the same data"
                )
