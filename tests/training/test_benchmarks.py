"""GRNet trains a step on each benchmark's form and is measured by its protocol."""

import csv
from pathlib import Path

import numpy as np
import pytest
from grnet_jax.retrieval.evaluation import Evaluator
from grnet_jax.retrieval.tasks import make_task
from grnet_jax.training.setup import build_run

from configs import common, grnet
from grnet_jax.sharding import make_mesh
from grnet_jax.training import loop
from input_pipeline import load_dataset
from tests.input_pipeline import deepfashion2_trees, deepfashion_trees, street2shop_trees
from tests.input_pipeline.conftest import photo_bytes


def write_findfashion(root: Path) -> Path:
    """Ten items of train and ten of test, a customer and a shop photo each."""
    root.mkdir()
    path = root / "findfashion.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "item_id", "domain", "split", "view", "occluded", "cropped"])
        for number in range(20):
            split = "train" if number < 10 else "test"
            flags = ("front", "side", "back")[number % 3], number % 2, number // 5 % 2
            for domain in ("customer", "shop"):
                name = f"{number}_{domain}.jpg"
                (root / name).write_bytes(photo_bytes(number))
                table.writerow([name, f"item{number}", domain, split, *flags])
    return path


# For each data set: what writes a download of its form, and of each protocol of the test split the
# queries that are measured, those without a match, and the gallery.
CASES = {
    "deepfashion_c2s": (deepfashion_trees.write_c2s, {"all": (4, 0, 4)}),
    "deepfashion_inshop": (
        deepfashion_trees.write_inshop,
        {"all": (6, 0, 6), "hard_view": (3, 0, 6)},  # of other poses' views nothing is known
    ),
    "street2shop": (
        street2shop_trees.write_street2shop,
        {  # every query among its category's shop photos of both splits
            "all": (4, 0, None),
            "category:bags": (2, 0, 5),
            "category:dresses": (2, 0, 3),
            "category_mean": (4, 0, None),
        },
    ),
    "deepfashion2": (
        deepfashion2_trees.write_deepfashion2,
        {"all": (1, 0, 1), "hard_view": (1, 0, 1), "hard_occlusion": (1, 0, 1)},
    ),
    "findfashion": (
        write_findfashion,
        {
            "all": (10, 0, 10),
            "easy": (1, 0, 10),
            "hard_view": (7, 0, 10),
            "hard_occlusion": (5, 0, 10),
            "hard_cropping": (5, 0, 10),
        },
    ),
}


_FAST = ("street2shop",)


@pytest.mark.parametrize(
    "name",
    [name if name in _FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def test_one_step_and_one_evaluation(name, tmp_path):
    write, expected = CASES[name]
    config = grnet.get_config(name)
    assert config.data.image_size == 224
    assert config.optimizer.name == "sgd"
    written = str(write(tmp_path / "download"))
    config.data["manifest" if name == "findfashion" else "source"] = written
    config.data.dir = str(tmp_path / "data")
    config.data.image_size = 32
    config.model.backbone.name = "small"
    config.model.node_dim = 16
    config.model.reasoning_dim = 8
    config.train.batch_size = 8
    config.train.steps, config.train.epochs = 1, 0.0
    config.train.eval_every = config.train.checkpoint_every = config.train.log_every = 1
    config.eval.batch = config.eval.query_block = config.eval.gallery_block = 8
    trained = loop.train(config, str(tmp_path / "run"))
    assert trained.finished
    assert int(trained.state.step) == 1
    run = build_run(config, make_mesh())
    dataset = load_dataset(run.config.data)
    choices = run.config.eval
    task = make_task(
        dataset,
        "test",
        run.config.data,
        gallery=choices.gallery,
        same_category=choices.same_category,
    )
    evaluation = Evaluator(run.matcher, run.config, run.mesh).evaluate(
        trained.state.variables, task
    )
    found = {
        name: (figures.queries, figures.without_match, figures.gallery)
        for name, figures in evaluation.figures.items()
    }
    assert found == expected
    ranks = evaluation.ranking.ranks
    assert ((ranks > 0).sum(axis=1) == (task.positives >= 0).sum(axis=1)).all()
    for query, best in enumerate(evaluation.ranking.top_rows):
        rank = ranks[query, 0]
        if rank <= len(best):  # where the best match stands, and nowhere before it
            right = np.isin(best, task.positives[query])
            assert rank == 1 + np.flatnonzero(right)[0]


def test_every_retrieval_benchmark_is_tried():
    assert set(CASES) | {"synthetic", "manifest"} == set(common.DATASETS)
