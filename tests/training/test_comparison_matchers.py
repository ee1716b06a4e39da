"""The comparison matchers through the whole loop: a few steps, the checkpoint, the evaluation."""

import importlib

import jax
import numpy as np
import pytest
from grnet_jax.figures.explanations import Explainer, frame_photo
from grnet_jax.retrieval.evaluation import Evaluator
from grnet_jax.retrieval.tasks import make_task
from grnet_jax.training.setup import build_run, restore_run

from configs import global_baseline
from grnet_jax.errors import InputError
from grnet_jax.sharding import make_mesh
from grnet_jax.training import loop
from input_pipeline import load_dataset
from input_pipeline.images import build_transform

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def start(tiny_config, tmp_path_factory):
    """The run of a global baseline, whose backbone the others start from."""
    config = tiny_config()
    config.model.update(scales=global_baseline.get_config().model.scales, layers=0)
    config.train.steps = config.train.eval_every = config.train.checkpoint_every = 3
    workdir = tmp_path_factory.mktemp("start")
    loop.train(config, str(workdir))
    return workdir


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("kpm", {}),
        ("kpm", {"scales": ((1, 1), (2, 2)), "gallery_chunk": 3}),
        ("local_matching", {"one_to_one": True}),
        ("wtbi", {"hidden": (16, 8)}),
    ],
    ids=str,
)
def test_it_trains_is_evaluated_and_explained(tiny_config, start, tmp_path, name, fields):
    config = tiny_config()
    config.model = importlib.import_module(f"configs.{name}").get_config().model
    config.model.update(fields)
    config.train.steps = config.train.eval_every = config.train.checkpoint_every = 3
    config.train.init_from, config.train.init_parts = str(start), "backbone"
    before = jax.tree.leaves(build_run(config, make_mesh()).create_state().params)
    state = loop.train(config, str(tmp_path / "run")).state
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    moved = [
        not np.array_equal(x, y) for x, y in zip(before, jax.tree.leaves(state.params), strict=True)
    ]
    assert all(moved)

    run, state = restore_run(tmp_path / "run", make_mesh())
    task = make_task(load_dataset(config.data), "test", run.config.data)

    def evaluate(store="", **options):
        config = run.config.copy_and_resolve_references()
        config.eval.update(options)
        evaluator = Evaluator(run.matcher, config, run.mesh)
        return evaluator.evaluate(state.variables, task, store=store, step=3)

    evaluation = evaluate()
    assert evaluation.ranking.top_rows.shape[0] == len(task.query_rows)
    assert all(np.isfinite(figures.values["map"]) for figures in evaluation.figures.values())
    g = len(task.gallery_rows)
    for same in (evaluate(str(tmp_path / "store")), evaluate(shortlist=g), evaluate(score_tile=3)):
        np.testing.assert_allclose(
            same.ranking.top_scores, evaluation.ranking.top_scores, rtol=1e-5, atol=1e-5
        )
    flipped = evaluate(flip_average=True).ranking.top_scores
    assert np.isfinite(flipped).all()
    assert np.any(flipped != evaluation.ranking.top_scores)
    with pytest.raises(InputError, match=r"eval\.whitening: .*scores regions"):
        evaluate(whitening="gallery")

    photos = np.random.default_rng(0).integers(0, 256, (2, 40, 30, 3), dtype=np.uint8)
    seen = [frame_photo("one", photo, None, build_transform(run.config.data)) for photo in photos]
    explanation = Explainer(run.matcher, state.variables).explain(*seen)
    assert np.isfinite(explanation.score)
    assert np.isfinite(explanation.query_heat).all()
    assert (explanation.before, explanation.after) == ([], [])
