"""Configs and matchers of every system at a size that tests compile in seconds."""

import importlib

import jax
import ml_collections
import numpy as np

from grnet_jax.models import build_matcher
from grnet_jax.training.state import init_variables

_SIZES = {
    **{"node_dim": 16, "reasoning_dim": 8, "embedding_dim": 16, "hidden": 16},
    **{"region_channels": 16},
}


def small_config(system: str = "grnet", /, **fields) -> ml_collections.ConfigDict:
    """Returns the config of `configs/SYSTEM.py`, small, with these fields: ten steps of 8."""
    config = importlib.import_module(f"configs.{system}").get_config()
    config.image.size = 32
    if config.model.get("backbone", {}).get("pretrained"):
        config.model.backbone = {"name": "small"}
        config.optimizer.trainable = config.optimizer.trainable.replace("-backbone", "")
    if "train" in config:
        config.train.cached_views = 0
    for name, size in _SIZES.items():
        if isinstance(value := config.model.get(name), int) and value:
            config.model[name] = size
    if "landmark_window" in config.model:
        config.model.landmark_window = 2
    if "train" in config:
        config.train.update(batch_size=8, steps=10)
        config.optimizer.warmup_steps = 2
    config.update_from_flattened_dict(fields)
    return config


def small_matcher(system: str = "grnet", /, **fields):
    """Returns the matcher of that small config with these fields of its model."""
    model = small_config(system, **{f"model.{name}": value for name, value in fields.items()}).model
    section = importlib.import_module(f"grnet_jax.models.{model.name}").Config
    return build_matcher(section.model_validate(model.to_dict()))


def random_variables(matcher, size=32, seed=0):
    """Variables that compiling `init` would give, random: all positive but the kernels."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if len(leaf.shape) < 2:  # biases, and BatchNorm's scales and statistics
            return rng.uniform(0.1, 1, leaf.shape).astype(np.float32)
        scale = np.sqrt(2 / np.prod(leaf.shape[:-1]))
        return (scale * rng.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree.map(draw, jax.eval_shape(lambda: init_variables(matcher, size, seed=0)))


def random_images(n, size=32, seed=0):
    """Pixels uint8 [n, size, size, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
