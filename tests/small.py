"""Configs of every system at a size that tests compile in seconds."""

import importlib

import ml_collections

_SIZES = {"node_dim": 16, "reasoning_dim": 8, "embedding_dim": 16, "hidden": 16}


def small_config(system: str = "grnet", /, **fields) -> ml_collections.ConfigDict:
    """Returns the config of `configs/SYSTEM.py`, small, with these fields: ten steps of 8."""
    config = importlib.import_module(f"configs.{system}").get_config()
    config.image.size = 32
    for name, size in _SIZES.items():
        if isinstance(value := config.model.get(name), int) and value:
            config.model[name] = size
    if "landmark_window" in config.model:
        config.model.landmark_window = 2
    config.train.update(batch_size=8, steps=10)
    config.optimizer.warmup_steps = 2
    config.update_from_flattened_dict(fields)
    return config
