"""One training step of a size, alone and timed; needs no PyTorch."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from configs import grnet
from grnet_jax.sharding import make_mesh, place_batch
from grnet_jax.training.embedding_objectives import photos_together
from grnet_jax.training.objectives import make_objective
from grnet_jax.training.setup import Run, build_run
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
    "demo": Size("small", 64, 64, 128, 64, 32, 32),
    "paper": Size("googlenet", 8, 224, 1024, 512, 128, 8),
}


def best_time(run: Callable[[], Any]) -> float:
    """Seconds of the fastest of several runs, fewer if they are long, after one that compiles."""
    run()
    times: list[float] = []
    while len(times) < _REPEATS and sum(times) < _SECONDS:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def build_step(config: Any) -> tuple[Run, Any]:
    """The run of a config on one device, and its jitted training step."""
    devices = make_mesh(jax.devices()[:1])
    run = build_run(config, devices, steps_per_epoch=1000)
    objective = make_objective(run.matcher, config)
    return run, make_train_step(objective, run.tx, run.schedule, devices)


def random_batch(run: Run) -> dict[str, jax.Array]:
    """A training batch of random photos, all groups of different items, on the device."""
    data, items = run.config.data, run.config.train.batch_size
    item = np.arange(items, dtype=np.int32)
    if data.sampler == "pairs":
        customer, shop = random_photos(items, data.image_size)
        labels = {"item": item, "content": item}
        return place_batch({"customer": customer, "shop": shop, **labels}, run.mesh)
    group = photos_together(data)
    photo = np.concatenate(random_photos((items * group + 1) // 2, data.image_size))
    labels = {
        "item": np.repeat(item, group),
        "domain": np.arange(items * group, dtype=np.int32) % 2,
        "category": np.repeat(item % 2, group),
    }
    return place_batch({"photo": photo[: items * group], **labels}, run.mesh)


def planned_bytes(run: Run, step: Any, batch: Mapping[str, Any]) -> int:
    """What XLA plans for a training step: arguments, results and temporaries.

    It is known without running the step, so also where that would not fit.
    """
    plan = step.lower(run.abstract_state(), batch).compile().memory_analysis()
    return (
        plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        + plan.temp_size_in_bytes
        - plan.alias_size_in_bytes
    )


def random_photos(items: int, image_size: int) -> np.ndarray:
    """uint8 [2, items, S, S, 3]: a batch's customer and shop photos."""
    shape = (2, items, image_size, image_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def step_seconds(size: Size) -> float:
    """Of one training step of `items` customer and as many shop photos, random ones."""
    config = grnet.get_config()
    config.model.backbone.name = size.backbone
    config.model.node_dim, config.model.reasoning_dim = size.node_dim, size.reasoning_dim
    config.data.image_size, config.train.batch_size = size.image_size, size.items
    run, step = build_step(config)
    return time_step(run, step, random_batch(run))


def time_step(run: Run, step: Any, batch: Mapping[str, Any]) -> float:
    """Seconds of one training step on a batch."""
    held = [run.create_state()]

    def once() -> None:
        held[0], metrics = step(held[0], batch)
        jax.block_until_ready(metrics)

    return best_time(once)
