"""One training step of a size, alone and timed; needs no PyTorch."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from configs import grnet
from grnet_jax.config import parse_config
from grnet_jax.sharding import make_mesh, place_batch
from grnet_jax.training.build import Run, build_run
from grnet_jax.training.objectives import build_objective
from grnet_jax.training.step import make_train_step

_REPEATS = 5
_SECONDS = 10.0


class Size(NamedTuple):
    """One row of the table."""

    backbone: str
    photos: int
    image_size: int
    channels: int
    node_dim: int
    reasoning_dim: int
    items: int  # a side of the pairs


SIZES: Mapping[str, Size] = {
    "small": Size("small", 64, 64, 128, 64, 32, 32),
    "paper": Size("googlenet", 8, 224, 1024, 512, 128, 8),
}


def best_time(run: Callable[[], Any]) -> float:
    """Returns the seconds of the fastest of several runs, after one that compiles."""
    run()
    times: list[float] = []
    while len(times) < _REPEATS and sum(times) < _SECONDS:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def build_step(config: Any) -> tuple[Run, Any]:
    """Returns the run of a config on one device, and its jitted training step."""
    devices = make_mesh(jax.devices()[:1])
    run = build_run(parse_config(config), devices, steps_per_epoch=1000)
    objective = build_objective(run.matcher, run.config)
    return run, make_train_step(objective, run.tx, run.schedule, devices)


def random_batch(run: Run) -> dict[str, jax.Array]:
    """Returns a training batch of random images, every group an item, on the device."""
    config: Any = run.config
    items, size = config.train.batch_size, config.image.size
    item = np.arange(items, dtype=np.int32)
    if config.sampler.name == "pairs":
        customer, shop = random_images(items, size)
        labels = {"item": item, "content": item}
        return place_batch({"customer": customer, "shop": shop, **labels}, run.mesh)
    group = config.sampler.group_size
    image = np.concatenate(random_images((items * group + 1) // 2, size))
    labels = {
        "item": np.repeat(item, group),
        "domain": np.arange(items * group, dtype=np.int32) % 2,
        "category": np.repeat(item % 2, group),
    }
    return place_batch({"image": image[: items * group], **labels}, run.mesh)


def planned_bytes(run: Run, step: Any, batch: Mapping[str, Any]) -> int:
    """Returns the bytes that XLA plans for a training step: arguments, results and temporaries.

    It is known without running the step, so also where that would not fit.
    """
    plan = step.lower(run.abstract_state(), batch).compile().memory_analysis()
    return (
        plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        + plan.temp_size_in_bytes
        - plan.alias_size_in_bytes
    )


def random_images(items: int, image_size: int) -> np.ndarray:
    """Returns a batch's customer and shop images, uint8 [2, items, S, S, 3]."""
    shape = (2, items, image_size, image_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def step_seconds(size: Size) -> float:
    """Returns the seconds of one training step of `items` customer and as many shop images."""
    config = grnet.get_config()
    config.model.backbone.name = size.backbone
    config.model.node_dim, config.model.reasoning_dim = size.node_dim, size.reasoning_dim
    config.image.size, config.train.batch_size = size.image_size, size.items
    run, step = build_step(config)
    return time_step(run, step, random_batch(run))


def time_step(run: Run, step: Any, batch: Mapping[str, Any]) -> float:
    """Returns the seconds of one training step on a batch."""
    state = [run.create_state()]

    def once() -> None:
        state[0], metrics = step(state[0], batch)
        jax.block_until_ready(metrics)

    return best_time(once)
