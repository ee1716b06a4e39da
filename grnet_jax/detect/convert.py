"""Converts torchvision's Mask R-CNN or Faster R-CNN to a run, which detects, or is trained further.

    python -m grnet_jax.detect.convert maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth --output=runs/coco
    python -m grnet_jax.detect photos/ --workdir=runs/coco --classes=person

Both versions are read, of ResNet-50 and ResNeXt-101 32x8d, with any number of classes. PyTorch is
not needed, and nothing that a file holds is run.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from grnet_jax.backbones.pretrained.checkpoint_file import read_checkpoint
from grnet_jax.backbones.pretrained.conversion import (
    RESNET_LAYERS,
    Names,
    describe_misfit,
    match_tensors,
    name_variables,
    rewrite,
    take_tensors,
)
from grnet_jax.config import Config, make_config, parse_config
from grnet_jax.errors import ArgumentParser, InputError
from grnet_jax.models import build_matcher
from grnet_jax.runtime import session
from grnet_jax.sharding import make_mesh, place_parameters
from grnet_jax.training.build import build_run
from grnet_jax.training.checkpoints import Checkpoints, has_any, open_workdir, write_config
from grnet_jax.training.label_names import LabelNames, write_labels

_COCO = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,N/A,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,N/A,"
    "backpack,umbrella,N/A,N/A,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,"
    "baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,N/A,wine glass,cup,fork,"
    "knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,"
    "couch,potted plant,bed,N/A,dining table,N/A,N/A,toilet,N/A,tv,laptop,mouse,remote,keyboard,"
    "cell phone,microwave,oven,toaster,sink,refrigerator,N/A,book,clock,vase,scissors,teddy bear,"
    "hair drier,toothbrush"
)
# By the number of blocks of the third layer.
_BACKBONES = {6: "resnet50", 23: "resnext101_32x8d"}
# Files whose BatchNorm was trained without an epsilon, by the end of their names.
_WITHOUT_EPSILON = ("bf2d0c1e", "258fb6c6")
_EPSILON = 1e-5  # of our BatchNorm

_LAYERS = (
    *((rf"^fpn\.{part}(\d)\.", rf"backbone.fpn.{part}_blocks.\1.") for part in ("inner", "layer")),
    (r"^rpn\.conv(\d)\.conv$", r"rpn.head.conv.\1.0"),
    (r"^rpn\.(cls_logits|bbox_pred)$", r"rpn.head.\1"),
    (r"^(box_head|box_predictor|mask_head|mask_predictor)\b", r"roi_heads.\1"),
    *((rf"mask_head\.conv{number + 1}\.", f"mask_head.{number}.") for number in range(4)),
    (r"box_head\.conv(\d)\.", r"box_head.\1."),
    (r"(_blocks\.\d|_head\.\d)\.conv$", r"\1.0"),
    (r"(_blocks\.\d|_head\.\d)\.bn$", r"\1.1"),
    (r"mask_predictor\.logits$", "mask_predictor.mask_fcn_logits"),
)
# As released files spell them, before torchvision 0.13.
_SPELLINGS = (
    (r"(_blocks\.\d)\.(weight|bias)$", r"\1.0.\2"),
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    *((rf"\.mask_fcn{number + 1}\.", f".{number}.0.") for number in range(4)),
    (r"\.box_head\.5\.", ".box_head.fc6."),
)


def convert_detector(
    tensors: Mapping[str, np.ndarray], *, without_epsilon: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Converts the tensors of torchvision's detector.

    Args:
      tensors: by the state dict's keys.
      without_epsilon: whether its frozen BatchNorm was trained without an epsilon.

    Returns:
      The section `model` of the config, and the variables.

    Raises:
      InputError: naming the keys that are missing, unknown or of another shape.
    """
    model = _describe(tensors)
    config = parse_config(_config("", model))
    detector = build_matcher(config.model)
    shapes = jax.eval_shape(
        detector.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.uint8)
    )
    names = Names(_LAYERS, _SPELLINGS)
    match = match_tensors(names, name_variables(shapes, _layer_name), tensors)
    if not match.fits:
        raise InputError(f"does not fit torchvision's detectors; {describe_misfit(match)}")
    variables = take_tensors(match, tensors)
    if without_epsilon:
        _fold_epsilon(variables)
    return model, variables


def _describe(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the section `model` that a detector of these tensors has."""
    depth = sum(f"backbone.body.layer3.{n}.conv1.weight" in tensors for n in range(36))
    scores = "roi_heads.box_predictor.cls_score.weight"
    if depth not in _BACKBONES or scores not in tensors:
        keys = ", ".join(list(tensors)[:3])
        raise InputError(
            "is no Faster R-CNN or Mask R-CNN of torchvision with ResNet-50 or ResNeXt-101; its "
            f"keys begin with {keys}"
        )
    return {
        "name": "detector",
        "num_classes": len(tensors[scores]) - 1,
        "version": "v2" if "roi_heads.box_head.5.weight" in tensors else "v1",
        "mask_channels": 256 if any("mask_predictor" in key for key in tensors) else 0,
        "backbone": {"name": _BACKBONES[depth], "frozen_batch_norm": True},
    }


def _layer_name(path: tuple[str, ...]) -> str:
    """Returns torchvision's name of a layer."""
    if path[1] == "backbone":
        return "backbone.body." + rewrite(".".join(path[2:]), RESNET_LAYERS)
    return rewrite(".".join(path[1:]), _LAYERS)


def _fold_epsilon(variables: dict[str, Any]) -> None:
    """Makes the backbone's BatchNorm with our epsilon what it was without one."""

    def fold(params: dict[str, Any], stats: dict[str, Any]) -> None:
        for name, part in stats.items():
            if "var" not in part:
                fold(params[name], part)
                continue
            deviation = np.sqrt(part["var"].astype(np.float64))
            scale = params[name]["scale"] / np.where(deviation > 0, deviation, 1)
            params[name]["scale"] = scale.astype(np.float32)
            part["var"] = np.full_like(part["var"], 1 - _EPSILON)

    fold(variables["params"]["backbone"], variables["batch_stats"]["backbone"])


def _config(name: str, model: Mapping[str, Any]) -> Any:
    return make_config(
        name=name,
        dataset={"name": "coco"},
        sampler={"name": "images"},
        model=model,
        loss={"name": "detection"},
        optimizer={"name": "sgd", "learning_rate": 0.02, "weight_decay": 1e-4},
        train={"batch_size": 16, "steps": 1},
        eval={"batch_size": 8, "protocol": {"split": "val"}},
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    with session():
        path = open_workdir(options.output, "--output")
        if has_any(path):
            raise InputError(f"--output={options.output}: holds a run; choose another folder")
        read = read_checkpoint(options.checkpoint)
        name = pathlib.PurePath(options.checkpoint).stem
        try:
            model, variables = convert_detector(
                read.tensors, without_epsilon=name.endswith(_WITHOUT_EPSILON)
            )
        except InputError as error:
            raise InputError(f"{options.checkpoint}: {error}") from error
        names = _class_names(options.names, model["num_classes"])
        config = parse_config(_config(name, model))
        write_run(path, config, variables, names)
        print(f"Wrote {options.output}/: {model['backbone']['name']}, {len(names)} classes")
        print(f"Next: python -m grnet_jax.detect PHOTOS --workdir={options.output}")
    return 0


def write_run(workdir: Any, config: Config, variables: Mapping[str, Any], names: Any) -> None:
    """Writes a run whose only checkpoint, of step 0, has these variables."""
    run = build_run(config, make_mesh())
    state = run.create_state()
    placed = place_parameters(variables, run.mesh)
    state = dataclasses.replace(
        state, params=placed["params"], batch_stats=placed.get("batch_stats", {})
    )
    write_config(workdir, config, "")
    write_labels(workdir, LabelNames(tuple(names), (), False))
    with Checkpoints(workdir) as saved:
        saved.save(state, None)


def _class_names(given: str, classes: int) -> tuple[str, ...]:
    """Returns the names of the classes: those given, COCO's, or numbers."""
    names = (given or _COCO).split(",")
    if given and len(names) != classes:
        raise InputError(f"--names: {len(names)} names for {classes} classes")
    if len(names) != classes:
        return tuple(f"class {number}" for number in range(1, classes + 1))
    return tuple(names)


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="python -m grnet_jax.detect.convert", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("checkpoint", help="torchvision's .pth, or .safetensors")
    parser.add_argument("--output", required=True, help="folder of the run to write")
    parser.add_argument("--names", default="", help="of the classes, joined by commas (COCO's)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
