"""From a config to what training, evaluation and `load` share: one way to build a run."""

import copy
import dataclasses
from collections.abc import Collection
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import optax
from absl import logging
from etils import epath
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from grnet_jax.backbones.preprocessing import choose_preprocessing, find_preprocessing
from grnet_jax.backbones.weights import read_weights, read_weights_info
from grnet_jax.errors import InputError, check_at_least
from grnet_jax.mesh import place_replicated, replicated
from grnet_jax.models import build_matcher, make_scoring
from grnet_jax.photos import ANNOTATED, LANDMARKS, make_framing
from grnet_jax.search.reranking import make_shortlist
from grnet_jax.search.postprocessing import make_postprocessing
from grnet_jax.training.checkpoints import CheckpointError, Checkpoints, read_config
from grnet_jax.training.optimizers import (
    Schedule,
    make_optimizer,
    make_schedule,
    trainable_mask,
)
from grnet_jax.training.state import TrainState, create_state


@dataclasses.dataclass(frozen=True)
class Run:
    """A config's parts, built.

    Attributes:
      config: the whole config.
      mesh: all devices.
      matcher: the Linen module.
      steps: training steps in all.
      schedule: learning rate by step.
      tx: the optimiser.
    """

    config: Any
    mesh: Mesh
    matcher: nn.Module
    steps: int
    schedule: Schedule
    tx: optax.GradientTransformation

    @property
    def has_parameters(self) -> bool:
        """Whether there is anything to train, and so a checkpoint to look for."""
        return bool(jax.tree.leaves(jax.eval_shape(self._create_state).params))

    def create_state(self) -> TrainState:
        """The state before the first step, on every device."""
        return jax.jit(self._create_state, out_shardings=replicated(self.mesh))()

    def abstract_state(self) -> TrainState:
        """Its shapes, as a checkpoint is restored into, without computing it."""
        whole = replicated(self.mesh)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
            jax.eval_shape(self._create_state),
        )

    def _create_state(self) -> TrainState:
        config = self.config
        return create_state(self.matcher, self.tx, config.data.image_size, config.seed)


def build_run(config: Any, mesh: Mesh, steps_per_epoch: int = 1_000_000) -> Run:
    """Builds the parts of the run that `config` describes; its own config has no field left open.

    Args:
      config: the whole config.
      mesh: all devices.
      steps_per_epoch: of the training set. Only the number of steps and the schedule depend on
        it: to read a checkpoint any number does.

    Raises:
      InputError: naming the field that cannot be.
    """
    config = resolve_preprocessing(config)
    check_fields(config)
    make_framing(config.data)
    steps = count_steps(config.train, steps_per_epoch)
    schedule = make_schedule(config.optimizer, steps, steps_per_epoch)
    matcher = build_matcher(config.model)
    make_shortlist(config.eval, matcher)
    return Run(
        config=config,
        mesh=mesh,
        matcher=matcher,
        steps=steps,
        schedule=schedule,
        tx=make_optimizer(config.optimizer, schedule),
    )


def resolve_preprocessing(config: Any) -> Any:
    """A copy of the config in which the fields that are left to the backbone have their values.

    These are `model.backbone.preprocessing`, `data.interpolation` and `data.center_share`; a
    matcher without backbone sees photos as ImageNet's networks do.

    Raises:
      InputError: naming the preprocessings there are.
    """
    config = copy.deepcopy(config)
    name = "imagenet"
    if "backbone" in config.model:
        backbone = config.model.backbone
        name = choose_preprocessing(backbone.preprocessing, backbone.name)
        backbone.preprocessing = name
    preprocessing = find_preprocessing(name)
    config.data.interpolation = config.data.interpolation or preprocessing.interpolation
    config.data.center_share = config.data.center_share or preprocessing.center_share
    return config


def restore_run(workdir: epath.PathLike, mesh: Mesh) -> tuple[Run, TrainState]:
    """The run in `workdir`, built from its own config, and its best checkpoint.

    Raises:
      CheckpointError: if there is no run, no checkpoint that is whole, or a run of another
        version of this package, whose config lacks a field.
    """
    directory = epath.Path(workdir).expanduser()
    config = ml_collections.ConfigDict(read_config(directory))
    try:
        run = build_run(config, mesh)
    except (AttributeError, KeyError) as error:
        raise CheckpointError(
            f"{directory} was trained by another version of this package: its config.json does "
            f"not fit this one ({error})"
        ) from error
    with Checkpoints(directory) as saved:
        return run, saved.restore_best(run.abstract_state())


def start_state(run: Run) -> TrainState:
    """The state before the first step: fresh, or with the parameters it is to start from.

    These are those of another run (`train.init_from`), or of some of its parts
    (`train.init_parts`), or of a weights file for the backbone (`model.backbone.pretrained`).

    Raises:
      InputError: naming a parameter that does not fit this model.
    """
    state = run.create_state()
    workdir, pretrained = run.config.train.init_from, _pretrained(run.config)
    if workdir:
        from_run, other = restore_run(workdir, run.mesh)
        _check_same_preprocessing(workdir, from_run.config, run.config)
        source = f"train.init_from={workdir}"
        parts = run.config.train.init_parts
        if parts in ("shared", "fitting") and run.config.optimizer.trainable:
            _check_same_scores(workdir, from_run.config, run.config)
        if parts == "backbone":
            return _with_backbone(run, state, other.variables, source)
        if parts != "all":
            names = _choose_parts(parts, other.variables, state.variables)
            return _with_parts(run, state, other.variables, names, source)
        _check_fit(source, other.variables, state.variables)
        return dataclasses.replace(state, params=other.params, batch_stats=other.batch_stats)
    if not pretrained:
        return state
    theirs = read_weights(pretrained).variables
    return _with_backbone(run, state, theirs, f"model.backbone.pretrained={pretrained}")


def _choose_parts(parts: str, theirs: Any, ours: Any) -> set[str]:
    """The names of the parts of another model's variables that `train.init_parts` takes."""
    shared = set(theirs["params"]) & set(ours["params"])
    if parts == "shared":
        return shared
    return {name for name in shared if _shapes_of(name, theirs) == _shapes_of(name, ours)}


def _shapes_of(name: str, variables: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of a part's parameters and statistics."""
    return _shapes({kind: tree[name] for kind, tree in variables.items() if name in tree})


def _with_backbone(run: Run, state: TrainState, theirs: Any, source: str) -> TrainState:
    """The state with the backbone of other variables, where this matcher has it."""
    taken = {kind: _take_backbone(run.matcher, part) for kind, part in theirs.items() if part}
    names = {name for part in taken.values() for name in part}
    return _with_parts(run, state, taken, names, source)


def _take_backbone(matcher: nn.Module, theirs: Any) -> dict[str, Any]:
    """One collection of a backbone's variables under the names that they have in the matcher."""
    backbone = theirs.get("backbone", {})
    if hasattr(matcher, "take_backbone"):
        return dict(matcher.take_backbone(backbone))
    return {"backbone": backbone}


def check_trainable(run: Run) -> None:
    """Makes sure that `optimizer.trainable` names parts of the model, and what it holds can stay.

    Raises:
      InputError: naming the part that there is not; or where the statistics of a backbone's
        BatchNorm would move though weights of it do not, or a backbone that stays has no weights
        to start from.
    """
    trainable = run.config.optimizer.trainable
    if not trainable:
        return
    state = run.abstract_state()
    learns = jax.tree.leaves(trainable_mask(state.params, trainable).get("backbone", {}))
    frozen = "backbone" in run.config.model and run.config.model.backbone.frozen_batch_norm
    if state.batch_stats and not all(learns) and not frozen:
        raise InputError(
            f"optimizer.trainable={trainable} leaves weights of the backbone as they are, but its "
            "BatchNorm would change: set --config.model.backbone.frozen_batch_norm=true"
        )
    stays = learns and not any(learns)
    if stays and not (run.config.train.init_from or run.config.model.backbone.pretrained):
        raise InputError(
            f"optimizer.trainable={trainable}: the backbone would stay at random; expected "
            "train.init_from, a run, or model.backbone.pretrained, its weights"
        )


# Fields of the model that may differ where parts are taken and stay as they are.
_FREE_OF_SCORES = (
    "descriptor_dim",
    "gallery_chunk",
    "backbone.pretrained",
    "backbone.frozen_batch_norm",
    # Numbers of labels, by which heads fit or start afresh; no score reads a head.
    "attributes",
    "categories",
)


def _check_same_scores(workdir: str, theirs: Any, ours: Any) -> None:
    """Raises InputError where parts that stay as they are would be used otherwise than there."""
    there, here = (flatten_dict(config.model.to_dict(), sep=".") for config in (theirs, ours))
    for config, fields in ((theirs, there), (ours, here)):
        fields |= {f"data.{name}": config.data[name] for name in ("image_size", "crop")}
    wrong = [
        name
        for name in sorted(there.keys() & here.keys())
        if name not in _FREE_OF_SCORES and _plain(there[name]) != _plain(here[name])
    ]
    if wrong:
        raise InputError(
            f"train.init_from={workdir}: its parts stay as they are, so these fields have to be "
            "those of that run: "
            + "; ".join(f"{name}: {there[name]!r} there, {here[name]!r} here" for name in wrong)
        )


def _plain(value: Any) -> Any:
    """With lists for tuples, as files have them."""
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _with_parts(
    run: Run, state: TrainState, theirs: Any, names: Collection[str], source: str
) -> TrainState:
    """The state with parts of other variables; InputError where one does not fit."""
    if not names:
        raise InputError(f"{source}: no part of that model fits this model")
    if afresh := sorted(set(state.params) - set(names)):
        logging.info("%s: taken are %s; afresh start %s", source, sorted(names), afresh)
    taken, held = (
        {
            kind: {name: part for name, part in tree.items() if name in names}
            for kind, tree in variables.items()
        }
        for variables in (theirs, state.variables)
    )
    _check_fit(source, taken, held)
    taken = place_replicated(taken, run.mesh)
    return dataclasses.replace(
        state,
        params={**state.params, **taken["params"]},
        batch_stats={**state.batch_stats, **taken.get("batch_stats", {})},
    )


def check_pretrained(config: Any) -> None:
    """Makes sure, from its header, that the weights file that a config names is for its backbone.

    Raises:
      InputError: naming the file and the field that does not agree with it.
    """
    path = _pretrained(config)
    if not path:
        return
    if config.train.init_from:
        raise InputError("train.init_from and model.backbone.pretrained: only one can be given")
    backbone, info = config.model.backbone, read_weights_info(path)
    for field, wanted in (("name", info.backbone), ("preprocessing", info.preprocessing)):
        if backbone[field] != wanted:
            raise InputError(
                f"{path} holds weights for model.backbone.{field}={wanted}, but the config has "
                f"{backbone[field]}: set --config.model.backbone.{field}={wanted}"
            )


def _check_same_preprocessing(workdir: str, theirs: Any, ours: Any) -> None:
    """Raises InputError where another run's backbone sees photos otherwise than this one's."""
    if "backbone" not in theirs.model or "backbone" not in ours.model:
        return
    there, here = (config.model.backbone.preprocessing for config in (theirs, ours))
    if there != here:
        raise InputError(
            f"train.init_from={workdir} was trained with model.backbone.preprocessing={there}, but "
            f"the config has {here}: set --config.model.backbone.preprocessing={there}"
        )


def _pretrained(config: Any) -> str:
    return config.model.backbone.pretrained if "backbone" in config.model else ""


def _check_fit(source: str, theirs: Any, ours: Any) -> None:
    """Raises InputError naming a parameter that only one has, or in another shape."""
    there, here = _shapes(theirs), _shapes(ours)
    wrong = sorted(name for name in there | here if there.get(name) != here.get(name))
    if wrong:
        raise InputError(
            f"{source}: {len(wrong)} parameters do not fit this model, such as {wrong[0]}: "
            f"{there.get(wrong[0], 'absent')} there, {here.get(wrong[0], 'absent')} here"
        )


def _shapes(variables: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in leaves}


def count_steps(train: Any, steps_per_epoch: int) -> int:
    """`train.steps`, or where that is 0 `train.epochs` in steps.

    Raises:
      InputError: unless one is positive and the other 0.
    """
    if min(train.steps, train.epochs) != 0 or max(train.steps, train.epochs) <= 0:
        raise InputError(
            f"train.steps and train.epochs: one must be positive, the other 0; got {train.steps} "
            f"and {train.epochs}"
        )
    return train.steps or max(round(train.epochs * steps_per_epoch), 1)


_INIT_PARTS = ("all", "backbone", "shared", "fitting")
# Fields that count something, and the least each may be.
_LEAST = {
    "data.image_size": 1,
    "train.batch_items": 1,
    "train.log_every": 1,
    "train.eval_every": 0,
    "train.checkpoint_every": 1,
    "eval.batch": 1,
    "eval.query_block": 1,
    "eval.gallery_block": 1,
    "eval.held_queries": 1,
    "eval.keep_top": 1,
    "optimizer.warmup_steps": 0,
}


def check_fields(config: Any) -> None:
    """Raises InputError, naming the field, where a number is too small or a name unknown."""
    for field, least in _LEAST.items():
        section, name = field.split(".")
        check_at_least(field, config[section][name], least)
    make_scoring(config.eval)
    make_postprocessing(config.eval)
    parts = config.train.init_parts
    if parts not in _INIT_PARTS:
        raise InputError(f"train.init_parts: {parts!r} is none of {list(_INIT_PARTS)}")
    if parts != "all" and not config.train.init_from:
        raise InputError("train.init_parts: changes nothing without train.init_from")
    if (config.model.get("pooling") == "given") != bool(config.data.points):
        raise InputError(
            f'data.points={config.data.points!r}: expected a file, or "landmarks", with '
            "model.pooling=given, and nothing otherwise"
        )
    if config.data.points == ANNOTATED and config.model.given_points != len(LANDMARKS):
        raise InputError(
            f"model.given_points: expected {len(LANDMARKS)} with data.points={ANNOTATED}, got "
            f"{config.model.given_points}"
        )
