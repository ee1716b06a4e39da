"""Where training starts: fresh, from another run's parameters, or from a file of weights."""

from collections.abc import Collection
from typing import Any

import flax.linen as nn
import jax
from absl import logging
from jax.sharding import Mesh

from grnet_jax.backbones.preprocessing import default_preprocessing
from grnet_jax.backbones.pretrained.imagenet import (
    IMAGENET,
    PACKAGED,
    find_imagenet_file,
    read_imagenet_weights,
)
from grnet_jax.backbones.pretrained.weights import read_weights, read_weights_info
from grnet_jax.config import Config, fields_affecting, make_config, parse_config
from grnet_jax.errors import InputError
from grnet_jax.sharding import place_parameters
from grnet_jax.training.build import Run, build_run, restore_run
from grnet_jax.training.optimizers import trainable_mask
from grnet_jax.training.state import TrainState

# Backbones that no ImageNet weights are published for.
_FROM_SCRATCH = ("small", "small_deep", "vgg_small")


def start_state(run: Run) -> TrainState:
    """Returns the state before the first step: fresh, or with the parameters to start from.

    These are those of another run (`train.init_from`), or of some of its parts
    (`train.init_params`), or of a weights file for the backbone (`model.backbone.pretrained`).

    Raises:
      InputError: naming a parameter that does not fit this model.
    """
    state = run.create_state()
    workdir, pretrained = run.config.train.init_from, _pretrained(run.config)
    if workdir:
        from_run, other = restore_run(workdir, run.mesh)
        _check_same_preprocessing(workdir, from_run.config, run.config)
        source = f"train.init_from={workdir}"
        parts = run.config.train.init_params
        if parts in ("matching_names", "matching_shapes") and run.config.optimizer.trainable:
            learns = trainable_mask(state.params, run.config.optimizer.trainable)
            frozen = {name for name, part in learns.items() if not all(jax.tree.leaves(part))}
            _check_same_scores(workdir, from_run.config, run.config, frozen)
        if parts == "backbone":
            return _with_backbone(run, state, other.variables, source)
        if parts != "all":
            names = _choose_parts(parts, other.variables, state.variables)
            return _with_parts(run, state, other.variables, names, source)
        _check_fit(source, other.variables, state.variables)
        return state.started_from(**other.variables)
    if not pretrained:
        _warn_of_scratch(run.config)
        return state
    name = run.config.model.backbone.name
    weights = read_imagenet_weights(name) if pretrained == IMAGENET else read_weights(pretrained)
    source = f"model.backbone.pretrained={pretrained}"
    return _with_backbone(run, state, weights.variables, source)


def start_untrained(config: Config, mesh: Mesh) -> tuple[Run, TrainState]:
    """Returns a run that has nothing to train, and its state: no parameters, or ImageNet's.

    Raises:
      InputError: its weights are missing or do not fit.
    """
    check_pretrained(config)
    run = build_run(config, mesh)
    return run, start_state(run)


def zero_shot(backbone: str) -> dict[str, Any]:
    """Returns the sections image and model of ImageNet features searched without training."""
    return {
        "image": {"size": 224},
        "model": {
            "name": "embedding",
            "backbone": {"name": backbone, "pretrained": IMAGENET},
            "pooling": "average",
            "embedding_dim": 0,
            "color_weight": 0.5,
        },
    }


def start_zero_shot(backbone: str, mesh: Mesh) -> tuple[Run, TrainState]:
    """Returns `start_untrained` of `zero_shot`'s config.

    Raises:
      InputError: no package has weights of this backbone, or it is not installed.
    """
    find_imagenet_file(backbone)
    config = make_config(name=f"zero_shot_{backbone}", **zero_shot(backbone))
    return start_untrained(parse_config(config), mesh)


def _choose_parts(parts: str, source: Any, target: Any) -> set[str]:
    """Returns the names of the parts of `source`'s variables that `train.init_params` takes."""
    shared = set(source["params"]) & set(target["params"])
    if parts == "matching_names":
        return shared
    return {name for name in shared if _shapes_of(name, source) == _shapes_of(name, target)}


def _shapes_of(name: str, variables: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a part's parameters and statistics."""
    return _shapes({kind: tree[name] for kind, tree in variables.items() if name in tree})


def _with_backbone(run: Run, state: TrainState, variables: Any, source: str) -> TrainState:
    """Returns the state with the backbone of other variables, where this matcher has it."""
    taken = {kind: _take_backbone(run.matcher, part) for kind, part in variables.items() if part}
    if run.config.model.backbone.stride:  # without the layers that are left out
        for kind, parts in taken.items():
            own = state.variables[kind]["backbone"]
            parts["backbone"] = {k: v for k, v in parts["backbone"].items() if k in own}
    names = {name for part in taken.values() for name in part}
    return _with_parts(run, state, taken, names, source)


def _take_backbone(matcher: nn.Module, collection: Any) -> dict[str, Any]:
    """Returns a backbone's variables of one collection under their names in the matcher."""
    backbone = collection.get("backbone", {})
    if hasattr(matcher, "take_backbone"):
        return dict(matcher.take_backbone(backbone))
    return {"backbone": backbone}


def check_trainable(run: Run) -> None:
    """Makes sure that `optimizer.trainable` names parts of the model, and what it holds can stay.

    Raises:
      InputError: naming the part that the model lacks; or where the statistics of a backbone's
        BatchNorm would move though weights of it do not, or a frozen backbone has no weights
        to start from.
    """
    trainable = run.config.optimizer.trainable
    if not trainable:
        return
    state = run.abstract_state()
    learns = jax.tree.leaves(trainable_mask(state.params, trainable).get("backbone", {}))
    backbone = getattr(run.config.model, "backbone", None)
    frozen = backbone is not None and backbone.frozen_batch_norm
    if state.batch_stats and not all(learns) and not frozen:
        raise InputError(
            f"optimizer.trainable={trainable} leaves weights of the backbone as they are, but its "
            "BatchNorm would change: set --config.model.backbone.frozen_batch_norm=true"
        )
    stays = learns and not any(learns)
    if stays and not (run.config.train.init_from or _pretrained(run.config)):
        raise InputError(
            f"optimizer.trainable={trainable}: the backbone would stay at random; expected "
            "train.init_from, a run, or model.backbone.pretrained, its weights"
        )


def _check_same_scores(
    workdir: str, from_config: Config, config: Config, frozen: Collection[str]
) -> None:
    """Raises InputError where frozen parts would be used in another way."""

    def fields_of(one: Config) -> dict[str, Any]:
        if set(frozen) <= {"backbone"}:  # what comes after it learns
            return fields_affecting(one.model.backbone, "features", "scores", prefix="backbone.")
        images = {f"image.{name}": getattr(one.image, name) for name in ("size", "crop")}
        return fields_affecting(one.model, "features", "scores") | images

    before, now = fields_of(from_config), fields_of(config)
    wrong = [name for name in sorted(before.keys() & now.keys()) if before[name] != now[name]]
    if wrong:
        raise InputError(
            f"train.init_from={workdir}: its parts stay as they are, so these fields have to be "
            "those of that run: "
            + "; ".join(f"{name}: {before[name]!r} there, {now[name]!r} here" for name in wrong)
        )


def _with_parts(
    run: Run, state: TrainState, variables: Any, names: Collection[str], source: str
) -> TrainState:
    """Returns the state with parts of other variables; InputError where one does not fit."""
    if not names:
        raise InputError(f"{source}: no part of that model fits this model")
    if fresh := sorted(set(state.params) - set(names)):
        logging.info("%s: starting from %s; fresh are %s", source, sorted(names), fresh)
    taken, replaced = (
        {
            kind: {name: part for name, part in collection.items() if name in names}
            for kind, collection in one.items()
        }
        for one in (variables, state.variables)
    )
    _check_fit(source, taken, replaced)
    taken = place_parameters(taken, run.mesh)
    return state.started_from(
        params={**state.params, **taken["params"]},
        batch_stats={**state.batch_stats, **taken.get("batch_stats", {})},
    )


def check_pretrained(config: Config) -> None:
    """Makes sure, from its header, that the weights file that a config names is for its backbone.

    Raises:
      InputError: naming the file and the field that does not agree with it.
    """
    path = _pretrained(config)
    if not path:
        return
    if config.train.init_from:
        raise InputError("train.init_from and model.backbone.pretrained: only one can be given")
    backbone = config.model.backbone
    if path == IMAGENET:
        find_imagenet_file(backbone.name)
        found = {"preprocessing": default_preprocessing(backbone.name)}
    else:
        info = read_weights_info(path)
        found = {"name": info.backbone, "preprocessing": info.preprocessing}
    for field, value in found.items():
        if getattr(backbone, field) != value:
            raise InputError(
                f"{path} holds weights for model.backbone.{field}={value}, but the config has "
                f"{getattr(backbone, field)}: set --config.model.backbone.{field}={value}"
            )


def _check_same_preprocessing(workdir: str, from_config: Config, config: Config) -> None:
    """Raises InputError where another run's backbone sees images otherwise than this one's."""
    if not hasattr(from_config.model, "backbone") or not hasattr(config.model, "backbone"):
        return
    before, now = (one.model.backbone.preprocessing for one in (from_config, config))
    if before != now:
        raise InputError(
            f"train.init_from={workdir} was trained with model.backbone.preprocessing={before}, "
            f"but the config has {now}: set --config.model.backbone.preprocessing={before}"
        )


def _pretrained(config: Config) -> str:
    backbone = getattr(config.model, "backbone", None)
    return backbone.pretrained if backbone else ""


def _check_fit(source: str, taken: Any, replaced: Any) -> None:
    """Raises InputError naming a parameter that only one has, or in another shape."""
    before, now = _shapes(taken), _shapes(replaced)
    wrong = sorted(name for name in before | now if before.get(name) != now.get(name))
    if wrong:
        raise InputError(
            f"{source}: {len(wrong)} parameters do not fit this model, such as {wrong[0]}: "
            f"{before.get(wrong[0], 'absent')} there, {now.get(wrong[0], 'absent')} here"
        )


def _shapes(variables: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in leaves}


def _warn_of_scratch(config: Config) -> None:
    """Says in one line where a backbone that papers start from ImageNet starts from scratch."""
    backbone = getattr(config.model, "backbone", None)
    if backbone and backbone.name not in _FROM_SCRATCH:
        logging.warning(
            "%s starts from random numbers; its papers start from ImageNet: %s "
            "(docs/backbones.md has the files).",
            backbone.name,
            f"give --config.model.backbone.pretrained={IMAGENET}"
            if backbone.name in PACKAGED
            else "convert a checkpoint with `python -m grnet_jax.backbones.convert CHECKPOINT` and "
            "give --config.model.backbone.pretrained=FILE",
        )
