"""The comparison matchers through the whole loop: a few steps, the checkpoint, the evaluation."""

import importlib

import jax
import numpy as np
import pytest

from grnet_jax.mesh import make_mesh
from grnet_jax.retrieval.evaluation import Evaluator
from grnet_jax.retrieval.tasks import make_task
from grnet_jax.training import loop
from grnet_jax.training.setup import build_run, restore_run
from input_pipeline import load_dataset

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("kpm", {}),
        ("kpm", {"scales": ((1, 1), (2, 2)), "gallery_chunk": 3}),
        ("local_matching", {"one_to_one": True}),
    ],
    ids=str,
)
def test_it_trains_and_is_evaluated(tiny_config, tmp_path, name, fields):
    config = tiny_config()
    config.model = importlib.import_module(f"configs.{name}").get_config().model
    config.model.update(fields)
    config.train.steps = config.train.eval_every = config.train.checkpoint_every = 3
    start = jax.tree.leaves(build_run(config, make_mesh()).create_state().params)
    state = loop.train(config, str(tmp_path)).state
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    moved = [
        not np.array_equal(x, y) for x, y in zip(start, jax.tree.leaves(state.params), strict=True)
    ]
    assert all(moved)

    run, state = restore_run(tmp_path, make_mesh())
    task = make_task(load_dataset(config.data), "test", config.data)
    evaluation = Evaluator(run.matcher, run.config, run.mesh).evaluate(state.variables, task)
    assert evaluation.ranking.top_rows.shape[0] == len(task.query_rows)
    assert all(np.isfinite(figures.values["map"]) for figures in evaluation.figures.values())
