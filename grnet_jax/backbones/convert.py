"""Converts a PyTorch checkpoint of an ImageNet network to a weights file of this package.

    python -m grnet_jax.backbones.convert googlenet-1378be20.pth
    python -m grnet_jax.backbones.convert model.safetensors --backbone=resnet50 \\
        --preprocessing=imagenet_v2 --output=weights/resnet50.safetensors

PyTorch is not needed, and nothing that a file holds is run. Training checkpoints are read too; the
head may have any number of classes, or be missing.
"""

import argparse
import os
import pathlib
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from flax import traverse_util

from grnet_jax.backbones import BACKBONES
from grnet_jax.backbones.preprocessing import (
    PREPROCESSING,
    default_preprocessing,
    published_preprocessing,
)
from grnet_jax.backbones.pretrained.checkpoint_file import Checkpoint, read_checkpoint
from grnet_jax.backbones.pretrained.conversion import (
    Network,
    convert_tensors,
    find_network,
    some_of,
    under,
)
from grnet_jax.backbones.pretrained.weights import Weights, read_weights_info, write_weights
from grnet_jax.errors import ArgumentParser, InputError, program_name

_NAMED = 6  # left-out keys that are listed
_ASSUMED = " (assumed, the file's name does not tell; --preprocessing names another)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        output = convert(
            options.checkpoint,
            options.backbone,
            options.preprocessing,
            options.output,
            options.entry,
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Next: {shlex.join(_next_command(output))}")
    return 0


def _next_command(output: str) -> list[str]:
    """Returns the command that trains from the written file on the user's own photos."""
    info = read_weights_info(output)
    command = [
        *program_name("train").split(),
        "--config=configs/grnet.py:manifest",
        "--config.dataset.source=photos.csv",
        f"--config.model.backbone.name={info.backbone}",
        f"--config.model.backbone.pretrained={output}",
    ]
    if info.preprocessing != default_preprocessing(info.backbone):
        command.append(f"--config.model.backbone.preprocessing={info.preprocessing}")
    return command


def convert(
    checkpoint: str, backbone: str = "", preprocessing: str = "", output: str = "", entry: str = ""
) -> str:
    """Converts a checkpoint file, prints a summary, and returns the written file's path.

    Args:
      checkpoint: path of the file.
      backbone: its name; "" chooses the one that fits.
      preprocessing: its name; "" chooses that of the published file of this name, or else that
        of the backbone's best-known weights.
      output: path to write to; "" chooses the checkpoint's name, in the current folder.
      entry: which entry of a training checkpoint with several networks to take, or, with a dot at
        its end, what the network's keys begin with.

    Raises:
      InputError: the checkpoint cannot be read or fits no backbone, or a name is not known.
    """
    if backbone and backbone not in BACKBONES:
        raise InputError(f"--backbone: {backbone!r} is none of {sorted(BACKBONES)}")
    if preprocessing and preprocessing not in PREPROCESSING:
        raise InputError(f"--preprocessing: {preprocessing!r} is none of {sorted(PREPROCESSING)}")
    output = output or f"{pathlib.PurePath(checkpoint).stem}.grnet.safetensors"
    if os.path.abspath(output) == os.path.abspath(checkpoint):
        raise InputError(f"--output: {output} is the checkpoint itself")
    weights = _convert(checkpoint, entry, backbone, preprocessing)
    write_weights(output, weights)
    print(f"Wrote {output} ({_size(output)})")
    return output


def _convert(checkpoint: str, entry: str, backbone: str, preprocessing: str) -> Weights:
    start = entry if entry.endswith(".") else ""
    read = read_checkpoint(checkpoint, "" if start else entry)
    if all(key.startswith(("params/", "batch_stats/")) for key in read.tensors):
        raise InputError(f"{checkpoint}: is converted already; give it to a config as it is")
    name = pathlib.PurePath(checkpoint).name
    promised = re.search(r"-([0-9a-f]{8})\.", name)  # as PyTorch's own downloads are called
    if promised and not read.sha256.startswith(promised[1]):
        print(
            f"warning: the name promises a SHA-256 that begins with {promised[1]}, found "
            f"{read.sha256[:8]}: the file was changed, or damaged in the download",
            file=sys.stderr,
        )
    prefix = start
    try:
        inside = under(read.tensors, start)
        if not inside:
            raise InputError(f"no keys; they begin with {', '.join(list(read.tensors)[:_NAMED])}")
        network = find_network(inside, backbone)
        prefix = start + network.prefix
        tensors = under(read.tensors, prefix)
        print(f"Read {checkpoint}: {_describe(read, prefix)}")
        chosen, how = (backbone, "") if backbone else _recognize(network, tensors, name)
        converted = convert_tensors(chosen, tensors)
    except InputError as error:
        where = f"under {prefix!r}: " if prefix else ""
        raise InputError(f"{checkpoint}: {where}{error}") from error
    beside = [key for key in read.tensors if not key.startswith(prefix)]
    published = published_preprocessing(name)
    weights = Weights(
        backbone=chosen,
        preprocessing=preprocessing or published or default_preprocessing(chosen),
        variables=converted.variables,
        source=name,
        source_sha256=read.sha256,
        classes=_classes(converted.variables) if converted.head else 0,
    )
    given = " (of the published file of this name)" if published else _ASSUMED
    given = "" if preprocessing else given
    print(f"  backbone       {chosen}{how}")
    print(f"  parameters     {_count(weights.variables['params']):,}")
    print(f"  ImageNet head  {f'yes, {weights.classes} classes' if converted.head else 'no'}")
    print(f"  left out       {_describe_left_out([*converted.left_out, *beside])}")
    if converted.resized:
        there, here = (f"{side}x{side}" for side in converted.resized)
        print(f"  positions      of a grid of {there}, resized to the backbone's {here}")
    if read.others:
        print(f"  not tensors    {some_of(read.others, _NAMED)}")
    print(f"  preprocessing  {weights.preprocessing}{given}")
    return weights


def _recognize(network: Network, tensors: Mapping[str, np.ndarray], name: str) -> tuple[str, str]:
    """Returns the backbone that the network fits, and how it was found.

    Where none fits, the file's name may tell which was meant, or most keys, so that an error can
    list what is wrong with it.
    """
    fitting = network.fitting
    if len(fitting) == 1:
        return fitting[0], " (the only one that fits)"
    plain = _letters(name)
    named = [other for other in fitting or BACKBONES if plain.startswith(_letters(other))]
    if named:
        return max(named, key=len), " (from the file's name)"
    if fitting:
        raise InputError(
            f"fits several backbones, {', '.join(fitting)}; choose one with --backbone"
        )
    if network.closest:
        return network.closest, " (the closest)"
    keys = ", ".join(list(tensors)[:_NAMED])
    advice = "With --backbone=NAME the error says what does not fit"
    if any(".encoder.layer." in f".{key}" for key in tensors):
        advice = "They are those of Hugging Face's transformers: take timm's file of the network"
    raise InputError(
        f"fits none of the backbones {', '.join(sorted(BACKBONES))}; its keys begin with {keys}. "
        f"{advice}"
    )


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _describe(read: Checkpoint, prefix: str) -> str:
    parts = [f"{len(read.tensors)} tensors"]
    if read.entry:
        parts.append(f"entry {read.entry!r}")
    if read.prefix or prefix:
        parts.append(f"prefix {read.prefix + prefix!r} removed")
    return ", ".join(parts)


def _describe_left_out(keys: Sequence[str]) -> str:
    others = [key for key in keys if not key.endswith(".num_batches_tracked")]
    parts = []
    if len(keys) > len(others):
        parts.append(f"{len(keys) - len(others)} batch counts (num_batches_tracked)")
    if others:
        parts.append(f"{len(others)} others: {some_of(others, _NAMED)}")
    return "; ".join(parts) or "nothing"


def _classes(variables: Mapping[str, Any]) -> int:
    """Returns the number of outputs of the head's last dense layer, the last by name."""
    head = variables["params"]["head"]
    last = max(name for name, layer in head.items() if "scale" not in layer)  # no norm
    return int(head[last]["bias"].shape[0])


def _count(tree: Mapping[str, Any]) -> int:
    return sum(leaf.size for leaf in traverse_util.flatten_dict(dict(tree)).values())


def _size(path: str) -> str:
    return f"{epath.Path(path).expanduser().stat().length / 1e6:.1f} MB"


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="python -m grnet_jax.backbones.convert", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("checkpoint", help="PyTorch's .pth, .pt, .tar or .bin, or .safetensors")
    add("--backbone", default="", help=f"{', '.join(BACKBONES)} (the one that fits)")
    add("--preprocessing", default="", help=f"{', '.join(PREPROCESSING)} (the backbone's own)")
    add("--output", default="", help="file to write (the checkpoint's name, here)")
    add("--entry", default="", help="which network of several: an entry, or its keys' PREFIX.")
    return parser


if __name__ == "__main__":
    sys.exit(main())
