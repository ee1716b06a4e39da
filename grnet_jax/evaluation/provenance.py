"""Where results come from: source, config, versions, device and date."""

import datetime
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from typing import Any

import flax
import jax
import numpy as np

from grnet_jax import __version__
from grnet_jax.config import Config, fields_affecting
from grnet_jax.search.fingerprints import fingerprint

_ROOT = pathlib.Path(__file__).parents[2]
_CODE = ("*.py", "grnet_jax", "input_pipeline", "benchmarks", ":!benchmarks/results")


def provenance(configs: Sequence[Config]) -> dict[str, Any]:
    """Returns what result files say of their origin; no path of the machine is in it.

    Args:
      configs: of the run, or of each member of an ensemble.
    """
    seeds = [config.seed for config in configs if config.loss is not None]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **source_commit(),
        "config_digest": config_digest(configs),
        **({"seed": seeds[0] if len(seeds) == 1 else seeds} if seeds else {}),
        "versions": {
            "grnet_jax": __version__,
            "jax": jax.__version__,
            "flax": flax.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
    }


def config_digest(configs: Sequence[Config]) -> str:
    """Returns sixteen digits of the fields that parameters, features or scores depend on."""
    what = ("records", "parameters", "features", "scores")
    return fingerprint(fields_affecting(config, *what) for config in configs)


def source_commit(root: pathlib.Path = _ROOT) -> dict[str, Any]:
    """Returns "commit", short, and "dirty", whether files differ from it; {} outside a checkout.

    What is no code, such as a folder of results or a list of photos, makes no tree dirty.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # An installed package may lie inside another project's checkout, which is not its source.
        git("ls-files", "--error-unmatch", "grnet_jax/__init__.py")
        changed = git("status", "--porcelain", "--", *_CODE)
        return {"commit": git("rev-parse", "--short", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {}
