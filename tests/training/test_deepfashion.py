"""GRNet trains a step on DeepFashion's benchmarks and is measured on them."""

import pytest

from configs import common, grnet
from grnet_jax.mesh import make_mesh
from grnet_jax.retrieval.evaluation import Evaluator
from grnet_jax.retrieval.tasks import make_task
from grnet_jax.training import loop
from grnet_jax.training.setup import build_run
from input_pipeline import load_dataset
from tests.input_pipeline import deepfashion_trees as trees

CASES = {
    # What writes the download, and queries and gallery photos of its test split.
    "deepfashion_c2s": (trees.write_c2s, 4, 4),
    "deepfashion_inshop": (trees.write_inshop, 6, 6),
}


@pytest.mark.parametrize("name", CASES)
def test_one_step_and_one_evaluation(name, tmp_path):
    write, queries, gallery = CASES[name]
    config = grnet.get_config(name)
    assert config.data.image_size == 224
    assert config.optimizer.name == "sgd"
    config.data.source = str(write(tmp_path / "download"))
    config.data.dir = str(tmp_path / "data")
    config.data.image_size = 32
    config.model.backbone.name = "small"
    config.model.node_dim = 16
    config.model.reasoning_dim = 8
    config.train.batch_items = 8
    config.train.steps, config.train.epochs = 1, 0.0
    config.train.eval_every = config.train.checkpoint_every = config.train.log_every = 1
    config.eval.batch = config.eval.query_block = config.eval.gallery_block = 8
    trained = loop.train(config, str(tmp_path / "run"))
    assert trained.finished
    assert int(trained.state.step) == 1
    run = build_run(config, make_mesh())
    dataset = load_dataset(run.config.data)
    evaluation = Evaluator(run.matcher, run.config, run.mesh).evaluate(
        trained.state.variables, make_task(dataset, "test")
    )
    figures = evaluation.figures["all"]
    assert (figures.queries, figures.gallery, figures.without_match) == (queries, gallery, 0)
    assert figures.values["top10"] == 1.0


def test_the_configs_know_the_retrieval_benchmarks():
    assert set(CASES) <= set(common.DATASETS)
