"""The first batch of any small config, drawn at random, and what an objective makes of it."""

import functools
import json
from typing import Any, NamedTuple

import jax
import numpy as np

from grnet_jax import sharding as meshes
from grnet_jax.config import parse_config
from grnet_jax.training.build import build_run
from grnet_jax.training.objectives import build_objective
from tests.small import random_images


class Index:
    """As much of a split's index as objectives read."""

    items = np.arange(20).astype(str)
    categories = np.arange(13).astype(str)
    attributes = np.arange(52).astype(str)

    def attribute_counts(self):
        return np.arange(1, 53), 100 - np.arange(1, 53)


def pair_batch(items=8, size=32, seed=0):
    item, content = np.arange(items, dtype=np.int32), np.arange(items, dtype=np.int32)
    item[3] = item[6]  # one item twice: its four pairs are all positive
    content[5] = content[4]
    images = random_images(2 * items, size, seed).reshape(2, items, size, size, 3)
    return {"customer": images[0], "shop": images[1], "item": item, "content": content}


def image_batch(n=16, size=32, seed=0):
    rng = np.random.default_rng(seed)
    visibility = rng.integers(-1, 3, (n, 8)).astype(np.int32)
    visibility[3] = -1
    category = rng.integers(0, 5, n).astype(np.int32)
    category[5] = -1
    return {
        "image": random_images(n, size, seed),
        "item": np.repeat(np.arange(n // 2, dtype=np.int32) // 2, 2),  # two pairs of each
        "domain": np.tile(np.array([0, 1], np.int32), n // 2),
        "category": category,
        "attributes": rng.integers(-1, 2, (n, 52)).astype(np.int8),
        "landmarks": rng.uniform(size=(n, 8, 2)).astype(np.float32),
        "visibility": visibility,
    }


def draw_batch(config, seed=0):
    draw = pair_batch if config.sampler.name == "pairs" else image_batch
    return draw(size=config.image.size, seed=seed)


def build(config, devices=1, model_parallel=1):
    """The run and the objective of a config."""
    config = parse_config(config)
    run = build_run(config, meshes.make_mesh(jax.devices()[:devices], model_parallel))
    return run, build_objective(run.matcher, config, steps=run.steps, index=Index())


class First(NamedTuple):
    """Of the first batch, on the host."""

    matcher: Any
    variables: Any
    loss: float
    metrics: dict
    grads: Any
    batch_stats: Any

    def apply(self, images, method):
        """What the matcher makes of images in training."""
        call = jax.jit(
            lambda v, x: self.matcher.apply(v, x, True, method=method, mutable=["batch_stats"])[0]
        )
        return jax.device_get(call(self.variables, images))


def first_step(config, devices=1, step=0) -> First:
    """The objective and its gradient, computed in the config's model.dtype."""
    return _first_step(config.to_json(), devices, step)


@functools.cache
def _first_step(text, devices, step):
    config = json.loads(text)
    dtype = config["model"]["dtype"]
    with jax.enable_x64(dtype == "float64"):
        run, objective = build(config, devices)
        state = run.create_state()
        variables = jax.tree.map(lambda leaf: leaf.astype(dtype), state.variables)

        def replicate(tree):
            return jax.lax.with_sharding_constraint(tree, meshes.replicated(run.mesh))

        def loss(params, batch):
            batch = {**batch, "step": step}
            return objective(params, variables["batch_stats"], batch, replicate)

        batch = meshes.place_batch(draw_batch(run.config), run.mesh)
        (value, (batch_stats, metrics)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
            variables["params"], batch
        )
        results = jax.device_get((variables, value, metrics, grads, batch_stats))
    return First(run.matcher, *results)
